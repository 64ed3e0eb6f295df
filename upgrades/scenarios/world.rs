//! A model of a cluster: workloads that make their pods again, admission that labels them, budgets, readiness that
//! takes its time, and a control-plane reconciler. One tick is one second.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crds::mesh_upgrade::{MeshUpgradeStatus, StepStatus, UpgradePhase};
use upgrades::facts::{
    Approval, Budget, Desired, Format, Kind, Namespace, Observed, Pod, Proxy, Readiness, Rollout, Seen, Slot,
    Slots, Strategy, Streams, Workload, WorkloadId,
};
use upgrades::ledger::{self, Did};
use upgrades::{Action, Catalogue, Plan, soak};

/// A small generator, so that a seed is a whole history (Steele et al., SplitMix64).
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

#[derive(Clone)]
pub struct SimPod {
    pub uid: String,
    pub revision: Option<String>,
    pub ready_at: u64,
    pub synced_at: u64,
    /// When its sidecar ends.
    pub gone_at: Option<u64>,
    /// How long its object stays after that.
    pub lingers: u64,
    pub mark: Option<String>,
    pub slots: Option<Slots>,
}

#[derive(Clone)]
pub struct SimWorkload {
    pub replicas: u32,
    pub strategy: Strategy,
    pub mark: Option<String>,
    /// When a Job's pods end.
    pub ends_at: Option<u64>,
    pub pods: BTreeMap<String, SimPod>,
}

#[derive(Clone, Default)]
pub struct SimNamespace {
    pub revision: Option<String>,
    pub before: Option<String>,
    pub labelled_at: u64,
    pub workloads: BTreeMap<WorkloadId, SimWorkload>,
    /// Name → (minimum of healthy pods, names of the workloads that it covers).
    pub budgets: BTreeMap<String, (u32, BTreeSet<String>)>,
    pub hot_swap: bool,
}

#[derive(Clone)]
pub struct World {
    pub now: u64,
    pub dice: Dice,
    /// Longest time a pod takes to be ready, and its sidecar to be in sync after that.
    pub slow: u64,
    /// How long admission may go on seeing an old label.
    pub lag: u64,
    pub desired: Desired,
    pub effective: String,
    pub namespaces: BTreeMap<String, SimNamespace>,
    /// Release → when it is ready.
    pub revisions: BTreeMap<String, u64>,
    /// As last written.
    pub record: MeshUpgradeStatus,
    /// The leg that the control-plane reconciler has seen.
    pub seen: i64,
    /// A pass of the control-plane reconciler that has read its facts and not acted on them yet.
    reconciling: Option<Reconciling>,
    /// Longest time between the two.
    pub slow_control_plane: u64,
    uids: u64,
}

/// What the control-plane reconciler is about to do.
#[derive(Clone)]
struct Reconciling {
    at: u64,
    keeps: BTreeSet<String>,
    builds: BTreeSet<String>,
    leg: i64,
}

pub const START: u64 = 1_700_000_000;

impl World {
    pub fn new(seed: u64) -> Self {
        let desired = Desired {
            mesh: "m".to_owned(),
            from: "0.1.0".to_owned(),
            to: "0.2.0".to_owned(),
            wanted: "0.2.0".to_owned(),
            waves: Vec::new(),
            soak: Duration::ZERO,
            approval: Approval::NotNeeded,
            paused: false,
            abort: false,
            workloads_at_once: 2,
        };
        Self {
            now: START,
            dice: Dice(seed),
            slow: 3,
            lag: 0,
            desired,
            effective: "0.1.0".to_owned(),
            namespaces: BTreeMap::new(),
            revisions: [("0.1.0".to_owned(), START)].into(),
            record: MeshUpgradeStatus::default(),
            seen: 0,
            reconciling: None,
            slow_control_plane: 0,
            uids: 0,
        }
    }

    pub fn namespace(&mut self, name: &str) -> &mut SimNamespace {
        self.namespaces
            .entry(name.to_owned())
            .or_insert_with(|| SimNamespace { revision: Some("0.1.0".to_owned()), ..SimNamespace::default() })
    }

