//! `MeshUpgrade`: the record of one upgrade, and the place to steer it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One upgrade of one mesh. Made by the operator (`<mesh>-<from>-to-<to>`, versions dashed); people edit only
/// `approved`, `paused` and `abort`.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "meshwright.io",
    version = "v1alpha1",
    kind = "MeshUpgrade",
    status = "MeshUpgradeStatus",
    shortname = "mu",
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Mesh","type":"string","jsonPath":".spec.mesh"}"#,
    printcolumn = r#"{"name":"From","type":"string","jsonPath":".spec.from"}"#,
    printcolumn = r#"{"name":"To","type":"string","jsonPath":".spec.to"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"Waiting","type":"string","jsonPath":".status.waitingOn"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshUpgradeSpec {
    /// Name of the MeshConfig.
    pub mesh: String,
    /// Release that was in effect.
    pub from: String,
    /// Release that is wanted.
    pub to: String,
    /// With `approval: Manual`, nothing moves before this is true.
    #[serde(default)]
    pub approved: bool,
    /// Nothing new is begun while this is true.
    #[serde(default)]
    pub paused: bool,
    /// Goes back: namespaces that were moved are moved back, and the new revision is removed.
    #[serde(default)]
    pub abort: bool,
}

/// Where an upgrade stands.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshUpgradeStatus {
    /// `Ready`, `Reconciling`, `Stalled` (kstatus).
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<UpgradePhase>,
    /// Moved and total pods, as in `3/9 pods`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// Why nothing more is done right now; empty when something is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiting_on: String,
    /// The plan: what was done, is being done and is still to do.
    #[serde(default)]
    pub steps: Vec<StepStatus>,
    /// When the last namespace of a wave was moved (RFC 3339): the one fact that cannot be observed.
    #[serde(default)]
    pub soaks: Vec<SoakStatus>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
}

/// Phase of an upgrade; derived from what is observed at every pass.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
pub enum UpgradePhase {
    /// Waits for `spec.approved`.
    AwaitingApproval,
    /// The new control plane comes up beside the old.
    ControlPlane,
    /// Namespaces move.
    Moving,
    /// The old revision is removed.
    Retiring,
    /// Done.
    Complete,
    /// `spec.paused` or something that needs a person.
    Paused,
    /// Going back.
    Aborting,
    /// Back at the old release.
    Aborted,
}

/// One step of the plan.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// What the step does, as the plan prints it.
    pub step: String,
    /// How far it is.
    pub state: StepState,
    /// Why it waits or failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// State of a step.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Begun.
    Running,
    /// Cannot go on now; the reason says why.
    Waiting,
    /// Observed to be done.
    Done,
}

/// Since when a wave soaks.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SoakStatus {
    /// Name of the wave.
    pub wave: String,
    /// RFC 3339.
    pub since: String,
}
