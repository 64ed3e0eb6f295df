//! What applications speak, through two real Envoys.

use std::io::Write;
use std::net::TcpStream;

use crds::mesh_config::{Authorization, Egress, Mtls};
use envoys::{Config, Envoy, Identities, VERSIONS, free_port};
use mesh::{Mesh, Settings};
use serde_json::json;
use tempfile::TempDir;

use super::apps::{answer, app, ask, ask_at, banner, connect, lines, read_line, send_line, serve, websocket};
use crate::world::*;

/// A client and a server with one port, named by `name` and `appProtocol`.
pub struct Pair {
    pub mesh: Mesh,
    pub server_port: u16,
    pub server: Envoy,
    identities: Identities,
    version: &'static str,
    _secrets: TempDir,
}

/// The service's port, as a Service declares it.
#[derive(Clone, Copy, Default)]
pub struct Declared {
    pub name: &'static str,
    pub app_protocol: Option<&'static str>,
}

impl Declared {
    pub fn name(name: &'static str) -> Self {
        Self { name, app_protocol: None }
    }
}

/// The store's port is opened to the buyer by these policies.
pub fn world(settings: Settings, declared: Declared, port: u16, policies: Vec<mesh::Object>) -> Mesh {
    let service = json!({
        "metadata": {"name": "store", "namespace": NS},
        "spec": {"clusterIP": "10.0.0.10", "selector": {"app": "store"}, "ports": [
            {"name": declared.name, "appProtocol": declared.app_protocol, "port": 80, "targetPort": port},
        ]},
    });
    let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
    let mut headless = service.clone();
    headless.metadata.name = Some("members".to_owned());
    headless.spec.as_mut().unwrap().cluster_ip = Some("None".to_owned());
    let mut all = vec![
        namespace(NS, "demo"),
        pod("buyer-1", "buyer", "buyer"),
        pod("thief-1", "thief", "thief"),
        pod("store-0", "store", "store"),
        service.into(),
        headless.into(),
    ];
    all.extend(
        ["store", "members"]
            .map(|name| slice(name, &[(declared.name, port.into())], &[("store-0", "10.1.0.1", true)])),
    );
    mesh_of(settings, all.into_iter().chain(policies))
}

/// Requests for anything, and connections to the port.
pub fn all_open(port: u16) -> Vec<mesh::Object> {
    vec![
        policy("TCPRoute", "port", json!({"matches": {"ports": [port]}})),
        target("open", "store", &["buyer"], tcp("port")),
    ]
}

pub fn requests_only() -> Vec<mesh::Object> {
    vec![
        policy("HTTPRouteGroup", "books", json!({"matches": [{"name": "m", "pathRegex": "/books"}]})),
        target("read", "store", &["buyer"], http("books")),
    ]
}

impl Pair {
    pub fn new(
        version: &'static str,
        settings: Settings,
        declared: Declared,
        policies: impl Fn(u16) -> Vec<mesh::Object>,
        app: u16,
    ) -> Self {
        let server_port = free_port();
        let mesh = world(settings, declared, server_port, policies(server_port));
        assert_eq!(mesh.problems(), vec![], "{}", declared.name);
        let identities = Identities::new();
        let secrets = identities.issue(NS, "store");
        let mut config = config(&mesh, "store-0", &secrets);
        config.listen("inbound", &[server_port]);
        for cluster in ["inbound", "inbound-h2"] {
            if config.clusters.iter().any(|one| one.name == cluster) {
                config.lead(cluster, app);
            }
        }
        let server = Envoy::start(version, &config, server_port);
        Self { mesh, server_port, server, identities, version, _secrets: secrets }
    }

    /// Where the application of a pod finds a listener of its sidecar.
    pub fn caller(&self, account: &str, listener: &str) -> Caller {
        self.caller_in(&self.mesh, account, listener)
    }

    /// A sidecar that was configured by another mesh's rules, but has the identity.
    pub fn caller_in(&self, mesh: &Mesh, account: &str, listener: &str) -> Caller {
        let secrets = self.identities.issue(NS, account);
        let port = free_port();
        let mut config = config(mesh, &format!("{account}-1"), &secrets);
        config.listen(listener, &[port]);
        for cluster in ["meshpassthrough", "out|shop|members|80|dialed"] {
            if config.clusters.iter().any(|one| one.name == cluster) {
                config.lead(cluster, self.server_port);
            }
        }
        config.lead("inbound", 1);
        let envoy = Envoy::start(self.version, &config, port);
        Caller { port, _envoy: envoy, _secrets: secrets }
    }
}

