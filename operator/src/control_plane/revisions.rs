//! Which releases of the control plane shall exist, and which one is in effect: pure.
//!
//! ```text
//!  spec.version ──▶ verdict (catalogue, reachable?) ─┐
//!  namespaces, pods, streams ─▶ upgrades::users ─────┼──▶ Revisions {effective, target, build, keep}
//!  status.version.effective ─────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_config::{Approval, UpgradeSeen};
use crds::mesh_upgrade::UpgradePhase;
use crds::{MeshConfig, MeshUpgrade, labels};
use kube::ResourceExt;
use upgrades::facts::{Kind, Proxy, Rollout, Strategy, Workload, WorkloadId};
use upgrades::users::users;
use upgrades::{Catalogue, Observed};

use super::facts::Facts;

/// What is to be thought of `spec.version`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It can be had.
    Accepted,
    /// It waits for a person's approval of the named MeshUpgrade.
    AwaitingApproval(String),
    /// A person aborted the named MeshUpgrade.
    Aborted(String),
    /// It cannot be had; nothing changes.
    Refused {
        /// `UnknownVersion` or `UnreachableVersion`.
        reason: &'static str,
        /// Why, and what can be had.
        message: String,
    },
}

/// The releases of a mesh's control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revisions {
    /// What is to be thought of `spec.version`.
    pub verdict: Verdict,
    /// The release in effect; empty before the first installation is complete.
    pub effective: String,
    /// Releases to build, sorted.
    pub build: BTreeSet<String>,
    /// Releases that are in use and that the catalogue does not know: left exactly as they are.
    pub keep: BTreeSet<String>,
}

impl Revisions {
    /// The release that namespaces new to the mesh get: the one in effect, or the first one.
    #[must_use]
    pub fn for_new_namespaces(&self) -> Option<&str> {
        match self.effective.as_str() {
            "" => self.build.iter().next_back().map(String::as_str),
            effective => Some(effective),
        }
    }
}

/// Releases that somebody uses, by the rule that the upgrade goes by too: namespaces of the mesh, pods that stay, and
/// streams at the release's controllers. What is unknown is in use.
fn uses(mesh: &str, facts: &Facts) -> BTreeSet<String> {
    let observed = observed(mesh, facts);
    let labelled = observed.namespaces.values().filter_map(|namespace| namespace.revision.clone());
    let pods = facts.pods.iter().map(|pod| pod.revision.clone());
    let exist = facts.deployments.values().map(|deployment| deployment.version.clone());
    let streams = observed.streams.iter().flatten().map(|(version, _)| version.clone());
    let mut versions: BTreeSet<String> = labelled.chain(pods).chain(exist).chain(streams).collect();
    versions.remove("");
    versions.retain(|version| !users(&observed, version).is_empty());
    versions
}

/// The facts as that rule takes them.
fn observed(mesh: &str, facts: &Facts) -> Observed {
    let mut namespaces: BTreeMap<String, upgrades::facts::Namespace> = BTreeMap::new();
    for namespace in &facts.namespaces {
        if namespace.labels.get(labels::MESH).is_some_and(|label| label == mesh) {
            let fact = upgrades::facts::Namespace {
                revision: namespace.labels.get(labels::REVISION).cloned(),
                terminating: namespace.terminating,
                ..Default::default()
            };
            namespaces.insert(namespace.name.clone(), fact);
        }
    }
    for pod in &facts.pods {
        // Whose pod it is does not matter here.
        let id = WorkloadId { name: pod.name.clone(), kind: Kind::Pod };
        let fact = upgrades::facts::Pod {
            uid: String::new(),
            revision: Some(pod.revision.clone()),
            ready: true,
            terminating: pod.terminating,
            proxy: Proxy::Unknown,
            slots: None,
        };
        let workload = Workload {
            replicas: 1,
            rollout: Rollout::Settled,
            strategy: Strategy::None,
            moved_to: None,
            pods: [(pod.name.clone(), fact)].into(),
        };
        namespaces.entry(pod.namespace.clone()).or_default().workloads.insert(id, workload);
    }
    let streams = facts.fleet.as_ref().map(crate::upgrade::facts::streams);
    Observed { namespaces, streams, ..Observed::default() }
}

/// Releases that an upgrade may still go to or back to: they stay until its record says that one may be removed, even
/// when nothing runs on them any more, since a soak is only worth something while there is a way back.
fn held_by_upgrades(facts: &Facts) -> BTreeSet<String> {
    let exists = |version: &&String| facts.deployments.values().any(|fact| fact.version == **version);
    let held = |upgrade: &MeshUpgrade| -> Vec<String> {
        let (from, to) = (&upgrade.spec.from, &upgrade.spec.to);
        let Some(status) = &upgrade.status else { return Vec::new() };
        match status.phase {
            None | Some(UpgradePhase::Complete | UpgradePhase::Aborted) => Vec::new(),
            Some(UpgradePhase::Retiring) => {
                let kept = [from, to].into_iter().filter(|version| status.retire.as_ref() != Some(*version));
                kept.filter(exists).cloned().collect()
            }
            Some(UpgradePhase::Aborting) => {
                [from].into_iter().chain(Some(to).filter(exists)).cloned().collect()
            }
            Some(
                UpgradePhase::AwaitingApproval
                | UpgradePhase::ControlPlane
                | UpgradePhase::Moving
                | UpgradePhase::Paused,
            ) => [from].into_iter().chain(Some(to).filter(exists)).cloned().collect(),
        }
    };
    facts.upgrades.iter().flat_map(held).collect()
}