    /// Adds a workload whose pods all run.
    pub fn add(&mut self, namespace: &str, kind: Kind, name: &str, replicas: u32, strategy: Strategy) {
        let workload = SimWorkload { replicas, strategy, mark: None, ends_at: None, pods: BTreeMap::new() };
        let id = WorkloadId { name: name.to_owned(), kind };
        self.namespace(namespace).workloads.insert(id, workload);
        self.controllers();
        let now = self.now;
        for pod in self.pods_mut() {
            (pod.ready_at, pod.synced_at) = (now, now);
        }
    }

    pub fn deployment(&mut self, namespace: &str, name: &str, replicas: u32) {
        self.add(namespace, Kind::Deployment, name, replicas, ROLLING);
    }

    pub fn budget(&mut self, namespace: &str, name: &str, least: u32, workloads: &[&str]) {
        let covers = workloads.iter().map(|name| (*name).to_owned()).collect();
        self.namespace(namespace).budgets.insert(name.to_owned(), (least, covers));
    }

    pub fn pods_mut(&mut self) -> impl Iterator<Item = &mut SimPod> {
        self.namespaces.values_mut().flat_map(|n| n.workloads.values_mut()).flat_map(|w| w.pods.values_mut())
    }

    pub fn observe(&self) -> Observed {
        let namespaces = self.namespaces.iter().map(|(name, namespace)| (name.clone(), self.seen(namespace)));
        let ready = |at: &u64| match *at <= self.now {
            true => Readiness::Ready,
            false => Readiness::NotReady("controller: 0 of 2 replicas are ready".to_owned()),
        };
        Observed {
            now: self.now,
            catalogue: Catalogue::embedded(),
            effective: self.effective.clone(),
            revisions: self.revisions.iter().map(|(version, at)| (version.clone(), ready(at))).collect(),
            namespaces: namespaces.collect(),
            strays: BTreeSet::new(),
            soaks: self.watched(),
            streams: Some(self.streams()),
            control_plane: if self.seen == self.leg() { Seen::Yes } else { Seen::NotYet },
            unhealthy: ledger::unhealthy(&self.record.steps, self.leg()),
        }
    }

    pub fn leg(&self) -> i64 {
        ledger::number(&ledger::legs(&self.record, &self.desired, self.now))
    }

    fn watched(&self) -> BTreeMap<upgrades::facts::WaveId, u64> {
        let soaks = self.record.soaks.iter().filter_map(|record| {
            let since = upgrades::display::seconds(&record.since)?;
            Some((soak::wave(record, self.leg(), &self.desired)?, self.now.saturating_sub(since)))
        });
        soaks.collect()
    }

    /// Who is connected to the controllers of which release: sidecars until they end, and those that were replaced until
    /// they have drained.
    fn streams(&self) -> BTreeMap<String, Streams> {
        let mut all: BTreeMap<String, Streams> = BTreeMap::new();
        for (name, namespace) in &self.namespaces {
            for (pod, state) in namespace.workloads.values().flat_map(|workload| &workload.pods) {
                let ended = state.gone_at.is_some_and(|at| at <= self.now);
                let old = state.slots.as_ref().and_then(|slots| {
                    let draining = slots.swapped_at? + slots.drain_seconds > self.now;
                    let other = if state.revision.as_deref() == Some("0.2.0") { "0.1.0" } else { "0.2.0" };
                    draining.then(|| other.to_owned())
                });
                for release in state.revision.iter().cloned().chain(old).filter(|_| !ended) {
                    all.entry(release).or_default().pods.insert((name.clone(), pod.clone()));
                }
            }
        }
        all
    }

    fn seen(&self, namespace: &SimNamespace) -> Namespace {
        let workloads =
            namespace.workloads.iter().map(|(id, workload)| (id.clone(), self.seen_workload(workload)));
        let budgets = namespace.budgets.iter().map(|(name, (least, covers))| {
            let covered = namespace.workloads.iter().filter(|(id, _)| covers.contains(&id.name));
            let pods = covered.flat_map(|(_, workload)| workload.pods.keys().cloned()).collect();
            (name.clone(), Budget { allowed: self.healthy(namespace, covers).saturating_sub(*least), pods })
        });
        Namespace {
            revision: namespace.revision.clone(),
            terminating: false,
            workloads: workloads.collect(),
            budgets: budgets.collect(),
            hot_swap: namespace.hot_swap,
        }
    }