pub struct Caller {
    pub port: u16,
    _envoy: Envoy,
    _secrets: TempDir,
}

pub fn config(mesh: &Mesh, pod: &str, secrets: &TempDir) -> Config {
    let view = mesh::view(mesh, &mesh.audience(NS, pod).unwrap());
    let snapshot = mesh::render::render_with(&view, secrets.path().to_str().unwrap());
    Config::of(&snapshot).inlined(&snapshot)
}

pub const STORE: &str = "out|shop|store|80";

pub fn settings_of(authorization: Authorization) -> Settings {
    settings_with(Mtls::Strict, authorization, Egress::Deny)
}

/// Nobody declared what is spoken, and everything is open: what it begins with decides.
#[test]
fn an_undeclared_port_passes_requests_as_requests_and_bytes_as_bytes() {
    for version in VERSIONS {
        let settings = settings_of(Authorization::AllowAll);
        let web = Pair::new(version, settings.clone(), Declared::default(), |_| Vec::new(), app());
        let caller = web.caller("buyer", STORE);
        let (status, seen) = ask(caller.port, "GET", "/books", &[]).unwrap();
        assert_eq!(status, 200, "{version}");
        assert!(seen.contains("sa/buyer"), "{version}: it went as a request: {seen}");
        // The same application, spoken to in bytes.
        let raw = send_line(caller.port, "HELLO there\r\n");
        assert!(raw.contains("200 OK"), "{version}: {raw}");
        let shout = Pair::new(version, settings.clone(), Declared::default(), |_| Vec::new(), serve(lines));
        assert_eq!(send_line(shout.caller("buyer", STORE).port, "hello"), "HELLO", "{version}");
        let first = Pair::new(version, settings, Declared::default(), |_| Vec::new(), serve(banner));
        let caller = first.caller("buyer", STORE);
        let mut stream = connect(("127.0.0.1", caller.port));
        assert_eq!(read_line(&mut stream), "220 ready", "{version}: the server speaks first");
    }
}

/// Rules for requests open requests and nothing else, whatever the caller's sidecar says.
#[test]
fn an_undeclared_port_with_http_rules_opens_no_bytes() {
    for version in VERSIONS {
        let settings = settings_of(Authorization::Enforce);
        let pair = Pair::new(version, settings, Declared::default(), |_| requests_only(), serve(answer));
        let caller = pair.caller("buyer", STORE);
        let ask = |path| ask(caller.port, "GET", path, &[]).map(|(status, _)| status);
        assert_eq!((ask("/books"), ask("/other")), (Some(200), Some(403)), "{version}");
        assert!(send_line(caller.port, "HELLO there\r\n").contains(" 400 "), "{version}");
        // This sidecar was told that bytes are welcome, and says in the handshake that bytes follow.
        let open =
            world(settings_of(Authorization::AllowAll), Declared::default(), pair.server_port, Vec::new());
        for account in ["buyer", "thief"] {
            let liar = pair.caller_in(&open, account, STORE);
            let seen = send_line(liar.port, "HELLO there\r\n");
            assert!(!seen.contains("200"), "{version} {account}: {seen}");
        }
        let thief = pair.caller("thief", "outbound");
        let status = super::apps::ask(thief.port, "GET", "/books", &[]).map(|(status, _)| status);
        assert_eq!(status, Some(403), "{version}: a request that is denied is told so");
    }
}

#[test]
fn an_undeclared_port_that_a_tcp_route_names_is_open_to_both() {
    for version in VERSIONS {
        let settings = settings_of(Authorization::Enforce);
        let pair = Pair::new(version, settings, Declared::default(), all_open, serve(lines));
        assert_eq!(send_line(pair.caller("buyer", STORE).port, "hello"), "HELLO", "{version}");
        let thief = pair.caller("thief", "outbound");
        assert_ne!(send_line(thief.port, "hello"), "HELLO", "{version}");
    }
}

