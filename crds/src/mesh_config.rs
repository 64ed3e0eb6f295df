//! `MeshConfig`: one mesh. The one object that a platform team edits.

mod modes;
mod status;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::certificate_authority::{
    CaProvider, CertificateAuthority, CertificateAuthorityStatus, KeyType, RotationStep,
};
use crate::policy_source::PolicySourceSpec;
pub use modes::{Authorization, Below, Floor, Mtls};
pub use status::{
    LastGood, MeshConfigStatus, PolicySourceSummary, ProxiesStatus, RestartStatus, RevisionStatus,
    UpgradeSeen, VersionStatus,
};

/// One mesh; the object's name is the mesh's name.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "meshwright.io",
    version = "v1alpha1",
    kind = "MeshConfig",
    status = "MeshConfigStatus",
    shortname = "mesh",
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Desired","type":"string","jsonPath":".status.version.desired"}"#,
    printcolumn = r#"{"name":"Effective","type":"string","jsonPath":".status.version.effective"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Proxies","type":"integer","jsonPath":".status.proxies.total"}"#,
    printcolumn = r#"{"name":"Rejected","type":"integer","jsonPath":".status.proxies.rejected"}"#,
    printcolumn = r#"{"name":"Root","type":"string","priority":1,"jsonPath":".status.certificateAuthority.step"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfigSpec {
    /// The release to run, one of the catalogue's. Editing it starts an upgrade.
    pub version: String,
    /// Namespace of the control plane.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// SPIFFE trust domain of the mesh. Cannot be changed while workloads run.
    #[serde(default = "default_trust_domain")]
    pub trust_domain: String,
    /// Where certificates come from and how long they live.
    #[serde(default)]
    pub certificate_authority: CertificateAuthority,
    /// Namespaces whose pods get a sidecar.
    #[serde(default)]
    pub watched_namespaces: WatchedNamespaces,
    /// What the mesh does with traffic where no MeshPolicy says otherwise.
    #[serde(default)]
    pub traffic: Traffic,
    /// How sidecars run.
    #[serde(default)]
    pub sidecar: Sidecar,
    /// How the control plane runs.
    #[serde(default)]
    pub control_plane: ControlPlane,
    /// Git repositories of policies; each becomes a `PolicySource` in the control plane's namespace.
    #[serde(default)]
    pub policy_sources: Vec<NamedPolicySource>,
    /// How upgrades go.
    #[serde(default)]
    pub upgrade: Upgrade,
}

/// Namespaces of the mesh: those named, those selected, and those labelled `meshwright.io/mesh: <name>` by hand.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WatchedNamespaces {
    /// By name.
    #[serde(default)]
    pub names: Vec<String>,
    /// By label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Traffic of the mesh.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Whether plaintext callers are accepted.
    #[serde(default)]
    pub mtls: Mtls,
    /// Whether TrafficTargets are enforced.
    #[serde(default)]
    pub authorization: Authorization,
    /// What happens to calls that leave the mesh.
    #[serde(default)]
    pub egress: Egress,
    /// Traffic that does not pass through the sidecar at all.
    #[serde(default)]
    pub exclusions: Exclusions,
    /// Where policies may come from.
    #[serde(default, skip_serializing_if = "PolicyOrigin::is_any")]
    pub policy_origin: PolicyOrigin,
    /// What no pod may be below, whatever MeshPolicies say. Without one they may say anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
}

/// Where policies may come from. A release that does not know this takes them from anywhere.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum PolicyOrigin {
    /// Objects that somebody writes to the API server count at once, beside those of PolicySources.
    #[default]
    Any,
    /// Only objects that the sealed commit of a PolicySource holds count. Others are reported, and change nothing.
    Sources,
}

impl PolicyOrigin {
    /// Whether it is the default.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// Calls that leave the mesh.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum Egress {
    /// Refused.
    #[default]
    Deny,
    /// Passed through untouched.
    Allow,
}

/// Traffic that the init container does not redirect.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exclusions {
    /// Destination ports of outgoing connections.
    #[serde(default)]
    #[schemars(inner(range(min = 1, max = 65535)))]
    pub outbound_ports: Vec<i32>,
    /// Destination address ranges of outgoing connections (CIDR).
    #[serde(default)]
    pub outbound_cidrs: Vec<String>,
    /// Ports of incoming connections.
    #[serde(default)]
    #[schemars(inner(range(min = 1, max = 65535)))]
    pub inbound_ports: Vec<i32>,
}

