//! The plan as a value: every step with its state and reason, what to do now, and what is waited for.

use crds::mesh_upgrade::{StepState, UpgradePhase};

use crate::facts::{Desired, Kind, Slot, WaveId, WorkloadId};
use crate::swap::NoSwap;
use crate::waiting::{Place, WaitingOn};
use crate::workload::{Manner, Stays};

/// What has to happen, what may happen now, and why not more. It leaves its executor no choice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an unread plan is an upgrade that looks stuck"]
pub struct Plan {
    /// What the plan is for.
    pub desired: Desired,
    /// Where the upgrade stands.
    pub phase: UpgradePhase,
    /// What to know before anything moves.
    pub notices: Vec<Notice>,
    /// Every step, in order.
    pub steps: Vec<Step>,
    /// What to do now, in order; each may be done or not, and twice, without harm.
    pub actions: Vec<Action>,
    /// What is waited for; empty only when the upgrade is over or something is done now.
    pub waiting: Vec<WaitingOn>,
    /// The release whose control plane may be removed now.
    pub retire: Option<String>,
    /// Sidecars of the target.
    pub moved: usize,
    /// Sidecars of the mesh's namespaces.
    pub total: usize,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub what: What,
    /// How far it is.
    pub state: StepState,
    /// Why it waits.
    pub waiting: Option<WaitingOn>,
    /// Whether everything before it is done, so that it may begin.
    pub reach: Reach,
    /// How its workload is, where it has one that nothing was done to yet.
    pub health: Health,
}

/// Whether a step may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It is only announced.
    Announced,
    /// It has its turn.
    Reached,
}

/// How the workload of a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing is wrong with it, or the step has no workload.
    Fine,
    /// It lacks ready pods, and nothing of it is of the target.
    Poor,
}

/// Something to know before anything moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Pods are restarted although sidecars shall be swapped in place.
    Restarts {
        /// How many pods.
        pods: usize,
        /// How many pods with a sidecar there are.
        of: usize,
        /// Why, and how many for each reason.
        why: Vec<(NoSwap, usize)>,
    },
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A person approves.
    Approve,
    /// The control plane of a release comes up (the control-plane reconciler does it).
    BringUp {
        /// Release.
        version: String,
    },
    /// A namespace gets the label of a release.
    Label {
        /// Namespace.
        namespace: String,
        /// Release.
        version: String,
    },
    /// A workload's pods are replaced.
    Move {
        /// Workload.
        place: Place,
        /// How.
        manner: Manner,
        /// Why not in place, where the namespace asks for that.
        no_swap: Option<NoSwap>,
        /// Sidecars of the target.
        moved: usize,
        /// Sidecars.
        total: usize,
    },
    /// A workload is left alone.
    Leave {
        /// Workload.
        place: Place,
        /// Why.
        why: Stays,
    },
    /// A wave is watched.
    Soak {
        /// Wave.
        wave: WaveId,
    },
    /// A revision is removed (the control-plane reconciler does it).
    Retire {
        /// Release.
        version: String,
    },
}

/// Something to do now, with what is expected to be found; if it isn't found, nothing is to be done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Set the revision label of a namespace.
    Relabel {
        /// Namespace.
        namespace: String,
        /// Value expected to be found.
        expect: Option<String>,
        /// Value to set.
        to: String,
    },
    /// Evict a pod.
    Evict {
        /// Namespace.
        namespace: String,
        /// Its workload.
        workload: WorkloadId,
        /// Pod.
        pod: String,
        /// Uid expected to be found.
        uid: String,
        /// What the eviction costs.
        cost: Cost,
    },
    /// Give the idle slot of a pod the image of a release and make it the live one.
    Swap {
        /// Namespace.
        namespace: String,
        /// Its workload.
        workload: WorkloadId,
        /// Pod.
        pod: String,
        /// Uid expected to be found.
        uid: String,
        /// Slot expected to be live.
        expect: Slot,
        /// Release.
        to: String,
        /// When, seconds since 1970.
        at: u64,
    },
    /// Set the annotation `meshwright.io/moved-to` on a Deployment's pod template.
    Surge {
        /// Namespace.
        namespace: String,
        /// The Deployment.
        deployment: String,
        /// Value expected to be found.
        expect: Option<String>,
        /// Value to set.
        mark: String,
    },
    /// Record that a wave soaks.
    BeginSoak {
        /// Wave.
        wave: WaveId,
        /// Seconds since 1970.
        since: u64,
    },
}

/// What an eviction costs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// Nothing: the pod isn't ready.
    Nothing,
    /// One of several ready pods, which no budget covers.
    Replica,
    /// One of several ready pods, at the expense of this budget.
    Budget(String),
    /// The only pod (of its node).
    Gap {
        /// Budget that pays for it, if one covers it.
        budget: Option<String>,
    },
}

impl What {
    /// What it is about, the same at every pass and however far it is.
    #[must_use]
    pub fn id(&self) -> String {
        match self {
            Self::Approve => "approve".to_owned(),
            Self::BringUp { version } => format!("bring-up/{version}"),
            Self::Label { namespace, .. } => format!("label/{namespace}"),
            Self::Move { place, .. } | Self::Leave { place, .. } => place.id(),
            Self::Soak { wave: WaveId::Named { name, nth } } => format!("watch/{nth}/{name}"),
            Self::Soak { wave: WaveId::Others } => "watch".to_owned(),
            Self::Retire { version } => format!("remove/{version}"),
        }
    }
}

impl Action {
    /// The id of the step that it is of.
    #[must_use]
    pub fn step(&self) -> String {
        let place = |namespace: &String, workload: &WorkloadId| {
            Place { namespace: namespace.clone(), workload: workload.clone() }.id()
        };
        match self {
            Self::Relabel { namespace, .. } => format!("label/{namespace}"),
            Self::Evict { namespace, workload, .. } | Self::Swap { namespace, workload, .. } => {
                place(namespace, workload)
            }
            Self::Surge { namespace, deployment, .. } => {
                place(namespace, &WorkloadId { name: deployment.clone(), kind: Kind::Deployment })
            }
            Self::BeginSoak { wave, .. } => What::Soak { wave: wave.clone() }.id(),
        }
    }

    /// Whether it disturbs something; the beginning of a soak is only written down.
    #[must_use]
    pub fn moves(&self) -> bool {
        match self {
            Self::Relabel { .. } | Self::Evict { .. } | Self::Swap { .. } | Self::Surge { .. } => true,
            Self::BeginSoak { .. } => false,
        }
    }
}

impl Plan {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn over(&self) -> bool {
        matches!(self.phase, UpgradePhase::Complete | UpgradePhase::Aborted)
    }

    /// `3/9 pods`.
    #[must_use]
    pub fn progress(&self) -> String {
        format!("{}/{} pods", self.moved, self.total)
    }
}
