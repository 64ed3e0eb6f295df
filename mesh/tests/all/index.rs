//! The index: what changes, and what is wrong.

use mesh::ingest::Protocol;
use mesh::{Changed, Kind, NotOurs, ObjectRef, Reason, What};
use serde_json::json;

use crate::world::*;

#[test]
fn applying_the_same_again_changes_nothing() {
    let mut mesh = mesh(bookstore());
    for object in addressed(bookstore()) {
        assert_eq!(mesh.apply(object.clone()), Changed::Nothing, "{}", object.reference());
    }
    assert_eq!(mesh.delete(&ObjectRef::new(Kind::Pod, NS, "ghost")), Changed::Nothing);
    assert_eq!(mesh.delete(&ObjectRef::new(Kind::PolicySource, NS, "ghost")), Changed::Nothing);
}

#[test]
fn an_endpoint_change_is_only_that() {
    let mut mesh = mesh(bookstore());
    let changed = mesh.apply(slice("warehouse", &[("tcp", 5432)], &[("warehouse-1", "10.1.0.3", false)]));
    let endpoints = What::Endpoints { namespace: NS.to_owned(), service: "warehouse".to_owned() };
    assert_eq!(changed, Changed::Something([endpoints].into()));
}

#[test]
fn replicas_share_an_audience_and_others_do_not() {
    let mut mesh = mesh(bookstore());
    mesh.apply(pod("buyer-2", "buyer", "buyer"));
    assert_eq!(mesh.audience(NS, "buyer-1"), mesh.audience(NS, "buyer-2"));
    assert_ne!(mesh.audience(NS, "buyer-1"), mesh.audience(NS, "thief-1"));
    let bookstore = mesh.audience(NS, "v1").unwrap();
    assert_eq!(bookstore.ports.into_iter().collect::<Vec<_>>(), [(8080, Protocol::Http)]);
    assert_eq!(mesh.pods().count(), 6);
}

#[test]
fn pods_that_get_nothing_say_why() {
    let mut mesh = mesh(bookstore());
    let mut bare = pod_value("bare", "a", "x");
    bare["spec"]["containers"] = json!([{"name": "app"}]);
    mesh.apply(pod_of(bare));
    let mut done = pod_value("done", "a", "x");
    done["status"]["phase"] = json!("Succeeded");
    mesh.apply(pod_of(done));
    assert_eq!(mesh.audience(NS, "bare"), Err(NotOurs::NoSidecar));
    assert_eq!(mesh.audience(NS, "done"), Err(NotOurs::Finished));
    assert_eq!(mesh.audience(NS, "ghost"), Err(NotOurs::UnknownPod));
    assert_eq!(mesh.audience("ghost", "v1"), Err(NotOurs::UnknownPod));
    assert_eq!(mesh.pod(NS, "bare").unwrap().not_ours, Some(NotOurs::NoSidecar));
    assert_eq!(mesh.pod(NS, "v1").unwrap().service_account, "bookstore");
    mesh.delete(&ObjectRef::new(Kind::Namespace, "", NS));
    assert_eq!(mesh.audience(NS, "v1"), Err(NotOurs::NamespaceNotInMesh));
}

#[test]
fn named_target_ports_may_differ_from_pod_to_pod() {
    let mut mesh = mesh(bookstore());
    let mut other = pod_value("v3", "bookstore", "bookstore");
    other["spec"]["containers"][1]["ports"][0]["containerPort"] = json!(9090);
    mesh.apply(pod_of(other));
    mesh.apply(service("bookstore", "10.0.0.10", json!({"app": "bookstore"}), &[("http", 80, json!("web"))]));
    assert!(mesh.audience(NS, "v1").unwrap().ports.contains_key(&8080));
    assert!(mesh.audience(NS, "v3").unwrap().ports.contains_key(&9090));
}

#[test]
fn ports_of_envoy_itself_are_nobodys() {
    let ports = [("http-a", 80, json!(15001)), ("http-b", 81, json!(15003)), ("http-c", 82, json!(15000))];
    let mesh = mesh([
        namespace(NS, "demo"),
        pod("v1", "bookstore", "bookstore"),
        service("bookstore", "10.0.0.10", json!({"app": "bookstore"}), &ports),
    ]);
    assert!(mesh.audience(NS, "v1").unwrap().ports.is_empty());
}

/// DESIGN, rule 1.
#[test]
fn an_object_edited_into_nonsense_keeps_its_last_good_version() {
    let mut mesh = mesh(bookstore());
    let call = request("buyer", "v1", "GET", "/books", &[]);
    let before = mesh::decide(&mesh, &call);
    let bad = policy("HTTPRouteGroup", "books", json!({"matches": [{"name": "read", "pathRegex": "("}]}));
    assert_eq!(mesh.apply(bad.clone()), Changed::Something([What::Problems].into()));
    assert_eq!(mesh.apply(bad), Changed::Nothing);
    assert_eq!(mesh::decide(&mesh, &call), before);
    assert!(mesh.problems().iter().any(|problem| problem.reason == Reason::BadRegex));
    mesh.delete(&ObjectRef::new(Kind::HTTPRouteGroup, NS, "books"));
    assert_ne!(mesh::decide(&mesh, &call), before);
}

#[test]
fn problems_that_only_show_together() {
    let mut mesh = mesh(bookstore());
    assert_eq!(mesh.problems(), vec![]);
    mesh.apply(policy(
        "TrafficSplit",
        "zz",
        json!({"service": "bookstore", "backends": [{"service": "gone", "weight": 1}]}),
    ));
    mesh.apply(target("nothing", "bookstore", &[], json!([])));
    mesh.apply(service("other", "10.0.0.10", json!({"app": "bookstore"}), &[("tcp", 81, json!(8080))]));
    mesh.apply(policy("TrafficTarget", "dangling", target_spec("bookstore", &["buyer"], http("gone"))));
    let lines: Vec<_> = mesh.problems().iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_split_by_a_kind_of_another_group_is_refused() {
    let split = |group: serde_json::Value| {
        let matches = json!([{"apiGroup": group, "kind": "HTTPRouteGroup", "name": "books"}]);
        let spec = json!({"service": "a", "backends": [{"service": "b", "weight": 1}], "matches": matches});
        mesh::ingest::ingest(&policy("TrafficSplit", "s", spec)).map(drop)
    };
    for ours in [json!(null), json!(""), json!("specs.smi-spec.io"), json!("specs.smi-spec.io/v1alpha4")] {
        assert_eq!(split(ours), Ok(()));
    }
    let problem = split(json!("example.com/v1")).unwrap_err();
    assert_eq!((problem.reason, problem.field.as_str()), (Reason::UnknownKind, "spec.matches[0].apiGroup"));
}