/// How sidecars run.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sidecar {
    /// Resources of the sidecar container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Envoy's log level.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Worker threads of Envoy; 1 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub concurrency: Option<i32>,
    /// Access log of the sidecars, on standard output.
    #[serde(default)]
    pub access_log: AccessLog,
}

/// Log level of Envoy.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For developers of Envoy.
    Debug,
    /// Start-up and configuration.
    Info,
    /// What may need attention.
    #[default]
    Warning,
    /// What went wrong.
    Error,
    /// What ended the process.
    Critical,
    /// Nothing.
    Off,
}

/// Access log of the sidecars.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// One JSON object per request or connection.
    Json,
}

/// How the control plane runs.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ControlPlane {
    /// Replicas of controller and injector.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 32))]
    pub replicas: i32,
    /// Resources of each controller and injector pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// An entry of `policySources`.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedPolicySource {
    /// Name of the `PolicySource` that is made of it.
    pub name: String,
    /// As in a `PolicySource`.
    #[serde(flatten)]
    pub source: PolicySourceSpec,
}

/// How upgrades go, and other restarts that are planned.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// Order of the namespaces; those that no wave names come last, one after another by name.
    #[serde(default)]
    pub waves: Vec<Wave>,
    /// How long a wave is watched before the next begins, as in `10m`.
    #[serde(default = "default_soak")]
    pub soak: String,
    /// Whether a person must approve each upgrade on its `MeshUpgrade`.
    #[serde(default)]
    pub approval: Approval,
    /// How sidecars get their new release. A namespace may say otherwise by its annotation
    /// `meshwright.io/upgrade-strategy`.
    #[serde(default)]
    pub strategy: UpgradeStrategy,
    /// With HotSwap: how long a sidecar that was replaced goes on with the connections that it has, as in `5m`; `11s`
    /// to `1h`. What takes less than a third of it is never cut. Pods that run already keep what they were injected
    /// with.
    #[serde(default = "default_drain_time")]
    pub drain_time: String,
    /// What becomes of pods that run without a sidecar and do not say why (condition `PodsInjected`).
    #[serde(default)]
    pub restart_uninjected: RestartUninjected,
}

/// What becomes of pods that escaped injection.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum RestartUninjected {
    /// They are named, and a person restarts them.
    #[default]
    Never,
    /// They are restarted one workload at a time, as an upgrade does it: while all others are ready, within every
    /// PodDisruptionBudget, while no upgrade runs, and only where the new pods would get a sidecar. With `approval: Manual` a
    /// namespace is waited for until it has the annotation `meshwright.io/restart-uninjected: Approved`; `Paused` keeps
    /// one out, and so does any other word, which is told. Pods that nothing makes again are left.
    Planned,
}

/// How sidecars get their new release.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum UpgradeStrategy {
    /// With their pods, which are evicted or rolled one after another. A pod has one sidecar container.
    #[default]
    Restart,
    /// In place: pods get two slots for their sidecar, and the new Envoy takes over from the old one while the app
    /// runs on. Pods where that cannot be are restarted; the plan says why.
    HotSwap,
}

impl UpgradeStrategy {
    /// Reads the annotation of a namespace; nothing when it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Restart" => Some(Self::Restart),
            "HotSwap" => Some(Self::HotSwap),
            _ => None,
        }
    }
}

/// Namespaces that move together, one after another.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Wave {
    /// Name, for the plan.
    pub name: String,
    /// Namespaces, in order.
    pub namespaces: Vec<String>,
}

/// Whether a person must approve each upgrade.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum Approval {
    /// No.
    #[default]
    Automatic,
    /// Yes, by `spec.approved` of the `MeshUpgrade`.
    Manual,
}

impl Default for ControlPlane {
    fn default() -> Self {
        Self { replicas: default_replicas(), resources: None }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            waves: Vec::new(),
            soak: default_soak(),
            approval: Approval::default(),
            strategy: UpgradeStrategy::default(),
            drain_time: default_drain_time(),
            restart_uninjected: RestartUninjected::default(),
        }
    }
}

fn default_namespace() -> String {
    crate::labels::SYSTEM_NAMESPACE.to_owned()
}

fn default_trust_domain() -> String {
    "cluster.local".to_owned()
}

fn default_replicas() -> i32 {
    2
}

fn default_soak() -> String {
    "0s".to_owned()
}

fn default_drain_time() -> String {
    "5m".to_owned()
}
