//! Which release is in effect, which exist, who has which namespace: tables over facts.

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_config::{Approval, MeshConfigStatus, VersionStatus};
use crds::{MeshConfig, MeshConfigSpec, MeshUpgrade, MeshUpgradeSpec, labels};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::ResourceExt;
use serde_json::json;
use upgrades::Catalogue;

use super::facts::{BarePod, DeploymentFact, Facts, NamespaceFact, PodFact};
use super::plan::Plan;
use super::pruning::Left;
use super::revisions::Verdict;

mod records;

fn mesh(name: &str, version: &str, effective: &str) -> MeshConfig {
    let spec: MeshConfigSpec = serde_json::from_value(json!({"version": version})).unwrap();
    let mut mesh = MeshConfig::new(name, spec);
    mesh.metadata.creation_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::from_second(100).unwrap()));
    mesh.status = Some(MeshConfigStatus {
        version: Some(VersionStatus { desired: String::new(), effective: effective.to_owned() }),
        ..Default::default()
    });
    mesh
}

fn ready(facts: &mut Facts, version: &str) {
    for name in [labels::controller_name(version), labels::injector_name(version)] {
        let fact = DeploymentFact { version: version.to_owned(), wanted: 2, ready: 2, available: true };
        facts.deployments.insert(name, fact);
    }
}

fn namespace(name: &str, labels: &[(&str, &str)]) -> NamespaceFact {
    let labels: BTreeMap<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    NamespaceFact { name: name.to_owned(), labels, ..Default::default() }
}

fn pod(name: &str, revision: &str) -> PodFact {
    PodFact { namespace: "shop".into(), name: name.into(), revision: revision.into(), terminating: false }
}

fn decide(mesh: &MeshConfig, mut facts: Facts) -> Plan {
    if facts.meshes.is_empty() {
        facts.meshes.push(mesh.clone());
    }
    Plan::decide(mesh, &facts, &Catalogue::embedded())
}

fn set(versions: &[&str]) -> BTreeSet<String> {
    versions.iter().map(|version| (*version).to_owned()).collect()
}

#[test]
fn the_first_release_is_in_effect_when_its_control_plane_is_complete() {
    let mesh = mesh("m", "0.1.0", "");
    let plan = decide(&mesh, Facts::default());
    assert_eq!((plan.revisions.effective.as_str(), &plan.revisions.build), ("", &set(&["0.1.0"])));
    let mut facts = Facts::default();
    ready(&mut facts, "0.1.0");
    assert_eq!(decide(&mesh, facts).revisions.effective, "0.1.0");
}

#[test]
fn an_unknown_version_keeps_the_old_one_and_names_the_known() {
    let plan = decide(&mesh("m", "9.9.9", "0.1.0"), Facts::default());
    assert_eq!((plan.revisions.effective.as_str(), &plan.revisions.build), ("0.1.0", &set(&["0.1.0"])));
    assert_eq!(plan.left(&Facts::default()), Some(Left::VersionRefused));
    let Verdict::Refused { reason, message } = plan.revisions.verdict else { panic!("{plan:?}") };
    assert_eq!(reason, "UnknownVersion");
    assert!(message.contains("0.1.0") && message.contains("0.2.0"), "{message}");
}

#[test]
fn during_an_upgrade_both_exist_and_the_old_one_is_in_effect() {
    let mesh = mesh("m", "0.2.0", "0.1.0");
    let mut facts = Facts { pods: vec![pod("a", "0.1.0"), pod("b", "0.2.0")], ..Default::default() };
    ready(&mut facts, "0.2.0");
    let plan = decide(&mesh, facts.clone());
    assert_eq!(
        (plan.revisions.effective.as_str(), &plan.revisions.build),
        ("0.1.0", &set(&["0.1.0", "0.2.0"]))
    );
    facts.pods[0].terminating = true;
    let plan = decide(&mesh, facts.clone());
    assert_eq!(plan.revisions.effective, "0.2.0");
    assert_eq!(
        plan.revisions.build,
        set(&["0.1.0", "0.2.0"]),
        "a dying pod still talks to its control plane"
    );
    facts.pods.remove(0);
    assert_eq!(decide(&mesh, facts).revisions.build, set(&["0.2.0"]));
}

