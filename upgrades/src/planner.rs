//! From facts to a plan. One walk over the upgrade in its order; a step that isn't done closes the gate for all
//! steps after it, which are then only announced.
//!
//! ```text
//!  approve ▶ bring up ▶ [ label ▶ workloads ]… ▶ soak ▶ next wave … ▶ retire
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_upgrade::{StepState, UpgradePhase};

use crate::facts::{Approval, Desired, Direction, Namespace, Observed, Proxy, Readiness, Slot, Wave};
use crate::plan::{Action, Cost, Plan, Step, What};
pub use crate::users::users;
use crate::waiting::{Place, WaitingOn};
use crate::workload::{Look, Manner, Next};

/// Name of the wave of the namespaces that no wave names.
pub const LAST_WAVE: &str = "others";
/// How many users of a revision are named.
const NAMED_USERS: usize = 3;

/// What has to happen, what may happen now, and why not more. Depends on nothing but its arguments.
pub fn plan(observed: &Observed, desired: &Desired) -> Plan {
    let mut walk = Walk::new(observed, desired);
    let approved = walk.approve();
    let up = walk.bring_up();
    let mut moved = true;
    for wave in waves(observed, desired) {
        for name in &wave.namespaces {
            if let Some(namespace) = observed.namespaces.get(name) {
                moved &= walk.namespace(name, namespace);
            }
        }
        moved &= walk.soak(&wave.name);
    }
    let retired = walk.retire();
    walk.finish(approved, up, moved, retired)
}

/// The waves in the order in which they move: as written, each namespace once, then the others by name. The way back
/// is the reverse, so that what was moved last is back first.
#[must_use]
pub fn waves(observed: &Observed, desired: &Desired) -> Vec<Wave> {
    let mut left: BTreeSet<&String> = observed.namespaces.keys().collect();
    let mut waves: Vec<Wave> = Vec::new();
    for wave in &desired.waves {
        let namespaces = wave.namespaces.iter().filter(|name| left.remove(name)).cloned().collect();
        waves.push(Wave { name: wave.name.clone(), namespaces });
    }
    waves.push(Wave { name: LAST_WAVE.to_owned(), namespaces: left.into_iter().cloned().collect() });
    waves.retain(|wave| !wave.namespaces.is_empty());
    if desired.direction() != Direction::Forward {
        waves.reverse();
        waves.iter_mut().for_each(|wave| wave.namespaces.reverse());
    }
    waves
}

struct Walk<'a> {
    observed: &'a Observed,
    desired: &'a Desired,
    target: &'a str,
    /// Whether everything before is done.
    open: bool,
    /// Workloads that are on the move.
    moving: usize,
    /// What is left of each budget in this plan, by namespace and name.
    budgets: BTreeMap<(String, String), u32>,
    steps: Vec<Step>,
    actions: Vec<Action>,
    waiting: Vec<WaitingOn>,
    moved: usize,
    total: usize,
}

impl<'a> Walk<'a> {
    fn new(observed: &'a Observed, desired: &'a Desired) -> Self {
        let budgets = observed.namespaces.iter().flat_map(|(namespace, state)| {
            let of = move |name: &String| (namespace.clone(), name.clone());
            state.budgets.iter().map(move |(name, budget)| (of(name), budget.allowed))
        });
        Self {
            observed,
            desired,
            target: desired.target(),
            open: true,
            moving: 0,
            budgets: budgets.collect(),
            steps: Vec::new(),
            actions: Vec::new(),
            waiting: Vec::new(),
            moved: 0,
            total: 0,
        }
    }

    /// A step that is done, or waits, or isn't due yet. Returns whether it is done.
    fn gate(&mut self, what: What, waits: Option<WaitingOn>) -> bool {
        let done = waits.is_none();
        let state = match (done, self.open) {
            (true, _) => StepState::Done,
            (false, true) => StepState::Waiting,
            (false, false) => StepState::Pending,
        };
        let waiting = waits.filter(|_| self.open);
        self.waiting.extend(waiting.clone());
        self.steps.push(Step { what, state, waiting });
        self.open &= done;
        done
    }

