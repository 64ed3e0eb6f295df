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

fn origin(origin: crds::mesh_config::PolicyOrigin) -> mesh::Settings {
    mesh::Settings { policy_origin: origin, ..settings() }
}

#[test]
fn where_only_sources_count_what_is_written_by_hand_does_not_and_is_told_so() {
    use crds::mesh_config::PolicyOrigin;
    let by_hand = |mesh: &Mesh| {
        matches!(decide(mesh, &request("thief", "v1", "GET", "/one", &[])), Verdict::Allowed(_))
    };
    let mut mesh = sealed();
    mesh.apply(target("hand", "bookstore", &["thief"], http("git")));
    assert!(by_hand(&mesh) && may(&mesh, "/one"), "the default is as it was");
    mesh.set_settings(origin(PolicyOrigin::Sources));
    assert!(!by_hand(&mesh));
    assert!(may(&mesh, "/one"), "what is sealed stays");
    let problems = mesh.problems();
    let found = problems.iter().find(|one| one.reason == Reason::NotFromSource).expect("it is told");
    assert_eq!(found.object.name, "hand");
    // What comes later neither; and a label alone makes nothing sealed.
    mesh.apply(target("later", "bookstore", &["thief"], http("git")));
    mesh.apply(from_git(
        "TrafficTarget",
        "labelled",
        SOURCE,
        target_spec("bookstore", &["thief"], http("git")),
    ));
    assert!(!by_hand(&mesh));
    mesh.set_settings(origin(PolicyOrigin::Any));
    assert!(by_hand(&mesh));
    assert!(!reasons(&mesh).contains(&Reason::NotFromSource));
}

#[test]
fn a_mesh_config_of_before_lets_everything_count() {
    let spec: crds::MeshConfigSpec = serde_json::from_value(json!({"version": "0.1.0"})).unwrap();
    assert_eq!(spec.traffic.policy_origin, crds::mesh_config::PolicyOrigin::Any);
    // An older API server's CRD, which does not know the field, is sent nothing of it.
    assert_eq!(serde_json::to_value(&spec.traffic).unwrap().get("policyOrigin"), None);
}

fn named_source(namespace: &str, name: &str, inventory: Vec<Value>) -> Object {
    let value = json!({
        "apiVersion": "x/v1", "kind": "PolicySource", "metadata": {"name": name, "namespace": namespace},
        "spec": {"git": {"url": "/repo"}}, "status": {"applied": {"commit": "c"}, "inventory": inventory},
    });
    Object::from(serde_json::from_value::<crds::PolicySource>(value).unwrap())
}

#[test]
fn of_two_sources_with_one_object_the_platforms_counts_and_both_are_told() {
    // By name the team's would come first.
    let platform = entry("HTTPRouteGroup", "git", &group("/one"));
    let team = entry("HTTPRouteGroup", "git", &group("/.*"));
    let mut mesh = sealed();
    mesh.apply(from_git("HTTPRouteGroup", "git", "aaa.team", group("/.*")));
    mesh.apply(named_source("aaa", "team", vec![team.clone()]));
    assert!(!may(&mesh, "/two"), "another namespace's");
    let mut mesh = mesh_of(settings(), workloads());
    for (home, spec, inventory) in [(NS, "/.*", team), ("meshwright-system", "/one", platform)] {
        let label = format!("{home}.one");
        mesh.apply(from_git("HTTPRouteGroup", "git", &label, group(spec)));
        mesh.apply(named_source(home, "one", vec![inventory]));
    }
    mesh.apply(target("open", "bookstore", &["buyer"], http("git")));
    assert!(may(&mesh, "/one") && !may(&mesh, "/two"));
    let conflicts: Vec<_> =
        mesh.problems().into_iter().filter(|one| one.reason == Reason::Conflict).collect();
    let told: Vec<_> = conflicts.iter().map(|one| one.object.namespace.as_str()).collect();
    assert_eq!(told, ["meshwright-system", NS], "{conflicts:?}");
    mesh.apply(named_source("meshwright-system", "one", vec![]));
    assert!(!reasons(&mesh).contains(&Reason::Conflict));
    assert!(may(&mesh, "/two"), "the team's is left");
}

