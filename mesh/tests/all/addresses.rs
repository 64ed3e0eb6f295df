//! An address is a pod's only if the pod has it, and nobody listens at somebody else's.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crds::mesh_config::{Authorization, Egress, Mtls};
use mesh::{Changed, Kind, Mesh, Object, ObjectRef, Problem, Reason, What, view};
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

/// A slice of `by-hand` with these endpoints: pod, uid and address.
fn written(labels: &Value, endpoints: &[(&str, &str, &str)]) -> Object {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(pod, uid, address)| {
            let target = match (*pod, *uid) {
                ("", _) => Value::Null,
                (pod, "") => json!({"kind": "Pod", "name": pod}),
                (pod, uid) => json!({"kind": "Pod", "name": pod, "uid": uid}),
            };
            json!({"addresses": [address], "conditions": {"ready": true}, "targetRef": target})
        })
        .collect();
    let mut value = json!({
        "metadata": {"name": "by-hand-1", "namespace": NS, "labels": {"kubernetes.io/service-name": "by-hand"}},
        "addressType": "IPv4", "ports": [{"name": "tcp", "port": 5432}], "endpoints": endpoints,
    });
    for (key, more) in labels.as_object().unwrap() {
        value["metadata"]["labels"][key] = more.clone();
    }
    Object::from(serde_json::from_value::<k8s_openapi::api::discovery::v1::EndpointSlice>(value).unwrap())
}

fn lies(mesh: &Mesh) -> Vec<Problem> {
    mesh.problems().into_iter().filter(|one| one.reason == Reason::NotItsAddress).collect()
}

#[test]
fn a_slice_that_lies_about_an_address_is_named_and_one_that_is_only_ahead_is_not() {
    let (own, other) = ("10.1.0.66", "203.0.113.9");
    let derived = json!({"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
    let nobody = json!({});
    let ended = || {
        let mut value = pod_value("lure", "lure", "lure");
        value["status"] = json!({"phase": "Succeeded", "podIPs": [{"ip": own}]});
        pod_of(value)
    };
    let table = [
        ("the pod's own address", written(&nobody, &[("lure", "", own)]), Some(lure(&[own])), false),
        ("another address", written(&nobody, &[("lure", "", other)]), Some(lure(&[own])), true),
        (
            "another address, of this pod",
            written(&nobody, &[("lure", "uid-lure", other)]),
            Some(lure(&[own])),
            true,
        ),
        ("of a pod of before", written(&nobody, &[("lure", "uid-before", other)]), Some(lure(&[own])), false),
        (
            "of Kubernetes, which is ahead",
            written(&derived, &[("lure", "", other)]),
            Some(lure(&[own])),
            false,
        ),
        ("a pod without an address yet", written(&nobody, &[("lure", "", other)]), Some(lure(&[])), false),
        ("a pod that has ended", written(&nobody, &[("lure", "", other)]), Some(ended()), false),
        ("a pod that is not there", written(&nobody, &[("lure", "", other)]), None, false),
        ("no pod's", written(&nobody, &[("", "", other)]), Some(lure(&[own])), false),
    ];
    for (what, slice, pod, lie) in table {
        let mesh = world([slice].into_iter().chain(pod));
        assert_eq!(lies(&mesh).len(), usize::from(lie), "{what}: {:?}", lies(&mesh));
    }
}

#[test]
fn a_lie_is_told_once_with_what_to_do_and_until_it_is_mended() {
    let nobody = json!({});
    let many: Vec<_> = (1..=100).map(|n| format!("203.0.113.{n}")).collect();
    let endpoints: Vec<_> = many.iter().map(|address| ("lure", "", address.as_str())).collect();
    let mut mesh = world([written(&nobody, &endpoints), lure(&["10.1.0.66"])]);
    let found = lies(&mesh);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].object, ObjectRef::new(Kind::EndpointSlice, NS, "by-hand-1"));
    assert_eq!(
        found[0].message,
        "pod lure has the address 10.1.0.66 and not 203.0.113.1, so nobody is sent there (99 more endpoints of it are \
         like that); write the pod's own address, or leave targetRef out if it is no pod's"
    );
    // Whoever reports problems is told that there is another one, and that it is gone.
    let tells = |changed: Changed| match changed {
        Changed::Something(what) => what.contains(&What::Problems),
        Changed::Nothing => false,
    };
    assert!(tells(mesh.apply(written(&nobody, &[("lure", "", "10.1.0.66")]))));
    assert_eq!(lies(&mesh), vec![]);
    assert!(tells(mesh.apply(written(&nobody, &[("lure", "", "203.0.113.9")]))));
    // The pod's word came later: it was no lie.
    mesh.apply(lure(&["203.0.113.9"]));
    assert_eq!(lies(&mesh), vec![]);
}