    fn seen_workload(&self, workload: &SimWorkload) -> Workload {
        let settled = workload.live().all(|(_, pod)| pod.mark == workload.mark);
        let pods = workload.pods.iter().map(|(name, pod)| {
            let proxy = if pod.synced_at <= self.now { Proxy::InSync } else { Proxy::NotConnected };
            let (uid, revision) = (pod.uid.clone(), pod.revision.clone());
            let ready = pod.ready_at <= self.now;
            let (terminating, slots) = (pod.gone_at.is_some(), pod.slots.clone());
            (name.clone(), Pod { uid, revision, ready, terminating, proxy, slots })
        });
        Workload {
            replicas: workload.replicas,
            rollout: if settled { Rollout::Settled } else { Rollout::Progressing },
            strategy: workload.strategy,
            moved_to: workload.mark.clone(),
            pods: pods.collect(),
        }
    }

    pub fn healthy(&self, namespace: &SimNamespace, covers: &BTreeSet<String>) -> u32 {
        let covered = namespace.workloads.iter().filter(|(id, _)| covers.contains(&id.name));
        u32::try_from(covered.map(|(_, workload)| workload.ready(self.now)).sum::<usize>()).unwrap()
    }

    /// What the executor would do, refusing what isn't as expected, as the API server would.
    pub fn execute(&mut self, action: &Action) {
        let now = self.now;
        match action {
            Action::Relabel { namespace, expect, to } => {
                let state = self.namespace(namespace);
                if state.revision == *expect {
                    (state.before, state.labelled_at) = (state.revision.replace(to.clone()), now);
                }
            }
            Action::Evict { namespace, workload, pod, uid, .. } => {
                let drain = 1 + self.dice.below(4);
                let state = &self.namespaces[namespace];
                let blocked = state.budgets.values().any(|(least, covers)| {
                    covers.contains(&workload.name) && self.healthy(state, covers) <= *least
                });
                let workload = self.namespace(namespace).workloads.get_mut(workload).unwrap();
                if let Some(pod) =
                    workload.pods.get_mut(pod).filter(|pod| pod.uid == *uid && pod.gone_at.is_none())
                    && (!blocked || pod.ready_at > now)
                {
                    pod.gone_at = Some(now + drain);
                }
            }
            Action::Swap { namespace, workload, pod, uid, expect, to, at } => {
                let in_sync = now + 1 + self.dice.below(4);
                let workload = self.namespace(namespace).workloads.get_mut(workload).unwrap();
                let pod = workload.pods.get_mut(pod).filter(|pod| pod.uid == *uid);
                if let Some(SimPod { revision, ready_at, synced_at, slots: Some(slots), .. }) = pod
                    && slots.live == *expect
                {
                    // The plan's own time is older if the look was; the kubelet blinks now.
                    (*revision, slots.live, slots.swapped_at) =
                        (Some(to.clone()), expect.other(), Some(now.max(*at)));
                    slots.serving = Some(to.clone());
                    (*ready_at, *synced_at) = ((*ready_at).max(now + 1), in_sync);
                }
            }
            Action::Surge { namespace, deployment, expect, mark } => {
                let id = WorkloadId { name: deployment.clone(), kind: Kind::Deployment };
                let workload = self.namespace(namespace).workloads.get_mut(&id).unwrap();
                if workload.mark == *expect {
                    workload.mark = Some(mark.clone());
                }
            }
            // The record says it.
            Action::BeginSoak { .. } => {}
        }
    }

