//! Is this plan safe on these facts? Written apart from the planner, from the rules (DESIGN.md, rule 5) and not from
//! the planner's way of thinking; shares only the data types with it. The operator executes no plan with a note.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crds::mesh_upgrade::StepState;

use crate::facts::{
    Approval, Desired, Direction, Format, Kind, Namespace, Observed, PATIENCE_SECONDS, Pod, Proxy, Readiness,
    Seen, Slot, Strategy, Workload, WorkloadId, wave_ids,
};
use crate::plan::{Action, Cost, Plan, What};
use crate::waiting::Place;

/// A rule that a plan breaks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The rule.
    pub rule: Rule,
    /// What breaks it.
    pub what: String,
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Nothing moves to a revision whose control plane and injector aren't ready.
    ControlPlaneFirst,
    /// Nothing moves without approval, in a pause, or to anything but the target.
    Steering,
    /// No step is taken that the catalogue has no way for.
    Reachable,
    /// Namespaces and waves move in order, and a wave only after the soak of the one before.
    Order,
    /// What is expected is what was observed.
    Expectation,
    /// No workload with other replicas loses its last ready pod or more than one pod.
    Replicas,
    /// No PodDisruptionBudget is overdrawn.
    Budget,
    /// No more workloads are short of a pod than allowed.
    AtOnce,
    /// No revision goes that somebody uses.
    Retire,
    /// A plan that does nothing says why.
    Reason,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// Every rule that the plan breaks, in order of rules; none for a plan that may be executed.
#[must_use]
pub fn check(plan: &Plan, observed: &Observed) -> Vec<Note> {
    let mut notes = Notes(BTreeSet::new());
    let target = plan.desired.target();
    let moves: Vec<&Action> = plan.actions.iter().filter(|action| action.moves()).collect();
    if !moves.is_empty() {
        steering(&plan.desired, observed, &mut notes);
    }
    for action in &moves {
        order(action, &plan.desired, observed, &mut notes);
        expectation(action, target, observed, &mut notes);
    }
    replicas(&moves, target, observed, &mut notes);
    swaps(&moves, target, observed, &mut notes);
    budgets(&moves, observed, &mut notes);
    at_once(&moves, &plan.desired, observed, &mut notes);
    retire(plan, observed, &mut notes);
    if plan.actions.is_empty() && plan.waiting.is_empty() && !plan.over() {
        notes.add(Rule::Reason, "it does nothing, waits for nothing and isn't over".to_owned());
    }
    notes.0.into_iter().collect()
}

struct Notes(BTreeSet<Note>);

impl Notes {
    fn add(&mut self, rule: Rule, what: String) {
        self.0.insert(Note { rule, what });
    }
}

fn steering(desired: &Desired, observed: &Observed, notes: &mut Notes) {
    let target = desired.target();
    if observed.revisions.get(target) != Some(&Readiness::Ready) {
        notes.add(Rule::ControlPlaneFirst, format!("{target} is not ready"));
    }
    if observed.control_plane == Seen::NotYet {
        let what = "the control-plane reconciler has not seen where the mesh goes".to_owned();
        notes.add(Rule::ControlPlaneFirst, what);
    }
    if desired.paused {
        notes.add(Rule::Steering, "the upgrade is paused".to_owned());
    }
    if desired.approval == Approval::Missing && desired.direction() == Direction::Forward {
        notes.add(Rule::Steering, "nobody has approved".to_owned());
    }
    let labels = observed.namespaces.values().filter_map(|namespace| namespace.revision.as_deref());
    for from in labels.chain([desired.from.as_str()]) {
        let known = observed.catalogue.get(from).is_ok();
        if known && let Err(why) = observed.catalogue.reachable(from, target) {
            notes.add(Rule::Reachable, why.to_string());
        }
    }
    if let Err(why) = observed.catalogue.get(target) {
        notes.add(Rule::Reachable, why.to_string());
    }
}

/// Position of a namespace in the roll-out: the wave that names it first, then its place there; the others last.
fn position(name: &str, desired: &Desired) -> (usize, usize, String) {
    for (wave, written) in desired.waves.iter().enumerate() {
        if let Some(place) = written.namespaces.iter().position(|namespace| namespace == name) {
            return (wave, place, String::new());
        }
    }
    (usize::MAX, 0, name.to_owned())
}

