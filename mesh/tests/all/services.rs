//! Services of every flavour: headless, without a selector, by another name, with ports that say nothing.

use std::collections::BTreeSet;

use crds::mesh_config::{Authorization, Egress, Mtls};
use mesh::decide::{Callee, Denial, Request};
use mesh::view::{Service, ServicePort};
use mesh::{Call, Families, Kind, Mesh, Object, ObjectRef, Verdict, decide, render, view};
use serde_json::{Value, json};

use crate::world::*;

fn key(service: &str, port: u16) -> ServicePort {
    ServicePort { namespace: NS.to_owned(), service: service.to_owned(), port }
}

fn dialed(mesh: &Mesh, pod: &str, service: &str, port: u16) -> Option<Service> {
    let view = view(mesh, &mesh.audience(NS, pod).unwrap());
    view.outbound.services.get(&key(service, port)).cloned()
}

fn members(mesh: &Mesh) -> Vec<String> {
    let service = dialed(mesh, "buyer-1", "members", 5432);
    let headless = service.and_then(|service| service.headless);
    headless.into_iter().flat_map(|one| one.pods).map(|pod| pod.to_string()).collect()
}

fn db(pod_name: &str, address: &str) -> Object {
    let mut value = pod_value(pod_name, "db", "db");
    value["status"] = json!({"phase": "Running", "podIP": address});
    pod_of(value)
}

/// The buyer may connect to port 5432 of the database, whose pods are members of a headless service.
fn database() -> Mesh {
    mesh([
        namespace(NS, "demo"),
        pod("buyer-1", "buyer", "buyer"),
        db("db-0", "10.1.0.5"),
        db("db-1", "10.1.0.6"),
        service("members", "None", json!({"app": "db"}), &[("tcp", 5432, json!(5432))]),
        slice("members", &[("tcp", 5432)], &[("db-0", "10.1.0.5", true), ("db-1", "10.1.0.6", true)]),
        policy("TCPRoute", "pg", json!({"matches": {"ports": [5432]}})),
        target("t", "db", &["buyer"], tcp("pg")),
    ])
}

#[test]
fn a_headless_service_is_dialed_by_its_pods() {
    let mut mesh = database();
    assert_eq!(members(&mesh), ["10.1.0.5:5432", "10.1.0.6:5432"]);
    // A member that is not ready is still dialed by name, by the other members for one.
    mesh.apply(slice(
        "members",
        &[("tcp", 5432)],
        &[("db-0", "10.1.0.5", false), ("db-1", "10.1.0.6", true)],
    ));
    assert_eq!(members(&mesh), ["10.1.0.5:5432", "10.1.0.6:5432"]);
    // It comes back elsewhere.
    mesh.apply(db("db-0", "10.1.0.9"));
    mesh.apply(slice("members", &[("tcp", 5432)], &[("db-0", "10.1.0.9", true), ("db-1", "10.1.0.6", true)]));
    assert_eq!(members(&mesh), ["10.1.0.6:5432", "10.1.0.9:5432"]);
    mesh.delete(&ObjectRef::new(Kind::Pod, NS, "db-1"));
    assert_eq!(members(&mesh), ["10.1.0.9:5432"]);
    mesh.delete(&ObjectRef::new(Kind::EndpointSlice, NS, "members-1"));
    assert_eq!(members(&mesh), Vec::<String>::new(), "scaled to zero");
}

/// One pod that comes is one more listener; those of the others stay as they are.
#[test]
fn each_member_has_a_listener_of_its_own() {
    let mut mesh = database();
    let listeners = |mesh: &Mesh| {
        let snapshot = render(&view(mesh, &mesh.audience(NS, "buyer-1").unwrap()));
        snapshot.of(mesh::ResourceType::Listener).clone()
    };
    let before = listeners(&mesh);
    mesh.apply(db("db-2", "10.1.0.7"));
    let three = [("db-0", "10.1.0.5", true), ("db-1", "10.1.0.6", true), ("db-2", "10.1.0.7", true)];
    mesh.apply(slice("members", &[("tcp", 5432)], &three));
    let mut after = listeners(&mesh);
    assert!(after.remove("out|shop|members|5432|10.1.0.7:5432").is_some(), "{:?}", after.keys());
    assert_eq!(before, after);
}

