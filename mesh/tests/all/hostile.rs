//! Objects that are wrong, huge or contradict each other: each is named with a reason, and nothing else changes.

use std::collections::BTreeMap;

use mesh::{Mesh, Object, Reason, Snapshot, Verdict, decide, render, view};
use serde_json::{Value, json};

use crate::world::*;

fn everything(mesh: &Mesh) -> BTreeMap<String, Snapshot> {
    let pods = mesh.pods().map(|(namespace, pod)| {
        let audience = mesh.audience(namespace, pod).unwrap();
        (pod.to_owned(), render(&view(mesh, &audience)))
    });
    pods.collect()
}

/// Adds an object to the bookstore; it must change nothing and be named for this reason.
fn refused(what: &str, object: Object, reason: Reason) {
    let mut mesh = mesh(bookstore());
    let before = everything(&mesh);
    assert_eq!(mesh.problems(), vec![]);
    let reference = object.reference();
    mesh.apply(object);
    assert_eq!(everything(&mesh), before, "{what}");
    let problems = mesh.problems();
    let named: Vec<_> = problems.iter().filter(|problem| problem.object == reference).collect();
    assert!(named.iter().any(|problem| problem.reason == reason), "{what}: {problems:?}");
    for problem in named {
        assert!(!problem.field.is_empty() && problem.message.len() > 20, "{what}: {problem}");
        assert!(problem.message.len() < 500, "{what}: {} bytes", problem.message.len());
    }
    mesh.delete(&reference);
    assert_eq!(mesh.problems(), vec![], "{what}: gone with its object");
}

fn group(matches: Value) -> Object {
    policy("HTTPRouteGroup", "zz-new", json!({"matches": matches}))
}

fn split(name: &str, root: &str, backends: &[(&str, i64)]) -> Object {
    let backends: Vec<_> =
        backends.iter().map(|(service, weight)| json!({"service": service, "weight": weight})).collect();
    policy("TrafficSplit", name, json!({"service": root, "backends": backends}))
}

#[test]
fn expressions_that_do_not_compile_or_explode() {
    let nested = format!("{}a{}", "(".repeat(500), "){1000}".repeat(500));
    for regex in ["(", "(?=x)", "(a+)+)", "((a{100}){100}){100}", "[z-a]", nested.as_str()] {
        refused(regex, group(json!([{"name": "m", "pathRegex": regex}])), Reason::BadRegex);
        refused(regex, group(json!([{"name": "m", "headers": {"x": regex}}])), Reason::BadRegex);
    }
}

#[test]
fn more_than_anybody_writes() {
    let routes: Vec<_> =
        (0..10_000).map(|n| json!({"name": format!("m{n}"), "pathRegex": format!("/{n}")})).collect();
    refused("10,000 routes", group(json!(routes)), Reason::TooLarge);
    let ports: Vec<_> = (1..10_001).collect();
    let ports = policy("TCPRoute", "zz-new", json!({"matches": {"ports": ports}}));
    refused("10,000 ports", ports, Reason::TooLarge);
    let names: Vec<_> = (0..10_000).map(|n| format!("s{n}")).collect();
    let sources: Vec<_> = names.iter().map(String::as_str).collect();
    refused("10,000 sources", target("zz-new", "bookstore", &sources, http("books")), Reason::TooLarge);
    let backends: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    refused("10,000 backends", split("zz-new", "warehouse", &backends), Reason::TooLarge);
    let headers: BTreeMap<_, _> = names.iter().map(|name| (name, "x")).collect();
    refused("10,000 headers", group(json!([{"name": "m", "headers": headers}])), Reason::TooLarge);
}

#[test]
fn weights_that_are_none() {
    refused("0 in all", split("zz", "warehouse", &[("warehouse", 0)]), Reason::BadWeight);
    refused("below 0", split("zz", "warehouse", &[("warehouse", -1)]), Reason::BadWeight);
    let most = i64::from(i32::MAX);
    let more = [("warehouse", most), ("bookstore", most), ("bookstore-v1", most)];
    refused("too much together", split("zz", "warehouse", &more), Reason::BadWeight);
}