#[test]
fn a_namespace_on_the_old_revision_holds_the_upgrade() {
    let mesh = mesh("m", "0.2.0", "0.1.0");
    let shop = namespace("shop", &[(labels::MESH, "m"), (labels::REVISION, "0.1.0")]);
    let mut facts = Facts { namespaces: vec![shop], ..Default::default() };
    ready(&mut facts, "0.2.0");
    assert_eq!(decide(&mesh, facts).revisions.effective, "0.1.0");
}

#[test]
fn a_release_in_use_that_nobody_knows_is_left_alone() {
    let mesh = mesh("m", "0.2.0", "0.2.0");
    let plan = decide(&mesh, Facts { pods: vec![pod("a", "0.0.1")], ..Default::default() });
    assert_eq!((&plan.revisions.build, &plan.revisions.keep), (&set(&["0.2.0"]), &set(&["0.0.1"])));
}

#[test]
fn a_lost_status_is_made_up_from_what_is_used() {
    let mesh = mesh("m", "0.2.0", "");
    let facts = Facts { pods: vec![pod("a", "0.1.0"), pod("b", "0.2.0")], ..Default::default() };
    assert_eq!(decide(&mesh, facts).revisions.effective, "0.1.0");
}

#[test]
fn manual_approval_and_abort_hold_the_new_release_back() {
    let mut mesh = mesh("m", "0.2.0", "0.1.0");
    mesh.spec.upgrade.approval = Approval::Manual;
    let plan = decide(&mesh, Facts::default());
    assert_eq!(plan.revisions.verdict, Verdict::AwaitingApproval("m-0-1-0-to-0-2-0".into()));
    assert_eq!(plan.revisions.build, set(&["0.1.0"]));
    let spec = MeshUpgradeSpec {
        mesh: "m".into(),
        from: "0.1.0".into(),
        to: "0.2.0".into(),
        approved: true,
        paused: false,
        abort: false,
    };
    let mut upgrade = MeshUpgrade::new("m-0-1-0-to-0-2-0", spec);
    let facts = |upgrade: &MeshUpgrade| Facts { upgrades: vec![upgrade.clone()], ..Default::default() };
    assert_eq!(decide(&mesh, facts(&upgrade)).revisions.build, set(&["0.1.0", "0.2.0"]));
    upgrade.spec.abort = true;
    let mut aborting = facts(&upgrade);
    aborting.pods.push(pod("a", "0.2.0"));
    let plan = decide(&mesh, aborting);
    assert_eq!(plan.revisions.build, set(&["0.1.0", "0.2.0"]), "as long as somebody uses it");
    assert_eq!(decide(&mesh, facts(&upgrade)).revisions.build, set(&["0.1.0"]));
}

#[test]
fn the_way_back_stays_until_the_upgrade_retires_it() {
    let build = |phase: &str| {
        let spec = json!({"mesh": "m", "from": "0.1.0", "to": "0.2.0"});
        let mut upgrade = MeshUpgrade::new("m-0-1-0-to-0-2-0", serde_json::from_value(spec).unwrap());
        upgrade.status = Some(serde_json::from_value(json!({"phase": phase})).unwrap());
        let mut facts =
            Facts { upgrades: vec![upgrade], pods: vec![pod("p", "0.2.0")], ..Default::default() };
        ready(&mut facts, "0.2.0");
        decide(&mesh("m", "0.2.0", "0.1.0"), facts).revisions
    };
    let soaking = build("Moving");
    assert_eq!((soaking.effective.as_str(), &soaking.build), ("0.2.0", &set(&["0.1.0", "0.2.0"])));
    let retiring = build("Retiring");
    assert_eq!((retiring.effective.as_str(), &retiring.build), ("0.2.0", &set(&["0.2.0"])));
}

#[test]
fn a_namespace_joins_when_the_injector_of_its_revision_answers() {
    let mut mesh = mesh("m", "0.1.0", "0.1.0");
    mesh.spec.watched_namespaces.names = vec!["shop".into(), "nowhere".into(), "kube-system".into()];
    let all = vec![namespace("shop", &[]), namespace("kube-system", &[])];
    let mut facts = Facts { namespaces: all, ..Default::default() };
    let membership = decide(&mesh, facts.clone()).membership;
    assert_eq!((&membership.label, &membership.waiting), (&set(&["shop"]), &set(&["shop"])));
    assert_eq!((&membership.missing, &membership.excluded), (&set(&["nowhere"]), &set(&["kube-system"])));
    ready(&mut facts, "0.1.0");
    let membership = decide(&mesh, facts.clone()).membership;
    assert_eq!(membership.revise, BTreeSet::from([("shop".to_owned(), "0.1.0".to_owned())]));
    facts.namespaces[0].labels.insert(labels::REVISION.into(), "0.2.0".into());
    assert!(decide(&mesh, facts).membership.revise.is_empty(), "only an upgrade changes a revision");
}

