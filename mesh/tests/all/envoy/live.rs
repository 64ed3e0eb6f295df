//! Calls through two real Envoys with real certificates, configured with what is rendered but for addresses.
//!
//! ```text
//!  call ──▶ caller's Envoy (service listener, or meshpassthrough) ══mTLS══▶ callee's Envoy (inbound) ──▶ app
//! ```

use envoys::{Config, Envoy, Identities, VERSIONS, free_port};
use mesh::decide::Request;
use mesh::{Call, Mesh, Verdict, decide};
use serde_json::json;
use tempfile::TempDir;

use super::apps::{app, ask};
use crate::world::*;

/// One version of Envoy on both sides of a store with an HTTP and a TCP port.
struct Stage {
    version: &'static str,
    mesh: Mesh,
    identities: Identities,
    http: u16,
    tcp: u16,
    _server: Envoy,
    _secrets: TempDir,
}

/// The pod's ports must be ports that are free on this machine: its filter chains go by them.
fn objects(http_port: u16, tcp_port: u16) -> Vec<mesh::Object> {
    let all = json!({"app": "bookstore"});
    vec![
        namespace(NS, "demo"),
        pod("buyer-1", "buyer", "buyer"),
        pod("thief-1", "thief", "thief"),
        pod("v1", "bookstore", "bookstore"),
        service("bookstore", "10.0.0.10", all.clone(), &[("http", 80, json!(http_port))]),
        service("store-db", "10.0.0.11", all, &[("tcp", 5432, json!(tcp_port))]),
        slice("bookstore", &[("http", http_port.into())], &[("v1", "10.1.0.1", true)]),
        slice("store-db", &[("tcp", tcp_port.into())], &[("v1", "10.1.0.1", true)]),
        policy(
            "HTTPRouteGroup",
            "books",
            json!({"matches": [
                {"name": "read", "pathRegex": "/books(/[0-9]+)?", "methods": ["GET", "HEAD"]},
                {"name": "buy", "pathRegex": "/buy", "methods": ["POST"], "headers": [{"X-Client": "buyer-.*"}]},
                {"name": "host", "pathRegex": "/host/.*", "headers": [{"host": "books.*"}]},
            ]}),
        ),
        target("buy", "bookstore", &["buyer"], http("books")),
        policy("HTTPRouteGroup", "overlap", json!({"matches": [{"name": "m", "pathRegex": "/books/1.*"}]})),
        target("overlap", "bookstore", &["thief"], http("overlap")),
        policy("TCPRoute", "db", json!({"matches": {"ports": []}})),
        target("db", "bookstore", &["buyer"], tcp("db")),
    ]
}

impl Stage {
    fn new(version: &'static str) -> Self {
        let (http, tcp) = (free_port(), free_port());
        let mesh = mesh(objects(http, tcp));
        assert_eq!(mesh.problems(), vec![]);
        let identities = Identities::new();
        let secrets = identities.issue(NS, "bookstore");
        let mut config = config(&mesh, "v1", &secrets);
        config.listen("inbound", &[http, tcp]);
        config.lead("inbound", app());
        let server = Envoy::start(version, &config, http);
        Self { version, mesh, identities, http, tcp, _server: server, _secrets: secrets }
    }

    /// An Envoy of a caller and the port that it listens at. `cluster` is led to a port of the callee.
    fn caller(&self, secrets: &TempDir, pod: &str, listener: &str, lead: Option<u16>) -> (Envoy, u16) {
        let port = free_port();
        let mut config = config(&self.mesh, pod, secrets);
        config.listen(listener, &[port]);
        // Without iptables there is no original destination.
        config.lead("meshpassthrough", lead.unwrap_or(self.http));
        config.lead("inbound", 1);
        (Envoy::start(self.version, &config, port), port)
    }
}

pub fn config(mesh: &Mesh, pod: &str, secrets: &TempDir) -> Config {
    let view = mesh::view(mesh, &mesh.audience(NS, pod).unwrap());
    let snapshot = mesh::render::render_with(&view, secrets.path().to_str().unwrap());
    Config::of(&snapshot).inlined(&snapshot)
}

#[test]
fn sidecars_decide_as_the_model_does() {
    for version in VERSIONS {
        let stage = Stage::new(version);
        for account in ["buyer", "thief"] {
            let secrets = stage.identities.issue(NS, account);
            let (_envoy, port) = stage.caller(&secrets, &format!("{account}-1"), "outbound", None);
            requests(&stage, account, port);
        }
    }
}

