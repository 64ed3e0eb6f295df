//! What the MeshConfig says about itself: pure, from facts, plan and what came of it.

use std::collections::BTreeMap;

use crds::MeshConfig;
use crds::mesh_config::{
    CaProvider, LastGood, MeshConfigStatus, PolicySourceSummary, ProxiesStatus, RevisionStatus, VersionStatus,
};
use crds::sidecar_settings::SidecarSettings;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::execute::{Done, ExecuteError};
use super::facts::Facts;
use super::plan::Plan;
use super::revisions::Verdict;
use super::rotation::Decision;
use crate::conditions::{Conditions, Standing, State};

mod fleet;

mod root;

pub use fleet::{ESCAPED_NEXT, pods_injected, policies, proxies_in_sync};
use root::{certificates, of_the_root};

/// The new status. `done` is what came of the plan.
#[must_use]
pub fn status(
    mesh: &MeshConfig,
    facts: &Facts,
    plan: &Plan,
    root: &Decision,
    done: &Done,
    now: Timestamp,
) -> MeshConfigStatus {
    let before = mesh.status.clone().unwrap_or_default();
    let mut conditions = Conditions::from(&before.conditions, mesh.metadata.generation, now);
    conditions.stand(&standing(mesh, facts, plan, root, done.failures.first()));
    certificates(&mut conditions, root);
    let (state, reason, message) = control_plane_ready(facts, plan);
    conditions.set("ControlPlaneReady", state, reason, &message);
    let (state, reason, message) = proxies_in_sync(facts);
    conditions.set("ProxiesInSync", state, reason, &message);
    let (state, reason, message) = pods_injected(facts, plan);
    conditions.set("PodsInjected", state, reason, &message);
    let (state, reason, message) = policies(facts);
    conditions.set("PoliciesApplied", state, reason, &message);
    match conflict(mesh, plan) {
        Some(message) => conditions.set("NamespaceConflict", State::True, "NamespaceConflict", &message),
        None => conditions.remove("NamespaceConflict"),
    }
    match &done.left {
        Some(left) => conditions.set("PruningHeld", State::True, left.reason(), &left.to_string()),
        None => conditions.remove("PruningHeld"),
    }
    let upgrade = facts
        .upgrades
        .iter()
        .max_by_key(|u| (u.metadata.creation_timestamp.as_ref().map(|t| t.0), u.name_any()));
    MeshConfigStatus {
        leader_term: before.leader_term,
        observed_generation: mesh.metadata.generation,
        conditions: conditions.finish(),
        version: Some(VersionStatus {
            desired: mesh.spec.version.clone(),
            effective: plan.revisions.effective.clone(),
        }),
        control_plane: plan.revisions.build.iter().map(|version| revision(facts, version)).collect(),
        proxies: Some(proxies(facts)),
        policy_sources: facts.sources.iter().map(source).collect(),
        upgrade: upgrade.map(ResourceExt::name_any),
        upgrade_seen: super::revisions::seen(facts),
        namespaces: plan.membership.members.iter().cloned().collect(),
        certificate_authority: root.status(before.certificate_authority.as_ref()),
        restarts: before.restarts,
        last_good: match SidecarSettings::read(&mesh.spec) {
            Ok(_) => Some(LastGood::of(&mesh.spec, mesh.metadata.generation)),
            Err(_) => before.last_good,
        },
    }
}

/// The status of a MeshConfig whose control-plane namespace an older one has.
#[must_use]
pub fn rivalled(mesh: &MeshConfig, rival: &str, now: Timestamp) -> MeshConfigStatus {
    let mut status = mesh.status.clone().unwrap_or_default();
    let mut conditions = Conditions::from(&status.conditions, mesh.metadata.generation, now);
    let message = format!(
        "MeshConfigs {rival} and {} both name {} as the namespace of their control plane; {rival} is older and has \
         it. Choose another spec.namespace or delete one of them",
        mesh.name_any(),
        mesh.spec.namespace
    );
    conditions.stand(&Standing::Stalled { reason: "NamespaceConflict", message: message.clone() });
    conditions.set("NamespaceConflict", State::True, "NamespaceConflict", &message);
    status.conditions = conditions.finish();
    status.observed_generation = mesh.metadata.generation;
    let version = status.version.get_or_insert_default();
    version.desired = mesh.spec.version.clone();
    status
}

