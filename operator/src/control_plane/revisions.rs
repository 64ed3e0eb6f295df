//! Which releases of the control plane shall exist, and which one is in effect: pure.
//!
//! ```text
//!  spec.version ──▶ verdict (catalogue, reachable?) ─┐
//!  labels of namespaces, pods, sidecars ──▶ uses ────┼──▶ Revisions {effective, target, build, keep}
//!  status.version.effective ─────────────────────────┘
//! ```

use std::collections::BTreeSet;

use crds::mesh_config::Approval;
use crds::mesh_upgrade::UpgradePhase;
use crds::{MeshConfig, MeshUpgrade, labels};
use upgrades::Catalogue;

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

/// Releases that somebody uses: namespaces of the mesh by label, running pods, connected sidecars.
fn uses(mesh: &str, facts: &Facts) -> BTreeSet<String> {
    let of_mesh = |namespace: &&super::facts::NamespaceFact| {
        namespace.labels.get(labels::MESH).is_some_and(|label| label == mesh)
    };
    let namespaces = facts.namespaces.iter().filter(of_mesh).filter_map(|ns| ns.labels.get(labels::REVISION));
    let pods = facts.pods.iter().map(|pod| &pod.revision);
    let sidecars = facts.fleet.iter().flat_map(|fleet| fleet.proxies.values()).map(|proxy| &proxy.version);
    namespaces.chain(pods).chain(sidecars).filter(|version| !version.is_empty()).cloned().collect()
}

/// Releases that an upgrade may still go back to: they stay until its record says that it retires them, even when
/// nothing runs on them any more, since a soak is only worth something while there is a way back.
fn ways_back(facts: &Facts) -> impl Iterator<Item = String> {
    let open = |upgrade: &&MeshUpgrade| match upgrade.status.as_ref().and_then(|status| status.phase) {
        None | Some(UpgradePhase::Retiring | UpgradePhase::Complete | UpgradePhase::Aborted) => false,
        Some(
            UpgradePhase::AwaitingApproval
            | UpgradePhase::ControlPlane
            | UpgradePhase::Moving
            | UpgradePhase::Paused
            | UpgradePhase::Aborting,
        ) => true,
    };
    facts.upgrades.iter().filter(open).map(|upgrade| upgrade.spec.from.clone())
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
    let all = wanted.into_iter().filter(|version| !version.is_empty()).chain(used).chain(ways_back(facts));
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
    let record = upgrades::records::name(name, effective, desired);
    let upgrade = facts.upgrades.iter().find(|upgrade| upgrade.metadata.name.as_ref() == Some(&record));
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
