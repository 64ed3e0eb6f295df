//! `Audit`: what would be denied is let through, counted and written down, by real Envoys.

use std::io::Read;
use std::time::Duration;

use crds::mesh_config::{Authorization, Egress, Mtls};
use envoys::VERSIONS;
use mesh::Settings;
use serde_json::{Value, json};

use super::apps::{app, ask, banner, connect, lines, read_line, send_line, serve};
use super::endpoints::until;
use super::protocols::{Declared, Pair, STORE, all_open, requests_only, settings_of, world};
use crate::world::*;

/// A MeshConfig that enforces, and a MeshPolicy that does not.
fn audited(version: &'static str, name: &'static str, more: fn(u16) -> Vec<mesh::Object>, app: u16) -> Pair {
    let policies = |port| {
        let audit = policy("MeshPolicy", "audit", json!({"authorization": "Audit"}));
        more(port).into_iter().chain([audit]).collect()
    };
    Pair::new(version, settings_of(Authorization::Enforce), Declared::name(name), policies, app)
}

/// The lines of a log that say that something would be denied, when there are so many.
fn written(pair: &Pair, count: usize) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    until("the lines are written", || {
        let output = pair.server.output();
        // The last line may not be whole yet.
        let whole = output.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
        found = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        found.len() >= count
    });
    found
}

#[test]
fn a_request_that_would_be_denied_is_answered_counted_and_written_down() {
    for version in VERSIONS {
        for declared in ["http", ""] {
            let pair = audited(version, declared, |_| requests_only(), app());
            let (buyer, thief) = (pair.caller("buyer", STORE), pair.caller("thief", STORE));
            let status = |port, path| ask(port, "GET", path, &[]).map(|(status, _)| status);
            assert_eq!(status(buyer.port, "/books"), Some(200), "{version}");
            assert_eq!(status(buyer.port, "/other?secret=1"), Some(200), "{version}");
            assert_eq!(status(thief.port, "/books"), Some(200), "{version}");
            let counter = |what| {
                pair.server.stat(&format!("http.inbound_{}.rbac.audit.shadow_{what}", pair.server_port))
            };
            assert_eq!((counter("allowed"), counter("denied")), (1, 2), "{version} {declared}");
            let lines = written(&pair, 2);
            let fields = |line: &Value| {
                ["authorization", "caller", "method", "path"]
                    .map(|field| line[field].as_str().unwrap().to_owned())
            };
            let expected = |account, path: &str| {
                ["would be denied", &crds::labels::spiffe_id("cluster.local", NS, account), "GET", path]
                    .map(str::to_owned)
            };
            let found: Vec<_> = lines.iter().map(fields).collect();
            assert_eq!(
                found,
                [expected("buyer", "/other"), expected("thief", "/books")],
                "{version} {declared}"
            );
            assert!(!pair.server.output().contains("secret"), "{version}: queries may hold secrets");
        }
    }
}

#[test]
fn a_connection_that_would_be_denied_passes_is_counted_and_written_down() {
    for version in VERSIONS {
        for declared in ["tcp", ""] {
            let pair = audited(version, declared, all_open, serve(lines));
            for account in ["buyer", "thief"] {
                let caller = pair.caller(account, STORE);
                assert_eq!(send_line(caller.port, "hello"), "HELLO", "{version} {account}");
            }
            let prefix = format!("tcp.inbound_{}.rbac.audit.shadow", pair.server_port);
            // The connections by which the start of the callers' Envoys was awaited may count.
            for what in ["allowed", "denied"] {
                assert!(pair.server.stat(&format!("{prefix}_{what}")) >= 1, "{version} {declared} {what}");
            }
            for line in written(&pair, 1) {
                assert_eq!(line["authorization"], "would be denied", "{version} {declared}");
                let thief = crds::labels::spiffe_id("cluster.local", NS, "thief");
                assert_eq!(line["caller"], thief, "{version} {declared}: {line}");
            }
        }
    }
}

/// What is denied stays silent, and whoever asks for an access log gets it as before.
#[test]
fn nothing_is_written_where_rules_are_enforced() {
    for version in VERSIONS {
        let settings = settings_of(Authorization::Enforce);
        let pair = Pair::new(version, settings, Declared::name("http"), |_| requests_only(), app());
        let (buyer, thief) = (pair.caller("buyer", STORE), pair.caller("thief", "outbound"));
        for (caller, expected) in [(&buyer, 200), (&thief, 403)] {
            let status = ask(caller.port, "GET", "/books", &[]).map(|(status, _)| status);
            assert_eq!(status, Some(expected), "{version}");
        }
        let denied = format!("http.inbound_{}.rbac.denied", pair.server_port);
        assert_eq!(pair.server.stat(&denied), 1, "{version}");
        assert_eq!(pair.server.output(), "", "{version}");
    }
}

/// Envoy decides about a connection when its first byte comes; a server has spoken by then.
#[test]
fn who_may_not_connect_hears_nothing_from_a_server_that_speaks_first() {
    let heard = |port| {
        let mut stream = connect(("127.0.0.1", port));
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut heard = [0; 16];
        matches!(stream.read(&mut heard), Ok(read) if read > 0)
    };
    for version in VERSIONS {
        for mtls in [Mtls::Strict, Mtls::Permissive] {
            for declared in ["tcp", ""] {
                let settings = settings_with(mtls, Authorization::Enforce, Egress::Deny);
                let pair =
                    Pair::new(version, settings.clone(), Declared::name(declared), all_open, serve(banner));
                let buyer = pair.caller("buyer", STORE);
                let greeting = read_line(&mut connect(("127.0.0.1", buyer.port)));
                assert_eq!(greeting, "220 ready", "{version} {mtls:?} {declared}");
                // A sidecar that was told that bytes are welcome, of somebody to whom they are not.
                let open = Settings { authorization: Authorization::AllowAll, ..settings };
                let open = world(open, Declared::name(declared), pair.server_port, Vec::new());
                let thief = pair.caller_in(&open, "thief", STORE);
                assert!(!heard(thief.port), "{version} {mtls:?} {declared}");
                assert!(!heard(pair.server_port), "{version} {mtls:?} {declared}: without a sidecar");
            }
        }
    }
}