fn order(action: &Action, desired: &Desired, observed: &Observed, notes: &mut Notes) {
    let here = namespace_of(action);
    let (forward, mine) = (desired.direction() == Direction::Forward, position(here, desired));
    for (name, namespace) in &observed.namespaces {
        let theirs = position(name, desired);
        let before = if forward { theirs < mine } else { theirs > mine };
        if !before || namespace.terminating {
            continue;
        }
        if !settled(name, namespace, desired.target(), observed) {
            notes.add(Rule::Order, format!("{action}, while {name} comes first and isn't done"));
        }
        if forward && theirs.0 != mine.0 && !soaked(theirs.0, desired, observed) {
            notes.add(Rule::Order, format!("{action}, while the wave of {name} soaks"));
        }
    }
}

/// Labelled, and every pod that can be moved is of the target, ready and in sync; nobody waits for what was broken
/// before, as long as its sidecars refuse nothing.
fn settled(name: &str, namespace: &Namespace, target: &str, observed: &Observed) -> bool {
    let settled = |(id, workload): (&WorkloadId, &Workload)| {
        let aside = aside(name, id, observed);
        let mut pods = workload.pods.values().filter(|pod| !pod.terminating);
        pods.all(|pod| match (pod.revision.as_deref(), &pod.proxy) {
            (None, _) => true,
            (Some(revision), Proxy::Rejecting(_) | Proxy::Swapping(_)) => aside && revision != target,
            (Some(revision), proxy) => aside || (revision == target && pod.ready && *proxy == Proxy::InSync),
        })
    };
    namespace.revision.as_deref() == Some(target)
        && namespace.workloads.iter().filter(|(id, _)| movable(&id.kind)).all(settled)
}

/// Whether a workload was broken before, for so long that nobody waits for it.
fn aside(namespace: &str, id: &WorkloadId, observed: &Observed) -> bool {
    let place = Place { namespace: namespace.to_owned(), workload: id.clone() };
    observed.unhealthy.get(&place).is_some_and(|since| since + PATIENCE_SECONDS <= observed.now)
}

fn movable(kind: &Kind) -> bool {
    match kind {
        Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet | Kind::ReplicaSet => true,
        Kind::Job | Kind::Pod | Kind::Other(_) => false,
    }
}

fn soaked(wave: usize, desired: &Desired, observed: &Observed) -> bool {
    let Some(id) = wave_ids(&desired.waves).into_iter().nth(wave) else { return true };
    desired.soak.is_zero()
        || observed.soaks.get(&id).is_some_and(|watched| *watched >= desired.soak.as_secs())
}

fn namespace_of(action: &Action) -> &str {
    match action {
        Action::Relabel { namespace, .. }
        | Action::Evict { namespace, .. }
        | Action::Swap { namespace, .. }
        | Action::Surge { namespace, .. } => namespace,
        Action::BeginSoak { .. } => "",
    }
}

fn expectation(action: &Action, target: &str, observed: &Observed, notes: &mut Notes) {
    let Some(namespace) = observed.namespaces.get(namespace_of(action)) else {
        return notes.add(Rule::Expectation, format!("{action}: the namespace isn't of the mesh"));
    };
    let labelled = namespace.revision.as_deref() == Some(target);
    let fine = match action {
        Action::Relabel { expect, to, .. } => *expect == namespace.revision && to == target && !labelled,
        Action::Evict { workload, pod, uid, .. } => {
            let found = namespace.workloads.get(workload).and_then(|workload| workload.pods.get(pod));
            let old = |pod: &Pod| pod.revision.as_deref().is_some_and(|revision| revision != target);
            labelled
                && movable(&workload.kind)
                && found.is_some_and(|pod| pod.uid == *uid && !pod.terminating && old(pod))
        }
        Action::Swap { workload, pod, uid, expect, to, at, .. } => {
            let found = namespace.workloads.get(workload).and_then(|workload| workload.pods.get(pod));
            labelled
                && namespace.hot_swap
                && to == target
                && *at == observed.now
                && found.is_some_and(|pod| pod.uid == *uid && swappable(pod, *expect, target, observed))
        }
        Action::Surge { deployment, expect, mark, .. } => {
            let mut found = namespace
                .workloads
                .iter()
                .filter(|(id, _)| id.kind == Kind::Deployment && id.name == *deployment);
            labelled
                && mark.starts_with(target)
                && found.next().is_some_and(|(_, workload)| {
                    workload.moved_to == *expect
                        && *expect != Some(mark.clone())
                        && matches!(
                            workload.strategy,
                            Strategy::RollingUpdate { max_surge: 1.., max_unavailable: 0 }
                        )
                })
        }
        Action::BeginSoak { .. } => true,
    };
    if !fine || namespace.terminating {
        notes.add(Rule::Expectation, format!("{action}: that isn't what was observed"));
    }
}

