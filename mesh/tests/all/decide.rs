//! May A call B like this, and which object says so.

use crds::mesh_config::{Authorization, Egress, Mtls};
use mesh::decide::{Because, Callee, Caller, Denial, Request};
use mesh::{Call, Kind, NotOurs, ObjectRef, Verdict, decide};
use serde_json::json;

use crate::world::*;

fn allowed(mesh: &mesh::Mesh, call: &Call) -> bool {
    matches!(decide(mesh, call), Verdict::Allowed(_))
}

#[test]
fn an_http_rule_allows_its_requests_and_nothing_else() {
    let mesh = mesh(bookstore());
    let buyer = [("x-client", "buyer-7")];
    let table: [(&str, &str, &str, Headers<'_>, bool); 12] = [
        ("buyer", "GET", "/books", &[], true),
        ("buyer", "GET", "/books/12?sort=asc", &[], true),
        ("buyer", "HEAD", "/books", &[], true),
        ("buyer", "DELETE", "/books", &[], false),
        ("buyer", "GET", "/books/12/secret", &[], false),
        ("buyer", "GET", "/xbooks", &[], false),
        ("buyer", "POST", "/buy", &buyer, true),
        ("buyer", "POST", "/buy", &[("X-Client", "thief")], false),
        ("buyer", "POST", "/buy", &[], false),
        ("buyer", "GET", "/buy", &buyer, false),
        ("thief", "GET", "/books", &[], false),
        ("bookstore", "GET", "/books", &[], false),
    ];
    for (from, method, path, headers, expected) in table {
        assert_eq!(
            allowed(&mesh, &request(from, "v1", method, path, headers)),
            expected,
            "{from} {method} {path}"
        );
    }
}

#[test]
fn the_answer_names_the_object() {
    let mesh = mesh(bookstore());
    let buy = ObjectRef::new(Kind::TrafficTarget, NS, "buy");
    let yes = decide(&mesh, &request("buyer", "v1", "GET", "/books", &[]));
    assert_eq!(yes, Verdict::Allowed(Because::Policies(vec![buy.clone()])));
    let near = decide(&mesh, &request("buyer", "v1", "PUT", "/books", &[]));
    assert_eq!(near, Verdict::Denied(Denial::NotGranted { near: vec![buy] }));
    let no = decide(&mesh, &request("thief", "v1", "GET", "/books", &[]));
    assert_eq!(no, Verdict::Denied(Denial::NotGranted { near: vec![] }));
}

/// OSM opened every TCP port of a service account to the sources of an HTTP rule.
#[test]
fn an_http_rule_opens_no_tcp_port() {
    let objects =
        bookstore().into_iter().chain([target("http-only", "warehouse", &["thief"], http("books"))]);
    let mesh = mesh(objects);
    assert!(!allowed(&mesh, &connection("thief", "warehouse-1", 5432)));
    assert!(allowed(&mesh, &connection("bookstore", "warehouse-1", 5432)));
}

#[test]
fn a_tcp_route_without_ports_opens_tcp_ports_only_and_one_with_ports_what_it_names() {
    let any = bookstore().into_iter().chain([target("all-tcp", "bookstore", &["thief"], tcp("any"))]);
    assert!(!allowed(&mesh(any), &request("thief", "v1", "GET", "/books", &[])));
    let named = bookstore().into_iter().chain([
        policy("TCPRoute", "web", json!({"matches": {"ports": [8080]}})),
        target("by-port", "bookstore", &["thief"], tcp("web")),
    ]);
    let mesh = mesh(named);
    assert!(allowed(&mesh, &request("thief", "v1", "DELETE", "/anything", &[])));
    assert!(!allowed(&mesh, &connection("thief", "warehouse-1", 5432)));
}

/// OSM's first matching route decided alone, and omitted matches meant none.
#[test]
fn overlapping_targets_add_up_and_omitted_matches_are_all() {
    let picked = json!([{"kind": "HTTPRouteGroup", "name": "books", "matches": ["read"]}]);
    let mesh = mesh(bookstore().into_iter().chain([target("peek", "bookstore", &["thief"], picked)]));
    assert!(allowed(&mesh, &request("thief", "v1", "GET", "/books", &[])));
    assert!(allowed(&mesh, &request("buyer", "v1", "GET", "/books", &[])));
    assert!(!allowed(&mesh, &request("thief", "v1", "POST", "/buy", &[("x-client", "buyer-1")])));
    assert!(allowed(&mesh, &request("buyer", "v1", "POST", "/buy", &[("x-client", "buyer-1")])));
}

#[test]
fn a_reference_to_what_is_not_there_opens_nothing() {
    let dangling = json!([
        {"kind": "HTTPRouteGroup", "name": "gone"}, {"kind": "TCPRoute", "name": "gone"},
        {"kind": "HTTPRouteGroup", "name": "books", "matches": ["gone"]},
    ]);
    let mesh = mesh(workloads().into_iter().chain([
        policy("HTTPRouteGroup", "books", json!({"matches": [{"name": "all"}]})),
        target("t", "bookstore", &["buyer"], dangling),
    ]));
    assert!(!allowed(&mesh, &request("buyer", "v1", "GET", "/", &[])));
}

#[test]
fn modes() {
    let call = request("thief", "v1", "GET", "/", &[]);
    let plain = Call { from: Caller::Plaintext, ..call.clone() };
    let of = |mtls, authorization| mesh_of(settings_with(mtls, authorization, Egress::Deny), bookstore());
    let table = [
        (Mtls::Strict, Authorization::Enforce, false, false),
        (Mtls::Strict, Authorization::Audit, true, false),
        (Mtls::Strict, Authorization::AllowAll, true, false),
        (Mtls::Permissive, Authorization::Enforce, false, false),
        (Mtls::Permissive, Authorization::Audit, true, true),
        (Mtls::Permissive, Authorization::AllowAll, true, true),
    ];
    for (mtls, authorization, member, stranger) in table {
        let mesh = of(mtls, authorization);
        assert_eq!(allowed(&mesh, &call), member, "{mtls:?} {authorization:?}");
        assert_eq!(allowed(&mesh, &plain), stranger, "{mtls:?} {authorization:?} plaintext");
    }
    let strict = decide(&of(Mtls::Strict, Authorization::AllowAll), &plain);
    assert_eq!(strict, Verdict::Denied(Denial::PlaintextRefused));
    assert_eq!(decide(&of(Mtls::Strict, Authorization::Audit), &call), Verdict::Allowed(Because::Audited));
}

#[test]
fn the_most_specific_policy_wins_and_of_two_the_stricter() {
    let call = request("thief", "v1", "GET", "/", &[]);
    let relaxed = policy("MeshPolicy", "ns", json!({"authorization": "AllowAll"}));
    let one_pod = |name: &str, mode: &str| {
        policy(
            "MeshPolicy",
            name,
            json!({"selector": {"matchLabels": {"version": "v1"}}, "authorization": mode}),
        )
    };
    let with = |more: Vec<mesh::Object>| mesh(bookstore().into_iter().chain(more));
    assert!(allowed(&with(vec![relaxed.clone()]), &call));
    assert!(!allowed(&with(vec![relaxed.clone(), one_pod("a", "Enforce")]), &call));
    let both = with(vec![relaxed, one_pod("a", "AllowAll"), one_pod("b", "Enforce")]);
    assert!(!allowed(&both, &call));
    assert!(allowed(&both, &request("thief", "v2", "GET", "/", &[])));
    assert!(both.problems().iter().any(|problem| problem.reason == mesh::Reason::Conflict));
}

#[test]
fn a_call_to_a_service_asks_every_pod_behind_it() {
    let mut mesh = mesh(bookstore());
    let to = |name: &str| Callee::Service { namespace: NS.to_owned(), name: name.to_owned(), port: 80 };
    let call = |name: &str| Call { to: to(name), ..request("buyer", "", "GET", "/books", &[]) };
    assert!(allowed(&mesh, &call("bookstore")));
    assert_eq!(decide(&mesh, &call("nothing")), Verdict::Denied(Denial::NoSuchService));
    mesh.delete(&ObjectRef::new(Kind::EndpointSlice, NS, "bookstore-v1-1"));
    assert_eq!(decide(&mesh, &call("bookstore-v1")), Verdict::Denied(Denial::NoEndpoints));
    assert!(allowed(&mesh, &call("bookstore")));
}

#[test]
fn pods_that_are_not_ours() {
    let mut mesh = mesh(bookstore());
    let from = |name: &str| Call {
        from: Caller::Pod { namespace: NS.to_owned(), name: name.to_owned() },
        ..request("", "v1", "GET", "/books", &[])
    };
    assert!(allowed(&mesh, &from("buyer-1")));
    assert_eq!(decide(&mesh, &from("ghost")), Verdict::Denied(Denial::CallerNotOurs(NotOurs::UnknownPod)));
    mesh.apply(namespace(NS, "another"));
    let answer = decide(&mesh, &request("buyer", "v1", "GET", "/books", &[]));
    assert_eq!(answer, Verdict::Denied(Denial::CalleeNotOurs(NotOurs::NamespaceNotInMesh)));
    let wrong_port = Call { request: Request::Tcp, ..connection("buyer", "v1", 9) };
    mesh.apply(namespace(NS, "demo"));
    assert_eq!(decide(&mesh, &wrong_port), Verdict::Denied(Denial::NoSuchPort));
}
