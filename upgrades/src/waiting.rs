//! Every reason why an upgrade does nothing more right now, in words for the person whose upgrade looks stuck.

use std::fmt;

use crate::catalogue::Unreachable;
use crate::facts::{Kind, Proxy, WaveId, WorkloadId};
use crate::users::User;

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingOn {
    /// A person's approval.
    Approval,
    /// A person ending a pause.
    Pause,
    /// A release in use from which the target may not be reached; needs a person.
    Route(Unreachable),
    /// The control plane of a release.
    Revision {
        /// Release.
        version: String,
        /// What is missing.
        why: String,
    },
    /// The label of a namespace to be observed.
    Label {
        /// Namespace.
        namespace: String,
    },
    /// A PodDisruptionBudget that allows nothing now.
    Budget {
        /// Namespace.
        namespace: String,
        /// Name of the budget.
        budget: String,
        /// Pod that would go next.
        pod: String,
    },
    /// More than one budget covers a pod; the Eviction API refuses that. Needs a person.
    Budgets {
        /// Namespace.
        namespace: String,
        /// Pod.
        pod: String,
        /// Names of the budgets.
        budgets: Vec<String>,
    },
    /// The end of a roll-out.
    Rollout(Place),
    /// A paused Deployment of one replica; needs a person.
    PausedDeployment(Place),
    /// All replicas being there.
    Replicas {
        /// Workload.
        place: Place,
        /// Ready pods.
        ready: u32,
        /// Wanted pods.
        replicas: u32,
    },
    /// A moved pod becoming ready.
    PodReady {
        /// Namespace.
        namespace: String,
        /// Pod.
        pod: String,
    },
    /// The sidecar of a moved pod.
    Sidecar {
        /// Namespace.
        namespace: String,
        /// Pod.
        pod: String,
        /// Its state.
        proxy: Proxy,
    },
    /// The connections of a pod's old sidecar, before its slot is used again.
    Draining {
        /// Namespace.
        namespace: String,
        /// Pod.
        pod: String,
        /// When their time is up, seconds since 1970.
        until: u64,
    },
    /// Other workloads having moved first.
    Turn {
        /// Workloads that may move at once now.
        limit: usize,
    },
    /// The soak of a wave.
    Soak {
        /// Wave.
        wave: WaveId,
        /// For how many seconds it was watched, rounded down.
        watched: u64,
        /// For how many seconds it is.
        length: u64,
    },
    /// The control-plane reconciler having seen which way the upgrade goes.
    Unseen,
    /// A workload that was not healthy when the upgrade came to it.
    Unhealthy {
        /// Workload.
        place: Place,
        /// Ready pods.
        ready: u32,
        /// Wanted pods.
        replicas: u32,
        /// Some pods that are not ready, in order.
        pods: Vec<String>,
        /// Whether it is still waited for.
        patience: Patience,
    },
    /// Namespaces or pods that still use a revision.
    InUse {
        /// Release.
        version: String,
        /// Some of them, in order.
        users: Vec<User>,
        /// How many there are.
        count: usize,
    },
    /// The control-plane reconciler removing a revision that nobody uses.
    Removal {
        /// Release.
        version: String,
    },
    /// The control-plane reconciler saying that the target is in effect.
    Effect {
        /// Release.
        version: String,
    },
    /// A person editing `spec.version` of the MeshConfig after an abort.
    Edit {
        /// Mesh.
        mesh: String,
        /// What it says.
        says: String,
        /// What it should say.
        should: String,
    },
}

/// Whether a workload that was not healthy before is still waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Yes, until then (seconds since 1970): most recover by themselves.
    Until(u64),
    /// No: the others go on without it.
    Over,
}

/// A workload and its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Namespace.
    pub namespace: String,
    /// Workload.
    pub workload: WorkloadId,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, workload } = self;
        write!(f, "{workload} in {namespace}")
    }
}

impl Place {
    /// It as one word, the same at every pass: `workload/shop/Deployment/web`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("workload/{}/{}", self.namespace, self.workload.to_string().replace(' ', "/"))
    }

    /// Reads an [`Place::id`]; nothing when it is another step's.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        let mut parts = id.strip_prefix("workload/")?.splitn(3, '/').map(str::to_owned);
        let (namespace, kind, name) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { namespace, workload: WorkloadId { name, kind: Kind::named(&kind) } })
    }
}

