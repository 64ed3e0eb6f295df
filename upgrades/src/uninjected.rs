//! Pods that escaped injection, and their planned restart.
//!
//! ```text
//!  escaped pods, workloads, budgets ──┐
//!  what was restarted before ─────────┴─▶ plan ──▶ why each waits, and at most one thing to do now
//! ```
//!
//! The rules are those of an upgrade ([`Look`]): an escaped pod is looked at as one with the sidecar of a release that is to
//! go, so it goes only while all others are ready, within every budget, and one workload at a time. Nothing is restarted
//! while an upgrade runs, nor where the new pod would not be injected.
//!
//! **It ends.** A pod that is younger than every pod that was without a sidecar when its workload was first restarted escaped
//! again. That counts by the API server's own times, and is written down before anything is done: after
//! [`TRIES`] restarts in vain the workload is left and named. Once all its pods have a sidecar, that is forgotten.

use std::collections::BTreeMap;

use crds::mesh_config::Approval;

use crate::facts::{Namespace, Observed, Pod, Readiness, Workload, WorkloadId};
use crate::plan::{Action, Cost};
use crate::waiting::{Place, WaitingOn};
use crate::workload::{Look, Manner, Next, manner};

mod state;

pub use state::{State, Word};

/// How often pods that escaped again are restarted.
pub const TRIES: u32 = 2;
/// Stands for the release of a pod that has no sidecar; no release is called so.
const NONE: &str = "";

/// What a plan is made of.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// As for an upgrade.
    pub observed: Observed,
    /// Namespace and name of the pods that run without a sidecar and do not say why; when each was made, in seconds since
    /// 1970 by the API server's clock.
    pub escaped: BTreeMap<(String, String), u64>,
    /// Whether a person has to approve.
    pub approval: Approval,
    /// What people said about the restarts of a namespace.
    pub words: BTreeMap<String, Word>,
    /// The upgrade that is not over.
    pub upgrade: Option<String>,
    /// What was restarted before.
    pub records: BTreeMap<Place, Record>,
}

/// What was done to a workload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// When the youngest pod was made that had no sidecar when the first of them was restarted.
    pub since: u64,
    /// How often pods were restarted although one had escaped again.
    pub again: u32,
    /// Uid of the pod that was restarted last.
    pub last: String,
}

/// What may be done now, and what is said of every workload that has to do with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restarts {
    /// Every workload with pods that escaped, and those that were restarted and are not whole yet; in order.
    pub workloads: Vec<Restart>,
    /// What to do now, after the records are written.
    pub action: Option<Action>,
}

/// A workload with pods that escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    /// Which.
    pub place: Place,
    /// How many of its pods have no sidecar.
    pub pods: usize,
    /// What was done to it, with what is about to be done.
    pub record: Option<Record>,
    /// What is done now, or why nothing.
    pub state: State,
}

/// What may be done now. Depends on nothing but its argument.
#[must_use]
pub fn plan(facts: &Facts) -> Restarts {
    let views = views(facts);
    // What was begun is whole again before anything else is touched.
    let mut first = views.iter().find(|view| view.is_underway()).map(|view| view.place.clone());
    let mut restarts = Restarts::default();
    for view in &views {
        let Some((state, action)) = view.decide(facts, first.as_ref()) else { continue };
        let mut record = view.record.cloned();
        if let Some((action, uid)) = action {
            record = Some(view.next_record(&uid));
            first.get_or_insert_with(|| view.place.clone());
            restarts.action = Some(action);
        }
        let (place, pods) = (view.place.clone(), view.escaped().count());
        restarts.workloads.push(Restart { place, pods, record, state });
    }
    restarts
}

/// A workload whose escaped pods are disguised as pods of a release that is to go.
struct View<'a> {
    place: Place,
    workload: Workload,
    target: Option<&'a str>,
    made: BTreeMap<String, u64>,
    record: Option<&'a Record>,
    next: Next,
}

fn views(facts: &Facts) -> Vec<View<'_>> {
    let mut views = Vec::new();
    for (name, namespace) in facts.observed.namespaces.iter().filter(|(_, namespace)| !namespace.terminating)
    {
        for (id, workload) in &namespace.workloads {
            let made = |pod: &String| facts.escaped.get(&(name.clone(), pod.clone())).copied();
            let made: BTreeMap<String, u64> =
                workload.pods.keys().filter_map(|pod| Some((pod.clone(), made(pod)?))).collect();
            let place = Place { namespace: name.clone(), workload: id.clone() };
            let record = facts.records.get(&place);
            if !made.is_empty() || record.is_some() {
                views.push(View::new(facts, place, (namespace, workload), made, record));
            }
        }
    }
    views
}