    fn approve(&mut self) -> bool {
        let needed = self.desired.direction() == Direction::Forward;
        match self.desired.approval {
            Approval::NotNeeded => true,
            Approval::Missing if needed => self.gate(What::Approve, Some(WaitingOn::Approval)),
            Approval::Given | Approval::Missing => self.gate(What::Approve, None),
        }
    }

    fn bring_up(&mut self) -> bool {
        let version = self.target.to_owned();
        let waits = match self.observed.revisions.get(self.target) {
            _ if self.route().is_some() => self.route(),
            Some(Readiness::Ready) => None,
            Some(Readiness::NotReady(why)) => {
                Some(WaitingOn::Revision { version: version.clone(), why: why.clone() })
            }
            // It was removed, and the control-plane reconciler makes it again only when the MeshConfig asks for it.
            None if self.desired.wanted != self.target => Some(self.edit()),
            None => {
                let why = "it does not exist yet".to_owned();
                Some(WaitingOn::Revision { version: version.clone(), why })
            }
        };
        self.gate(What::BringUp { version }, waits)
    }

    /// A person has to make the MeshConfig ask for the target.
    fn edit(&self) -> WaitingOn {
        let (mesh, says) = (self.desired.mesh.clone(), self.desired.wanted.clone());
        WaitingOn::Edit { mesh, says, should: self.target.to_owned() }
    }

    /// A release in use from which the catalogue has no way to the target. A label that is no release at all is
    /// somebody's mistake, which moving the namespace repairs.
    fn route(&self) -> Option<WaitingOn> {
        let catalogue = &self.observed.catalogue;
        let labels = self.observed.namespaces.values().filter_map(|namespace| namespace.revision.as_deref());
        let known = labels.filter(|label| catalogue.get(label).is_ok());
        let mut used: BTreeSet<&str> = known.collect();
        used.insert(&self.desired.from);
        used.into_iter().find_map(|from| catalogue.reachable(from, self.target).err()).map(WaitingOn::Route)
    }

    /// Plans a namespace; returns whether it is done.
    fn namespace(&mut self, name: &str, namespace: &Namespace) -> bool {
        let label = What::Label { namespace: name.to_owned(), version: self.target.to_owned() };
        let labelled = namespace.terminating || namespace.revision.as_deref() == Some(self.target);
        if !labelled && self.open {
            self.actions.push(Action::Relabel {
                namespace: name.to_owned(),
                expect: namespace.revision.clone(),
                to: self.target.to_owned(),
            });
            self.steps.push(Step { what: label, state: StepState::Running, waiting: None });
            self.open = false;
        } else {
            self.gate(label, (!labelled).then(|| WaitingOn::Label { namespace: name.to_owned() }));
        }
        let all = self.workloads(name, namespace, labelled && !namespace.terminating);
        let done = namespace.terminating || (labelled && all);
        self.open &= done;
        done
    }

