//! Each budget at its edge: what still fits is there, and what is beyond it is closed and named.

use std::collections::BTreeSet;

use crds::mesh_config::{Authorization, Egress, Mtls};
use mesh::decide::{Callee, Caller, Request};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Mesh, Object, Reason, Verdict, decide, view};
use serde_json::{Value, json};

use crate::world::*;

/// Objects of one kind that may speak of one service account.
const MOST: usize = 1024;

fn world(objects: impl IntoIterator<Item = Object>) -> Mesh {
    let wide = [
        pod("wide-1", "wide", "wide"),
        service(
            "wide",
            "10.0.0.60",
            json!({"app": "wide"}),
            &[("http-a", 80, json!(8080)), ("http-b", 81, json!(8081))],
        ),
    ];
    let settings = settings_with(Mtls::Strict, Authorization::Enforce, Egress::Deny);
    mesh_of(settings, bookstore().into_iter().chain(wide).chain(objects))
}

fn too_large(mesh: &Mesh) -> BTreeSet<(String, String)> {
    let problems = mesh.problems().into_iter().filter(|one| one.reason == Reason::TooLarge);
    problems.map(|one| (one.object.to_string(), one.field)).collect()
}

fn named(object: String, field: &str) -> BTreeSet<(String, String)> {
    BTreeSet::from([(object, field.to_owned())])
}

fn allowed(mesh: &Mesh, call: &Call) -> bool {
    matches!(decide(mesh, call), Verdict::Allowed(_))
}

#[test]
fn one_target_more_than_an_account_may_have_opens_nothing_and_is_named() {
    let name = |n: usize| format!("t{n:04}");
    let caller = |n: usize| request(&format!("caller-{n}"), "wide-1", "GET", "/books", &[]);
    let one = |n: usize| target(&name(n), "wide", &[&format!("caller-{n}")], http("books"));
    let mut mesh = world((0..MOST).map(one));
    assert_eq!(too_large(&mesh), BTreeSet::new());
    assert!(allowed(&mesh, &caller(0)) && allowed(&mesh, &caller(MOST - 1)));
    mesh.apply(one(MOST));
    assert_eq!(too_large(&mesh), named(format!("TrafficTarget {NS}/{}", name(MOST)), "spec"));
    assert!(allowed(&mesh, &caller(MOST - 1)) && !allowed(&mesh, &caller(MOST)));
    // Another one goes, and there is room.
    mesh.delete(&one(7).reference());
    assert_eq!(too_large(&mesh), BTreeSet::new());
    assert!(allowed(&mesh, &caller(MOST)) && !allowed(&mesh, &caller(7)));
}

#[test]
fn one_egress_more_than_an_account_may_have_opens_nothing_and_is_named() {
    let name = |n: usize| format!("e{n:04}");
    let host = |n: usize| format!("{}.example", name(n));
    let one = |n: usize| {
        let spec = json!({
            "sources": [{"kind": "ServiceAccount", "name": "buyer"}], "hosts": [host(n)],
            "ports": [{"number": 80, "protocol": "http"}],
        });
        policy("Egress", &name(n), spec)
    };
    let leaving = |n: usize| Call {
        from: Caller::ServiceAccount(ServiceAccount::new(NS, "buyer")),
        to: Callee::Outside { host: Some(host(n)), address: "192.0.2.1".parse().ok(), port: 80 },
        request: Request::Http { method: "GET".to_owned(), path: "/".to_owned(), headers: [].into() },
    };
    let mut mesh = world((0..MOST).map(one));
    assert_eq!(too_large(&mesh), BTreeSet::new());
    assert!(allowed(&mesh, &leaving(MOST - 1)));
    mesh.apply(one(MOST));
    assert_eq!(too_large(&mesh), named(format!("Egress {NS}/{}", name(MOST)), "spec"));
    assert!(allowed(&mesh, &leaving(MOST - 1)) && !allowed(&mesh, &leaving(MOST)));
}

/// So many routes, each with ten headers of 4 KiB.
fn limits(routes: usize) -> Object {
    let headers: Vec<Value> =
        (0..10).map(|n| json!({"name": format!("x-{n}"), "value": "v".repeat(4096)})).collect();
    let limit = json!({"local": {"requests": 1, "unit": "second", "responseHeadersToAdd": headers}});
    let routes: Vec<_> = (0..routes).map(|n| json!({"path": format!("/{n}"), "rateLimit": limit})).collect();
    policy("UpstreamTrafficSetting", "wide", json!({"host": "wide", "httpRoutes": routes}))
}

#[test]
fn a_port_that_has_no_room_for_its_limits_is_closed_and_the_limits_are_named() {
    // About 41 KiB each, at two ports, of 4 MiB.
    for (routes, open, said) in [
        (40, BTreeSet::from([8080, 8081]), BTreeSet::new()),
        (64, BTreeSet::from([8080]), named(format!("UpstreamTrafficSetting {NS}/wide"), "spec.rateLimit")),
    ] {
        let mesh = world([limits(routes)]);
        let ports = view(&mesh, &mesh.audience(NS, "wide-1").unwrap()).inbound.ports;
        assert!(ports.values().all(|port| port.limits.is_some()), "none is open without its limits");
        assert_eq!(ports.into_keys().collect::<BTreeSet<_>>(), open, "{routes}");
        assert_eq!(too_large(&mesh), said, "{routes}");
    }
}
