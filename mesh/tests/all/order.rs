//! Properties: order never matters, bytes are always the same, and taking something away never opens anything.

use std::collections::{BTreeMap, BTreeSet};

use mesh::decide::{Callee, Caller, Request, Stranger, StrangerTls};
use mesh::{Call, Kind, Mesh, Object, Snapshot, Verdict, decide, render, view};
use proptest::prelude::*;
use serde_json::json;

use crate::world::*;

/// The bookstore with overlapping policies of every kind.
fn rich() -> Vec<Object> {
    let all = |name: &str, regex: &str| {
        policy(
            "HTTPRouteGroup",
            name,
            json!({"matches": [{"name": "a", "pathRegex": regex}, {"name": "b", "methods": ["PUT"]}]}),
        )
    };
    let more = vec![
        all("one", "/o.*"),
        all("two", "/.*o"),
        target("t1", "bookstore", &["buyer", "thief"], http("one")),
        target("t2", "bookstore", &["thief", "warehouse"], http("two")),
        target(
            "t3",
            "warehouse",
            &["buyer"],
            json!([{"kind": "TCPRoute", "name": "any"}, {"kind": "HTTPRouteGroup", "name": "gone"}]),
        ),
        policy(
            "TrafficSplit",
            "again",
            json!({"service": "bookstore", "backends": [{"service": "bookstore-v1", "weight": 1}]}),
        ),
        policy(
            "MeshPolicy",
            "audit",
            json!({"selector": {"matchLabels": {"version": "v2"}}, "authorization": "Audit"}),
        ),
        policy(
            "MeshPolicy",
            "plain",
            json!({"selector": {"matchLabels": {"version": "v1"}}, "mtls": "Permissive"}),
        ),
        policy_with("MeshPolicy", "whole", "meshwright-system", &json!({}), json!({"mtls": "Permissive"})),
        service("same-port", "10.0.0.14", json!({"version": "v1"}), &[("tcp", 81, json!(8080))]),
        service("quiet", "10.0.0.15", json!({"app": "bookstore"}), &[("", 90, json!(9090))]),
        slice("quiet", &[("", 9090)], &[("v1", "10.1.0.1", true), ("v2", "10.1.0.2", true)]),
        service("members", "None", json!({"app": "bookstore"}), &[("http", 80, json!(8080))]),
        slice("members", &[("http", 8080)], &[("v1", "10.1.0.1", true), ("v2", "10.1.0.2", false)]),
        policy("TCPRoute", "quiet", json!({"matches": {"ports": [9090]}})),
        target("t4", "bookstore", &["warehouse"], tcp("quiet")),
        target("t5", "bookstore", &["thief"], tcp("any")),
    ];
    // Of one name only one at a time: which of two is there depends on which comes last.
    let mut names = BTreeSet::new();
    let outside = outside().into_iter().filter(|object| names.insert(object.reference())).collect::<Vec<_>>();
    addressed(bookstore().into_iter().chain(more).chain(outside))
}

fn everything(mesh: &Mesh) -> BTreeMap<String, Snapshot> {
    let pods = mesh.pods().map(|(namespace, pod)| {
        let audience = mesh.audience(namespace, pod).unwrap();
        (pod.to_owned(), render(&view(mesh, &audience)))
    });
    pods.collect()
}

fn calls() -> Vec<Call> {
    let accounts = ["buyer", "thief", "bookstore", "warehouse"];
    let paths = ["/books", "/one", "/foo", "/buy"];
    let http = accounts.iter().flat_map(|from| {
        paths.iter().flat_map(move |path| {
            ["GET", "PUT"]
                .into_iter()
                .flat_map(move |method| ["v1", "v2"].map(|to| request(from, to, method, path, &[])))
        })
    });
    let tcp = accounts.iter().map(|from| connection(from, "warehouse-1", 5432));
    let quiet = accounts.iter().flat_map(|from| {
        let at = |call: Call| Call { to: connection(from, "v1", 9090).to, ..call };
        [connection(from, "v1", 9090), at(request(from, "v1", "GET", "/one", &[]))]
    });
    http.chain(tcp).chain(quiet).chain(outside_calls()).collect()
}

