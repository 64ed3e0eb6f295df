//! What an audience may do, in words.

use std::collections::BTreeMap;

use crds::mesh_config::{Authorization, Egress, Mtls};
use mesh::view::{Otherwise, ServicePort, View};
use mesh::{Kind, Mesh, ObjectRef, view};
use serde_json::json;

use crate::world::*;

fn of(mesh: &Mesh, pod: &str) -> View {
    view(mesh, &mesh.audience(NS, pod).unwrap())
}

fn key(service: &str, port: u16) -> ServicePort {
    ServicePort { namespace: NS.to_owned(), service: service.to_owned(), port }
}

/// Weights of the first route of a service port.
fn shares(mesh: &Mesh, pod: &str, service: &str) -> BTreeMap<String, u32> {
    let view = of(mesh, pod);
    let routes = view.outbound.services.get(&key(service, 80)).map(|service| service.routes.clone());
    let to = routes.and_then(|routes| routes.first().cloned()).map(|route| route.to).unwrap_or_default();
    to.into_iter().map(|(receiver, weight)| (receiver.service, weight)).collect()
}

#[test]
fn a_sidecar_gets_what_it_may_call_and_no_more() {
    let mesh = mesh(bookstore());
    let services =
        |pod: &str| of(&mesh, pod).outbound.services.into_keys().map(|key| key.service).collect::<Vec<_>>();
    assert_eq!(services("buyer-1"), ["bookstore", "bookstore-v1", "bookstore-v2"]);
    assert_eq!(services("thief-1"), Vec::<String>::new());
    assert_eq!(services("v1"), ["warehouse"]);
    assert_eq!(of(&mesh, "thief-1").outbound.otherwise, Otherwise::MeshOnly);
    let open = mesh_of(settings_with(Mtls::Strict, Authorization::AllowAll, Egress::Allow), bookstore());
    assert_eq!(of(&open, "thief-1").outbound.services.len(), 4);
    assert_eq!(of(&open, "thief-1").outbound.otherwise, Otherwise::Passthrough);
}

#[test]
fn every_receiver_has_peers_and_every_route_a_receiver() {
    let mesh = mesh(bookstore());
    for (namespace, pod) in mesh.pods() {
        let view = view(&mesh, &mesh.audience(namespace, pod).unwrap());
        for service in view.outbound.services.values() {
            assert!(!service.routes.is_empty() || !service.connections.is_empty());
            assert!(!service.addresses.is_empty());
            let requests = service.routes.iter().flat_map(|route| route.to.keys());
            for receiver in requests.chain(service.connections.keys()) {
                assert!(!view.outbound.destinations[receiver].peers.is_empty());
            }
        }
    }
}

#[test]
fn a_split_shares_out_and_never_leads_into_the_void() {
    let mut mesh = mesh(bookstore());
    let both = [("bookstore-v1".to_owned(), 90), ("bookstore-v2".to_owned(), 10)];
    assert_eq!(shares(&mesh, "buyer-1", "bookstore"), both.into());
    // A receiver without a ready pod gets nothing; the others share.
    mesh.apply(slice("bookstore-v1", &[("http", 8080)], &[("v1", "10.1.0.1", false)]));
    assert_eq!(shares(&mesh, "buyer-1", "bookstore"), [("bookstore-v2".to_owned(), 10)].into());
    assert_eq!(mesh.problems().len(), 1, "{:?}", mesh.problems());
    // Nobody is left: the root's own pods.
    mesh.delete(&ObjectRef::new(Kind::Service, NS, "bookstore-v2"));
    assert_eq!(shares(&mesh, "buyer-1", "bookstore"), [("bookstore".to_owned(), 1)].into());
}