    /// Plans the workloads of a namespace; returns whether all are done.
    fn workloads(&mut self, name: &str, namespace: &Namespace, movable: bool) -> bool {
        let looks: Vec<(Look<'_>, Next)> = namespace
            .workloads
            .iter()
            .map(|(id, workload)| {
                let place = Place { namespace: name.to_owned(), workload: id.clone() };
                let (catalogue, now) = (&self.observed.catalogue, self.observed.now);
                let look = Look { place, namespace, workload, target: self.target, catalogue, now };
                let next = look.next();
                (look, next)
            })
            .filter(|(look, _)| look.meshed())
            .collect();
        let open = self.open && movable;
        if open {
            self.moving += looks.iter().filter(|(_, next)| matches!(next, Next::Moving(_))).count();
        }
        let mut done = true;
        for (look, next) in looks {
            done &= matches!(next, Next::Done | Next::Stays(_));
            self.workload(&look, next, open);
        }
        done
    }

    fn workload(&mut self, look: &Look<'_>, next: Next, open: bool) {
        let (moved, old) = (look.moved().count(), look.old().count());
        self.moved += moved;
        self.total += moved + old;
        let (how, no_swap) = look.manner();
        let what = match how {
            Manner::Stays(why) => What::Leave { place: look.place.clone(), why },
            manner => What::Move { place: look.place.clone(), manner, no_swap, moved, total: moved + old },
        };
        let (state, waiting) = match next {
            Next::Done | Next::Stays(_) => (StepState::Done, None),
            _ if !open => (StepState::Pending, None),
            Next::Moving(wait) => (StepState::Running, Some(wait)),
            Next::Held(wait) => (StepState::Waiting, Some(wait)),
            Next::EvictIdle(pod) => self.evict(look, &pod, Cost::Nothing),
            Next::Evict { pod, budget } => {
                let cost = match (how, budget) {
                    (Manner::EvictWithGap(_), budget) => Cost::Gap { budget },
                    (_, Some(budget)) => Cost::Budget(budget),
                    (_, None) => Cost::Replica,
                };
                self.evict(look, &pod, cost)
            }
            Next::Swap { pod, live, budgets } => self.swap(look, &pod, live, &budgets),
            Next::Surge(mark) => self.surge(look, mark),
        };
        if !matches!(waiting, Some(WaitingOn::Turn { .. })) {
            self.waiting.extend(waiting.clone());
        }
        self.steps.push(Step { what, state, waiting });
    }

    /// How many workloads may be on the move now. The first one ever moved is the canary: until one sidecar of the
    /// target serves in good order, it is alone, so a release that doesn't work at all costs one pod.
    fn limit(&self) -> usize {
        let mut pods = self
            .observed
            .namespaces
            .values()
            .flat_map(|n| n.workloads.values())
            .flat_map(|w| w.pods.values());
        let proven = pods.any(|pod| {
            !pod.terminating
                && pod.revision.as_deref() == Some(self.target)
                && pod.ready
                && pod.proxy == Proxy::InSync
        });
        if proven { self.desired.workloads_at_once.max(1) } else { 1 }
    }

    fn turn(&mut self) -> Result<(), (StepState, Option<WaitingOn>)> {
        let limit = self.limit();
        if self.moving >= limit {
            return Err((StepState::Pending, Some(WaitingOn::Turn { limit })));
        }
        self.moving += 1;
        Ok(())
    }

    fn evict(&mut self, look: &Look<'_>, pod: &str, cost: Cost) -> (StepState, Option<WaitingOn>) {
        let namespace = look.place.namespace.clone();
        let paid_by = match &cost {
            Cost::Budget(budget) | Cost::Gap { budget: Some(budget) } => {
                Some((namespace.clone(), budget.clone()))
            }
            Cost::Nothing | Cost::Replica | Cost::Gap { budget: None } => None,
        };
        if let Some(key) = &paid_by
            && self.budgets.get(key).is_none_or(|left| *left == 0)
        {
            let wait = WaitingOn::Budget { namespace, budget: key.1.clone(), pod: pod.to_owned() };
            return (StepState::Waiting, Some(wait));
        }
        if let Err(wait) = self.turn() {
            return wait;
        }
        if let Some(left) = paid_by.and_then(|key| self.budgets.get_mut(&key)) {
            *left -= 1;
        }
        let uid = look.workload.pods.get(pod).map(|pod| pod.uid.clone()).unwrap_or_default();
        let workload = look.place.workload.clone();
        self.actions.push(Action::Evict { namespace, workload, pod: pod.to_owned(), uid, cost });
        (StepState::Running, None)
    }

    fn swap(
        &mut self,
        look: &Look<'_>,
        pod: &str,
        live: Slot,
        budgets: &[String],
    ) -> (StepState, Option<WaitingOn>) {
        if let Err(wait) = self.turn() {
            return wait;
        }
        for budget in budgets {
            let key = (look.place.namespace.clone(), budget.clone());
            if let Some(left) = self.budgets.get_mut(&key) {
                *left = left.saturating_sub(1);
            }
        }
        self.actions.push(Action::Swap {
            namespace: look.place.namespace.clone(),
            workload: look.place.workload.clone(),
            pod: pod.to_owned(),
            uid: look.workload.pods.get(pod).map(|pod| pod.uid.clone()).unwrap_or_default(),
            expect: live,
            to: self.target.to_owned(),
            at: self.observed.now,
        });
        (StepState::Running, None)
    }

    fn surge(&mut self, look: &Look<'_>, mark: String) -> (StepState, Option<WaitingOn>) {
        if let Err(wait) = self.turn() {
            return wait;
        }
        self.actions.push(Action::Surge {
            namespace: look.place.namespace.clone(),
            deployment: look.place.workload.name.clone(),
            expect: look.workload.moved_to.clone(),
            mark,
        });
        (StepState::Running, None)
    }

    /// Watches a wave that has moved. Going back is not watched.
    fn soak(&mut self, wave: &str) -> bool {
        let length = self.desired.soak.as_secs();
        if length == 0 || self.desired.direction() != Direction::Forward {
            return true;
        }
        let what = What::Soak { wave: wave.to_owned() };
        let (now, since) = (self.observed.now, self.observed.soaks.get(wave).copied());
        if self.open && since.is_none() {
            self.actions.push(Action::BeginSoak { wave: wave.to_owned(), since: now });
        }
        // A beginning in the future is a clock that was put back.
        let until = since.unwrap_or(now).min(now).saturating_add(length);
        let waits = (now < until).then(|| WaitingOn::Soak { wave: wave.to_owned(), until });
        self.gate(what, waits)
    }

    /// Everything but the target goes, once nobody uses it.
    fn retire(&mut self) -> bool {
        let mut versions: BTreeSet<&str> = self.observed.revisions.keys().map(String::as_str).collect();
        versions.insert(if self.target == self.desired.from { &self.desired.to } else { &self.desired.from });
        versions.remove(self.target);
        let mut done = true;
        for version in versions {
            let users = users(self.observed, version);
            let waits = if !users.is_empty() {
                let named = users.iter().take(NAMED_USERS).cloned().collect();
                Some(WaitingOn::InUse { version: version.to_owned(), users: named, count: users.len() })
            } else if self.desired.wanted == self.target && self.observed.effective != self.target {
                // Or else the end of this upgrade would look like the beginning of another.
                Some(WaitingOn::Effect { version: self.target.to_owned() })
            } else if !self.observed.revisions.contains_key(version) {
                None
            } else if self.desired.wanted == version && self.observed.effective == version {
                // An abort after the end: for the control-plane reconciler this is the release to keep.
                Some(self.edit())
            } else {
                Some(WaitingOn::Removal { version: version.to_owned() })
            };
            done &= self.gate(What::Retire { version: version.to_owned() }, waits);
        }
        done
    }

    fn finish(self, approved: bool, up: bool, moved: bool, retired: bool) -> Plan {
        let Self { observed: _, desired, target: _, open: _, moving: _, budgets: _, steps, .. } = self;
        let (mut actions, mut waiting) = (self.actions, self.waiting);
        let back = desired.direction() != Direction::Forward;
        // The MeshConfig still asks for the new release, which is in effect: that is as far back as it goes.
        let stuck_in_edit = waiting.iter().all(|wait| matches!(wait, WaitingOn::Edit { .. }));
        let phase = match (back, moved && up && approved) {
            (false, true) if retired => UpgradePhase::Complete,
            (true, true) if retired || stuck_in_edit => UpgradePhase::Aborted,
            _ if desired.paused => UpgradePhase::Paused,
            (_, true) => UpgradePhase::Retiring,
            (true, false) => UpgradePhase::Aborting,
            (false, false) if !approved => UpgradePhase::AwaitingApproval,
            (false, false) if waiting.iter().any(|wait| matches!(wait, WaitingOn::Route(_))) => {
                UpgradePhase::Paused
            }
            (false, false) if !up => UpgradePhase::ControlPlane,
            (false, false) => UpgradePhase::Moving,
        };
        if phase == UpgradePhase::Paused && desired.paused {
            actions.clear();
            waiting.insert(0, WaitingOn::Pause);
        }
        let desired = desired.clone();
        Plan { desired, phase, steps, actions, waiting, moved: self.moved, total: self.total }
    }
}
