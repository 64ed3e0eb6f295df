//! Renewal and rotation of the root under load: two real sidecars with real Envoys of the oldest and the newest
//! version, mutual TLS between them with a handshake for every request, and not one failed request.
//!
//! ```text
//!  network "outside": load ─▶ 127.0.0.1:16001 Envoy ══ mTLS ══▶ 10.9.0.2:16003 Envoy ─▶ app :8080   (this network)
//! ```

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use time::Duration;

use crate::certificate::{Authority, Life};
use crate::controller::{Behaviour, Controller};
use crate::redirect_network::{OUTSIDE, POD, address, pod_and_outside};
use crate::support::{
    ENVOYS, Network, Sidecar, TOKEN, ask, ask_admin, envoy, isolated, mirror, shell, until,
};

const HOST: &str = "controller.test";

fn tls(kind: &str, run: &Path) -> Value {
    let secret = |name: &str| {
        json!({ "name": name, "sds_config": { "resource_api_version": "V3", "path_config_source": {
            "path": run.join(format!("sds/{name}.json")), "watched_directory": { "path": run.join("sds") },
        } } })
    };
    let mut context = json!({
        "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"),
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [secret("identity")],
            "validation_context_sds_secret_config": secret("trust"),
        },
    });
    if kind == "DownstreamTlsContext" {
        context["require_client_certificate"] = json!(true);
        context["disable_stateless_session_resumption"] = json!(true);
        context["disable_stateful_session_resumption"] = json!(true);
    } else {
        context["max_session_keys"] = json!(0);
    }
    json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
}

/// A listener on `at` that sends every request to `to`. One of both sides is TLS.
fn hop(at: (&str, u16), to: (&str, u16), server: bool, run: &Path) -> Value {
    let socket = |(ip, port): (&str, u16)| json!({ "socket_address": { "address": ip, "port_value": port } });
    let mut chain = json!({ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "hop",
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [{
                "match": { "prefix": "/" }, "route": { "cluster": "hop", "timeout": "20s" },
            }] }] },
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
        },
    }] });
    let mut cluster = json!({
        "name": "hop", "type": "STATIC", "connect_timeout": "10s",
        // A connection and with it a handshake for every request.
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http_protocol_options": {} },
            "common_http_protocol_options": { "max_requests_per_connection": 1 },
        } },
        "load_assignment": { "cluster_name": "hop", "endpoints": [{
            "lb_endpoints": [{ "endpoint": { "address": socket(to) } }] }] },
    });
    if server {
        chain["transport_socket"] = tls("DownstreamTlsContext", run);
    } else {
        cluster["transport_socket"] = tls("UpstreamTlsContext", run);
    }
    let listener = json!({ "name": "hop", "address": socket(at), "filter_chains": [chain] });
    json!({ "static_resources": { "listeners": [listener], "clusters": [cluster] } })
}

/// A program that starts Envoy with more configuration than the sidecar gives it.
fn envoy_with(version: &str, directory: &Path, name: &str, extra: &Value) -> PathBuf {
    let (yaml, program) = (directory.join(format!("{name}.json")), directory.join(name));
    std::fs::write(&yaml, extra.to_string()).expect("a file");
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\" --config-yaml \"$(cat {})\"\n",
        envoy(version).display(),
        yaml.display()
    );
    std::fs::write(&program, script).expect("a file");
    shell(&format!("chmod 755 {}", program.display()));
    program
}

/// Requests without a pause until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Load {
    fn start(outside: &Arc<Network>) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (network, ended, count) = (Arc::clone(outside), Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            network.inside(move || {
                let mut failures = Vec::new();
                while !ended.load(Ordering::SeqCst) {
                    match ask(address("127.0.0.1", 16001), "GET", "/") {
                        Ok((200, _)) => drop(count.fetch_add(1, Ordering::SeqCst)),
                        other => failures.push(format!("{other:?}")),
                    }
                }
                failures
            })
        });
        Self { stop, done, thread }
    }

    /// So many more requests succeed.
    fn go_on(&self) {
        let wanted = self.done.load(Ordering::SeqCst) + 20;
        until("requests succeed", || (self.done.load(Ordering::SeqCst) >= wanted).then_some(()));
    }

    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let failures = self.thread.join().expect("the load ends");
        (self.done.load(Ordering::SeqCst), failures)
    }
}

