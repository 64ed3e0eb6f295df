//! What is taken away while it is used: requests on open connections, and connections.
//!
//! ```text
//!  client ──▶ buyer's Envoy ══mTLS══▶ store's Envoy, which follows the rules (files) ──▶ app
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use envoys::{Config, Envoy, Identities, VERSIONS, free_port};
use mesh::{Kind, Mesh, Object, ObjectRef};
use serde_json::json;
use tempfile::TempDir;

use super::apps::{connect, lines, read_line, serve};
use super::endpoints::until;
use super::live::config;
use crate::world::*;

/// An application that answers every request of a connection.
fn patient(mut stream: TcpStream) {
    loop {
        let mut any = false;
        loop {
            match read_line(&mut stream) {
                line if line.is_empty() => break,
                _ => any = true,
            }
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if !any || stream.write_all(answer).is_err() {
            return;
        }
    }
}

/// The status of one more request on a connection; `None` when it is closed.
fn status(stream: &mut TcpStream) -> Option<u16> {
    stream.write_all(b"GET /books HTTP/1.1\r\nhost: store\r\n\r\n").ok()?;
    let status = read_line(stream).split(' ').nth(1)?.parse().ok()?;
    let mut length = 0;
    loop {
        let line = read_line(stream);
        if let Some(text) = line.strip_prefix("content-length: ") {
            length = text.parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    stream.read_exact(&mut vec![0; length]).ok()?;
    Some(status)
}

/// A store with a port for requests and two for bytes, each opened by a TrafficTarget of its own.
struct Ports {
    web: u16,
    db: u16,
    cache: u16,
}

impl Ports {
    fn all(&self) -> [u16; 3] {
        [self.web, self.db, self.cache]
    }

    fn world(&self) -> Mesh {
        let mut all = vec![
            namespace(NS, "demo"),
            pod("buyer-1", "buyer", "buyer"),
            pod("store-0", "store", "store"),
            policy("HTTPRouteGroup", "all", json!({"matches": [{"name": "all"}]})),
            target("web", "store", &["buyer"], http("all")),
        ];
        let services = [("web", "http", self.web), ("db", "tcp", self.db), ("cache", "tcp", self.cache)];
        for (place, (name, protocol, port)) in services.into_iter().enumerate() {
            let address = format!("10.0.0.1{place}");
            all.push(service(name, &address, json!({"app": "store"}), &[(protocol, 80, json!(port))]));
            all.push(slice(name, &[(protocol, port.into())], &[("store-0", "10.1.0.1", true)]));
            if protocol == "tcp" {
                all.push(policy("TCPRoute", name, json!({"matches": {"ports": [port]}})));
                all.push(target(name, "store", &["buyer"], tcp(name)));
            }
        }
        let mesh = mesh(all);
        assert_eq!(mesh.problems(), vec![]);
        mesh
    }
}

/// The store's sidecar as the mesh is now, for an Envoy that follows it.
fn store(mesh: &Mesh, at: &Ports, secrets: &TempDir, folder: &Path) -> Config {
    let view = mesh::view(mesh, &mesh.audience(NS, "store-0").unwrap());
    let snapshot = mesh::render::render_with(&view, secrets.path().to_str().unwrap());
    let mut config = Config::of(&snapshot);
    config.listen("inbound", &at.all());
    config.follow(&snapshot, folder);
    config
}

fn take_away(mesh: &mut Mesh, name: &str) {
    mesh.delete(&ObjectRef::new(Kind::TrafficTarget, NS, name));
}

fn set(mesh: &mut Mesh, mode: &str) {
    let object: Object = policy("MeshPolicy", "mode", json!({"authorization": mode}));
    mesh.apply(object);
}

#[test]
fn what_is_taken_away_ends_on_open_connections_and_nothing_else_does() {
    for version in VERSIONS {
        let at = Ports { web: free_port(), db: free_port(), cache: free_port() };
        let mut mesh = at.world();
        let identities = Identities::new();
        let (secrets, files) = (identities.issue(NS, "store"), TempDir::new().unwrap());
        let mut server = store(&mesh, &at, &secrets, files.path());
        // Who is at the other end of a port is told apart by what is sent first.
        server.lead("inbound", serve(either));
        let _server = Envoy::start(version, &server, at.web);
        let secrets_of_buyer = identities.issue(NS, "buyer");
        let mut caller = config(&mesh, "buyer-1", &secrets_of_buyer);
        let [web, db, cache] = [free_port(), free_port(), free_port()];
        caller.place(&[
            ("out|shop|web|80", &[web]),
            ("out|shop|db|80", &[db]),
            ("out|shop|cache|80", &[cache]),
        ]);
        caller.lead("meshpassthrough", 1);
        caller.lead("inbound", 1);
        let _caller = Envoy::start(version, &caller, web);

        let [mut requests, mut database, mut other] =
            [web, db, cache].map(|port| connect(("127.0.0.1", port)));
        let says = |stream: &mut TcpStream| {
            let _ = stream.write_all(b"hello\r\n");
            read_line(stream)
        };
        assert_eq!(status(&mut requests), Some(200), "{version}");
        assert_eq!(
            (says(&mut database), says(&mut other)),
            ("HELLO".to_owned(), "HELLO".to_owned()),
            "{version}"
        );

        // The next request on the open connection is refused, and so is the one after.
        take_away(&mut mesh, "web");
        store(&mesh, &at, &secrets, files.path());
        until("requests are refused", || status(&mut requests) == Some(403));
        assert_eq!(status(&mut requests), Some(403), "{version}: the connection is the same");
        // The open connection ends; one to a port of which nothing changed does not.
        take_away(&mut mesh, "db");
        store(&mesh, &at, &secrets, files.path());
        until("the connection ends", || says(&mut database).is_empty());
        assert_eq!(says(&mut connect(("127.0.0.1", db))), "", "{version}: and no other begins");
        assert_eq!(says(&mut other), "HELLO", "{version}");

        // A policy for the namespace opens both to new calls, and closes them again.
        for (mode, answer, line) in [("Audit", 200, "HELLO"), ("Enforce", 403, "")] {
            set(&mut mesh, mode);
            store(&mesh, &at, &secrets, files.path());
            until(mode, || {
                let mut fresh = connect(("127.0.0.1", web));
                status(&mut fresh) == Some(answer) && says(&mut connect(("127.0.0.1", db))) == line
            });
        }
    }
}

/// Requests are answered, lines are repeated.
fn either(stream: TcpStream) {
    let mut first = [0; 3];
    match stream.peek(&mut first) {
        Ok(3) if &first == b"GET" => patient(stream),
        Ok(_) => lines(stream),
        Err(_) => {}
    }
}