/// Ports that are declared to carry bytes, TLS of the application's own among them: nobody looks at what passes.
#[test]
fn declared_bytes_pass_unchanged_and_servers_may_speak_first() {
    let declared = [
        Declared::name("tcp-db"),
        Declared { name: "http", app_protocol: Some("https") },
        Declared { name: "x", app_protocol: Some("example.com/own") },
    ];
    for version in VERSIONS {
        for declared in declared {
            let settings = settings_of(Authorization::Enforce);
            let pair = Pair::new(version, settings, declared, all_open, serve(banner));
            let caller = pair.caller("buyer", STORE);
            let mut stream = connect(("127.0.0.1", caller.port));
            assert_eq!(read_line(&mut stream), "220 ready", "{version}");
            // A TLS handshake begins like this; it is not looked at.
            stream.write_all(b"\x16\x03\x01\x00\x05hello\r\n").unwrap();
            assert_eq!(read_line(&mut stream), "\u{16}\u{3}\u{1}\0\u{5}HELLO", "{version}");
        }
    }
}

#[test]
fn websockets_pass() {
    for version in VERSIONS {
        for declared in [Declared::name("http"), Declared::default()] {
            let settings = settings_of(Authorization::Enforce);
            let pair = Pair::new(version, settings, declared, |_| requests_only(), serve(websocket));
            let caller = pair.caller("buyer", STORE);
            let upgrade = |path: &str| {
                let mut stream = connect(("127.0.0.1", caller.port));
                let head = format!(
                    "GET {path} HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                );
                let key = "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
                stream.write_all((head + key).as_bytes()).unwrap();
                (read_line(&mut stream), stream)
            };
            let (status, mut stream) = upgrade("/books");
            assert!(status.starts_with("HTTP/1.1 101"), "{version} {}: {status}", declared.name);
            while !read_line(&mut stream).is_empty() {}
            for line in ["one", "two"] {
                stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
                assert_eq!(read_line(&mut stream), line.to_uppercase(), "{version}");
            }
            let (status, _stream) = upgrade("/other");
            assert!(status.starts_with("HTTP/1.1 403"), "{version}: {status}");
        }
    }
}

/// The address decides which service is called, not the Host header.
#[test]
fn any_host_is_welcome() {
    for version in VERSIONS {
        let settings = settings_of(Authorization::Enforce);
        let pair = Pair::new(version, settings, Declared::name("http"), |_| requests_only(), app());
        let caller = pair.caller("buyer", STORE);
        for host in [
            "store",
            "store:80",
            "store.shop.svc.cluster.local:80",
            "books.example.com",
            "10.0.0.10",
            "[fd00::1]:80",
        ] {
            let (status, seen) = ask(caller.port, "GET", "/books", &[("host", host)]).unwrap();
            assert_eq!(status, 200, "{version} {host}");
            assert!(seen.contains(&format!("host: {host}\r\n")), "{version}: {seen}");
        }
    }
}

/// A pod of a headless service is called by its own address, and only it answers.
#[test]
fn members_of_a_headless_service_are_called_one_by_one() {
    for version in VERSIONS {
        for (declared, bytes) in [(Declared::name("http"), false), (Declared::name("tcp"), true)] {
            let settings = settings_of(Authorization::Enforce);
            let pair =
                Pair::new(version, settings, declared, all_open, if bytes { serve(banner) } else { app() });
            let listener = format!("out|shop|members|80|10.1.0.1:{}", pair.server_port);
            let caller = pair.caller("buyer", &listener);
            if bytes {
                assert_eq!(read_line(&mut connect(("127.0.0.1", caller.port))), "220 ready", "{version}");
            } else {
                let (status, seen) = ask(caller.port, "GET", "/books", &[]).unwrap();
                assert_eq!(status, 200, "{version}");
                assert!(seen.contains("sa/buyer"), "{version}: {seen}");
            }
        }
    }
}

/// A pod with both kinds of addresses is reached by both.
#[test]
fn ipv6_is_heard() {
    for version in VERSIONS {
        let port = free_port();
        let mut mesh = world(settings(), Declared::name("http"), port, requests_only());
        let mut dual = pod_value("store-0", "store", "store");
        dual["status"] = json!({"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]});
        mesh.apply(pod_of(dual));
        let identities = Identities::new();
        let secrets = identities.issue(NS, "store");
        let mut config = config(&mesh, "store-0", &secrets);
        config.listen_everywhere("inbound", port);
        config.lead("inbound", app());
        let _server = Envoy::start(version, &config, port);
        for at in ["127.0.0.1", "::1"] {
            assert!(TcpStream::connect((at, port)).is_ok(), "{version} {at}");
            // Strict: a stranger is not answered.
            assert_eq!(ask_at((at, port), "GET", "/books", &[]), None, "{version} {at}");
        }
    }
}