/// The largest weights that fit are honoured; 0 beside others is a receiver that gets nothing.
#[test]
fn weights_that_are_extreme_but_right() {
    let mut mesh = mesh(bookstore());
    let most = i64::from(i32::MAX);
    mesh.apply(split(
        "canary",
        "bookstore",
        &[("bookstore-v1", most), ("bookstore-v2", most), ("bookstore", 0)],
    ));
    assert_eq!(mesh.problems(), vec![]);
    let view = view(&mesh, &mesh.audience(NS, "buyer-1").unwrap());
    let root = view.outbound.services.iter().find(|(key, _)| key.service == "bookstore").unwrap().1;
    assert_eq!(root.routes[0].to.values().copied().collect::<Vec<_>>(), [2_147_483_647, 2_147_483_647]);
}

/// The first by name counts, whichever came first.
#[test]
fn two_splits_of_one_service() {
    refused("a second split", split("zz", "bookstore", &[("bookstore-v1", 1)]), Reason::Conflict);
}

/// A split leads to pods, never to another split: there is nothing to go round in.
#[test]
fn splits_in_a_circle_are_named_and_lead_to_pods() {
    let mut mesh = mesh(bookstore());
    mesh.apply(split("a", "bookstore-v1", &[("bookstore-v2", 1)]));
    mesh.apply(split("b", "bookstore-v2", &[("bookstore-v1", 1)]));
    let problems = mesh.problems();
    for name in ["a", "b"] {
        let named = problems.iter().find(|one| one.object.name == name && one.reason == Reason::Conflict);
        assert!(named.is_some(), "{name}: {problems:?}");
    }
    let view = view(&mesh, &mesh.audience(NS, "buyer-1").unwrap());
    for (root, to) in [("bookstore-v1", "bookstore-v2"), ("bookstore-v2", "bookstore-v1")] {
        let service = view.outbound.services.iter().find(|(key, _)| key.service == root).unwrap().1;
        assert_eq!(service.routes[0].to.keys().map(|key| key.service.as_str()).collect::<Vec<_>>(), [to]);
    }
}

#[test]
fn names_with_every_character_that_is_allowed() {
    let name = "0a.b-c.d9-e.f";
    let long = format!("{}.{}", "a".repeat(63), "b".repeat(63));
    for account in [name, long.as_str()] {
        let mesh = mesh([
            namespace(NS, "demo"),
            pod("caller", account, "caller"),
            pod("callee", "store", "store"),
            service("store", "10.0.0.10", json!({"app": "store"}), &[("http", 80, json!(8080))]),
            slice("store", &[("http", 8080)], &[("callee", "10.1.0.1", true)]),
            policy("HTTPRouteGroup", name, json!({"matches": [{"name": "Any name, even \"this\" | one"}]})),
            target(name, "store", &[account], http(name)),
        ]);
        assert_eq!(mesh.problems(), vec![]);
        let call = request(account, "callee", "GET", "/", &[]);
        assert!(matches!(decide(&mesh, &call), Verdict::Allowed(_)), "{account}");
        // One that only looks alike is another.
        let other = request(&account.replace('.', "-"), "callee", "GET", "/", &[]);
        assert!(matches!(decide(&mesh, &other), Verdict::Denied(_)), "{account}");
        let rendered = everything(&mesh);
        let routes = rendered["callee"].of(mesh::ResourceType::Route);
        let body = String::from_utf8_lossy(&routes["in|8080"].body).into_owned();
        assert!(body.contains(&format!("ns/{NS}/sa/{account}")), "the identity as it is in certificates");
    }
    for bad in ["Upper", "under_score", "a/b", "a|b", "ä", "", "a b"] {
        refused(bad, target("zz-new", "bookstore", &[bad], http("books")), Reason::Incomplete);
    }
}
