//! How services are called and how much they take: Retry and UpstreamTrafficSetting, between two real Envoys.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use envoys::{Config, Envoy, Identities, VERSIONS, free_port, validate};
use mesh::Mesh;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::apps::ask;
use super::live::config;
use super::outside::exchange;
use crate::world::*;

/// An application whose first answers are given, and whose later ones are 200. `None` is no answer at all.
struct App {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl App {
    fn new(first: &'static [Option<&'static str>]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let count = count.clone();
                std::thread::spawn(move || serve(stream, &count, first));
            }
        });
        Self { port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, count: &AtomicUsize, first: &[Option<&str>]) {
    let mut buffer = [0; 4096];
    let mut asked = Vec::new();
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => asked.extend_from_slice(&buffer[..read]),
        }
    }
    let answer = first.get(count.fetch_add(1, Ordering::SeqCst)).copied().unwrap_or(Some("200 OK"));
    match answer {
        Some(head) => {
            let text = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(text.as_bytes());
        }
        // Until the other side gives up.
        None => while matches!(stream.read(&mut buffer), Ok(read) if read > 0) {},
    }
}

/// A buyer and a store with an HTTP and a TCP port, each behind an Envoy.
struct Stage {
    app: App,
    http: u16,
    tcp: u16,
    _envoys: Vec<Envoy>,
    _secrets: Vec<TempDir>,
}

fn mesh_with(http_port: u16, tcp_port: u16, policies: Vec<mesh::Object>) -> Mesh {
    let all = json!({"app": "bookstore"});
    let world = vec![
        namespace(NS, "demo"),
        pod("buyer-1", "buyer", "buyer"),
        pod("v1", "bookstore", "bookstore"),
        service("bookstore", "10.0.0.10", all.clone(), &[("http", 80, json!(http_port))]),
        service("store-db", "10.0.0.11", all, &[("tcp", 5432, json!(tcp_port))]),
        slice("bookstore", &[("http", http_port.into())], &[("v1", "10.1.0.1", true)]),
        slice("store-db", &[("tcp", tcp_port.into())], &[("v1", "10.1.0.1", true)]),
        policy("HTTPRouteGroup", "all", json!({"matches": [{"name": "all"}]})),
        target("http", "bookstore", &["buyer"], http("all")),
        policy("TCPRoute", "db", json!({"matches": {"ports": []}})),
        target("db", "bookstore", &["buyer"], tcp("db")),
    ];
    let mesh = mesh(world.into_iter().chain(policies));
    assert_eq!(mesh.problems(), vec![]);
    mesh
}

impl Stage {
    fn new(version: &str, first: &'static [Option<&'static str>], policies: Vec<mesh::Object>) -> Self {
        let (http_port, tcp_port) = (free_port(), free_port());
        let mesh = mesh_with(http_port, tcp_port, policies);
        let identities = Identities::new();
        let secrets = vec![identities.issue(NS, "bookstore"), identities.issue(NS, "buyer")];
        let app = App::new(first);
        let mut server = config(&mesh, "v1", &secrets[0]);
        server.listen("inbound", &[http_port, tcp_port]);
        server.lead("inbound", app.port);
        let mut envoys = vec![Envoy::start(version, &server, http_port)];
        let caller = |listener: &str| {
            let port = free_port();
            let mut config: Config = config(&mesh, "buyer-1", &secrets[1]);
            config.listen(listener, &[port]);
            config.lead("inbound", 1);
            config.lead("meshpassthrough", 1);
            (Envoy::start(version, &config, port), port)
        };
        let (envoy, http) = caller("out|shop|bookstore|80");
        envoys.push(envoy);
        let (envoy, tcp) = caller("out|shop|store-db|5432");
        envoys.push(envoy);
        Self { app, http, tcp, _envoys: envoys, _secrets: secrets }
    }

    /// A connection that the application does not answer. The one by which the start of the Envoy was awaited may still
    /// count.
    fn hold(&self) -> TcpStream {
        let mut held = None;
        wait_for(|| {
            let mut stream = TcpStream::connect(("127.0.0.1", self.tcp)).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
            let _ = stream.write_all(b"HELLO\r\n\r\n");
            let mut is_open = || {
                let read = stream.read(&mut [0]);
                matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
            };
            let mut open = is_open();
            // On a busy machine the application hears of it only later.
            while open && self.app.asked() == 0 {
                open = is_open();
            }
            if open && self.app.asked() == 1 {
                held = Some(stream);
            }
            held.is_some()
        });
        held.unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        ask(self.http, "GET", path, &[]).unwrap()
    }
}

