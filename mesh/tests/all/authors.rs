//! Who is told when an Envoy refuses a resource.

use mesh::ResourceType::{Cluster, Endpoint, Listener, Route};
use mesh::ingest::ServiceAccount;
use mesh::{Mesh, ResourceType, authors, render, view};
use serde_json::json;

use crate::world::*;

fn told_of(mesh: &Mesh, kind: ResourceType, name: &str, account: &str) -> Vec<String> {
    let found = authors(mesh, kind, name, &ServiceAccount::new(NS, account));
    found.iter().map(|object| format!("{} {}", object.kind, object.name)).collect()
}

fn told(kind: ResourceType, name: &str, account: &str) -> Vec<String> {
    let mut objects = bookstore();
    let spec = json!({"service": "bookstore", "backends": [{"service": "bookstore-v2", "weight": 1}],
                      "matches": [{"kind": "HTTPRouteGroup", "name": "books"}]});
    objects.push(policy("TrafficSplit", "testers", spec));
    told_of(&mesh(objects), kind, name, account)
}

#[test]
fn routes_are_made_by_splits_and_rules_by_targets_and_the_groups_that_they_name() {
    let routed = ["Service bookstore", "HTTPRouteGroup books", "TrafficSplit canary", "TrafficSplit testers"];
    assert_eq!(told(Route, "out|shop|bookstore|80", "buyer"), routed);
    assert_eq!(told(Cluster, "out|shop|bookstore|80", "buyer"), ["Service bookstore"]);
    assert_eq!(told(Route, "in|8080", "bookstore"), ["TrafficTarget buy", "HTTPRouteGroup books"]);
    assert_eq!(told(Listener, "inbound", "warehouse"), ["TrafficTarget store", "TCPRoute any"]);
}

#[test]
fn what_only_the_mesh_config_shapes_is_nobody_elses() {
    for (kind, name) in [(Listener, "outbound"), (Cluster, "passthrough"), (Cluster, "inbound"), (Route, "")]
    {
        assert_eq!(told(kind, name, "bookstore"), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_kinds_of_osm_are_told_too() {
    let mesh = mesh(bookstore().into_iter().chain(outside()));
    let told = |kind, name, account| told_of(&mesh, kind, name, account);
    // The host of u1 is the bookstore. The canary leads to bookstore-v1, which u3
    // speaks of.
    let called = told(Route, "out|shop|bookstore|80", "buyer");
    let expected = [
        "Service bookstore",
        "TrafficSplit canary",
        "Retry r1",
        "UpstreamTrafficSetting u1",
        "UpstreamTrafficSetting u3",
    ];
    assert_eq!(called, expected);
    assert!(!told(Route, "out|shop|bookstore|80", "thief").contains(&"Retry r1".to_owned()));
    let cluster = ["Service bookstore", "UpstreamTrafficSetting u1"];
    assert_eq!(told(Cluster, "out|shop|bookstore|80", "buyer"), cluster);
    let inbound = [
        "TrafficTarget buy",
        "HTTPRouteGroup books",
        "IngressBackend i1",
        "IngressBackend i2",
        "UpstreamTrafficSetting u1",
        "UpstreamTrafficSetting u3",
    ];
    for (kind, name) in [(Route, "in|8080"), (Route, "in|8080|plaintext"), (Listener, "inbound")] {
        assert_eq!(told(kind, name, "bookstore"), inbound, "{name}");
    }
    // Another port of the same pods is not theirs.
    assert_eq!(told(Route, "in|9999", "bookstore"), ["TrafficTarget buy", "HTTPRouteGroup books"]);
    let port = ["HTTPRouteGroup books", "Egress e1", "Egress e2", "Egress e4"];
    assert_eq!(told(Listener, "egress|80", "buyer"), port);
    assert_eq!(told(Route, "egress|80|10.9.0.0/16", "buyer"), port);
    let host = told(Cluster, "egress|books.example.com|80", "buyer");
    assert_eq!(host, ["Egress e1", "Egress e2"]);
    assert_eq!(told(Route, "egress|80|10.9.0.0/16", "nobody"), Vec::<String>::new());
}

/// Whatever an Envoy gets, somebody is told, or it is one of those that only the MeshConfig shapes.
#[test]
fn every_resource_has_an_author() {
    let mesh = mesh(bookstore().into_iter().chain(outside()));
    let ours = ["inbound", "outbound", "meshpassthrough", "inbound-h2"];
    for pod in ["buyer-1", "thief-1", "v1", "warehouse-1"] {
        let audience = mesh.audience(NS, pod).unwrap();
        let snapshot = render(&view(&mesh, &audience));
        for kind in [Cluster, Endpoint, Listener, Route] {
            for name in snapshot.of(kind).keys().filter(|name| !ours.contains(&name.as_str())) {
                // A port that nothing opens is shaped by nobody.
                let closed = name.starts_with("in|") && audience.service_account != "bookstore";
                let told = told_of(&mesh, kind, name, &audience.service_account);
                assert!(closed || !told.is_empty(), "{} {name} of {pod}", kind.as_str());
            }
        }
    }
}
