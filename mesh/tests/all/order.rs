//! Properties: order never matters, bytes are always the same, and taking something away never opens anything.

use std::collections::BTreeMap;

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
        service("same-port", "10.0.0.14", json!({"version": "v1"}), &[("tcp", 81, json!(8080))]),
    ];
    bookstore().into_iter().chain(more).collect()
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
    http.chain(tcp).collect()
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