#[test]
fn the_root_may_be_a_receiver_and_may_have_no_pods() {
    let split =
        |backends| policy("TrafficSplit", "canary", json!({"service": "bookstore", "backends": backends}));
    let mut mesh = mesh(bookstore());
    mesh.apply(split(
        json!([{"service": "bookstore", "weight": 1}, {"service": "bookstore-v2", "weight": 3}]),
    ));
    let expected = [("bookstore".to_owned(), 1), ("bookstore-v2".to_owned(), 3)];
    assert_eq!(shares(&mesh, "buyer-1", "bookstore"), expected.into());
    mesh.apply(service("bookstore", "10.0.0.10", json!({"app": "nobody"}), &[("http", 80, json!(8080))]));
    assert_eq!(shares(&mesh, "buyer-1", "bookstore"), [("bookstore-v2".to_owned(), 3)].into());
    mesh.delete(&ObjectRef::new(Kind::TrafficSplit, NS, "canary"));
    assert_eq!(shares(&mesh, "buyer-1", "bookstore"), BTreeMap::new());
}

#[test]
fn a_split_gives_no_permission() {
    let mut mesh = mesh(bookstore());
    mesh.delete(&ObjectRef::new(Kind::TrafficTarget, NS, "buy"));
    assert_eq!(of(&mesh, "buyer-1").outbound.services.len(), 0);
}

#[test]
fn a_split_with_matches_is_asked_first_and_an_unknown_match_is_no_match() {
    let mut mesh = mesh(bookstore());
    let spec = |group: &str| {
        json!({"service": "bookstore", "backends": [{"service": "bookstore-v2", "weight": 1}],
               "matches": [{"kind": "HTTPRouteGroup", "name": group}]})
    };
    mesh.apply(policy("TrafficSplit", "zz-testers", spec("books")));
    let routes = of(&mesh, "buyer-1").outbound.services[&key("bookstore", 80)].routes.clone();
    assert_eq!(
        routes.iter().map(|route| (route.matches.len(), route.to.len())).collect::<Vec<_>>(),
        [(2, 1), (0, 2)]
    );
    mesh.apply(policy("TrafficSplit", "zz-testers", spec("gone")));
    let routes = of(&mesh, "buyer-1").outbound.services[&key("bookstore", 80)].routes.clone();
    assert_eq!(routes.len(), 1);
}

#[test]
fn pods_without_a_sidecar_or_about_to_go_take_no_calls() {
    let endpoints =
        |mesh: &Mesh| of(mesh, "buyer-1").outbound.destinations[&key("bookstore-v1", 80)].endpoints.len();
    let mut mesh = mesh(bookstore());
    assert_eq!(endpoints(&mesh), 1);
    let mut going = pod_value("v1", "bookstore", "bookstore");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    mesh.apply(pod_of(going));
    assert_eq!(endpoints(&mesh), 0);
    let mut bare = pod_value("v1", "bookstore", "bookstore");
    bare["spec"]["containers"] = json!([{"name": "app"}]);
    mesh.apply(pod_of(bare));
    assert!(!of(&mesh, "buyer-1").outbound.services.contains_key(&key("bookstore-v1", 80)));
}

/// Two accounts behind one service, of which one is open to the caller: only its pods are called.
#[test]
fn calls_go_to_pods_that_will_answer() {
    let mut mesh = mesh(bookstore());
    mesh.apply(pod("v2", "bookstore-next", "bookstore"));
    mesh.delete(&ObjectRef::new(Kind::TrafficSplit, NS, "canary"));
    let destination = of(&mesh, "buyer-1").outbound.destinations[&key("bookstore", 80)].clone();
    assert_eq!(destination.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["bookstore"]);
    assert_eq!(destination.endpoints.len(), 1);
}

#[test]
fn the_view_of_the_buyer() {
    let mesh = mesh(bookstore());
    insta::assert_yaml_snapshot!(of(&mesh, "buyer-1"));
}

#[test]
fn the_view_of_the_bookstore() {
    let mesh = mesh(bookstore());
    insta::assert_yaml_snapshot!(of(&mesh, "v1"));
}