/// A split of a headless service leads away from the pod that was dialed, and back to it for the service's own share.
#[test]
fn a_split_of_a_headless_service_keeps_to_the_pod_for_its_own_share() {
    let mut mesh = database();
    mesh.apply(service("other", "10.0.0.9", json!({"app": "db"}), &[("tcp", 5432, json!(5432))]));
    mesh.apply(slice("other", &[("tcp", 5432)], &[("db-0", "10.1.0.5", true)]));
    let backends = json!([{"service": "members", "weight": 1}, {"service": "other", "weight": 1}]);
    mesh.apply(policy("TrafficSplit", "s", json!({"service": "members", "backends": backends})));
    assert_eq!(mesh.problems(), vec![]);
    let view = view(&mesh, &mesh.audience(NS, "buyer-1").unwrap());
    let service = &view.outbound.services[&key("members", 5432)];
    assert_eq!(service.connections.len(), 2);
    let destinations: Vec<_> = view.outbound.destinations.keys().collect();
    assert_eq!(destinations, [&key("other", 5432)]);
}

/// A slice as a person writes it: addresses, perhaps names of pods.
fn written(service: &str, endpoints: Value) -> Object {
    let value = json!({
        "metadata": {"name": format!("{service}-by-hand"), "namespace": NS, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "tcp", "port": 5432}], "endpoints": endpoints,
    });
    Object::from(serde_json::from_value::<k8s_openapi::api::discovery::v1::EndpointSlice>(value).unwrap())
}