    /// A second passes.
    pub fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        for workload in self.namespaces.values_mut().flat_map(|n| n.workloads.values_mut()) {
            workload.pods.retain(|_, pod| pod.gone_at.is_none_or(|at| at + pod.lingers > now));
            if workload.ends_at.is_some_and(|at| at <= now) {
                (workload.replicas, workload.pods) = (0, BTreeMap::new());
            }
        }
        self.controllers();
        self.control_plane();
    }

    fn controllers(&mut self) {
        let (now, lag, slow) = (self.now, self.lag, self.slow);
        for namespace in self.namespaces.values_mut() {
            let stale = now < namespace.labelled_at + self.dice.below(lag + 1);
            let label = if stale { &namespace.before } else { &namespace.revision };
            let slots = label.clone().filter(|_| namespace.hot_swap).map(|injected| Slots {
                serving: Some(injected.clone()),
                injected,
                format: Format::Number(1),
                live: Slot::A,
                swapped_at: None,
                drain_seconds: 20,
            });
            for (id, workload) in &mut namespace.workloads {
                workload.replace_old_template(now);
                while let Some(name) = workload.missing(id, self.uids) {
                    self.uids += 1;
                    let ready_at = now + 1 + self.dice.below(slow);
                    let pod = SimPod {
                        uid: self.uids.to_string(),
                        revision: label.clone(),
                        ready_at,
                        synced_at: ready_at + self.dice.below(slow),
                        gone_at: None,
                        lingers: self.dice.below(slow + 1) * 3,
                        mark: workload.mark.clone(),
                        slots: slots.clone().filter(|_| id.kind != Kind::Job),
                    };
                    workload.pods.insert(name, pod);
                }
            }
        }
    }

    /// Whether the MeshConfig asks for what a person aborted before it was in effect.
    fn aborted(&self) -> bool {
        self.desired.abort && self.effective == self.desired.from && self.desired.wanted == self.desired.to
    }

    /// Computes what is in effect, and brings up and removes what it decided on the facts that it has read a while ago.
    fn control_plane(&mut self) {
        let wanted = self.desired.wanted.clone();
        if self.namespaces.values().all(|namespace| namespace.revision.as_ref() == Some(&wanted)) {
            self.effective.clone_from(&wanted);
        }
        if self.reconciling.is_none() {
            self.reconciling = Some(self.read());
        }
        if let Some(pass) = self.reconciling.take_if(|pass| pass.at <= self.now) {
            for version in pass.builds {
                let ready_at = self.now + 1 + self.dice.below(self.slow);
                self.revisions.entry(version).or_insert(ready_at);
            }
            self.revisions.retain(|version, _| pass.keeps.contains(version));
            self.seen = pass.leg;
        }
        for (name, namespace) in &self.namespaces {
            let label = namespace.revision.as_ref().unwrap();
            assert!(self.revisions.contains_key(label), "{name} is on {label}, which was removed");
        }
    }

    fn read(&mut self) -> Reconciling {
        let observed = self.observe();
        let at = self.now + self.dice.below(self.slow_control_plane + 1);
        let wanted = Some(self.desired.wanted.clone()).filter(|_| !self.aborted());
        let builds: BTreeSet<String> = wanted.into_iter().chain([self.effective.clone()]).collect();
        let over = matches!(self.record.phase, Some(UpgradePhase::Complete | UpgradePhase::Aborted));
        let granted = |version: &String| over || self.record.retire.as_ref() == Some(version);
        let used = |version: &String| !upgrades::planner::users(&observed, version).is_empty();
        let kept = self.revisions.keys().filter(|version| used(version) || !granted(version));
        let keeps = kept.cloned().chain(builds.clone()).collect();
        Reconciling {
            at,
            keeps,
            builds,
            leg: ledger::number(&self.record.legs) * i64::from(!self.record.legs.is_empty()),
        }
    }

    /// Writes the record; nothing that it says may be taken back.
    fn write(&mut self, plan: &Plan, steps: Vec<StepStatus>) {
        assert_only_added(&self.record.steps, &steps);
        self.record.notices = ledger::notices(&self.record, plan);
        self.record.legs = ledger::legs(&self.record, &self.desired, self.now);
        self.record.steps = steps;
        self.record.phase = Some(plan.phase);
        self.record.retire.clone_from(&plan.retire);
    }

    /// One pass of the operator on a look; it dies after so many actions.
    pub fn operate(&mut self, look: &Observed, most: usize) -> Plan {
        let plan = upgrades::plan(look, &self.desired);
        assert_eq!(upgrades::check(&plan, look), [], "{plan}\n{look:#?}");
        assert_eq!(upgrades::plan(look, &self.desired), plan, "planning again on the same facts");
        let legs = ledger::legs(&self.record, &self.desired, self.now);
        let (actions, leg) = (plan.actions.as_slice(), ledger::number(&legs));
        let pass = ledger::Pass { plan: &plan, observed: look, legs: &legs, actions };
        let intended = ledger::intend(&self.record.steps, &pass);
        self.write(&plan, intended.clone());
        for action in actions.iter().take(most) {
            self.execute(action);
        }
        if most > actions.len() {
            let did: Vec<_> = actions.iter().map(|action| (action.clone(), Did::Yes)).collect();
            self.write(&plan, ledger::settle(&intended, &did));
            for action in actions {
                if let Action::BeginSoak { wave, since } = action {
                    self.record.soaks.push(soak::begin(wave, leg, *since));
                }
            }
        }
        plan
    }

    /// One pass of the operator that does all it plans.
    pub fn pass(&mut self) -> Plan {
        let look = self.observe();
        self.operate(&look, usize::MAX)
    }
}