impl<'a> View<'a> {
    fn new(
        facts: &'a Facts,
        place: Place,
        (namespace, workload): (&'a Namespace, &Workload),
        made: BTreeMap<String, u64>,
        record: Option<&'a Record>,
    ) -> Self {
        let target = namespace.revision.as_deref();
        let mut workload = workload.clone();
        for (name, pod) in &mut workload.pods {
            pod.slots = None;
            pod.revision = match (made.contains_key(name), &pod.revision) {
                (true, _) => Some(NONE.to_owned()),
                // Of whichever release: it has its sidecar.
                (false, Some(_)) => target.map(str::to_owned),
                (false, None) => None,
            };
        }
        let namespace = Namespace {
            hot_swap: false,
            workloads: BTreeMap::new(),
            budgets: namespace.budgets.clone(),
            revision: namespace.revision.clone(),
            terminating: false,
        };
        let look = Look {
            place: place.clone(),
            namespace: &namespace,
            workload: &workload,
            target: target.unwrap_or("?"),
            catalogue: &facts.observed.catalogue,
            now: facts.observed.now,
            unhealthy: None,
        };
        let next = look.next();
        Self { place, workload, target, made, record, next }
    }

    fn escaped(&self) -> impl Iterator<Item = (&String, &Pod)> {
        self.workload.pods.iter().filter(|(name, pod)| !pod.terminating && self.made.contains_key(*name))
    }

    /// Whether it was restarted and has not recovered.
    fn is_underway(&self) -> bool {
        self.record.is_some() && matches!(self.next, Next::Moving(_))
    }

    /// Whether a pod has no sidecar that is younger than those of the first restart.
    fn escaped_again(&self) -> bool {
        let Some(record) = self.record else { return false };
        self.escaped().any(|(name, _)| self.made.get(name).is_some_and(|made| *made > record.since))
    }

    /// The record with the restart of a pod in it. One that was about to be restarted already counts once.
    fn next_record(&self, uid: &str) -> Record {
        let last = uid.to_owned();
        match self.record {
            None => {
                let since = self.escaped().filter_map(|(name, _)| self.made.get(name)).max();
                Record { since: since.copied().unwrap_or(0), again: 0, last }
            }
            Some(before) if before.last == uid || !self.escaped_again() => Record { last, ..before.clone() },
            Some(before) => Record { again: before.again.saturating_add(1), last, ..before.clone() },
        }
    }

    /// What is said, and what is done with which pod; nothing when all of it is well.
    fn decide(&self, facts: &Facts, first: Option<&Place>) -> Option<(State, Option<(Action, String)>)> {
        let said = |state| Some((state, None));
        if self.escaped().next().is_none() {
            return match &self.next {
                Next::Moving(wait) | Next::Held(wait) | Next::Aside(wait) => {
                    said(State::Waiting(wait.clone()))
                }
                // All its pods have a sidecar: what was done to it is over.
                _ => None,
            };
        }
        if let Next::Stays(why) = self.next {
            return said(State::Left(why));
        }
        if let Some(state) = self.held(facts) {
            return said(state);
        }
        match first {
            Some(place) if *place != self.place => return said(State::Turn(place.clone())),
            _ => {}
        }
        let (pod, action) = match &self.next {
            Next::EvictIdle(pod) => (pod.clone(), self.evict(pod, Cost::Nothing)),
            Next::Evict { pod, budget } => (pod.clone(), self.evict(pod, self.cost(budget.clone()))),
            Next::Surge(mark) => (self.escaped().next()?.0.clone(), self.surge(mark)),
            Next::Moving(wait) | Next::Held(wait) | Next::Aside(wait) => {
                return said(State::Waiting(wait.clone()));
            }
            Next::Done | Next::Stays(_) | Next::Swap { .. } => return None,
        };
        Some((State::Restarting(self.manner()), Some((action, self.uid(&pod)))))
    }

    /// What keeps it from being restarted, whatever its pods are like.
    fn held(&self, facts: &Facts) -> Option<State> {
        if let Some(name) = &facts.upgrade {
            return Some(State::Upgrade(name.clone()));
        }
        match (facts.words.get(&self.place.namespace), facts.approval) {
            (Some(Word::Paused), _) => return Some(State::Paused),
            (Some(Word::Unknown(said)), _) => return Some(State::UnknownWord(said.clone())),
            (None, Approval::Manual) => return Some(State::Approval),
            (Some(Word::Approved), _) | (None, Approval::Automatic) => {}
        }
        let tries = self.record.map_or(0, |record| record.again);
        if self.escaped_again() && tries >= TRIES && !self.is_pending() {
            return Some(State::EscapedAgain(tries.saturating_add(1)));
        }
        let Some(version) = self.target else {
            let namespace = self.place.namespace.clone();
            return Some(State::NotInjecting(WaitingOn::Label { namespace }));
        };
        let why = match facts.observed.revisions.get(version) {
            Some(Readiness::Ready) => return None,
            Some(Readiness::NotReady(why)) => why.clone(),
            None => "it does not exist".to_owned(),
        };
        Some(State::NotInjecting(WaitingOn::Revision { version: version.to_owned(), why }))
    }

    /// Whether the restart that was written down last has not happened.
    fn is_pending(&self) -> bool {
        self.record.is_some_and(|record| self.escaped().any(|(_, pod)| pod.uid == record.last))
    }

    fn manner(&self) -> Manner {
        manner(&self.place.workload, &self.workload)
    }

    fn uid(&self, pod: &str) -> String {
        self.workload.pods.get(pod).map(|pod| pod.uid.clone()).unwrap_or_default()
    }

    fn cost(&self, budget: Option<String>) -> Cost {
        match (self.manner(), budget) {
            (Manner::EvictWithGap(_), budget) => Cost::Gap { budget },
            (_, Some(budget)) => Cost::Budget(budget),
            (_, None) => Cost::Replica,
        }
    }

    fn evict(&self, pod: &str, cost: Cost) -> Action {
        let Place { namespace, workload } = self.place.clone();
        Action::Evict { namespace, workload, pod: pod.to_owned(), uid: self.uid(pod), cost }
    }

    fn surge(&self, mark: &str) -> Action {
        let Place { namespace, workload: WorkloadId { name: deployment, kind: _ } } = self.place.clone();
        Action::Surge { namespace, deployment, expect: self.workload.moved_to.clone(), mark: mark.to_owned() }
    }
}

#[cfg(test)]
mod tests;