/// It has two slots and a sidecar of another release, whose Envoy can hand over; the idle slot has drained; and the
/// target knows the pod's format, or where there is none the release that injected it is not newer.
fn swappable(pod: &Pod, expect: Slot, target: &str, observed: &Observed) -> bool {
    let (Some(slots), Some(revision)) = (&pod.slots, &pod.revision) else { return false };
    let release = |version: &str| observed.catalogue.get(version).ok();
    let (Some(from), Some(to), Some(injected)) =
        (release(revision), release(target), release(&slots.injected))
    else {
        return false;
    };
    let drained = slots.swapped_at.is_none_or(|at| at + slots.drain_seconds <= observed.now)
        || slots.serving.as_deref() == Some(target);
    let known = match &slots.format {
        Format::Number(number) => to.pod_formats.contains(number),
        Format::Unnumbered => injected.version <= to.version,
        Format::Unreadable(_) => false,
    };
    !pod.terminating
        && revision != target
        && slots.live == expect
        && from.hot_restart == to.hot_restart
        && known
        && drained
}

/// One pod of a workload at a time, and none while another one isn't in order.
fn swaps(moves: &[&Action], target: &str, observed: &Observed, notes: &mut Notes) {
    let mut seen = BTreeSet::new();
    for action in moves {
        let Action::Swap { namespace, workload, pod, .. } = action else { continue };
        let evicted = moves.iter().any(|other| {
            matches!(other, Action::Evict { namespace: n, workload: w, .. } if n == namespace && w == workload)
        });
        if !seen.insert((namespace, workload)) || evicted {
            notes.add(Rule::Replicas, format!("{action}: it is not the only pod of {workload} to move"));
        }
        let Some(state) = observed.namespaces.get(namespace) else { continue };
        let pods = state.workloads.get(workload).map(|workload| &workload.pods);
        let mut others =
            pods.into_iter().flatten().filter(|(name, other)| *name != pod && !other.terminating);
        let moved = |other: &Pod| other.revision.as_deref() == Some(target) && other.proxy != Proxy::InSync;
        if others.any(|(_, other)| !other.ready || moved(other)) {
            notes.add(Rule::Replicas, format!("{action}: another pod is not ready"));
        }
        for (name, budget) in state.budgets.iter().filter(|(_, budget)| budget.pods.contains(pod)) {
            let mut all = state.workloads.values().flat_map(|workload| &workload.pods);
            if budget.allowed == 0 && all.any(|(name, pod)| budget.pods.contains(name) && !pod.ready) {
                notes.add(Rule::Budget, format!("{action}: {name} is disturbed already"));
            }
        }
    }
}

fn replicas(moves: &[&Action], target: &str, observed: &Observed, notes: &mut Notes) {
    let mut seen = BTreeSet::new();
    for action in moves {
        let Action::Evict { namespace, workload, pod, cost, .. } = action else { continue };
        if !seen.insert((namespace, workload)) {
            notes.add(Rule::Replicas, format!("{action}: it is not the only pod of {workload} to go"));
        }
        let Some(state) = observed.namespaces.get(namespace).and_then(|n| n.workloads.get(workload)) else {
            continue;
        };
        let live = state.pods.iter().filter(|(_, other)| !other.terminating);
        let others = live.clone().filter(|(name, other)| *name != pod && other.ready).count();
        let wanted = usize::try_from(state.replicas).unwrap_or(usize::MAX);
        let unproven = live.clone().any(|(_, other)| {
            other.revision.as_deref() == Some(target) && (!other.ready || other.proxy != Proxy::InSync)
        });
        let idle = state.pods.get(pod).is_some_and(|pod| !pod.ready);
        let gap = matches!(cost, Cost::Gap { .. }) && (wanted < 2 || workload.kind == Kind::DaemonSet);
        if unproven || live.count() < wanted {
            notes.add(Rule::Replicas, format!("{action}: the pod before has not recovered"));
        }
        if (*cost == Cost::Nothing) != idle {
            notes.add(Rule::Replicas, format!("{action}: the cost is not what it says"));
        }
        if !idle && (others + 1 < wanted || (others == 0 && !gap)) {
            notes.add(Rule::Replicas, format!("{action}: {others} other pods are ready, of {wanted} wanted"));
        }
    }
}