/// A record is only added to: what is finished stays as it is, and what is begun keeps its beginning and its deeds.
pub fn assert_only_added(before: &[StepStatus], after: &[StepStatus]) {
    for step in before.iter().filter(|step| step.started_at.is_some()) {
        let same = |other: &&StepStatus| {
            other.id == step.id && other.leg == step.leg && other.started_at == step.started_at
        };
        let found = after.iter().filter(same).collect::<Vec<_>>();
        if step.finished_at.is_some() {
            assert!(found.contains(&step), "rewritten: {step:#?}\nis now {found:#?}");
            continue;
        }
        let goes_on = |other: &&StepStatus| {
            step.done.iter().zip(&other.done).all(|(was, is)| {
                was.how == is.how
                    && was.pods <= is.pods
                    && was.first == is.first
                    && is.names.starts_with(&was.names)
            }) && step.done.len() <= other.done.len()
        };
        assert!(found.into_iter().any(|other| goes_on(&other)), "lost: {step:#?}");
    }
}

/// What a Deployment has when nobody says otherwise, for one replica.
pub const ROLLING: Strategy = Strategy::RollingUpdate { max_surge: 1, max_unavailable: 0 };

impl SimWorkload {
    pub fn live(&self) -> impl Iterator<Item = (&String, &SimPod)> {
        self.pods.iter().filter(|(_, pod)| pod.gone_at.is_none())
    }

    /// Pods that take calls: those that are ready, and those whose idle slot starts anew.
    pub fn serving(&self, now: u64) -> usize {
        let blinks = |pod: &SimPod| {
            let swapped_at = pod.slots.as_ref().and_then(|slots| slots.swapped_at);
            swapped_at.is_some_and(|at| pod.ready_at == at + 1)
        };
        self.live().filter(|(_, pod)| pod.ready_at <= now || blinks(pod)).count()
    }

    pub fn ready(&self, now: u64) -> usize {
        self.live().filter(|(_, pod)| pod.ready_at <= now).count()
    }

    /// A Deployment's roll-out: old pods go while enough are ready.
    fn replace_old_template(&mut self, now: u64) {
        let wanted = usize::try_from(self.replicas).unwrap();
        while self.ready(now) > wanted {
            let mark = self.mark.clone();
            let old = self.pods.values_mut().find(|pod| pod.gone_at.is_none() && pod.mark != mark);
            let Some(old) = old else { return };
            old.gone_at = Some(now + 2);
        }
    }

    /// Name of the next pod to make, if one is missing.
    fn missing(&self, id: &WorkloadId, uids: u64) -> Option<String> {
        let wanted = usize::try_from(self.replicas).unwrap();
        match id.kind {
            Kind::StatefulSet => {
                (0..wanted).map(|n| format!("{}-{n}", id.name)).find(|name| !self.pods.contains_key(name))
            }
            Kind::Pod | Kind::Job if !self.pods.is_empty() => None,
            _ => {
                let (live, old) =
                    (self.live().count(), self.live().filter(|(_, pod)| pod.mark != self.mark).count());
                let room = wanted + usize::from(old > 0);
                (live < room && live - old < wanted).then(|| format!("{}-p{uids}", id.name))
            }
        }
    }
}
