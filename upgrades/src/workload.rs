//! One workload: how its pods can be moved, and what may be done to it now.
//!
//! A sidecar belongs to its pod, so moving a workload is replacing its pods. Eviction is preferred: it honours
//! PodDisruptionBudgets and leaves the owner's template as Git has it. It is safe only while another ready pod
//! carries the traffic, so a Deployment of one replica is rolled instead: its new pod is up before the old one goes.

use std::fmt;

use crate::catalogue::Catalogue;
use crate::facts::{
    Budget, Kind, Namespace, PATIENCE_SECONDS, Pod, Proxy, Rollout, Slot, Strategy, Workload, WorkloadId,
};
use crate::plan::Health;
use crate::swap::{self, NoSwap};
use crate::waiting::{Patience, Place, WaitingOn};

/// How many pods that are not ready are named.
const NAMED_PODS: usize = 3;

/// How the pods of a workload are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// Their sidecars are swapped in place, one pod at a time.
    Swap,
    /// One pod at a time through the Eviction API, while all others are ready.
    Evict,
    /// One pod at a time, highest ordinal first.
    EvictInOrder,
    /// By an annotation on the pod template, so that the new pod is up before the old one goes.
    Surge,
    /// By eviction, although nothing carries the traffic meanwhile.
    EvictWithGap(Gap),
    /// Not moved.
    Stays(Stays),
}

/// Why a workload cannot be moved without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// A Deployment of one replica that its strategy removes before it makes a new one.
    Strategy,
    /// A StatefulSet or ReplicaSet of one replica.
    SingleReplica,
    /// A DaemonSet has one pod per node.
    OnePerNode,
}

/// Why a workload is not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stays {
    /// Pods of a Job end by themselves; a restart would lose their work.
    Job,
    /// Nothing would make the pod again.
    BarePod,
    /// Meshwright does not know how its controller makes pods again.
    UnknownController,
}

impl fmt::Display for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Swap => "in place, one pod at a time: a new sidecar takes over while the app runs on",
            Self::Evict => "by eviction, one pod at a time, while all others are ready",
            Self::EvictInOrder => "by eviction, highest ordinal first, while all others are ready",
            Self::Surge => {
                "by a roll-out, since it has one replica and the new pod must be up before the old one goes"
            }
            Self::EvictWithGap(Gap::Strategy) => {
                "by eviction with a gap: it has one replica and its strategy allows no second pod beside it"
            }
            Self::EvictWithGap(Gap::SingleReplica) => {
                "by eviction with a gap: it has one replica, and its kind has no roll-out that keeps it"
            }
            Self::EvictWithGap(Gap::OnePerNode) => {
                "by eviction, one pod at a time, with a gap on each node: a DaemonSet has one pod there"
            }
            Self::Stays(Stays::Job) => {
                "not moved: pods of a Job end by themselves; until then they keep the old revision"
            }
            Self::Stays(Stays::BarePod) => {
                "not moved: nothing makes this pod again; delete and create it yourself"
            }
            Self::Stays(Stays::UnknownController) => {
                "not moved: its controller is unknown to Meshwright; replace its pods yourself"
            }
        })
    }
}

/// How a workload is moved.
#[must_use]
pub fn manner(id: &WorkloadId, workload: &Workload) -> Manner {
    match (&id.kind, workload.replicas) {
        (Kind::Deployment, 0 | 1) => match workload.strategy {
            Strategy::RollingUpdate { max_surge: 1.., max_unavailable: 0 } | Strategy::Paused => {
                Manner::Surge
            }
            Strategy::RollingUpdate { .. } | Strategy::Recreate | Strategy::None => {
                Manner::EvictWithGap(Gap::Strategy)
            }
        },
        (Kind::StatefulSet | Kind::ReplicaSet, 0 | 1) => Manner::EvictWithGap(Gap::SingleReplica),
        (Kind::Deployment | Kind::ReplicaSet, _) => Manner::Evict,
        (Kind::StatefulSet, _) => Manner::EvictInOrder,
        (Kind::DaemonSet, _) => Manner::EvictWithGap(Gap::OnePerNode),
        (Kind::Job, _) => Manner::Stays(Stays::Job),
        (Kind::Pod, _) => Manner::Stays(Stays::BarePod),
        (Kind::Other(_), _) => Manner::Stays(Stays::UnknownController),
    }
}

