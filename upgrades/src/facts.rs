//! What a plan is made of: what was observed, and what is wanted. Plain data; gathered by the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::catalogue::Catalogue;
use crate::waiting::Place;

/// How long a workload that was not healthy when the upgrade came to it is waited for, in seconds: a restart of a
/// container or of a node is over by then.
pub const PATIENCE_SECONDS: u64 = 300;

/// Everything that was observed, at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Seconds since 1970, UTC.
    pub now: u64,
    /// Known releases.
    pub catalogue: Catalogue,
    /// `status.version.effective` of the MeshConfig.
    pub effective: String,
    /// Control-plane revisions that exist, by release.
    pub revisions: BTreeMap<String, Readiness>,
    /// Namespaces of the mesh.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Pods outside those namespaces that still have a sidecar of the mesh.
    pub strays: BTreeSet<Stray>,
    /// For how many seconds each wave that soaks was watched, on this leg of the upgrade.
    pub soaks: BTreeMap<WaveId, u64>,
    /// Connected sidecars by the release of the controller; none when no controller could be asked about.
    pub streams: Option<BTreeMap<String, Streams>>,
    /// Whether the control-plane reconciler has seen which way the upgrade goes.
    pub control_plane: Seen,
    /// Workloads that were not healthy when the upgrade came to them, and since when (seconds since 1970).
    pub unhealthy: BTreeMap<Place, u64>,
}

/// Whether the control-plane reconciler has seen which way the upgrade goes. Before that it may be removing what the
/// upgrade goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seen {
    /// It has not said so yet.
    #[default]
    NotYet,
    /// It has.
    Yes,
}

/// What the controllers of one release say about who is connected to them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Streams {
    /// Namespace and name of the pods whose sidecars are.
    pub pods: BTreeSet<(String, String)>,
    /// Controllers that may hold streams and could not be asked, and why.
    pub silent: BTreeMap<String, String>,
}

/// A wave of the roll-out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaveId {
    /// One that the MeshConfig names.
    Named {
        /// Its name.
        name: String,
        /// Which of several of that name, the first being 0.
        nth: usize,
    },
    /// The namespaces that no wave names.
    Others,
}

impl fmt::Display for WaveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { name, nth: 0 } => write!(f, "wave {name}"),
            Self::Named { name, nth } => write!(f, "wave {name} (number {} of that name)", nth + 1),
            Self::Others => write!(f, "the namespaces that no wave names"),
        }
    }
}

/// The names of the waves as written, each told from others of its name.
#[must_use]
pub fn wave_ids(waves: &[Wave]) -> Vec<WaveId> {
    let nth = |place: usize, name: &str| waves.iter().take(place).filter(|wave| wave.name == name).count();
    let id = |(place, wave): (usize, &Wave)| WaveId::Named {
        name: wave.name.clone(),
        nth: nth(place, &wave.name),
    };
    waves.iter().enumerate().map(id).collect()
}

/// Whether a revision's controller, injector and webhook can take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// All replicas of both are ready and the webhook is in place.
    Ready,
    /// Not yet, and what is missing.
    NotReady(String),
}

/// A namespace of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Namespace {
    /// Its revision label.
    pub revision: Option<String>,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// What runs in it.
    pub workloads: BTreeMap<WorkloadId, Workload>,
    /// Its PodDisruptionBudgets by name.
    pub budgets: BTreeMap<String, Budget>,
    /// Whether sidecars are swapped in place where that can be: its annotation, or else the MeshConfig's strategy.
    pub hot_swap: bool,
}

/// Name and kind of a workload within its namespace; ordered by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadId {
    /// Name of the object that makes the pods (or of the pod).
    pub name: String,
    /// Its kind.
    pub kind: Kind,
}

/// Kind of the object that makes the pods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// apps/v1 Deployment.
    Deployment,
    /// apps/v1 StatefulSet.
    StatefulSet,
    /// apps/v1 DaemonSet.
    DaemonSet,
    /// A ReplicaSet or ReplicationController that no Deployment owns.
    ReplicaSet,
    /// batch/v1 Job, whether or not of a CronJob.
    Job,
    /// A pod that nothing makes again.
    Pod,
    /// A controller that Meshwright does not know; the kind as the pod's owner reference names it.
    Other(String),
}

impl Kind {
    /// By its name in Kubernetes.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "Deployment" => Self::Deployment,
            "StatefulSet" => Self::StatefulSet,
            "DaemonSet" => Self::DaemonSet,
            "ReplicaSet" => Self::ReplicaSet,
            "Job" => Self::Job,
            "Pod" => Self::Pod,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Deployment => "Deployment",
            Kind::StatefulSet => "StatefulSet",
            Kind::DaemonSet => "DaemonSet",
            Kind::ReplicaSet => "ReplicaSet",
            Kind::Job => "Job",
            Kind::Pod => "Pod",
            Kind::Other(kind) => kind,
        };
        write!(f, "{kind} {}", self.name)
    }
}

/// A workload and its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Pods that it wants.
    pub replicas: u32,
    /// Whether its own roll-out is over.
    pub rollout: Rollout,
    /// How it replaces pods when its template changes.
    pub strategy: Strategy,
    /// Value of the annotation `meshwright.io/moved-to` of its pod template.
    pub moved_to: Option<String>,
    /// Pods that have not ended, by name.
    pub pods: BTreeMap<String, Pod>,
}