#[test]
fn only_labels_that_we_set_are_taken_away() {
    let mesh = mesh("m", "0.1.0", "0.1.0");
    let mut ours = namespace("ours", &[(labels::MESH, "m"), (labels::REVISION, "0.1.0")]);
    ours.labelled_by = Some("m".into());
    ours.our_revision = true;
    let by_hand = namespace("hand", &[(labels::MESH, "m")]);
    let mut left = namespace("left", &[(labels::REVISION, "0.1.0")]);
    left.our_revision = true;
    let foreign = namespace("foreign", &[(labels::REVISION, "0.1.0")]);
    let facts = Facts { namespaces: vec![ours, by_hand, left, foreign], ..Default::default() };
    let membership = decide(&mesh, facts).membership;
    assert_eq!((&membership.unlabel, &membership.unrevise), (&set(&["ours"]), &set(&["left", "ours"])));
    assert_eq!(membership.members, set(&["hand"]));
}

#[test]
fn the_oldest_claim_wins_and_a_label_by_hand_decides_alone() {
    let mut old = mesh("old", "0.1.0", "0.1.0");
    old.spec.watched_namespaces.names = vec!["shop".into(), "hand".into()];
    let mut young = mesh("young", "0.1.0", "0.1.0");
    young.metadata.creation_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::from_second(200).unwrap()));
    young.spec.namespace = "elsewhere".into();
    young.spec.watched_namespaces.selector = Some(LabelSelector::default());
    let facts = Facts {
        meshes: vec![young.clone(), old.clone()],
        namespaces: vec![
            namespace("shop", &[]),
            namespace("hand", &[(labels::MESH, "young")]),
            namespace("free", &[]),
        ],
        ..Default::default()
    };
    let (elder, younger) = (decide(&old, facts.clone()).membership, decide(&young, facts).membership);
    let told = |m: &super::namespaces::Membership| {
        m.conflicts.iter().map(|c| format!("{}:{}", c.namespace, c.holder)).collect::<Vec<_>>()
    };
    assert_eq!((elder.members.clone(), told(&elder)), (set(&["shop"]), vec!["hand:young".to_owned()]));
    assert_eq!(
        (younger.members.clone(), told(&younger)),
        (set(&["free", "hand"]), vec!["shop:old".to_owned()])
    );
}

#[test]
fn one_namespace_holds_one_control_plane() {
    let old = mesh("a", "0.1.0", "");
    let young = mesh("b", "0.1.0", "");
    let facts = Facts { meshes: vec![old.clone(), young.clone()], ..Default::default() };
    assert_eq!(decide(&old, facts.clone()).rival, None);
    assert_eq!(decide(&young, facts).rival, Some("a".into()), "the name decides among those of one second");
    assert_eq!(young.name_any(), "b");
}

