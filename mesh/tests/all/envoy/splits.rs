//! TrafficSplits through real Envoys: shares, requests picked by header, the root as a receiver, receivers that are
//! missing or empty.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use envoys::{Block, Config, Envoy, Identities, VERSIONS, free_port};
use mesh::{Mesh, Object, Snapshot};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::apps::{answer_as, ask};
use crate::world::*;

/// The store's service has pods of its own; two more services have one pod each.
const PODS: [(&str, u8); 3] = [("root", 1), ("v1", 2), ("v2", 3)];

fn world(splits: Vec<Object>) -> Mesh {
    let mut objects = vec![namespace(NS, "demo"), pod("buyer-1", "buyer", "buyer")];
    for (name, last) in PODS {
        objects.push(pod(name, "store", name));
        let service_name = if name == "root" { "store".to_owned() } else { format!("store-{name}") };
        let address = format!("10.0.0.{last}");
        objects.push(service(&service_name, &address, json!({"app": name}), &[("http", 80, json!(8080))]));
        objects.push(slice(&service_name, &[("http", 8080)], &[(name, &format!("10.1.0.{last}"), true)]));
    }
    objects.push(service("store-empty", "10.0.0.9", json!({"app": "nobody"}), &[("http", 80, json!(8080))]));
    objects.push(policy(
        "HTTPRouteGroup",
        "all",
        json!({"matches": [{"name": "all"}, {"name": "testers", "headers": {"user-agent": ".*Firefox.*"}}]}),
    ));
    let testers = json!({"matches": [{"name": "testers", "headers": {"user-agent": ".*Firefox.*"}}]});
    objects.push(policy("HTTPRouteGroup", "testers", testers));
    objects.push(target("open", "store", &["buyer"], http("all")));
    mesh(objects.into_iter().chain(splits))
}

fn split(name: &str, backends: &[(&str, i32)], matches: Option<&str>) -> Object {
    let backends: Vec<_> =
        backends.iter().map(|(service, weight)| json!({"service": service, "weight": weight})).collect();
    let matches: Option<Vec<Value>> = matches
        .map(|group| vec![json!({"kind": "HTTPRouteGroup", "name": group, "apiGroup": "specs.smi-spec.io"})]);
    policy("TrafficSplit", name, json!({"service": "store", "backends": backends, "matches": matches}))
}

/// An application that says who it is.
fn named_app(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let each = Arc::new(move |stream: TcpStream| answer_as(stream, name));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let each = each.clone();
            std::thread::spawn(move || each(stream));
        }
    });
    port
}

fn snapshot(mesh: &Mesh, pod: &str, secrets: &TempDir) -> Snapshot {
    let view = mesh::view(mesh, &mesh.audience(NS, pod).unwrap());
    mesh::render::render_with(&view, secrets.path().to_str().unwrap())
}

/// Who answers how often of 100 requests.
fn shares(version: &str, splits: Vec<Object>, headers: &[(&str, &str)]) -> BTreeMap<String, u32> {
    let mesh = world(splits);
    let (block, identities) = (Block::reserve(), Identities::new());
    let store = identities.issue(NS, "store");
    let mut running = Vec::new();
    for (name, last) in PODS {
        let snapshot = snapshot(&mesh, name, &store);
        let mut config = Config::of(&snapshot).inlined(&snapshot);
        let at = block.at(last, 8080);
        config.place_at(&BTreeMap::from([("inbound".to_owned(), vec![at])]));
        config.lead("inbound", named_app(name));
        let mut envoy = Envoy::spawn(version, &config);
        envoy.until_listening(version, at);
        running.push(envoy);
    }
    let secrets = identities.issue(NS, "buyer");
    let snapshot = snapshot(&mesh, "buyer-1", &secrets);
    let mut config =
        Config::of(&snapshot).inlined_at(&snapshot, |endpoint: SocketAddr| match endpoint.ip() {
            std::net::IpAddr::V4(ip) => block.at(ip.octets()[3], endpoint.port()),
            std::net::IpAddr::V6(_) => panic!("{endpoint}"),
        });
    let port = free_port();
    config.listen("out|shop|store|80", &[port]);
    let _buyer = Envoy::start(version, &config, port);
    let mut shares = BTreeMap::new();
    for _ in 0..100 {
        let (status, body) = ask(port, "GET", "/", headers).unwrap();
        assert_eq!(status, 200, "{version}");
        let name = PODS.iter().find(|(name, _)| body.contains(&format!("x-pod: {name}\r\n"))).unwrap().0;
        *shares.entry(name.to_owned()).or_default() += 1;
    }
    shares
}

fn names(shares: &BTreeMap<String, u32>) -> BTreeSet<&str> {
    shares.keys().map(String::as_str).collect()
}

#[test]
fn requests_are_shared_out_by_weight() {
    for version in VERSIONS {
        let got = shares(version, vec![split("s", &[("store-v1", 90), ("store-v2", 10)], None)], &[]);
        assert_eq!(names(&got), ["v1", "v2"].into(), "{version}: {got:?}");
        // 10 of 100 are expected; 40 or more are once in 10^13.
        assert!(got["v2"] < 40, "{version}: {got:?}");
        let root = split("s", &[("store", 1), ("store-v1", 1), ("store-empty", 1), ("store-gone", 5)], None);
        let got = shares(version, vec![root], &[]);
        assert_eq!(names(&got), ["root", "v1"].into(), "{version}: nobody else could answer: {got:?}");
        let nobody = split("s", &[("store-empty", 1), ("store-gone", 1)], None);
        let got = shares(version, vec![nobody], &[]);
        assert_eq!(names(&got), ["root"].into(), "{version}: as without the split: {got:?}");
    }
}

#[test]
fn requests_are_picked_by_header() {
    let splits = || {
        vec![
            split("a-testers", &[("store-v2", 1)], Some("testers")),
            split("everybody", &[("store-v1", 1)], None),
        ]
    };
    for version in VERSIONS {
        let testers = shares(version, splits(), &[("user-agent", "Mozilla/5.0 Firefox/130.0")]);
        assert_eq!(names(&testers), ["v2"].into(), "{version}: {testers:?}");
        let others = shares(version, splits(), &[("user-agent", "curl/8")]);
        assert_eq!(names(&others), ["v1"].into(), "{version}: {others:?}");
    }
}