/// Whether a workload's own roll-out is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollout {
    /// Its controller has seen the latest generation and all pods are of the latest template.
    Settled,
    /// Not so.
    Progressing,
}

/// How a workload replaces its pods when its template changes; numbers are resolved, not percentages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// New pods come up while old ones go.
    RollingUpdate {
        /// Pods above the wanted number.
        max_surge: u32,
        /// Pods below the wanted number.
        max_unavailable: u32,
    },
    /// All old pods go first.
    Recreate,
    /// Roll-outs are paused by its owner (`spec.paused`).
    Paused,
    /// The kind has no roll-out that could bring a new pod up first.
    None,
}

/// A pod that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its uid.
    pub uid: String,
    /// Release of its sidecar; none when it has no sidecar.
    pub revision: Option<String>,
    /// Condition `Ready`.
    pub ready: bool,
    /// Whether it has a deletion timestamp.
    pub terminating: bool,
    /// What the controllers say about its sidecar.
    pub proxy: Proxy,
    /// Its two slots, if it has them.
    pub slots: Option<Slots>,
}

/// One of two sidecar containers of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// `meshwright-proxy`.
    A,
    /// `meshwright-proxy-b`.
    B,
}

/// The slots of a pod that has two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// Release that injected the pod.
    pub injected: String,
    /// Format of what was injected.
    pub format: Format,
    /// Slot that shall be live.
    pub live: Slot,
    /// When that was last written, seconds since 1970; never, if the pod is as it was injected.
    pub swapped_at: Option<u64>,
    /// How many seconds the replaced sidecar then goes on with its connections.
    pub drain_seconds: u64,
    /// Release of the sidecar that the controllers see; none when they see none or could not be asked.
    pub serving: Option<String>,
}

/// Format of what an injector added to a pod: two pods of one format differ in nothing that a sidecar sees.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// The pod is older than formats.
    Unnumbered,
    /// The annotation's number.
    Number(u32),
    /// The annotation, which is no number: somebody edited it.
    Unreadable(String),
}

impl Format {
    /// Reads the annotation `meshwright.io/pod-format`.
    #[must_use]
    pub fn parse(annotation: Option<&str>) -> Self {
        match annotation.map(|text| (text, text.parse())) {
            None => Self::Unnumbered,
            Some((_, Ok(number))) => Self::Number(number),
            Some((text, Err(_))) => Self::Unreadable(text.chars().take(64).collect()),
        }
    }
}

/// What the controllers say about a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// Not all controllers could be asked.
    Unknown,
    /// Connected to none.
    NotConnected,
    /// Connected; has not acknowledged everything yet.
    Behind,
    /// Refuses something; Envoy's words.
    Rejecting(String),
    /// Another release than it shall have still serves; why, as far as the pod shows it.
    Swapping(String),
    /// Connected and has acknowledged everything.
    InSync,
}

/// A PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// `status.disruptionsAllowed`; 0 while its controller has not seen its latest generation.
    pub allowed: u32,
    /// Names of the pods that it selects.
    pub pods: BTreeSet<String>,
}

/// A pod outside the mesh's namespaces that still has its sidecar.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stray {
    /// Namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Release of the sidecar.
    pub revision: String,
}

/// What is wanted: one record and what the MeshConfig says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Name of the mesh.
    pub mesh: String,
    /// Release that was in effect.
    pub from: String,
    /// Release to go to.
    pub to: String,
    /// `spec.version` of the MeshConfig now.
    pub wanted: String,
    /// Waves as written.
    pub waves: Vec<Wave>,
    /// How long a wave is watched.
    pub soak: Duration,
    /// Whether a person has to approve and has.
    pub approval: Approval,
    /// `spec.paused`.
    pub paused: bool,
    /// `spec.abort`.
    pub abort: bool,
    /// How many workloads may be short of a pod on account of the upgrade at once; at least 1.
    pub workloads_at_once: usize,
}

/// A wave as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// Name.
    pub name: String,
    /// Namespaces in order.
    pub namespaces: Vec<String>,
}

/// Whether a person has to approve and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// Nobody has to.
    NotNeeded,
    /// Somebody has.
    Given,
    /// Somebody has to.
    Missing,
}

/// Which way an upgrade goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the new release.
    Forward,
    /// Back: `spec.abort` was set.
    BackOnAbort,
    /// Back: the MeshConfig asks for the old release again.
    BackOnEdit,
}

impl Desired {
    /// Which way to go. A MeshConfig that asks for a third release is another record's matter.
    #[must_use]
    pub fn direction(&self) -> Direction {
        if self.wanted == self.from {
            Direction::BackOnEdit
        } else if self.abort {
            Direction::BackOnAbort
        } else {
            Direction::Forward
        }
    }

    /// The release to move namespaces and pods to.
    #[must_use]
    pub fn target(&self) -> &str {
        match self.direction() {
            Direction::Forward => &self.to,
            Direction::BackOnAbort | Direction::BackOnEdit => &self.from,
        }
    }
}