/// Both sidecars have said that they trust just these and have a certificate of the first.
fn confirmed(controller: &Controller, step: &str, trusted: &[&Arc<Authority>]) {
    let names: Vec<_> = trusted.iter().map(|root| json!(root.name())).collect();
    until(step, || {
        let told = controller.told.lock().unwrap();
        let right = |report: &Value| {
            let roots = report["roots"].as_array().cloned().unwrap_or_default();
            roots.len() == names.len()
                && names.iter().all(|name| roots.contains(name))
                && report["issuer"] == names[0]
        };
        (told.len() == 2 && told.values().all(right)).then_some(())
    });
}

fn handshakes(run: &Path) -> u64 {
    let (_, text) = ask_admin(run, "/stats?filter=cluster.hop.ssl.handshake").expect("Envoy answers");
    text.trim().rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[test]
fn no_handshake_fails_while_certificates_and_the_root_are_replaced() {
    isolated("rotation::no_handshake_fails_while_certificates_and_the_root_are_replaced", || {
        let outside = Arc::new(pod_and_outside());
        let directory = tempfile::tempdir().unwrap();
        shell(&format!(
            "echo '{POD} {HOST}' >> {0}/hosts; cat /etc/hosts >> {0}/hosts; mount --bind {0}/hosts /etc/hosts",
            directory.path().display()
        ));
        mirror(TcpListener::bind("127.0.0.1:8080").unwrap());
        let short = Life { end: Duration::seconds(15), renew: Some(Duration::seconds(2)) };
        let empty = vec![
            ("type.googleapis.com/envoy.config.cluster.v3.Cluster", Vec::new()),
            ("type.googleapis.com/envoy.config.listener.v3.Listener", Vec::new()),
        ];
        let controller = Controller::start_at("0.0.0.0", HOST, Behaviour::Sign(short), Some(empty));
        let host = format!("{HOST}:{}", controller.port);
        let runs = ["server", "client"].map(|name| directory.path().join(format!("{name}-run")));
        let server = envoy_with(
            ENVOYS[0],
            directory.path(),
            "server",
            &hop((POD, 16003), ("127.0.0.1", 8080), true, &runs[0]),
        );
        let client = envoy_with(
            ENVOYS[1],
            directory.path(),
            "client",
            &hop(("127.0.0.1", 16001), (POD, 16003), false, &runs[1]),
        );
        let start = |name: &'static str, ip: &'static str, program: PathBuf, run: PathBuf| {
            let (controller, host) = (Arc::clone(&controller), host.clone());
            move || {
                let change = [("MESHWRIGHT_CONTROLLER", host.as_str()), ("POD_IP", ip), (TOKEN, name)];
                Sidecar::start_in(&run, &controller, &program, &change)
            }
        };
        let [server_run, client_run] = runs;
        let asked = client_run.clone();
        let mounted = server_run.join("ca.crt");
        let _server = start("server", POD, server, server_run)();
        let _client = outside.inside(start("client", OUTSIDE, client, client_run));
        let first = Arc::clone(&controller.authority);
        confirmed(&controller, "both have told what they hold", &[&first]);
        until("the way is open", || {
            let answer = outside.inside(|| ask(address("127.0.0.1", 16001), "GET", "/"));
            answer.ok().filter(|(status, _)| *status == 200)
        });

        let began = Instant::now();
        let load = Load::start(&outside);
        let before = controller.requests_seen();
        until("both have renewed three times", || (controller.requests_seen() >= before + 6).then_some(()));
        load.go_on();
        let second = Arc::new(Authority::new());
        let steps: [(&str, &[&Arc<Authority>]); 6] = [
            ("both roots are trusted", &[&first, &second]),
            ("the new root signs", &[&second, &first]),
            // Aborted, and then done.
            ("the old root signs again", &[&first, &second]),
            ("the new root signs in the end", &[&second, &first]),
            ("the old root is trusted no more", &[&second]),
            ("all is as it was before", &[&second]),
        ];
        for (step, trusted) in steps {
            controller.order(trusted);
            confirmed(&controller, step, trusted);
            load.go_on();
        }
        let (done, failures) = load.end();
        assert!(
            failures.is_empty(),
            "{done} succeeded, {} failed: {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
        let made = handshakes(&asked);
        assert!(made >= done, "{made} handshakes for {done} requests");
        println!("{done} requests, {made} handshakes in {:?}: none failed", began.elapsed());

        // The other side of it: a root that is trusted without anybody waiting for anybody fails requests.
        let third = Arc::new(Authority::new());
        std::fs::write(mounted, second.root() + &third.root()).unwrap();
        controller.told.lock().unwrap().clear();
        controller.order(&[&third]);
        until("a request fails", || {
            let answer = outside.inside(|| ask(address("127.0.0.1", 16001), "GET", "/"));
            answer.ok().filter(|(status, _)| *status == 503)
        });
    });
}
