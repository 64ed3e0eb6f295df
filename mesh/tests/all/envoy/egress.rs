//! Calls that leave the mesh, through the virtual outbound listener of a real Envoy: what Egresses open is reached,
//! what they do not is not, and `decide` says the same of every call.

use std::net::SocketAddr;

use crds::mesh_config::{Authorization, Egress, Mtls};
use envoys::{Envoy, Identities, VERSIONS};
use mesh::decide::{Callee, Caller, Request};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Mesh, Verdict, decide};
use serde_json::{Value, json};

use super::live::config;
use super::outside::{client_hello, exchange, meant_for, reached_app, virtual_outbound};
use crate::world::*;

/// A call of the application: where it dials, and what it says there.
#[derive(Clone, Copy, Debug)]
enum Says<'a> {
    Http(&'a str, &'a str, &'a str),
    Tls(&'a str),
    Bytes,
}

fn egress(name: &str, account: &str, more: Value) -> mesh::Object {
    let mut spec = json!({"sources": [{"kind": "ServiceAccount", "name": account, "namespace": NS}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    policy("Egress", name, spec)
}

fn ports(number: u16, protocol: &str) -> Value {
    json!([{"number": number, "protocol": protocol}])
}

/// Ports by what is open there.
struct Ports {
    http: u16,
    pinned: u16,
    https: u16,
    tcp: u16,
    mixed: u16,
    closed: u16,
}

fn objects(at: &Ports) -> Vec<mesh::Object> {
    let http = |name: &str, hosts: Value, more: Value| {
        let mut spec = json!({"hosts": hosts, "ports": ports(at.http, "http")});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        egress(name, "buyer", spec)
    };
    let group = |name: &str| json!([{"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": name}]);
    vec![
        namespace(NS, "demo"),
        pod("buyer-1", "buyer", "buyer"),
        pod("thief-1", "thief", "thief"),
        policy(
            "HTTPRouteGroup",
            "read",
            json!({"matches": [{"name": "get", "pathRegex": "/get.*", "methods": ["GET"]}]}),
        ),
        policy(
            "HTTPRouteGroup",
            "write",
            json!({"matches": [{"name": "put", "pathRegex": "/put", "methods": ["PUT"]}]}),
        ),
        // Two for one host: what they open adds up.
        http("http-read", json!(["localhost"]), json!({"matches": group("read")})),
        http("http-write", json!(["localhost"]), json!({"matches": group("write")})),
        http("http-below", json!(["*.example.com"]), json!({})),
        http("http-dangling", json!(["dangling.test"]), json!({"matches": group("gone")})),
        egress(
            "pinned",
            "buyer",
            json!({"hosts": ["pinned.test"], "ipAddresses": ["127.0.0.8/29"], "ports": ports(at.pinned, "http")}),
        ),
        egress(
            "tls",
            "buyer",
            json!({"hosts": ["localhost", "*.tls.test"], "ports": ports(at.https, "https")}),
        ),
        egress(
            "tls-pinned",
            "buyer",
            json!({"hosts": ["range.test"], "ipAddresses": ["127.0.0.16/32"], "ports": ports(at.https, "https")}),
        ),
        egress(
            "tcp",
            "buyer",
            json!({"ipAddresses": ["127.0.0.5/32", "fd00::/64"], "ports": ports(at.tcp, "tcp-server-first")}),
        ),
        egress("mixed-http", "buyer", json!({"hosts": ["localhost"], "ports": ports(at.mixed, "http")})),
        // What does not fit is still open as bytes where bytes are open.
        egress(
            "mixed-read",
            "buyer",
            json!({"hosts": ["read.test"], "ports": ports(at.mixed, "http"), "matches": group("read")}),
        ),
        egress("mixed-tls", "buyer", json!({"hosts": ["localhost"], "ports": ports(at.mixed, "https")})),
        egress(
            "mixed-tcp",
            "buyer",
            json!({"ipAddresses": ["127.0.0.5/32"], "ports": ports(at.mixed, "tcp")}),
        ),
    ]
}

/// Whether the call got through, and to which address.
fn dial(envoy: u16, to: SocketAddr, says: Says<'_>) -> Option<String> {
    let mut bytes = meant_for(to);
    match says {
        Says::Http(method, host, path) => {
            bytes.extend(
                format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").bytes(),
            );
        }
        Says::Tls(name) => bytes.extend(client_hello(name)),
        Says::Bytes => bytes.extend(b"\x01\x02\x03 who is there?"),
    }
    exchange(envoy, &bytes).filter(|(status, _)| *status == 200).map(|(_, body)| body)
}

fn call(account: &str, to: SocketAddr, says: Says<'_>) -> Call {
    let (host, request) = match says {
        Says::Http(method, host, path) => (
            Some(host.to_owned()),
            Request::Http { method: method.to_owned(), path: path.to_owned(), headers: [].into() },
        ),
        Says::Tls(name) => (Some(name.to_owned()), Request::Tls { server_name: Some(name.to_owned()) }),
        Says::Bytes => (None, Request::Tcp),
    };
    Call {
        from: Caller::ServiceAccount(ServiceAccount::new(NS, account)),
        to: Callee::Outside { host, address: Some(to.ip()), port: to.port() },
        request,
    }
}

/// Every call, with the address at which it must arrive.
fn table(at: &Ports) -> Vec<(&'static str, u16, Says<'static>, Option<&'static str>)> {
    use Says::{Bytes, Http, Tls};
    // Where the application dials is a lie except where ranges are given: the sidecar looks the host up.
    let (lie, there) = ("203.0.113.7", Some("127.0.0.1"));
    let mut table = vec![
        (lie, at.http, Http("GET", "localhost", "/get?a=b"), there),
        (lie, at.http, Http("PUT", "localhost", "/put"), there),
        (lie, at.http, Http("PUT", "localhost", "/get"), None),
        (lie, at.http, Http("GET", "localhost", "/"), None),
        (lie, at.http, Http("GET", "other.test", "/get"), None),
        (lie, at.http, Http("GET", "dangling.test", "/get"), None),
        (lie, at.http, Bytes, None),
        ("127.0.0.3", at.http, Http("GET", "a.example.com", "/"), Some("127.0.0.3")),
        ("127.0.0.3", at.http, Http("GET", "example.com", "/"), None),
        ("127.0.0.9", at.pinned, Http("GET", "pinned.test", "/"), Some("127.0.0.9")),
        ("127.0.0.3", at.pinned, Http("GET", "pinned.test", "/"), None),
        ("127.0.0.9", at.pinned, Http("GET", "localhost", "/"), None),
        (lie, at.https, Tls("localhost"), there),
        ("127.0.0.4", at.https, Tls("a.tls.test"), Some("127.0.0.4")),
        ("127.0.0.16", at.https, Tls("range.test"), Some("127.0.0.16")),
        ("127.0.0.17", at.https, Tls("range.test"), None),
        // In the range of another rule, what is open everywhere stays open.
        ("127.0.0.16", at.https, Tls("localhost"), there),
        ("127.0.0.4", at.https, Tls("other.test"), None),
        ("127.0.0.4", at.https, Http("GET", "localhost", "/"), None),
        ("127.0.0.5", at.tcp, Bytes, Some("127.0.0.5")),
        ("127.0.0.6", at.tcp, Bytes, None),
        ("127.0.0.5", at.mixed, Bytes, Some("127.0.0.5")),
        ("127.0.0.5", at.mixed, Tls("unnamed.test"), Some("127.0.0.5")),
        ("127.0.0.5", at.mixed, Tls("localhost"), there),
        ("127.0.0.5", at.mixed, Http("GET", "localhost", "/"), there),
        ("127.0.0.5", at.mixed, Http("GET", "other.test", "/"), Some("127.0.0.5")),
        ("127.0.0.5", at.mixed, Http("GET", "read.test", "/other"), Some("127.0.0.5")),
        ("127.0.0.3", at.mixed, Http("GET", "read.test", "/other"), None),
        ("127.0.0.3", at.mixed, Bytes, None),
        ("127.0.0.3", at.mixed, Http("GET", "localhost", "/"), there),
        ("127.0.0.5", at.closed, Bytes, None),
    ];
    table.push(("127.0.0.5", at.closed, Http("GET", "localhost", "/get"), None));
    table
}

#[test]
fn what_is_opened_is_reached_and_nothing_else_and_decide_agrees() {
    let at = Ports {
        http: reached_app(),
        pinned: reached_app(),
        https: reached_app(),
        tcp: reached_app(),
        mixed: reached_app(),
        closed: reached_app(),
    };
    let mesh = mesh(objects(&at));
    let problems: Vec<_> = mesh.problems().into_iter().map(|problem| problem.object.name).collect();
    assert_eq!(problems, ["http-dangling"]);
    let identities = Identities::new();
    for version in VERSIONS {
        for account in ["buyer", "thief"] {
            let secrets = identities.issue(NS, account);
            let mut config = config(&mesh, &format!("{account}-1"), &secrets);
            let port = virtual_outbound(&mut config);
            let _envoy = Envoy::start(version, &config, port);
            // A path that is not what it looks like.
            for trick in ["/get/../secret", "/get/%2e%2e/secret", "/get/..%2fsecret"] {
                let to = SocketAddr::new("127.0.0.1".parse().unwrap(), at.http);
                let reached = dial(port, to, Says::Http("GET", "localhost", trick));
                assert_eq!(reached, None, "{version} {account} {trick}");
            }
            for (to, number, says, expected) in table(&at) {
                let to = SocketAddr::new(to.parse().unwrap(), number);
                let expected = expected.filter(|_| account == "buyer").map(str::to_owned);
                assert_eq!(dial(port, to, says), expected, "{version} {account} {to} {says:?}");
                let verdict = decide(&mesh, &call(account, to, says));
                assert_eq!(
                    matches!(verdict, Verdict::Allowed(_)),
                    expected.is_some(),
                    "{account} {to} {says:?} {verdict:?}"
                );
            }
        }
    }
}

/// Where egress is `Allow`, an Egress still says what may be asked of the hosts that it names.
#[test]
fn explicit_rules_win_over_egress_allow() {
    let app = reached_app();
    let rule = egress(
        "one-host",
        "buyer",
        json!({"hosts": ["localhost"], "ports": ports(app, "http"), "matches": [{"kind": "HTTPRouteGroup", "name": "read"}]}),
    );
    let group = policy("HTTPRouteGroup", "read", json!({"matches": [{"name": "get", "pathRegex": "/get"}]}));
    let objects = [namespace(NS, "demo"), pod("buyer-1", "buyer", "buyer"), rule, group];
    let settings = settings_with(Mtls::Strict, Authorization::Enforce, Egress::Allow);
    let mesh: Mesh = mesh_of(settings, objects);
    let identities = Identities::new();
    let secrets = identities.issue(NS, "buyer");
    for version in VERSIONS {
        let mut config = config(&mesh, "buyer-1", &secrets);
        let port = virtual_outbound(&mut config);
        let _envoy = Envoy::start(version, &config, port);
        let to = SocketAddr::new("127.0.0.2".parse().unwrap(), app);
        let table = [
            (Says::Http("GET", "localhost", "/get"), Some("127.0.0.1")),
            (Says::Http("GET", "localhost", "/other"), None),
            (Says::Http("GET", "other.test", "/other"), Some("127.0.0.2")),
            (Says::Bytes, Some("127.0.0.2")),
        ];
        for (says, expected) in table {
            assert_eq!(dial(port, to, says).as_deref(), expected, "{version} {says:?}");
            let verdict = decide(&mesh, &call("buyer", to, says));
            assert_eq!(matches!(verdict, Verdict::Allowed(_)), expected.is_some(), "{says:?} {verdict:?}");
        }
    }
}