fn retry(rules: Value) -> mesh::Object {
    let spec = json!({
        "source": {"kind": "ServiceAccount", "name": "buyer", "namespace": NS},
        "destinations": [{"kind": "Service", "name": "bookstore", "namespace": NS}],
        "retryPolicy": rules,
    });
    policy("Retry", "again", spec)
}

fn setting(host: &str, more: Value) -> mesh::Object {
    let mut spec = json!({"host": format!("{host}.{NS}.svc.cluster.local")});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    policy("UpstreamTrafficSetting", host, spec)
}

const BUSY: Option<&str> = Some("503 Service Unavailable");
/// A gRPC answer without a message (trailers only): the call failed, though HTTP says 200.
const UNAVAILABLE: Option<&str> = Some("200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14");

#[test]
fn failed_calls_are_tried_again_as_the_retry_says() {
    let often = || retry(json!({"retryOn": "5xx", "numRetries": 3, "retryBackoffBaseInterval": "1ms"}));
    let grpc = || {
        retry(
            json!({"retryOn": "unavailable,resource-exhausted", "numRetries": 2, "retryBackoffBaseInterval": "1ms"}),
        )
    };
    let slow = || retry(json!({"retryOn": "gateway-error", "perTryTimeout": "2s", "numRetries": 1}));
    for version in VERSIONS {
        // Without a Retry a call that the server has seen is not repeated.
        let stage = Stage::new(version, &[BUSY], vec![]);
        assert_eq!((stage.get("/").0, stage.app.asked()), (503, 1), "{version}");
        let stage = Stage::new(version, &[BUSY, BUSY], vec![often()]);
        assert_eq!((stage.get("/").0, stage.app.asked()), (200, 3), "{version}");
        let stage = Stage::new(version, &[BUSY, BUSY, BUSY, BUSY], vec![often()]);
        assert_eq!((stage.get("/").0, stage.app.asked()), (503, 4), "{version}");
        let stage = Stage::new(version, &[UNAVAILABLE], vec![grpc()]);
        let (status, head) = stage.get("/books.Store/Get");
        assert_eq!(
            (status, stage.app.asked(), head.contains("grpc-status")),
            (200, 2, false),
            "{version} {head}"
        );
        // A 5xx is none of these conditions.
        let stage = Stage::new(version, &[Some("500 Oops")], vec![grpc()]);
        assert_eq!((stage.get("/").0, stage.app.asked()), (500, 1), "{version}");
        // One try that is not answered in time.
        let stage = Stage::new(version, &[None], vec![slow()]);
        assert_eq!((stage.get("/").0, stage.app.asked()), (200, 2), "{version}");
    }
}

#[test]
fn callers_keep_to_limits_and_timeouts() {
    for version in VERSIONS {
        // Much longer than the answer that must come in time takes.
        let timeout = json!({"connectionSettings": {"http": {"requestTimeout": "2s"}}});
        let stage = Stage::new(version, &[None], vec![setting("bookstore", timeout)]);
        assert_eq!((stage.get("/").0, stage.get("/").0), (504, 200), "{version}");
        let idle = json!({"connectionSettings": {"http": {"idleTimeout": "2s"}}});
        let stage = Stage::new(version, &[None], vec![setting("bookstore", idle)]);
        assert_eq!((stage.get("/").0, stage.get("/").0), (504, 200), "{version}");
        // One request at a time: while one is not answered, the next is turned away.
        let one = json!({"connectionSettings": {"http": {"maxRequests": 1}}});
        let stage = Stage::new(version, &[None], vec![setting("bookstore", one)]);
        let mut first = TcpStream::connect(("127.0.0.1", stage.http)).unwrap();
        first.write_all(b"GET / HTTP/1.1\r\nhost: bookstore\r\n\r\n").unwrap();
        wait_for(|| stage.app.asked() == 1);
        assert_eq!(stage.get("/").0, 503, "{version}");
        assert_eq!(stage.app.asked(), 1, "{version}");
        drop(first);
        wait_for(|| stage.get("/").0 == 200);
        // The same for connections.
        let one = json!({"connectionSettings": {"tcp": {"maxConnections": 1, "connectTimeout": "2s"}}});
        let stage = Stage::new(version, &[None], vec![setting("store-db", one)]);
        let first = stage.hold();
        assert_eq!(exchange(stage.tcp, b"HELLO\r\n\r\n"), None, "{version}");
        drop(first);
        wait_for(|| exchange(stage.tcp, b"HELLO\r\n\r\n").is_some());
        // And a connection that carries nothing is closed.
        let idle = json!({"connectionSettings": {"tcp": {"idleTimeout": "2s"}}});
        let stage = Stage::new(version, &[None], vec![setting("store-db", idle)]);
        assert_eq!(exchange(stage.tcp, b"HELLO\r\n\r\n"), None, "{version}");
        assert_eq!(stage.app.asked(), 1, "{version}");
    }
}