fn budgets(moves: &[&Action], observed: &Observed, notes: &mut Notes) {
    let mut spent: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for action in moves {
        let Action::Evict { namespace, pod, cost, .. } = action else { continue };
        let Some(state) = observed.namespaces.get(namespace) else { continue };
        if *cost == Cost::Nothing {
            continue;
        }
        let covering: Vec<_> = state.budgets.iter().filter(|(_, budget)| budget.pods.contains(pod)).collect();
        if covering.len() > 1 {
            notes.add(Rule::Budget, format!("{action}: more than one budget covers it"));
        }
        for (name, budget) in covering {
            let spent = spent.entry((namespace, name)).or_default();
            *spent += 1;
            if *spent > budget.allowed {
                notes.add(Rule::Budget, format!("{action}: {name} allows {}", budget.allowed));
            }
        }
    }
}

/// Counts workloads of the namespaces that move now: those acted on, and those with a moved pod that isn't in order.
fn at_once(moves: &[&Action], desired: &Desired, observed: &Observed, notes: &mut Notes) {
    let mut disturbed: BTreeSet<(&str, &str)> = BTreeSet::new();
    for action in moves {
        match action {
            Action::Evict { namespace, workload, .. } | Action::Swap { namespace, workload, .. } => {
                disturbed.insert((namespace, &workload.name))
            }
            Action::Surge { namespace, deployment, .. } => disturbed.insert((namespace, deployment)),
            Action::Relabel { .. } | Action::BeginSoak { .. } => false,
        };
    }
    if disturbed.is_empty() {
        return;
    }
    let workloads =
        observed.namespaces.iter().flat_map(|(name, n)| n.workloads.iter().map(move |(id, w)| (name, id, w)));
    let mut proven = false;
    for (namespace, id, workload) in workloads {
        let mut new = workload
            .pods
            .values()
            .filter(|pod| pod.revision.as_deref() == Some(desired.target()) && !pod.terminating);
        proven |= new.clone().any(|pod| pod.ready && pod.proxy == Proxy::InSync);
        if movable(&id.kind)
            && !aside(namespace, id, observed)
            && new.any(|pod| !pod.ready || pod.proxy != Proxy::InSync)
        {
            disturbed.insert((namespace, &id.name));
        }
    }
    let limit = if proven { desired.workloads_at_once.max(1) } else { 1 };
    if disturbed.len() > limit {
        notes.add(Rule::AtOnce, format!("{} workloads on the move, and {limit} may be", disturbed.len()));
    }
}

fn retire(plan: &Plan, observed: &Observed, notes: &mut Notes) {
    for step in &plan.steps {
        let What::Retire { version } = &step.what else { continue };
        let labels = observed
            .namespaces
            .values()
            .filter(|n| !n.terminating)
            .any(|n| n.revision.as_ref() == Some(version));
        let mut pods =
            observed.namespaces.values().flat_map(|n| n.workloads.values()).flat_map(|w| w.pods.values());
        let sidecars = pods.any(|pod| pod.revision.as_ref() == Some(version) && !pod.terminating);
        let strays = observed.strays.iter().any(|stray| stray.revision == *version);
        // Somebody is connected, or nobody knows.
        let streams = observed.streams.as_ref().map(|all| all.get(version));
        let connected =
            streams.is_none_or(|streams| streams.is_some_and(|s| !s.pods.is_empty() || !s.silent.is_empty()));
        let exists = observed.revisions.contains_key(version);
        let used = labels || sidecars || strays || (exists && connected);
        if step.state == StepState::Done && used {
            notes.add(Rule::Retire, format!("{version} is in use"));
        }
        if version == plan.desired.target() {
            notes.add(Rule::Retire, format!("{version} is where the mesh goes"));
        }
    }
}