#[test]
fn an_object_that_cannot_be_used_blocks_its_source_and_the_source_says_so() {
    let mut mesh = sealed();
    let bad = group("(");
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, bad.clone()));
    let next = vec![entry("HTTPRouteGroup", "git", &bad), entry("TrafficTarget", "git", &buyer_may())];
    mesh.apply(source("meshwright-system", Some(next.clone())));
    let blocked = |mesh: &Mesh| {
        let all = mesh.problems();
        all.into_iter().find(|one| one.reason == Reason::SealBlocked && one.object.kind == Kind::PolicySource)
    };
    let found = blocked(&mesh).expect("an alarm");
    assert!(
        found.message.contains("HTTPRouteGroup shop/git") && found.message.contains("BadRegex"),
        "{found}"
    );
    assert!(may(&mesh, "/one"), "the last complete commit");
    // One that cannot even be read as its kind.
    let reference = ObjectRef::new(Kind::HTTPRouteGroup, NS, "git");
    mesh.refuse(mesh::Problem::new(&reference, "", Reason::Incomplete, "spec.matches is a number"));
    assert!(blocked(&mesh).expect("an alarm").message.contains("spec.matches is a number"));
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/one")));
    mesh.apply(source(
        "meshwright-system",
        Some(vec![entry("HTTPRouteGroup", "git", &group("/one")), next[1].clone()]),
    ));
    assert_eq!(mesh.problems(), vec![]);
}

#[test]
fn a_seal_of_a_scheme_of_later_blocks_and_says_what_to_upgrade() {
    let mut mesh = sealed();
    let mut later = entry("HTTPRouteGroup", "git", &group("/two"));
    later["hash"] = json!("2:0123456789abcdef0123456789abcdef");
    mesh.apply(source("meshwright-system", Some(vec![later, entry("TrafficTarget", "git", &buyer_may())])));
    assert!(may(&mesh, "/one"), "the last complete commit");
    let found = mesh.problems().into_iter().find(|one| one.reason == Reason::SealBlocked).expect("an alarm");
    assert!(found.message.contains("until the controllers are upgraded"), "{found}");
}

/// `prune: false`: the operator takes its label from the objects of a deleted source, which makes them their author's. What
/// is in force is the same before, while and after, and in a controller that begins then.
#[test]
fn objects_that_a_deleted_source_leaves_behind_count_as_written_by_hand() {
    let mut mesh = sealed();
    let released =
        [policy("HTTPRouteGroup", "git", group("/one")), policy("TrafficTarget", "git", buyer_may())];
    for object in released.clone() {
        mesh.apply(object);
        assert!(may(&mesh, "/one"));
    }
    mesh.delete(&ObjectRef::new(Kind::PolicySource, "meshwright-system", "team"));
    assert!(may(&mesh, "/one") && !may(&mesh, "/two"));
    let mut fresh = mesh_of(settings(), workloads().into_iter().chain(released));
    fresh.synced();
    assert!(may(&fresh, "/one"));
    for mesh in [&mut mesh, &mut fresh] {
        mesh.apply(policy("HTTPRouteGroup", "git", group("/two")));
        assert!(may(mesh, "/two") && !may(mesh, "/one"), "an edit counts from now on");
        assert_eq!(mesh.problems(), vec![]);
    }
}

/// What a replica that begins does not know is named, so that it can wait for it.
#[test]
fn a_source_that_is_being_edited_at_the_start_is_named_until_it_is_put_back() {
    let mut mesh = mesh(workloads());
    let inventory = vec![entry("HTTPRouteGroup", "git", &group("/one"))];
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/.*")));
    assert_eq!(mesh.unsealed(), vec![]);
    mesh.apply(source("meshwright-system", Some(inventory)));
    assert_eq!(mesh.unsealed(), vec![ObjectRef::new(Kind::PolicySource, "meshwright-system", "team")]);
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/one")));
    assert_eq!(mesh.unsealed(), vec![]);
    // Edited later, it is known.
    mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/.*")));
    assert_eq!(mesh.unsealed(), vec![]);
}

/// Anybody may define a TrafficTarget of a group of their own, and the seal says of which group each object is.
#[test]
fn a_kind_of_another_group_is_not_what_was_sealed() {
    for (api_group, counts) in
        [("access.smi-spec.io", true), ("example.com", false), ("access.smi-spec.io.example.com", false)]
    {
        let mut mesh = mesh(workloads());
        mesh.apply(from_git("HTTPRouteGroup", "git", SOURCE, group("/one")));
        mesh.apply(from_git("TrafficTarget", "git", SOURCE, buyer_may()));
        let mut target = entry("TrafficTarget", "git", &buyer_may());
        target["group"] = json!(api_group);
        mesh.apply(source(
            "meshwright-system",
            Some(vec![entry("HTTPRouteGroup", "git", &group("/one")), target]),
        ));
        assert_eq!(may(&mesh, "/one"), counts, "{api_group}");
    }
}