/// Polls until something is so.
fn wait_for(mut so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !so() {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "it never happened");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn what_comes_over_a_rate_limit_is_turned_away() {
    for version in VERSIONS {
        let limit = json!({
            "rateLimit": {"local": {"http": {
                "requests": 1, "unit": "hour", "burst": 1, "responseStatusCode": 503,
                "responseHeadersToAdd": [{"name": "x-limit", "value": "100%"}],
            }}},
            "httpRoutes": [
                {"path": "/slow/.*", "rateLimit": {"local": {"requests": 1, "unit": "hour"}}},
                {"path": "/free/.*"},
            ],
        });
        let stage = Stage::new(version, &[], vec![setting("bookstore", limit)]);
        let statuses = |path: &str| [(); 3].map(|()| stage.get(path).0);
        assert_eq!(statuses("/slow/1?a=b"), [200, 429, 429], "{version}");
        assert_eq!(statuses("/"), [200, 200, 503], "{version}");
        let (_, head) = stage.get("/");
        assert!(head.contains("x-limit: 100%\r\n"), "{version} {head}");
        assert_eq!(stage.app.asked(), 3, "{version}");
        // Connections, on a port of their own.
        let limit = json!({"rateLimit": {"local": {"tcp": {"connections": 1, "unit": "hour", "burst": 2}}}});
        // The start of the caller's Envoy was awaited by one.
        let stage = Stage::new(version, &[], vec![setting("store-db", limit)]);
        let through = [(); 3].map(|()| exchange(stage.tcp, b"HELLO\r\n\r\n").is_some());
        assert_eq!(through, [true, true, false], "{version}");
    }
}

/// All fields at once, with the largest and smallest values, are accepted.
#[test]
fn every_version_accepts_every_setting() {
    let identities = Identities::new();
    let folder = identities.issue(NS, "any");
    let balances = [
        json!({"policy": "LeastRequest"}),
        json!({"policy": "RoundRobin"}),
        json!({"policy": "Random"}),
        json!({"policy": "ConsistentHash", "hashHeader": "X-User"}),
        json!({"policy": "ConsistentHash", "hashCookie": "session"}),
    ];
    let statuses = mesh::ingest::STATUSES.into_iter();
    let routes: Vec<_> = statuses
        .map(|status| {
            json!({"path": format!("/{status}"), "rateLimit": {"local": {
                "requests": 4294967295_u32, "unit": "second", "responseStatusCode": status,
                "responseHeadersToAdd": [{"name": "a", "value": "%REQ(X)% 100%"}],
            }}})
        })
        .collect();
    for balance in balances {
        let outliers = json!({"consecutiveErrors": 0, "interval": "1ms", "baseEjectionTime": "24h", "maxEjectionPercent": 0});
        let all = json!({
            "connectionSettings": {
                "tcp": {"maxConnections": 0, "connectTimeout": "1ms", "idleTimeout": "24h"},
                "http": {"maxRequests": 0, "maxRequestsPerConnection": 1, "maxPendingRequests": 0, "maxRetries": 0,
                         "requestTimeout": "1.5s", "idleTimeout": "1h"},
            },
            "rateLimit": {"local": {"tcp": {"connections": 1, "unit": "second"}, "http": {"requests": 1, "unit": "minute"}}},
            "httpRoutes": routes, "outlierDetection": outliers, "loadBalancing": balance,
        });
        let conditions = "5xx,gateway-error,reset,reset-before-request,connect-failure,envoy-ratelimited,retriable-4xx,\
                          refused-stream,retriable-status-codes,retriable-headers,cancelled,deadline-exceeded,internal,\
                          resource-exhausted,unavailable";
        let rules = json!({"retryOn": conditions, "perTryTimeout": "1ms", "numRetries": 100, "retryBackoffBaseInterval": "24h"});
        let mesh = mesh_with(8080, 5432, vec![setting("bookstore", all.clone()), retry(rules)]);
        for pod in ["buyer-1", "v1"] {
            let view = mesh::view(&mesh, &mesh.audience(NS, pod).unwrap());
            let snapshot = mesh::render::render_with(&view, folder.path().to_str().unwrap());
            assert_eq!(snapshot, mesh::render::render_with(&view, folder.path().to_str().unwrap()));
            for version in VERSIONS {
                validate(version, &Config::of(&snapshot).inlined(&snapshot).bootstrap());
            }
        }
    }
}