/// What this look has seen of the upgrade that runs, or else of the last one: nothing is removed any more on what an
/// older look saw.
#[must_use]
pub fn seen(facts: &Facts) -> Option<UpgradeSeen> {
    let over = |upgrade: &&MeshUpgrade| {
        let phase = upgrade.status.as_ref().and_then(|status| status.phase);
        matches!(phase, Some(UpgradePhase::Complete | UpgradePhase::Aborted))
    };
    let age = |upgrade: &&MeshUpgrade| {
        (!over(upgrade), upgrade.metadata.creation_timestamp.as_ref().map(|time| time.0), upgrade.name_any())
    };
    let upgrade = facts.upgrades.iter().max_by_key(age)?;
    let legs = upgrade.status.as_ref().map_or(0, |status| status.legs.len());
    Some(UpgradeSeen { uid: upgrade.uid()?, leg: i64::try_from(legs).unwrap_or(i64::MAX) })
}

/// Decides. Everything comes from observation but the release in effect, which status remembers.
#[must_use]
pub fn decide(mesh: &MeshConfig, name: &str, facts: &Facts, catalogue: &Catalogue) -> Revisions {
    let desired = mesh.spec.version.as_str();
    let used = uses(name, facts);
    let before = effective_before(mesh, &used, catalogue);
    let verdict = judge(mesh, name, &before, desired, facts, catalogue);
    let effective = match verdict {
        Verdict::Accepted if arrived(name, desired, facts) => desired.to_owned(),
        _ => before,
    };
    let wanted = match verdict {
        Verdict::Accepted => vec![effective.clone(), desired.to_owned()],
        _ => vec![effective.clone()],
    };
    let all =
        wanted.into_iter().filter(|version| !version.is_empty()).chain(used).chain(held_by_upgrades(facts));
    let (build, keep) = all.partition(|version| catalogue.get(version).is_ok());
    Revisions { verdict, effective, build, keep }
}

/// The release in effect so far. A status that was lost (restored backup) is made up from what is used: the oldest
/// known release, because an upgrade in progress has not arrived.
fn effective_before(mesh: &MeshConfig, used: &BTreeSet<String>, catalogue: &Catalogue) -> String {
    let status = mesh.status.as_ref().and_then(|status| status.version.as_ref());
    match status.map(|version| version.effective.as_str()) {
        Some(effective) if !effective.is_empty() => effective.to_owned(),
        _ => {
            let known = catalogue.releases().map(|release| release.version.to_string());
            known.into_iter().find(|version| used.contains(version)).unwrap_or_default()
        }
    }
}

fn judge(
    mesh: &MeshConfig,
    name: &str,
    effective: &str,
    desired: &str,
    facts: &Facts,
    catalogue: &Catalogue,
) -> Verdict {
    if let Err(unknown) = catalogue.get(desired) {
        return Verdict::Refused { reason: "UnknownVersion", message: unknown.to_string() };
    }
    if effective.is_empty() || effective == desired {
        return Verdict::Accepted;
    }
    if let Err(unreachable) = catalogue.reachable(effective, desired) {
        return Verdict::Refused { reason: "UnreachableVersion", message: unreachable.to_string() };
    }
    // What was approved or aborted of an upgrade that is over says nothing of the next.
    let of_this = |upgrade: &&MeshUpgrade| {
        let fact = crate::upgrade::records::fact(upgrade);
        fact.from == effective && fact.to == desired && fact.state != upgrades::records::State::Over
    };
    let upgrade = facts.upgrades.iter().find(of_this);
    let taken: Vec<_> = facts.upgrades.iter().map(ResourceExt::name_any).collect();
    let next = || upgrades::records::next_name(name, effective, desired, taken.iter().map(String::as_str));
    let record = upgrade.map_or_else(next, ResourceExt::name_any);
    if upgrade.is_some_and(|upgrade| upgrade.spec.abort) {
        return Verdict::Aborted(record);
    }
    match mesh.spec.upgrade.approval {
        Approval::Manual if !upgrade.is_some_and(|upgrade| upgrade.spec.approved) => {
            Verdict::AwaitingApproval(record)
        }
        Approval::Manual | Approval::Automatic => Verdict::Accepted,
    }
}

/// Whether the mesh is on a release: its control plane is complete, every namespace of the mesh that has a
/// revision has this one, and no pod that stays has another.
fn arrived(mesh: &str, version: &str, facts: &Facts) -> bool {
    let elsewhere = |label: Option<&String>| label.is_some_and(|label| label != version);
    let namespaces = facts
        .namespaces
        .iter()
        .filter(|namespace| namespace.labels.get(labels::MESH).is_some_and(|label| label == mesh))
        .any(|namespace| !namespace.terminating && elsewhere(namespace.labels.get(labels::REVISION)));
    let pods = facts.pods.iter().any(|pod| !pod.terminating && pod.revision != version);
    facts.revision_complete(version) && !namespaces && !pods
}