/// What may be done to a workload now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// All its sidecars are of the target, ready and in sync.
    Done,
    /// It is not moved.
    Stays(Stays),
    /// Evict this pod; it serves nobody, so nothing is lost.
    EvictIdle(String),
    /// Evict this pod, which is covered by at most one budget.
    Evict {
        /// The pod.
        pod: String,
        /// Budget that pays for it.
        budget: Option<String>,
    },
    /// Swap the sidecar of this pod.
    Swap {
        /// The pod.
        pod: String,
        /// The slot that is live.
        live: Slot,
        /// Budgets that count the second in which the pod isn't ready.
        budgets: Vec<String>,
    },
    /// Write this value of the annotation.
    Surge(String),
    /// It moves; wait.
    Moving(WaitingOn),
    /// Nothing was disturbed; wait.
    Held(WaitingOn),
    /// It was not healthy when the upgrade came to it and still isn't; nobody else waits for it.
    Aside(WaitingOn),
}

/// A workload within its namespace, as the planner looks at it.
pub(crate) struct Look<'a> {
    pub place: Place,
    pub namespace: &'a Namespace,
    pub workload: &'a Workload,
    pub target: &'a str,
    pub catalogue: &'a Catalogue,
    pub now: u64,
    /// Since when it is known not to have been healthy when the upgrade came to it.
    pub unhealthy: Option<u64>,
}