#[test]
fn a_service_without_a_selector_leads_to_the_pods_that_its_endpoints_are() {
    let mut mesh = database();
    mesh.delete(&ObjectRef::new(Kind::Service, NS, "members"));
    assert!(mesh.audience(NS, "db-0").unwrap().ports.is_empty());
    mesh.apply(service("by-hand", "10.0.0.9", Value::Null, &[("tcp", 5432, json!(5432))]));
    assert_eq!(dialed(&mesh, "buyer-1", "by-hand", 5432), None);
    // One by its address, one by its name, one that is not of this mesh.
    let named = json!({"addresses": ["10.1.0.6"], "targetRef": {"kind": "Pod", "name": "db-1"}});
    mesh.apply(written("by-hand", json!([{"addresses": ["10.1.0.5"]}, named, {"addresses": ["192.0.2.1"]}])));
    assert!(dialed(&mesh, "buyer-1", "by-hand", 5432).is_some());
    let endpoints = |mesh: &Mesh| {
        let view = view(mesh, &mesh.audience(NS, "buyer-1").unwrap());
        let destination = view.outbound.destinations.get(&key("by-hand", 5432)).cloned();
        destination.into_iter().flat_map(|one| one.endpoints).map(|one| one.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(endpoints(&mesh), ["10.1.0.5:5432", "10.1.0.6:5432"]);
    assert!(mesh.audience(NS, "db-0").unwrap().ports.contains_key(&5432), "the pod hears there");
    // The address is another pod's now.
    mesh.apply(db("db-0", "10.1.0.99"));
    assert_eq!(endpoints(&mesh), ["10.1.0.6:5432"]);
    assert!(mesh.audience(NS, "db-0").unwrap().ports.is_empty());
    mesh.apply(db("db-0", "10.1.0.5"));
    assert_eq!(endpoints(&mesh).len(), 2);
    mesh.delete(&ObjectRef::new(Kind::EndpointSlice, NS, "by-hand-by-hand"));
    assert_eq!(dialed(&mesh, "buyer-1", "by-hand", 5432), None);
    assert!(mesh.audience(NS, "db-1").unwrap().ports.is_empty());
}

#[test]
fn an_external_name_is_nothing_of_ours() {
    let mut mesh = database();
    let value = json!({
        "metadata": {"name": "outside", "namespace": NS},
        "spec": {"type": "ExternalName", "externalName": "db.example.com", "ports": [{"port": 5432}]},
    });
    mesh.apply(Object::from(serde_json::from_value::<k8s_openapi::api::core::v1::Service>(value).unwrap()));
    assert_eq!(mesh.problems(), vec![]);
    assert_eq!(dialed(&mesh, "buyer-1", "outside", 5432), None);
    let to = Callee::Service { namespace: NS.to_owned(), name: "outside".to_owned(), port: 5432 };
    let call = Call { to, ..connection("buyer", "db-0", 5432) };
    assert_eq!(decide(&mesh, &call), Verdict::Denied(Denial::ExternalName));
}

/// A port of the store that says nothing, and rules for it.
fn undeclared(authorization: Authorization, rules: Value) -> Mesh {
    mesh_of(
        settings_with(Mtls::Strict, authorization, Egress::Deny),
        [
            namespace(NS, "demo"),
            pod("buyer-1", "buyer", "buyer"),
            pod("store-1", "store", "store"),
            service("store", "10.0.0.10", json!({"app": "store"}), &[("", 80, json!(8080))]),
            slice("store", &[("", 8080)], &[("store-1", "10.1.0.1", true)]),
            policy("HTTPRouteGroup", "all", json!({"matches": [{"name": "all"}]})),
            policy("TCPRoute", "any", json!({"matches": {"ports": []}})),
            policy("TCPRoute", "this", json!({"matches": {"ports": [8080]}})),
            target("t", "store", &["buyer"], rules),
        ],
    )
}

#[test]
fn what_is_open_at_an_undeclared_port() {
    let table = [
        (Authorization::Enforce, http("all"), true, false),
        // A TCPRoute without ports means ports that are known to carry bytes.
        (Authorization::Enforce, tcp("any"), false, false),
        (Authorization::Enforce, tcp("this"), true, true),
        (Authorization::Enforce, json!([]), false, false),
        (Authorization::Audit, json!([]), true, true),
        (Authorization::AllowAll, http("all"), true, true),
    ];
    for (authorization, rules, requests, bytes) in table {
        let mesh = undeclared(authorization, rules.clone());
        let allowed = |call: &Call| matches!(decide(&mesh, call), Verdict::Allowed(_));
        let to = || Callee::Service { namespace: NS.to_owned(), name: "store".to_owned(), port: 80 };
        let request = request("buyer", "store-1", "GET", "/", &[]);
        let connection = Call { request: Request::Tcp, ..request.clone() };
        for (call, expected) in [(request, requests), (connection, bytes)] {
            assert_eq!(allowed(&call), expected, "{authorization:?} {rules} {:?}", call.request);
            assert_eq!(allowed(&Call { to: to(), ..call }), expected, "{authorization:?} {rules} by service");
        }
        let inbound = view(&mesh, &mesh.audience(NS, "store-1").unwrap()).inbound;
        assert_eq!(
            inbound.ports[&8080].connections.is_some(),
            bytes,
            "a chain for bytes only where they are open"
        );
        let service = dialed(&mesh, "buyer-1", "store", 80);
        let looked_at = service.is_some_and(|service| !service.connections.is_empty());
        assert_eq!(looked_at, bytes, "the caller guesses only where a guess cannot shut it out: {rules}");
    }
}

#[test]
fn declaring_bytes_or_http_decides() {
    let mut mesh = undeclared(Authorization::Enforce, tcp("any"));
    let call = connection("buyer", "store-1", 8080);
    assert!(matches!(decide(&mesh, &call), Verdict::Denied(Denial::NotGranted { .. })));
    mesh.apply(service("store", "10.0.0.10", json!({"app": "store"}), &[("tcp", 80, json!(8080))]));
    assert!(matches!(decide(&mesh, &call), Verdict::Allowed(_)));
    mesh.apply(service("store", "10.0.0.10", json!({"app": "store"}), &[("http", 80, json!(8080))]));
    assert_eq!(decide(&mesh, &call), Verdict::Denied(Denial::OnlyRequests));
    // Another service over the same pods that says nothing takes nothing back.
    mesh.apply(service("again", "10.0.0.11", json!({"app": "store"}), &[("", 81, json!(8080))]));
    assert_eq!(decide(&mesh, &call), Verdict::Denied(Denial::OnlyRequests));
    assert_eq!(mesh.problems(), vec![]);
    // One that contradicts is named.
    mesh.apply(service("db", "10.0.0.12", json!({"app": "store"}), &[("tcp", 82, json!(8080))]));
    assert!(!mesh.problems().is_empty());
}

#[test]
fn addresses_of_a_pod_are_those_that_its_sidecar_hears_at() {
    let families = |addresses: &[&str]| {
        let addresses: BTreeSet<_> = addresses.iter().map(|one| one.parse().unwrap()).collect();
        Families::of(&addresses)
    };
    assert_eq!(families(&[]), Families::V4);
    assert_eq!(families(&["10.0.0.1"]), Families::V4);
    assert_eq!(families(&["fd00::1"]), Families::V6);
    assert_eq!(families(&["fd00::1", "10.0.0.1"]), Families::Dual);
    let mut mesh = database();
    assert_eq!(mesh.audience(NS, "buyer-1").unwrap().families, Families::V4);
    let mut six = pod_value("buyer-1", "buyer", "buyer");
    six["status"] = json!({"phase": "Running", "podIPs": [{"ip": "fd00::7"}]});
    mesh.apply(pod_of(six));
    assert_eq!(view(&mesh, &mesh.audience(NS, "buyer-1").unwrap()).families, Families::V6);
}

/// A service may be made by anybody in the namespace, under a name that comes first.
#[test]
fn no_service_turns_a_port_of_requests_into_one_of_bytes() {
    use mesh::ingest::Protocol::{Http, Http2, Tcp, Undeclared};
    let declared = [("http", Http), ("grpc", Http2), ("tcp", Tcp), ("", Undeclared)];
    for ((one, first), (two, second)) in declared.iter().flat_map(|a| declared.map(|b| (*a, b))) {
        let port = |name: &str, address: &str, declared: &str| {
            service(name, address, json!({"app": "db"}), &[(declared, 80, json!(8080))])
        };
        let mesh = mesh([
            namespace(NS, "demo"),
            db("db-0", "10.1.0.5"),
            port("a", "10.0.0.1", one),
            port("b", "10.0.0.2", two),
            policy("TCPRoute", "every-tcp-port", json!({"matches": {"ports": []}})),
            target("t", "db", &["buyer"], tcp("every-tcp-port")),
        ]);
        let expected = match (first, second) {
            (Tcp, Tcp) => Tcp,
            (Tcp | Undeclared, other) => other,
            (Http2, _) => Http2,
            (Http, _) => Http,
        };
        let expected = if (first, second) == (Undeclared, Tcp) { Undeclared } else { expected };
        let audience = mesh.audience(NS, "db-0").unwrap();
        assert_eq!(audience.ports, [(8080, expected)].into(), "{one} {two}");
        let bytes = Call { request: Request::Tcp, ..request("buyer", "db-0", "GET", "/", &[]) };
        let open = matches!(decide(&mesh, &bytes), Verdict::Allowed(_));
        assert_eq!(open, (first, second) == (Tcp, Tcp), "{one} {two}");
        // Both are named.
        let conflict = !first.agrees(second);
        let problems: Vec<_> = mesh.problems().iter().map(ToString::to_string).collect();
        let named = problems
            .iter()
            .any(|text| text.starts_with("Service shop/b: ") && text.contains("service a says"));
        assert_eq!(named, conflict, "{one} {two}: {problems:?}");
    }
}
