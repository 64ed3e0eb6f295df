//! An address is a pod's only if the pod has it, and nobody listens at somebody else's.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crds::mesh_config::{Authorization, Egress, Mtls};
use mesh::{Mesh, Object, view};
use serde_json::{Value, json};

use crate::world::*;

/// A pod of the thief, whose service account everybody may call here.
fn lure(addresses: &[&str]) -> Object {
    at("lure", NS, addresses, &json!({}))
}

fn at(name: &str, namespace: &str, addresses: &[&str], more: &Value) -> Object {
    let mut value = pod_value(name, name, name);
    value["metadata"]["namespace"] = json!(namespace);
    for (key, more) in more.as_object().unwrap() {
        value["metadata"][key] = more.clone();
    }
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    value["status"] = json!({"phase": "Running", "podIPs": addresses});
    pod_of(value)
}

/// The lure is behind a headless service, a service with an address and one without a selector.
fn world(more: impl IntoIterator<Item = Object>) -> Mesh {
    let port = [("tcp", 5432, json!(5432))];
    let objects = [
        namespace(NS, "demo"),
        pod("buyer-1", "buyer", "buyer"),
        service("lures", "None", json!({"app": "lure"}), &port),
        service("lure", "10.0.0.50", json!({"app": "lure"}), &port),
        service("by-hand", "10.0.0.51", Value::Null, &port),
        policy("TCPRoute", "any", json!({"matches": {"ports": []}})),
        target("come-here", "lure", &["buyer"], tcp("any")),
    ];
    mesh_of(
        settings_with(Mtls::Strict, Authorization::Enforce, Egress::Deny),
        objects.into_iter().chain(more),
    )
}

/// Slices of all three that say where the lure is.
fn slices(address: &str) -> [Object; 3] {
    ["lures", "lure", "by-hand"].map(|name| slice(name, &[("tcp", 5432)], &[("lure", address, true)]))
}

/// Where the buyer's sidecar listens for headless pods, and where it sends calls.
fn of_buyer(mesh: &Mesh) -> (BTreeSet<String>, BTreeSet<String>) {
    let view = view(mesh, &mesh.audience(NS, "buyer-1").unwrap());
    let text = |all: &BTreeSet<SocketAddr>| all.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let listens = view.outbound.services.values().filter_map(|service| service.headless.as_ref());
    let sends = view.outbound.destinations.values();
    (
        listens.flat_map(|headless| text(&headless.pods)).collect(),
        sends.flat_map(|destination| text(&destination.endpoints)).collect(),
    )
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

#[test]
fn an_address_counts_as_a_pods_only_if_the_pod_says_so() {
    let own = "10.1.0.66";
    let listed = |address: &str| world(slices(address).into_iter().chain([lure(&[own])]));
    assert_eq!(of_buyer(&listed(own)), (set(&["10.1.0.66:5432"]), set(&["10.1.0.66:5432"])));
    // A database outside, the API server, a node, another pod, a service, IPv6.
    for somebody in ["203.0.113.9", "10.0.0.1", "192.168.1.1", "10.1.0.3", "10.0.0.10", "fd00::1"] {
        assert_eq!(of_buyer(&listed(somebody)), (set(&[]), set(&[])), "{somebody}");
    }
    // A pod that has no address yet, and one on the node's own network.
    let mut on_node = pod_value("lure", "lure", "lure");
    on_node["spec"]["hostNetwork"] = json!(true);
    on_node["status"] = json!({"phase": "Running", "podIP": own, "podIPs": [{"ip": own}]});
    for pod in [lure(&[]), pod_of(on_node)] {
        let mut mesh = world(slices(own).into_iter().chain([lure(&[own])]));
        mesh.apply(pod);
        assert_eq!(of_buyer(&mesh), (set(&[]), set(&[])));
    }
}

#[test]
fn a_headless_listener_never_claims_somebody_elses_address() {
    let contested = "10.1.0.66";
    let lured = || slices(contested).into_iter().chain([lure(&[contested])]);
    let ours = set(&["10.1.0.66:5432"]);
    let at_address = |name: &str, namespace: &str, more: &Value| at(name, namespace, &[contested], more);
    let leaving = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let foreign_service = |address: &str| {
        let value = json!({
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": address, "ports": [{"name": "https", "port": 443, "targetPort": 6443}]},
        });
        Object::from(serde_json::from_value::<k8s_openapi::api::core::v1::Service>(value).unwrap())
    };
    let table = [
        ("nobody else", None, true),
        ("a pod of a namespace that comes before", Some(at_address("x", "apps", &json!({}))), false),
        ("a pod that comes before", Some(at_address("a", NS, &json!({}))), false),
        ("a pod that is going", Some(at_address("a", NS, &leaving)), true),
        ("a pod that comes after", Some(at_address("z", NS, &json!({}))), true),
        (
            "a service of the mesh",
            Some(service("s", contested, json!({"app": "x"}), &[("tcp", 1, json!(1))])),
            false,
        ),
        ("a service of nobody", Some(foreign_service(contested)), false),
        ("a service elsewhere", Some(foreign_service("10.0.0.1")), true),
    ];
    for (who, object, listens) in table {
        let expected = if listens { ours.clone() } else { set(&[]) };
        let mesh = world(lured().chain(object.clone()));
        assert_eq!(of_buyer(&mesh).0, expected, "{who}");
        // The same in another order, and as before when it is gone.
        let mut mesh = world(lured());
        let Some(object) = object else { continue };
        mesh.apply(object.clone());
        assert_eq!(of_buyer(&mesh).0, expected, "{who}, later");
        mesh.delete(&object.reference());
        assert_eq!(of_buyer(&mesh).0, ours, "{who}, gone");
    }
}