impl Look<'_> {
    /// Pods that carry a sidecar of another release and are not on their way out, in order of names.
    pub fn old(&self) -> impl Iterator<Item = (&String, &Pod)> {
        self.live().filter(|(_, pod)| pod.revision.as_deref().is_some_and(|revision| revision != self.target))
    }

    /// Pods that carry a sidecar of the target and are not on their way out.
    pub fn moved(&self) -> impl Iterator<Item = (&String, &Pod)> {
        self.live().filter(|(_, pod)| pod.revision.as_deref() == Some(self.target))
    }

    /// Whether the workload has anything to do with the mesh.
    pub fn meshed(&self) -> bool {
        self.workload.pods.values().any(|pod| pod.revision.is_some())
    }

    fn live(&self) -> impl Iterator<Item = (&String, &Pod)> {
        self.workload.pods.iter().filter(|(_, pod)| !pod.terminating)
    }

    /// How its pods are moved now, and why not in place where the namespace asks for that.
    pub fn manner(&self) -> (Manner, Option<NoSwap>) {
        let manner = manner(&self.place.workload, self.workload);
        if !self.namespace.hot_swap {
            return (manner, None);
        }
        // What has been swapped is shown as that.
        if self.old().next().is_none() && self.live().all(|(_, pod)| pod.slots.is_some()) && self.meshed() {
            return (Manner::Swap, None);
        }
        let mut why = None;
        for (_, pod) in self.old() {
            match swap::possible(pod, self.target, self.catalogue) {
                Ok(_) => return (Manner::Swap, None),
                Err(no_swap) => why = Some(no_swap),
            }
        }
        (manner, why)
    }

    /// How it is as long as nothing of it was moved.
    pub fn health(&self) -> Health {
        let touched = self.moved().next().is_some() || self.old().next().is_none();
        let stays = matches!(manner(&self.place.workload, self.workload), Manner::Stays(_));
        let short = count(self.live()) < self.workload.replicas || self.live().any(|(_, pod)| !pod.ready);
        let poor = short || self.workload.rollout == Rollout::Progressing;
        if touched || stays || !poor { Health::Fine } else { Health::Poor }
    }

    /// What may be done now. What a workload lacked before the upgrade came to it is waited for, but not for ever: a
    /// neighbour's broken app would hold everybody's upgrade. What the sidecars say is never set aside.
    pub fn next(&self) -> Next {
        let next = self.undisturbed();
        let Some(since) = self.unhealthy else { return next };
        let lacks_ready_pods = |wait: &WaitingOn| {
            matches!(wait, WaitingOn::PodReady { .. } | WaitingOn::Replicas { .. } | WaitingOn::Rollout(_))
        };
        let until = since.saturating_add(PATIENCE_SECONDS);
        match next {
            Next::Moving(wait) | Next::Held(wait) if lacks_ready_pods(&wait) && self.now >= until => {
                Next::Aside(self.lacking(Patience::Over))
            }
            Next::Held(wait) if lacks_ready_pods(&wait) => Next::Held(self.lacking(Patience::Until(until))),
            Next::Moving(wait) if lacks_ready_pods(&wait) && self.moved().next().is_none() => {
                Next::Held(self.lacking(Patience::Until(until)))
            }
            next => next,
        }
    }

    fn lacking(&self, patience: Patience) -> WaitingOn {
        let pods = self.live().filter(|(_, pod)| !pod.ready).map(|(name, _)| name.clone());
        WaitingOn::Unhealthy {
            place: self.place.clone(),
            ready: count(self.live().filter(|(_, pod)| pod.ready)),
            replicas: self.workload.replicas,
            pods: pods.take(NAMED_PODS).collect(),
            patience,
        }
    }

    /// What may be done now to a healthy workload. The order of the questions is the argument why it is safe: nothing is disturbed while
    /// anything that was disturbed before has not recovered.
    fn undisturbed(&self) -> Next {
        let (manner, _) = self.manner();
        if let Manner::Stays(why) = manner {
            return Next::Stays(why);
        }
        if let Some(wait) = self.unsettled_pod() {
            return Next::Moving(wait);
        }
        if self.workload.rollout == Rollout::Progressing {
            return Next::Moving(WaitingOn::Rollout(self.place.clone()));
        }
        let live = count(self.live());
        if live < self.workload.replicas {
            return Next::Moving(self.replicas(count(self.live().filter(|(_, pod)| pod.ready))));
        }
        if let Some((idle, _)) = self.old().find(|(_, pod)| !pod.ready && manner != Manner::Swap) {
            return Next::EvictIdle(idle.clone());
        }
        if self.old().next().is_none() {
            return Next::Done;
        }
        let ready = count(self.live().filter(|(_, pod)| pod.ready));
        if ready < self.workload.replicas {
            return Next::Held(self.replicas(ready));
        }
        match manner {
            Manner::Swap => self.swap(),
            Manner::Surge => self.surge(),
            Manner::Evict | Manner::EvictInOrder | Manner::EvictWithGap(_) => self.evict(manner, ready),
            Manner::Stays(why) => Next::Stays(why),
        }
    }

    /// The first moved pod that is not ready or not in sync.
    fn unsettled_pod(&self) -> Option<WaitingOn> {
        let namespace = || self.place.namespace.clone();
        self.moved().find_map(|(pod, state)| match (state.ready, &state.proxy) {
            (_, Proxy::Rejecting(_) | Proxy::Swapping(_))
            | (true, Proxy::Unknown | Proxy::NotConnected | Proxy::Behind) => Some(WaitingOn::Sidecar {
                namespace: namespace(),
                pod: pod.clone(),
                proxy: state.proxy.clone(),
            }),
            (false, _) => Some(WaitingOn::PodReady { namespace: namespace(), pod: pod.clone() }),
            (true, Proxy::InSync) => None,
        })
    }

    /// The first pod whose sidecar can be swapped. A budget counts its second of not being ready, like any other; but one
    /// that allows nothing although all its pods are ready never will, and no pod goes.
    fn swap(&self) -> Next {
        let mut able = self
            .old()
            .filter_map(|(name, pod)| Some((name, swap::possible(pod, self.target, self.catalogue).ok()?)));
        let Some((pod, slots)) = able.next() else { return Next::Done };
        let namespace = self.place.namespace.clone();
        let until = swap::free_at(slots, self.target);
        if self.now < until {
            return Next::Held(WaitingOn::Draining { namespace, pod: pod.clone(), until });
        }
        let covering = self.namespace.budgets.iter().filter(|(_, budget)| budget.pods.contains(pod));
        let disturbed = |budget: &Budget| {
            let mut pods = self.namespace.workloads.values().flat_map(|workload| &workload.pods);
            budget.allowed == 0 && pods.any(|(name, pod)| !pod.ready && budget.pods.contains(name))
        };
        if let Some((name, _)) = covering.clone().find(|(_, budget)| disturbed(budget)) {
            return Next::Held(WaitingOn::Budget { namespace, budget: name.clone(), pod: pod.clone() });
        }
        let budgets = covering.map(|(name, _)| name.clone()).collect();
        Next::Swap { pod: pod.clone(), live: slots.live, budgets }
    }

    fn surge(&self) -> Next {
        match self.workload.strategy {
            Strategy::Paused => Next::Held(WaitingOn::PausedDeployment(self.place.clone())),
            _ => Next::Surge(next_mark(self.workload.moved_to.as_deref(), self.target)),
        }
    }

    fn evict(&self, manner: Manner, ready: u32) -> Next {
        let pod = match manner {
            Manner::EvictInOrder => self.old().max_by_key(|(name, _)| ordinal(name)),
            _ => self.old().next(),
        };
        let Some((pod, _)) = pod else { return Next::Done };
        if ready < 2 && !matches!(manner, Manner::EvictWithGap(_)) {
            return Next::Held(self.replicas(ready));
        }
        let namespace = self.place.namespace.clone();
        let covering: Vec<(&String, &Budget)> =
            self.namespace.budgets.iter().filter(|(_, budget)| budget.pods.contains(pod)).collect();
        match covering.as_slice() {
            [] => Next::Evict { pod: pod.clone(), budget: None },
            [(name, budget)] if budget.allowed > 0 => {
                Next::Evict { pod: pod.clone(), budget: Some((*name).clone()) }
            }
            [(name, _)] => {
                Next::Held(WaitingOn::Budget { namespace, budget: (*name).clone(), pod: pod.clone() })
            }
            several => {
                let budgets = several.iter().map(|(name, _)| (*name).clone()).collect();
                Next::Held(WaitingOn::Budgets { namespace, pod: pod.clone(), budgets })
            }
        }
    }

    fn replicas(&self, ready: u32) -> WaitingOn {
        WaitingOn::Replicas { place: self.place.clone(), ready, replicas: self.workload.replicas }
    }
}

