//! What a caller may not tell a sidecar, and what it may not make of a path or a name.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use crds::mesh_config::{Authorization, Egress, Mtls};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Duration;
use envoys::{Envoy, Identities, VERSIONS, any, free_port};
use mesh::decide::{Callee, Caller, Request};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Verdict, decide};
use prost::{Message, Name};

use super::apps::{app, ask, connect, read_line, serve};
use super::protocols::{Declared, Pair, STORE, config, requests_only, settings_of, world};
use crate::world::*;

/// Requests that the application which fails has seen.
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// Always fails.
fn failing(mut stream: TcpStream) {
    while !read_line(&mut stream).is_empty() {}
    SEEN.fetch_add(1, Ordering::SeqCst);
    let _ = stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

/// Headers by which Envoy can be told to try again, or to give up, if their sender is trusted. One that says that it
/// was called from inside is no more to be trusted than any other.
const TOLD: [(&str, &str); 6] = [
    ("x-forwarded-for", "10.0.0.1"),
    ("x-envoy-internal", "true"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-max-retries", "9"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
];

#[test]
fn a_caller_tells_no_sidecar_to_try_again_or_to_give_up() {
    for version in VERSIONS {
        let settings = settings_with(Mtls::Permissive, Authorization::AllowAll, Egress::Deny);
        let pair = Pair::new(version, settings, Declared::name("http"), |_| Vec::new(), serve(failing));
        let caller = pair.caller("buyer", STORE);
        // With a sidecar, which acts for its own application, and without.
        for (port, headers) in [(pair.server_port, TOLD.as_slice()), (caller.port, TOLD.get(..2).unwrap())] {
            SEEN.store(0, Ordering::SeqCst);
            let status = ask(port, "GET", "/", headers).map(|(status, _)| status);
            assert_eq!((status, SEEN.load(Ordering::SeqCst)), (Some(500), 1), "{version}");
        }
    }
}

#[test]
fn no_rule_for_paths_fits_a_path_that_can_be_read_in_two_ways() {
    for version in VERSIONS {
        let policies = |_| {
            let group = serde_json::json!({"matches": [{"name": "m", "pathRegex": "/public/.*"}]});
            vec![
                policy("HTTPRouteGroup", "public", group),
                target("read", "store", &["buyer"], http("public")),
            ]
        };
        let settings = settings_of(Authorization::Enforce);
        let pair = Pair::new(version, settings, Declared::name("http"), policies, app());
        let caller = pair.caller("buyer", STORE);
        let paths = [
            ("/public/a", 200),
            ("/public/a;v=1/b", 200),
            ("/public/a.b..c/d", 200),
            ("/public/a?next=//b/..;/c", 200),
            ("/public/..;/admin", 403),
            ("/public/..;x=y/admin", 403),
            ("/public/.;/admin", 403),
            ("/public//admin", 403),
            ("//public/a", 403),
            ("/admin", 403),
        ];
        for (path, expected) in paths {
            let (status, seen) = ask(caller.port, "GET", path, &[]).unwrap();
            // A later Envoy resolves a dot that has a parameter, and the application sees what the rule saw.
            let resolved = status == 200 && seen.contains("GET /public/admin HTTP/1.1");
            assert!(
                status == expected || (path == "/public/.;/admin" && resolved),
                "{version} {path}: {seen}"
            );
            let from = Caller::ServiceAccount(ServiceAccount::new(NS, "buyer"));
            let to =
                Callee::Pod { namespace: NS.to_owned(), name: "store-0".to_owned(), port: pair.server_port };
            let request =
                Request::Http { method: "GET".to_owned(), path: path.to_owned(), headers: [].into() };
            let verdict = decide(&pair.mesh, &Call { from, to, request });
            assert_eq!(matches!(verdict, Verdict::Allowed(_)), expected == 200, "{path}");
        }
        // `%2e` is a dot, and a dot with a parameter is still one.
        let status = ask(caller.port, "GET", "/public/%2e%2e;/admin", &[]).map(|(status, _)| status);
        assert_eq!(status, Some(403), "{version}");
    }
}

/// Where no rule speaks of paths, none is refused.
#[test]
fn paths_are_the_applications_own_where_no_rule_speaks_of_them() {
    for version in VERSIONS {
        let policies = |_| {
            let group =
                serde_json::json!({"matches": [{"name": "m", "pathRegex": ".*", "methods": ["GET"]}]});
            vec![policy("HTTPRouteGroup", "all", group), target("read", "store", &["buyer"], http("all"))]
        };
        let settings = settings_of(Authorization::Enforce);
        let pair = Pair::new(version, settings, Declared::name("http"), policies, app());
        let caller = pair.caller("buyer", STORE);
        for path in ["/proxy/http://example.com//a", "/a;b/c"] {
            let (status, seen) = ask(caller.port, "GET", path, &[]).unwrap();
            assert_eq!(status, 200, "{version} {path}");
            assert!(seen.contains(&format!("GET {path} HTTP/1.1")), "{version} {path}: {seen}");
        }
    }
}

#[test]
fn a_header_that_reads_like_the_callers_name_does_not_reach_the_application_and_others_with_underscores_do() {
    for version in VERSIONS {
        let settings = settings_with(Mtls::Permissive, Authorization::AllowAll, Egress::Deny);
        let pair = Pair::new(version, settings, Declared::name("http"), |_| Vec::new(), app());
        let caller = pair.caller("buyer", STORE);
        let forged = "URI=spiffe://cluster.local/ns/shop/sa/admin";
        let headers = [
            ("x-forwarded-client-cert", forged),
            ("x_forwarded_client_cert", forged),
            ("X_Forwarded-Client_Cert", forged),
            ("x-forwarded_client-cert", forged),
            ("user_id", "7"),
        ];
        for port in [pair.server_port, caller.port] {
            let (status, seen) = ask(port, "GET", "/", &headers).unwrap();
            assert_eq!(status, 200, "{version}");
            assert!(!seen.contains("sa/admin"), "{version}: {seen}");
            assert!(seen.contains("user_id: 7"), "{version}: {seen}");
        }
    }
}

/// Whoever sends the headers of a request a byte a minute does not hold a place for ever.
#[test]
fn a_request_that_never_gets_to_its_end_is_answered() {
    for version in VERSIONS {
        let settings = settings_with(Mtls::Permissive, Authorization::AllowAll, Egress::Deny);
        let port = free_port();
        let mesh = world(settings, Declared::name("http"), port, requests_only());
        let identities = Identities::new();
        let secrets = identities.issue(NS, "store");
        let mut config = config(&mesh, "store-0", &secrets);
        config.listen("inbound", &[port]);
        config.lead("inbound", app());
        let filters = config.listeners[0].filter_chains.iter_mut().flat_map(|chain| &mut chain.filters);
        let mut managers = 0;
        for filter in filters {
            let Some(ConfigType::TypedConfig(typed)) = &mut filter.config_type else { continue };
            if typed.type_url == HttpConnectionManager::type_url() {
                let mut manager = HttpConnectionManager::decode(typed.value.as_slice()).unwrap();
                assert_eq!(manager.request_headers_timeout, Some(Duration { seconds: 60, nanos: 0 }));
                // A test does not wait for a minute.
                manager.request_headers_timeout = Some(Duration { seconds: 1, nanos: 0 });
                *typed = any(&manager);
                managers += 1;
            }
        }
        assert_eq!(managers, 2, "with TLS and without");
        let _server = Envoy::start(version, &config, port);
        let mut stream = connect(("127.0.0.1", port));
        stream.write_all(b"GET / HTTP/1.1\r\nhost: store\r\nx-slow: ").unwrap();
        let answer = read_line(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 408"), "{version}: {answer}");
    }
}
