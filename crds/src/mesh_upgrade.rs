//! `MeshUpgrade`: the record of one upgrade, and the place to steer it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

#[cfg(test)]
mod tests;

/// Fields that a newer release wrote: kept as they are, so that an older operator takes nothing out of a record.
pub type Unknown = BTreeMap<String, Value>;

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

/// Where an upgrade stands. What was begun is a record: it is added to, and never computed anew.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshUpgradeStatus {
    /// The term of the operator's leadership in which this was last written; an operator of an earlier term changes
    /// nothing. Absent where an operator wrote it that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_term: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus).
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient")]
    pub phase: Option<UpgradePhase>,
    /// Moved and total pods, as in `3/9 pods`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// What to know before anything moves, such as how many pods are restarted and why. As it was when the first pod
    /// moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Why nothing more is done right now; empty when something is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waiting_on: String,
    /// What was done and is being done, as a record, in the order in which it was begun; then what is still to do.
    #[serde(default)]
    pub steps: Vec<StepStatus>,
    /// Which way it went: a leg for each time it turned round. Absent: one leg, forward.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legs: Vec<LegStatus>,
    /// How long each wave was watched.
    #[serde(default)]
    pub soaks: Vec<SoakStatus>,
    /// The release whose control plane nobody needs any more: the control-plane reconciler may remove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// What a newer release wrote.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// A value that an older program does not know counts as not there, rather than as a record that cannot be read.
fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Option::<Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// A stretch of an upgrade in one direction.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LegStatus {
    /// The release that it goes to.
    pub to: String,
    /// When it began (RFC 3339).
    pub since: String,
    /// What a newer release wrote.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
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

/// One step. As soon as it was begun it is a fact: what was done is added to it until it is finished, and then it stays
/// as it is.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    /// What the step does, as the plan prints it; of one that was begun, what was done.
    pub step: String,
    /// How far it is.
    #[serde(deserialize_with = "state")]
    pub state: StepState,
    /// Why it waits or was given up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it is about; the same at every pass. Absent: written by a release that computed its steps anew each time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Which leg it is of, the first being 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leg: Option<i64>,
    /// When it was begun (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it was seen to be done, or was given up (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Since when its workload is known not to have been healthy when the upgrade came to it (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_since: Option<String>,
    /// What the upgrade did, one entry per way of doing it, in the order in which they were used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<DoneStatus>,
    /// What it was about to do; written before it is done, so that a crash leaves no deed without a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<DoingStatus>,
    /// What a newer release wrote.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// A state that is not known is one of a step that goes on.
fn state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StepState, D::Error> {
    Ok(lenient(deserializer)?.unwrap_or(StepState::Running))
}

/// What was done to some pods in one way.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DoneStatus {
    /// How, and why not otherwise: the plan's words at that time.
    pub how: String,
    /// How many pods.
    pub pods: i64,
    /// The first of them.
    #[serde(default)]
    pub names: Vec<String>,
    /// When the first was done (RFC 3339).
    pub first: String,
    /// When the last was done (RFC 3339).
    pub last: String,
    /// What a newer release wrote.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}

/// What is about to be done.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DoingStatus {
    /// How, and why not otherwise: the plan's words.
    pub how: String,
    /// The pod, or of a roll-out the value that it writes.
    pub what: String,
    /// Its uid; of a roll-out nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// How many pods it concerns.
    pub pods: i64,
    /// When (RFC 3339).
    pub at: String,
    /// What a newer release wrote.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
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

/// How long a wave was watched.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SoakStatus {
    /// Name of the wave.
    pub wave: String,
    /// When it began (RFC 3339).
    pub since: String,
    /// Which leg it is of. Absent: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leg: Option<i64>,
    /// Which of several waves of that name, the first being 0. Absent: the first, or the namespaces that no wave names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<i64>,
    /// Seconds for which the operator watched it: time that passed while it looked, whatever the clock said. Absent:
    /// written by a release that goes by `since` and the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_seconds: Option<i64>,
    /// What the clock said at the last look that is counted (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<String>,
    /// What a newer release wrote.
    #[serde(flatten)]
    #[schemars(skip)]
    pub unknown: Unknown,
}