impl WaitingOn {
    /// Whether it will not pass without a person.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Approval
            | Self::Pause
            | Self::Route(_)
            | Self::Budgets { .. }
            | Self::PausedDeployment(_)
            | Self::Unhealthy { patience: Patience::Over, .. }
            | Self::Edit { .. } => true,
            Self::Unseen
            | Self::Unhealthy { patience: Patience::Until(_), .. }
            | Self::Revision { .. }
            | Self::Label { .. }
            | Self::Budget { .. }
            | Self::Rollout(_)
            | Self::Replicas { .. }
            | Self::PodReady { .. }
            | Self::Sidecar { .. }
            | Self::Draining { .. }
            | Self::Turn { .. }
            | Self::Soak { .. }
            | Self::InUse { .. }
            | Self::Removal { .. }
            | Self::Effect { .. } => false,
        }
    }

    /// CamelCase reason for a condition or an Event.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Approval => "AwaitingApproval",
            Self::Pause => "Paused",
            Self::Route(why) => why.reason(),
            Self::Revision { .. } => "ControlPlaneNotReady",
            Self::Label { .. } => "NamespaceNotLabelled",
            Self::Budget { .. } => "DisruptionBudget",
            Self::Budgets { .. } => "SeveralDisruptionBudgets",
            Self::Rollout(_) => "RolloutRunning",
            Self::PausedDeployment(_) => "DeploymentPaused",
            Self::Replicas { .. } => "ReplicasNotReady",
            Self::PodReady { .. } => "PodNotReady",
            Self::Sidecar { .. } => "SidecarNotInSync",
            Self::Draining { .. } => "Draining",
            Self::Turn { .. } => "OthersFirst",
            Self::Soak { .. } => "Soaking",
            Self::Unseen => "NotSeenYet",
            Self::Unhealthy { .. } => "UnhealthyBefore",
            Self::InUse { .. } => "RevisionInUse",
            Self::Removal { .. } => "RemovingRevision",
            Self::Effect { .. } => "NotInEffect",
            Self::Edit { .. } => "VersionMustBeEdited",
        }
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Approval => write!(f, "spec.approved of this MeshUpgrade: a person has to set it to true"),
            Self::Pause => write!(f, "spec.paused of this MeshUpgrade: a person has to set it to false"),
            Self::Route(why) => write!(f, "{why}"),
            Self::Revision { version, why } => write!(f, "the control plane of {version}: {why}"),
            Self::Label { namespace } => write!(f, "the revision label of namespace {namespace}"),
            Self::Budget { namespace, budget, pod } => {
                write!(
                    f,
                    "PodDisruptionBudget {budget} in {namespace}: it allows no disruption now, and pod {pod} is next"
                )
            }
            Self::Budgets { namespace, pod, budgets } => write!(
                f,
                "pod {pod} in {namespace}: PodDisruptionBudgets {} all cover it, and the Eviction API accepts one; \
                 let one select it",
                budgets.join(", ")
            ),
            Self::Rollout(place) => write!(f, "the roll-out of {place}"),
            Self::PausedDeployment(place) => {
                write!(
                    f,
                    "{place}: it has one replica and its roll-outs are paused; set spec.paused to false"
                )
            }
            Self::Replicas { place, ready, replicas } => {
                write!(f, "{place}: {ready} of {replicas} replicas are ready")
            }
            Self::PodReady { namespace, pod } => write!(f, "pod {pod} in {namespace} to be ready"),
            Self::Sidecar { namespace, pod, proxy } => {
                let state = match proxy {
                    Proxy::Unknown => "its state is unknown, since not all controllers could be asked",
                    Proxy::NotConnected => "it is not connected to a controller",
                    Proxy::Behind => "it has not acknowledged its configuration yet",
                    Proxy::Rejecting(words) => {
                        return write!(f, "the sidecar of pod {pod} in {namespace}: Envoy rejects: {words}");
                    }
                    Proxy::Swapping(why) => {
                        return write!(f, "the sidecar of pod {pod} in {namespace} to be swapped: {why}");
                    }
                    Proxy::InSync => "it is in sync",
                };
                write!(f, "the sidecar of pod {pod} in {namespace}: {state}")
            }
            Self::Draining { namespace, pod, until } => write!(
                f,
                "the old sidecar of pod {pod} in {namespace}: it keeps its connections until {}",
                crate::display::time(*until)
            ),
            Self::Turn { limit: 1 } => write!(f, "another workload, which moves first"),
            Self::Turn { limit } => write!(f, "other workloads: {limit} move at once"),
            Self::Soak { wave, watched, length } => {
                write!(f, "{wave}, watched for {watched} of {length} s")
            }
            Self::Unseen => write!(f, "the control-plane reconciler to see which way this upgrade goes"),
            Self::Unhealthy { place, ready, replicas, pods, patience } => {
                write!(
                    f,
                    "{place}, which was not healthy before the upgrade came to it: {ready} of {replicas} "
                )?;
                write!(f, "replicas are ready")?;
                if !pods.is_empty() {
                    write!(f, ", not {}", pods.join(", "))?;
                }
                match patience {
                    Patience::Until(time) => {
                        write!(f, "; from {} on the others go on without it", crate::display::time(*time))
                    }
                    Patience::Over => write!(f, "; the others go on without it; mend or delete it"),
                }
            }
            Self::InUse { version, users, count } => {
                let more = count.saturating_sub(users.len());
                let named: Vec<_> = users.iter().map(ToString::to_string).collect();
                write!(f, "{version} still being used by {}", named.join(", "))?;
                if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
            }
            Self::Removal { version } => write!(f, "the control plane of {version} to be removed"),
            Self::Effect { version } => {
                write!(f, "status.version.effective of the MeshConfig to say {version}")
            }
            Self::Edit { mesh, says, should } => write!(
                f,
                "spec.version of MeshConfig {mesh}: it says {says}; set it to {should}, or spec.abort of this MeshUpgrade \
                 to false to go on"
            ),
        }
    }
}
