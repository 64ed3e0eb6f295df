//! DESIGN, rule 3: an object from Git counts only as the sealed commit of its source says.

use mesh::{Kind, Mesh, Object, ObjectRef, Reason, Verdict, decide};
use serde_json::{Value, json};

use crate::world::*;

const SOURCE: &str = "meshwright-system.team";

fn from_git(kind: &str, name: &str, source: &str, spec: Value) -> Object {
    policy_with(kind, name, NS, &json!({"meshwright.io/source": source}), spec)
}

fn group(regex: &str) -> Value {
    json!({"matches": [{"name": "m", "pathRegex": regex}]})
}

fn entry(kind: &str, name: &str, spec: &Value) -> Value {
    let hash = match kind {
        "HTTPRouteGroup" => crds::seal::content_hash(
            &serde_json::from_value::<crds::HTTPRouteGroupSpec>(spec.clone()).unwrap(),
        ),
        "TrafficTarget" => crds::seal::content_hash(
            &serde_json::from_value::<crds::TrafficTargetSpec>(spec.clone()).unwrap(),
        ),
        other => panic!("{other}"),
    };
    json!({"kind": kind, "namespace": NS, "name": name, "hash": hash.unwrap()})
}

fn source(namespace: &str, inventory: Option<Vec<Value>>) -> Object {
    let status = inventory.map(|inventory| json!({"applied": {"commit": "c"}, "inventory": inventory}));
    let value = json!({
        "apiVersion": "x/v1", "kind": "PolicySource", "metadata": {"name": "team", "namespace": namespace},
        "spec": {"git": {"url": "/repo"}}, "status": status,
    });
    Object::from(serde_json::from_value::<crds::PolicySource>(value).unwrap())
}

fn buyer_may() -> Value {
    target_spec("bookstore", &["buyer"], http("git"))
}

fn may(mesh: &Mesh, path: &str) -> bool {
    matches!(decide(mesh, &request("buyer", "v1", "GET", path, &[])), Verdict::Allowed(_))
}

/// A mesh whose sealed commit opens `/one` to the buyer.
fn sealed() -> Mesh {
    let mut mesh = mesh(workloads());
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/one")));
    mesh.apply(from_git("TrafficTarget", "git", SOURCE, buyer_may()));
    assert!(!may(&mesh, "/one"), "not sealed yet");
    let inventory =
        vec![entry("HTTPRouteGroup", "git", &group("/one")), entry("TrafficTarget", "git", &buyer_may())];
    mesh.apply(source("meshwright-system", Some(inventory)));
    assert!(may(&mesh, "/one"));
    assert_eq!(mesh.problems(), vec![]);
    mesh
}

fn reasons(mesh: &Mesh) -> Vec<Reason> {
    mesh.problems().into_iter().map(|problem| problem.reason).collect()
}

#[test]
fn a_hand_edited_copy_is_not_enforced() {
    let mut mesh = sealed();
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/.*")));
    assert!(may(&mesh, "/one"));
    assert!(!may(&mesh, "/two"));
    assert!(reasons(&mesh).contains(&Reason::NotSealed));
    // Nor is one whose label was taken away.
    mesh.apply(policy("HTTPRouteGroup", "git", group("/.*")));
    assert!(!may(&mesh, "/two"));
    // Put back, nothing is left to say.
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/one")));
    assert_eq!(mesh.problems(), vec![]);
}

#[test]
fn a_deleted_copy_stays_in_force_until_git_drops_it() {
    let mut mesh = sealed();
    mesh.delete(&ObjectRef::new(Kind::TrafficTarget, NS, "git"));
    assert!(may(&mesh, "/one"));
    mesh.apply(source("meshwright-system", Some(vec![entry("HTTPRouteGroup", "git", &group("/one"))])));
    assert!(!may(&mesh, "/one"));
}

#[test]
fn a_new_commit_is_swapped_in_at_once() {
    let mut mesh = sealed();
    let next =
        vec![entry("HTTPRouteGroup", "git", &group("/two")), entry("TrafficTarget", "git2", &buyer_may())];
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/two")));
    assert!(may(&mesh, "/one") && !may(&mesh, "/two"), "applied, but not sealed");
    mesh.apply(source("meshwright-system", Some(next)));
    assert!(may(&mesh, "/one") && !may(&mesh, "/two"), "sealed, but not all of it seen");
    assert!(reasons(&mesh).contains(&Reason::SealIncomplete));
    mesh.apply(from_git("TrafficTarget", "git2", SOURCE, buyer_may()));
    assert!(!may(&mesh, "/one") && may(&mesh, "/two"));
    mesh.delete(&ObjectRef::new(Kind::TrafficTarget, NS, "git"));
    assert_eq!(mesh.problems(), vec![]);
}

#[test]
fn a_source_that_lost_its_status_or_was_deleted_changes_nothing_at_once() {
    let mut mesh = sealed();
    mesh.apply(source("meshwright-system", None));
    assert!(may(&mesh, "/one"));
    mesh.delete(&ObjectRef::new(Kind::PolicySource, "meshwright-system", "team"));
    assert!(may(&mesh, "/one"));
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/.*")));
    assert!(!may(&mesh, "/two"));
    mesh.delete(&ObjectRef::new(Kind::TrafficTarget, NS, "git"));
    assert!(!may(&mesh, "/one"));
}

#[test]
fn a_team_cannot_fill_another_namespace() {
    let mut mesh = mesh(workloads());
    let other = "elsewhere.team";
    mesh.apply(from_git("HTTPRouteGroup", "git", other, group("/one")));
    mesh.apply(from_git("TrafficTarget", "git", other, buyer_may()));
    let inventory =
        vec![entry("HTTPRouteGroup", "git", &group("/one")), entry("TrafficTarget", "git", &buyer_may())];
    mesh.apply(source("elsewhere", Some(inventory)));
    assert!(!may(&mesh, "/one"));
    assert!(reasons(&mesh).contains(&Reason::ForeignNamespace));
}

#[test]
fn after_a_restart_what_has_the_sealed_content_counts() {
    let mut mesh = mesh(workloads());
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/one")));
    mesh.apply(from_git("TrafficTarget", "git", SOURCE, buyer_may()));
    mesh.apply(from_git(
        "TrafficTarget",
        "edited",
        SOURCE,
        target_spec("bookstore", &["thief"], http("git")),
    ));
    let inventory = vec![
        entry("HTTPRouteGroup", "git", &group("/one")),
        entry("TrafficTarget", "git", &buyer_may()),
        entry("TrafficTarget", "edited", &buyer_may()),
    ];
    mesh.apply(source("meshwright-system", Some(inventory)));
    assert!(!may(&mesh, "/one"), "more may come");
    mesh.synced();
    assert!(may(&mesh, "/one"));
    assert!(matches!(decide(&mesh, &request("thief", "v1", "GET", "/one", &[])), Verdict::Denied(_)));
}

/// Whatever order the watches deliver in, the end is the same.
#[test]
fn the_order_of_arrival_does_not_matter() {
    let inventory =
        vec![entry("HTTPRouteGroup", "git", &group("/one")), entry("TrafficTarget", "git", &buyer_may())];
    let objects = [
        from_git("HTTPRouteGroup", "git", SOURCE, group("/one")),
        from_git("TrafficTarget", "git", SOURCE, buyer_may()),
        source("meshwright-system", Some(inventory)),
    ];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut mesh = mesh(workloads());
        for index in order {
            mesh.apply(objects[index].clone());
        }
        assert!(may(&mesh, "/one"), "{order:?}");
    }
}