/// Calls that leave and enter the mesh.
fn outside_calls() -> Vec<Call> {
    let mut calls = Vec::new();
    for address in ["10.9.0.1", "10.8.0.1", "203.0.113.1"] {
        for host in ["books.example.com", "a.example.com", "other.example.com"] {
            let http = |path: &str| match request("buyer", "v1", "GET", path, &[]).request {
                request @ Request::Http { .. } => request,
                _ => unreachable!(),
            };
            let tls = Request::Tls { server_name: Some(host.to_owned()) };
            for (request, port) in [(http("/books"), 80), (http("/"), 80), (tls, 443), (Request::Tcp, 80)] {
                let to = Callee::Outside { host: Some(host.to_owned()), address: address.parse().ok(), port };
                calls.push(Call { to, request, ..connection("buyer", "v1", 80) });
            }
        }
    }
    let name = "spiffe://cluster.local/ns/ingress/sa/gateway".to_owned();
    let tls = StrangerTls { name: Some(name), server_name: None };
    for (address, tls) in [("192.0.2.1", None), ("192.0.2.2", None), ("192.0.2.2", Some(tls))] {
        let from = Caller::Outside(Stranger { address: address.parse().unwrap(), tls });
        calls.push(Call { from, ..request("buyer", "v1", "GET", "/", &[]) });
    }
    calls
}

/// What an object says when somebody has broken it.
fn broken(object: &Object) -> Option<Object> {
    let reference = object.reference();
    let nonsense = match reference.kind {
        Kind::HTTPRouteGroup => json!({"matches": [{"name": "x", "pathRegex": "("}]}),
        Kind::TCPRoute => json!({"matches": {"ports": [0]}}),
        Kind::TrafficTarget => {
            json!({"destination": {"kind": "Everybody", "name": "x"}, "sources": [], "rules": []})
        }
        Kind::TrafficSplit => json!({"service": "bookstore", "backends": []}),
        _ => return None,
    };
    Some(policy(reference.kind.as_str(), &reference.name, nonsense))
}

fn allowed(mesh: &Mesh) -> Vec<bool> {
    calls().iter().map(|call| matches!(decide(mesh, call), Verdict::Allowed(_))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_objects_does_not_matter(order in Just(rich()).prop_shuffle(), again in 0..rich().len()) {
        let expected = mesh(rich());
        let mut other = Mesh::new(settings());
        for object in &order {
            other.apply(object.clone());
        }
        // Something came, went and came again.
        other.delete(&order[again].reference());
        other.apply(order[again].clone());
        prop_assert_eq!(everything(&expected), everything(&other));
        prop_assert_eq!(expected.problems(), other.problems());
    }

    #[test]
    fn deleting_a_policy_or_a_workload_opens_nothing(gone in prop::sample::subsequence(rich(), 0..4)) {
        let mut mesh = mesh(rich());
        let before = allowed(&mesh);
        // A MeshPolicy may tighten, so deleting one may loosen; and two services that disagree on the protocol of a
        // port are two opinions about it.
        let gone = gone.iter().map(Object::reference);
        let gone: Vec<_> = gone.filter(|gone| !matches!(gone.kind, Kind::MeshPolicy | Kind::Service)).collect();
        for reference in &gone {
            mesh.delete(reference);
        }
        for ((was, is), call) in before.into_iter().zip(allowed(&mesh)).zip(calls()) {
            prop_assert!(was || !is, "deleting {gone:?} opened {call:?}");
        }
    }

    /// What has not arrived yet, or has arrived broken, opens nothing.
    #[test]
    fn late_or_wrong_policies_open_nothing(
        arrived in prop::collection::vec(0..3_u8, rich().len()),
        first in any::<bool>(),
    ) {
        let full = allowed(&mesh(rich()));
        let mut mesh = Mesh::new(settings());
        for (object, how) in rich().into_iter().zip(arrived) {
            match (broken(&object), how) {
                (Some(_), 0) => {}
                (Some(bad), 1) => {
                    if first {
                        mesh.apply(bad);
                    } else {
                        mesh.apply(object);
                        mesh.apply(bad);
                    }
                }
                _ => drop(mesh.apply(object)),
            }
        }
        for ((full, now), call) in full.into_iter().zip(allowed(&mesh)).zip(calls()) {
            prop_assert!(full || !now, "opened {call:?}");
        }
    }

    #[test]
    fn nothing_written_in_an_expression_panics(text in ".{0,64}") {
        let spec = json!({"matches": [{"name": "x", "pathRegex": text, "headers": {"x": text}}]});
        let _ = mesh::ingest::ingest(&policy("HTTPRouteGroup", "fuzz", spec));
    }
}

#[test]
fn the_calls_are_a_mixture() {
    let allowed = allowed(&mesh(rich()));
    assert!(allowed.iter().any(|yes| *yes) && allowed.iter().any(|yes| !*yes));
}
