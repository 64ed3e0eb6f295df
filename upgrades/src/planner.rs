//! From facts to a plan. One walk over the upgrade in its order; a step that isn't done closes the gate for all
//! steps after it, which are then only announced.
//!
//! ```text
//!  approve ▶ bring up ▶ [ label ▶ workloads ]… ▶ soak ▶ next wave … ▶ retire
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_upgrade::{StepState, UpgradePhase};

use crate::facts::{Approval, Desired, Direction, Namespace, Observed, Readiness, Seen, WaveId, wave_ids};
use crate::plan::{Action, Health, Notice, Plan, Reach, Step, What};
use crate::soak::WRITTEN_EVERY;
use crate::swap::NoSwap;
pub use crate::users::users;
use crate::waiting::WaitingOn;

mod workloads;

/// How many users of a revision are named.
const NAMED_USERS: usize = 3;

/// What has to happen, what may happen now, and why not more. Depends on nothing but its arguments.
pub fn plan(observed: &Observed, desired: &Desired) -> Plan {
    let mut walk = Walk::new(observed, desired);
    let approved = walk.approve();
    let up = walk.bring_up();
    let mut moved = true;
    for (wave, namespaces) in waves(observed, desired) {
        for name in &namespaces {
            if let Some(namespace) = observed.namespaces.get(name) {
                moved &= walk.namespace(name, namespace);
            }
        }
        moved &= walk.soak(&wave);
    }
    let retired = walk.retire();
    walk.finish(approved, up, moved, retired)
}

/// The waves and their namespaces in the order in which they move: as written, each namespace once, then the others by
/// name. The way back is the reverse, so that what was moved last is back first.
#[must_use]
pub fn waves(observed: &Observed, desired: &Desired) -> Vec<(WaveId, Vec<String>)> {
    let mut left: BTreeSet<&String> = observed.namespaces.keys().collect();
    let mut waves: Vec<(WaveId, Vec<String>)> = Vec::new();
    for (id, wave) in wave_ids(&desired.waves).into_iter().zip(&desired.waves) {
        let namespaces = wave.namespaces.iter().filter(|name| left.remove(name)).cloned().collect();
        waves.push((id, namespaces));
    }
    waves.push((WaveId::Others, left.into_iter().cloned().collect()));
    waves.retain(|(_, namespaces)| !namespaces.is_empty());
    if desired.direction() != Direction::Forward {
        waves.reverse();
        waves.iter_mut().for_each(|(_, namespaces)| namespaces.reverse());
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
    /// Pods that are restarted where sidecars shall be swapped in place.
    restarts: Vec<NoSwap>,
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
            restarts: Vec::new(),
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
        self.push(what, state, waiting);
        self.open &= done;
        done
    }

    fn push(&mut self, what: What, state: StepState, waiting: Option<WaitingOn>) {
        let reach = self.reach();
        self.steps.push(Step { what, state, waiting, reach, health: Health::Fine });
    }

    fn reach(&self) -> Reach {
        if self.open { Reach::Reached } else { Reach::Announced }
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
            // What it is about to remove looks ready too.
            Some(Readiness::Ready) if self.observed.control_plane == Seen::NotYet => Some(WaitingOn::Unseen),
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
            self.push(label, StepState::Running, None);
            self.open = false;
        } else {
            self.gate(label, (!labelled).then(|| WaitingOn::Label { namespace: name.to_owned() }));
        }
        let all = self.workloads(name, namespace, labelled && !namespace.terminating);
        let done = namespace.terminating || (labelled && all);
        self.open &= done;
        done
    }

    /// Watches a wave that has moved. Going back is not watched.
    fn soak(&mut self, wave: &WaveId) -> bool {
        let length = self.desired.soak.as_secs();
        if length == 0 || self.desired.direction() != Direction::Forward {
            return true;
        }
        let watched = self.observed.soaks.get(wave).copied();
        if self.open && watched.is_none() {
            self.actions.push(Action::BeginSoak { wave: wave.clone(), since: self.observed.now });
        }
        let watched = watched.unwrap_or(0);
        // In steps, so that the record isn't written at every pass.
        let said = watched - watched % WRITTEN_EVERY;
        let waits = (watched < length).then(|| WaitingOn::Soak { wave: wave.clone(), watched: said, length });
        self.gate(What::Soak { wave: wave.clone() }, waits)
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

    /// How many pods are restarted although the namespace asks for swaps in place.
    fn notices(&self) -> Vec<Notice> {
        let mut why: Vec<(NoSwap, usize)> = Vec::new();
        for reason in &self.restarts {
            match why.iter_mut().find(|(known, _)| known == reason) {
                Some((_, count)) => *count += 1,
                None => why.push((reason.clone(), 1)),
            }
        }
        if why.is_empty() {
            return Vec::new();
        }
        vec![Notice::Restarts { pods: self.restarts.len(), of: self.total, why }]
    }

    fn finish(self, approved: bool, up: bool, moved: bool, retired: bool) -> Plan {
        let notices = self.notices();
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
        let removal = waiting.iter().find_map(|wait| match wait {
            WaitingOn::Removal { version } => Some(version.clone()),
            _ => None,
        });
        let retire = removal.filter(|_| phase == UpgradePhase::Retiring);
        let (moved, total, desired) = (self.moved, self.total, desired.clone());
        Plan { desired, phase, notices, steps, actions, waiting, retire, moved, total }
    }
}
