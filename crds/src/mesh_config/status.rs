//! The status of a `MeshConfig`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    CertificateAuthorityStatus, Exclusions, MeshConfigSpec, Sidecar, UpgradeStrategy, default_drain_time,
    default_trust_domain,
};

/// What the operator sees.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfigStatus {
    /// The term of the operator's leadership in which this was last written; an operator of an earlier term changes
    /// nothing. Absent where an operator wrote it that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_term: Option<i64>,
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus), `ControlPlaneReady`, `PoliciesApplied`, `ProxiesInSync`,
    /// `CertificatesIssued`, `PodsInjected`, and while they last `RootRotation`, `NamespaceConflict` and `PruningHeld`
    /// (what is no longer wanted is left, and why).
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Wanted and running release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionStatus>,
    /// Revisions of the control plane.
    #[serde(default)]
    pub control_plane: Vec<RevisionStatus>,
    /// The sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<ProxiesStatus>,
    /// The policy sources of the control plane's namespace.
    #[serde(default)]
    pub policy_sources: Vec<PolicySourceSummary>,
    /// Name of the current or last `MeshUpgrade`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// What the control-plane reconciler has seen of that upgrade. Nothing moves before it has seen which way the
    /// upgrade goes, so that it removes no control plane that is needed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_seen: Option<UpgradeSeen>,
    /// Namespaces of the mesh.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// The root of trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<CertificateAuthorityStatus>,
    /// The last settings of sidecars that can be used: what an injector that has just started gives to pods while the
    /// spec says something that cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// Workloads with pods that escaped injection, while `spec.upgrade.restartUninjected` is `Planned`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<RestartStatus>,
}

/// A workload with pods that escaped injection: what is done about them, or why nothing is.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartStatus {
    /// Namespace.
    pub namespace: String,
    /// Kind and name, as in `Deployment/web`.
    pub workload: String,
    /// Pods without a sidecar, when last looked.
    #[serde(default)]
    pub pods: i32,
    /// When the youngest pod was made that had no sidecar when the first of them was restarted, seconds since 1970. Those
    /// that are younger escaped again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// How often pods were restarted although one had escaped again.
    #[serde(default)]
    pub again: i32,
    /// Uid of the pod that was restarted last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last: String,
    /// CamelCase: `Restarting`, or why it is not restarted now.
    #[serde(default)]
    pub reason: String,
    /// The same for a person.
    #[serde(default)]
    pub message: String,
}

/// The part of a spec that shapes sidecars, as it was when all of it could be used. Written by the operator, read by
/// injectors of any release: fields that come later are left out by an older operator, and have their defaults then.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastGood {
    /// Generation of the spec that they are from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// As `spec.trustDomain`.
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
    /// As `spec.sidecar`.
    #[serde(default)]
    pub sidecar: Sidecar,
    /// As `spec.traffic.exclusions`.
    #[serde(default)]
    pub exclusions: Exclusions,
    /// As `spec.upgrade.strategy`.
    #[serde(default)]
    pub strategy: UpgradeStrategy,
    /// As `spec.upgrade.drainTime`.
    #[serde(default = "default_drain_time")]
    pub drain_time: String,
}

impl LastGood {
    /// That part of a spec.
    #[must_use]
    pub fn of(spec: &MeshConfigSpec, generation: Option<i64>) -> Self {
        Self {
            generation,
            trust_domain: spec.trust_domain.clone(),
            sidecar: spec.sidecar.clone(),
            exclusions: spec.traffic.exclusions.clone(),
            strategy: spec.upgrade.strategy,
            drain_time: spec.upgrade.drain_time.clone(),
        }
    }
}

/// Wanted and running release.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// As in the spec.
    pub desired: String,
    /// The release that all namespaces are on; the old one while an upgrade runs. Empty before the first.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub effective: String,
}

/// How much of an upgrade was seen.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeSeen {
    /// Uid of the MeshUpgrade.
    pub uid: String,
    /// Its latest leg, the first being 1.
    pub leg: i64,
}

/// One revision of the control plane.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// Release.
    pub version: String,
    /// Whether controller and injector have all replicas ready.
    pub ready: bool,
    /// Sidecars of this release.
    #[serde(default)]
    pub proxies: i32,
}

/// The sidecars of the mesh.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxiesStatus {
    /// Pods with a sidecar.
    pub total: i32,
    /// Connected to a controller.
    pub connected: i32,
    /// Connected and rejecting something.
    pub rejected: i32,
    /// Number per release.
    #[serde(default)]
    pub by_version: BTreeMap<String, i32>,
}

/// A policy source in short.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicySourceSummary {
    /// Name.
    pub name: String,
    /// Commit last fetched.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub attempted: String,
    /// Commit in force.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub applied: String,
    /// How it stands.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}