#[test]
fn a_bad_selector_lets_nobody_go() {
    let mut mesh = mesh("m", "0.1.0", "0.1.0");
    let bad = json!({"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]});
    mesh.spec.watched_namespaces.selector = Some(serde_json::from_value(bad).unwrap());
    let mut shop = namespace("shop", &[(labels::MESH, "m")]);
    shop.labelled_by = Some("m".into());
    let plan = decide(&mesh, Facts { namespaces: vec![shop], ..Default::default() });
    assert!(plan.membership.bad_selector.is_some() && plan.membership.unlabel.is_empty());
    assert_eq!(plan.membership.members, set(&["shop"]));
    assert_eq!(plan.left(&Facts::default()), Some(Left::BadSelector));
}

#[test]
fn webhooks_wait_for_their_injector_and_then_stay() {
    let mesh = mesh("m", "0.1.0", "0.1.0");
    let mut facts = Facts { meshes: vec![mesh.clone()], ..Default::default() };
    let injecting = |facts: &Facts| {
        let plan = decide(&mesh, facts.clone());
        plan.blueprint(&mesh, facts, "p/", "cluster.local", "home").injecting
    };
    assert_eq!(injecting(&facts), set(&[]));
    ready(&mut facts, "0.1.0");
    assert_eq!(injecting(&facts), set(&["0.1.0"]));
    facts.deployments.clear();
    facts.webhooks.insert("meshwright-injector-m-0-1-0".into());
    assert_eq!(injecting(&facts), set(&["0.1.0"]), "fail closed");
}

#[test]
fn pods_without_a_sidecar_are_named_in_the_meshs_own_namespaces() {
    let mesh = mesh("m", "0.1.0", "0.1.0");
    let shop = NamespaceFact {
        name: "shop".into(),
        labels: [(crds::labels::MESH.to_owned(), "m".to_owned())].into(),
        ..Default::default()
    };
    let of = |namespace: &str| BarePod {
        namespace: namespace.to_owned(),
        name: "p".to_owned(),
        ..Default::default()
    };
    let mut facts = Facts { namespaces: vec![shop], bare: vec![of("elsewhere")], ..Default::default() };
    let said = |facts: &Facts| super::report::pods_injected(facts, &decide(&mesh, facts.clone()));
    assert_eq!(said(&facts).1, "Injected");
    facts.bare.push(of("shop"));
    let (_, reason, message) = said(&facts);
    assert_eq!(reason, "WithoutSidecar");
    assert!(message.contains("shop/p") && !message.contains("elsewhere"), "{message}");
    // Each with what is known of it.
    let at = |second| Some(k8s_openapi::jiff::Timestamp::from_second(second).unwrap());
    facts.namespaces[0].labelled_at = at(100);
    facts.bare[1].made = at(99);
    facts.bare.push(BarePod { name: "q".to_owned(), made: at(100), ..of("shop") });
    let (_, _, message) = said(&facts);
    assert!(message.contains("shop/p (the pod is older than its namespace's label"), "{message}");
    assert!(message.contains("shop/q (the pod was made after its namespace got the label"), "{message}");
}

#[test]
fn what_cannot_be_read_is_said_and_takes_nothing_back() {
    let mesh = mesh("m", "0.2.0", "0.1.0");
    let now = k8s_openapi::jiff::Timestamp::from_second(500).unwrap();
    let status = super::report::unread(&mesh, "pods is forbidden", now);
    assert_eq!(status.version, mesh.status.unwrap().version);
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "FactsNotRead"));
    assert!(ready.message.contains("pods is forbidden"), "{}", ready.message);
}

/// What is not deleted has a reason, and the condition says it as long as it holds.
#[test]
fn what_is_left_although_it_is_not_wanted_says_why() {
    use super::execute::{Done, ExecuteError};
    let mut mesh = mesh("m", "0.2.0", "0.2.0");
    let webhooks: BTreeSet<_> = ["meshwright-injector-m-0-2-0".to_owned()].into();
    let facts = Facts { webhooks, ..Default::default() };
    let left = |mesh: &MeshConfig, facts: &Facts| decide(mesh, facts.clone()).left(facts);
    assert_eq!(left(&mesh, &facts), Some(Left::RootsUnpublished));
    let facts = Facts { trust_bundle: Some("roots".into()), ..facts };
    assert_eq!(left(&mesh, &facts), None);
    let used = Facts { pods: vec![pod("a", "0.0.1")], ..facts.clone() };
    assert_eq!(left(&mesh, &used), Some(Left::InUse(vec!["0.0.1".to_owned()])));
    let now = k8s_openapi::jiff::Timestamp::from_second(500).unwrap();
    let mut said = |done: &Done| {
        let plan = decide(&mesh, facts.clone());
        let root = super::rotation::Decision::make(&super::rotation::observe(&mesh, &facts, now));
        let status = super::report::status(&mesh, &facts, &plan, &root, done, now);
        mesh.status = Some(status.clone());
        status.conditions
    };
    let unbound = ExecuteError::Unbound { namespace: "mine".into(), operator: "system".into() };
    let done = Done { failures: vec![unbound], left: Some(Left::AfterFailure), ..Default::default() };
    let conditions = said(&done);
    let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    assert_eq!(
        (find("PruningHeld").status.as_str(), find("PruningHeld").reason.as_str()),
        ("True", "ApplyFailed")
    );
    assert_eq!(
        (find("Stalled").status.as_str(), find("Stalled").reason.as_str()),
        ("True", "RoleBindingMissing")
    );
    assert!(said(&Done::default()).iter().all(|condition| condition.type_ != "PruningHeld"));
}