/// The status of a MeshConfig of which not even the facts could be read: what was known stays, and why nothing new is.
#[must_use]
pub fn unread(mesh: &MeshConfig, error: &str, now: Timestamp) -> MeshConfigStatus {
    let mut status = mesh.status.clone().unwrap_or_default();
    let mut conditions = Conditions::from(&status.conditions, mesh.metadata.generation, now);
    let message = format!("the cluster could not be read, and nothing is changed; tried again soon: {error}");
    conditions.stand(&Standing::Reconciling { reason: "FactsNotRead", message });
    status.conditions = conditions.finish();
    status
}

fn revision(facts: &Facts, version: &String) -> RevisionStatus {
    let sidecars = facts.pods.iter().filter(|pod| &pod.revision == version).count();
    RevisionStatus {
        version: version.clone(),
        ready: facts.revision_complete(version),
        proxies: count(sidecars),
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn proxies(facts: &Facts) -> ProxiesStatus {
    let mut by_version = BTreeMap::new();
    for pod in &facts.pods {
        *by_version.entry(pod.revision.clone()).or_insert(0) += 1;
    }
    let connected = facts.fleet.as_ref().map(|fleet| &fleet.proxies);
    ProxiesStatus {
        total: count(facts.pods.len()),
        connected: count(connected.map_or(0, BTreeMap::len)),
        rejected: count(connected.map_or(0, |all| all.values().filter(|p| !p.rejected.is_empty()).count())),
        by_version,
    }
}

fn source(source: &crds::PolicySource) -> PolicySourceSummary {
    let status = source.status.clone().unwrap_or_default();
    let commit =
        |commit: Option<crds::policy_source::CommitStatus>| commit.map(|c| c.commit).unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    PolicySourceSummary {
        name: source.name_any(),
        message: ready.map(|condition| condition.message.clone()).unwrap_or_default(),
        attempted: commit(status.attempted),
        applied: commit(status.applied),
    }
}

fn conflict(mesh: &MeshConfig, plan: &Plan) -> Option<String> {
    let me = mesh.name_any();
    let told: Vec<_> = plan
        .membership
        .conflicts
        .iter()
        .map(|conflict| {
            format!("namespace {} belongs to mesh {}, not to {me}", conflict.namespace, conflict.holder)
        })
        .collect();
    (!told.is_empty()).then(|| {
        format!("{}: the oldest MeshConfig that names or selects a namespace has it, and a label set by hand decides alone", told.join("; "))
    })
}

/// Controllers and injectors that are not complete, as `name 1/2`.
fn incomplete(facts: &Facts, plan: &Plan) -> Vec<String> {
    let names =
        plan.revisions.build.iter().flat_map(|version| {
            [crds::labels::controller_name(version), crds::labels::injector_name(version)]
        });
    names
        .filter_map(|name| match facts.deployments.get(&name) {
            Some(fact) if fact.complete() => None,
            Some(fact) => Some(format!("{name} {}/{} ready", fact.ready, fact.wanted)),
            None => Some(format!("{name} is new")),
        })
        .collect()
}

fn control_plane_ready(facts: &Facts, plan: &Plan) -> (State, &'static str, String) {
    if plan.revisions.build.is_empty() {
        return (State::False, "NotInstalled", "no release can be installed".to_owned());
    }
    let missing = incomplete(facts, plan);
    if missing.is_empty() {
        let versions: Vec<_> = plan.revisions.build.iter().map(String::as_str).collect();
        (State::True, "AllReady", format!("all replicas of {} are ready", versions.join(" and ")))
    } else {
        (State::False, "Starting", missing.join(", "))
    }
}

/// Why the mesh is not as its spec says, the first reason that holds; in the order in which a person would ask.
fn standing(
    mesh: &MeshConfig,
    facts: &Facts,
    plan: &Plan,
    root: &Decision,
    failure: Option<&ExecuteError>,
) -> Standing {
    let stalled = |reason, message| Standing::Stalled { reason, message };
    let reconciling = |reason, message| Standing::Reconciling { reason, message };
    let (effective, desired) = (plan.revisions.effective.as_str(), mesh.spec.version.as_str());
    if let Verdict::Refused { reason, message } = &plan.revisions.verdict {
        let stays =
            if effective.is_empty() { "nothing is installed".into() } else { format!("{effective} stays") };
        return stalled(reason, format!("{message}; {stays}"));
    }
    if let Err(bad) = SidecarSettings::read(&mesh.spec) {
        return stalled("InvalidSpec", format!("{bad}; new pods get the last good settings"));
    }
    if let Some(error) = &plan.membership.bad_selector {
        return stalled(
            "BadSelector",
            format!("spec.watchedNamespaces.selector: {error}; no namespace is let go"),
        );
    }
    match failure {
        None => {}
        Some(unbound @ ExecuteError::Unbound { .. }) => {
            return stalled("RoleBindingMissing", unbound.to_string());
        }
        Some(failure) => {
            let failure = runtime::logging::chain(failure);
            return reconciling("ApplyFailed", format!("tried again soon: {failure}"));
        }
    }
    let missing = incomplete(facts, plan);
    if !missing.is_empty() {
        return starting(mesh, facts, &missing);
    }
    if facts.trust_bundle.is_none() {
        return reconciling(
            "TrustBundleMissing",
            "no controller has published the trust bundle yet".to_owned(),
        );
    }
    match &plan.revisions.verdict {
        Verdict::AwaitingApproval(name) => {
            return reconciling(
                "AwaitingApproval",
                format!("set spec.approved of MeshUpgrade {name} to go from {effective} to {desired}"),
            );
        }
        Verdict::Aborted(name) => {
            return stalled(
                "UpgradeAborted",
                format!(
                    "MeshUpgrade {name} was aborted; set spec.version to {effective}, or delete the MeshUpgrade to try again"
                ),
            );
        }
        Verdict::Accepted | Verdict::Refused { .. } => {}
    }
    if effective != desired {
        let told = upgrade_words(facts, effective, desired);
        return reconciling("Upgrading", told);
    }
    if let Some(standing) = of_the_root(root) {
        return standing;
    }
    if !plan.membership.waiting.is_empty() || !plan.membership.revise.is_empty() {
        let names: Vec<_> = plan.membership.members.iter().map(String::as_str).collect();
        return reconciling("LabellingNamespaces", format!("labelling {}", names.join(", ")));
    }
    Standing::Ready { message: ready_words(effective, facts, plan) }
}

fn starting(mesh: &MeshConfig, facts: &Facts, missing: &[String]) -> Standing {
    let mut message = missing.join(", ");
    let own_root = mesh.spec.certificate_authority.provider == CaProvider::Secret;
    if own_root && facts.trust_bundle.is_none() {
        message.push_str(&format!(
            "; with certificateAuthority.provider Secret the controllers wait for the Secret {} (tls.crt, tls.key) in {}; if it \
             is there, their logs say why it cannot be used",
            crds::labels::ROOT_SECRET,
            mesh.spec.namespace
        ));
        return Standing::Reconciling { reason: "RootSecretAwaited", message };
    }
    Standing::Reconciling { reason: "ControlPlaneStarting", message }
}

fn upgrade_words(facts: &Facts, effective: &str, desired: &str) -> String {
    let same = facts.upgrades.iter().filter(|one| one.spec.from == effective && one.spec.to == desired);
    // One that was made again has a record of its own.
    let upgrade = same.max_by_key(|one| one.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let status = upgrade.and_then(|upgrade| upgrade.status.as_ref());
    let mut words = format!("upgrading from {effective} to {desired}");
    for part in status.into_iter().flat_map(|status| [&status.progress, &status.waiting_on]) {
        if !part.is_empty() {
            words.push_str("; ");
            words.push_str(part);
        }
    }
    words
}

fn ready_words(effective: &str, facts: &Facts, plan: &Plan) -> String {
    let proxies = proxies(facts);
    let mut words = format!(
        "release {effective}, {} namespaces, {} of {} sidecars connected",
        plan.membership.members.len(),
        proxies.connected,
        proxies.total
    );
    let lists =
        [("not there", &plan.membership.missing), ("never part of a mesh", &plan.membership.excluded)];
    for (why, names) in lists.into_iter().filter(|(_, names)| !names.is_empty()) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        words.push_str(&format!("; {}: {why}", names.join(", ")));
    }
    words
}