/// The next value of the annotation: the release, and a count when the roll-out it caused was over and yet left a
/// pod of another release (the API server still had the old label of the namespace when the pod was admitted).
fn next_mark(mark: Option<&str>, target: &str) -> String {
    let Some(rest) = mark.and_then(|mark| mark.strip_prefix(target)) else { return target.to_owned() };
    let tries: u32 =
        if rest.is_empty() { 1 } else { rest.strip_prefix('#').and_then(|n| n.parse().ok()).unwrap_or(0) };
    if tries == 0 { target.to_owned() } else { format!("{target}#{}", tries.saturating_add(1)) }
}

/// `db-12` is 12; names without a number come first.
fn ordinal(name: &str) -> (u64, &str) {
    (name.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0), name)
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_count_up() {
        assert_eq!(next_mark(None, "0.2.0"), "0.2.0");
        assert_eq!(next_mark(Some("0.1.0"), "0.2.0"), "0.2.0");
        assert_eq!(next_mark(Some("0.2.0"), "0.2.0"), "0.2.0#2");
        assert_eq!(next_mark(Some("0.2.0#2"), "0.2.0"), "0.2.0#3");
        assert_eq!(next_mark(Some("0.2.0-rc.1"), "0.2.0"), "0.2.0");
    }

    #[test]
    fn ordinals_are_numbers() {
        assert!(ordinal("db-10") > ordinal("db-9"));
        assert_eq!(ordinal("db").0, 0);
    }
}