fn requests(stage: &Stage, account: &str, port: u16) {
    let buyer: &[(&str, &str)] = &[("x-client", "buyer-7")];
    let table: [(&str, &str, Headers<'_>); 15] = [
        ("GET", "/books", &[]),
        ("GET", "/books?page=2", &[]),
        ("GET", "/books/7", &[]),
        ("GET", "/books/17", &[]),
        ("GET", "/books/1/secret", &[]),
        ("GET", "/books/7/secret", &[]),
        ("GET", "/xbooks", &[]),
        ("PUT", "/books/7", &[]),
        ("DELETE", "/books/1", &[]),
        ("POST", "/buy", buyer),
        ("POST", "/buy", &[("x-client", "thief")]),
        ("POST", "/buy", &[]),
        ("GET", "/host/x", &[]),
        ("GET", "/", &[]),
        ("OPTIONS", "/books", &[]),
    ];
    let mut seen = std::collections::BTreeSet::new();
    for (method, path, headers) in table {
        let mut call = request(account, "v1", method, path, headers);
        if let Request::Http { headers, .. } = &mut call.request {
            headers.insert("Host".to_owned(), "bookstore".to_owned());
        }
        call.to =
            mesh::decide::Callee::Pod { namespace: NS.to_owned(), name: "v1".to_owned(), port: stage.http };
        let expected = if allowed(&stage.mesh, &call) { 200 } else { 403 };
        let status = ask(port, method, path, headers).map(|(status, _)| status);
        assert_eq!(status, Some(expected), "{} {account} {method} {path} {headers:?}", stage.version);
        seen.insert(expected);
    }
    assert_eq!(seen.len(), 2, "both answers were seen");
}

fn allowed(mesh: &Mesh, call: &Call) -> bool {
    matches!(decide(mesh, call), Verdict::Allowed(_))
}

/// What a path that is not what it looks like gets, and what the application is told of its caller.
#[test]
fn the_callee_sees_through_tricks_and_the_application_learns_who_calls() {
    for version in VERSIONS {
        let stage = Stage::new(version);
        let secrets = stage.identities.issue(NS, "buyer");
        let (_envoy, port) = stage.caller(&secrets, "buyer-1", "out|shop|bookstore|80", None);
        let forged = [("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin")];
        let (status, body) = ask(port, "GET", "/books/7", &forged).unwrap();
        assert_eq!(status, 200, "{version}");
        assert!(body.contains("URI=spiffe://cluster.local/ns/shop/sa/buyer"), "{version}: {body}");
        assert!(!body.contains("sa/admin"), "{version}: {body}");
        let tricks = [
            ("/host/../admin", 403),
            ("/host/%2e%2e/admin", 403),
            ("/host/..%2fadmin", 400),
            ("/host/a/../b", 200),
        ];
        for (path, expected) in tricks {
            let status = ask(port, "GET", path, &[]).map(|(status, _)| status);
            assert_eq!(status, Some(expected), "{version} {path}");
        }
    }
}

#[test]
fn connections_are_decided_too_and_strangers_get_nowhere() {
    for version in VERSIONS {
        let stage = Stage::new(version);
        let buyer = stage.identities.issue(NS, "buyer");
        let (_envoy, port) = stage.caller(&buyer, "buyer-1", "out|shop|store-db|5432", None);
        let (_, echo) = ask(port, "RAW", "/bytes", &[]).unwrap();
        assert!(
            echo.contains("RAW /bytes HTTP/1.1\r\nhost: bookstore\r\n"),
            "{version}: bytes pass unchanged: {echo}"
        );
        let thief = stage.identities.issue(NS, "thief");
        let (_envoy, port) = stage.caller(&thief, "thief-1", "outbound", Some(stage.tcp));
        assert_eq!(ask(port, "RAW", "/bytes", &[]), None, "{version}");
        // The same names from another root, and no certificate at all.
        let stranger = Identities::new().issue(NS, "buyer");
        let (_envoy, port) = stage.caller(&stranger, "buyer-1", "outbound", None);
        assert_eq!(ask(port, "GET", "/books", &[]), None, "{version}");
        assert_eq!(ask(stage.http, "GET", "/books", &[]), None, "{version}");
        // A caller does not talk to a pod with another identity than the service has.
        let (_envoy, port) = stage.caller(&buyer, "buyer-1", "out|shop|bookstore|80", None);
        assert_eq!(ask(port, "GET", "/books", &[]).map(|(status, _)| status), Some(200), "{version}");
    }
}
