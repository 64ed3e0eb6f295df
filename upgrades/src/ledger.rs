//! The record of an upgrade: what was done, when and how, as it happened. A plan is computed anew at every pass from what
//! there is; a record is only added to.
//!
//! ```text
//!  announced ──has its turn──▶ begun ──deeds are added──▶ finished
//!  (computed anew)             intend: written before it is done      (never touched again)
//!                              settle: what came of it
//! ```
//! A deed is written before it is done, so that an operator that dies in between leaves none without a record; whether
//! it was done is then observed. What is done again to a workload that was finished is another step.

use std::collections::BTreeMap;

use crds::mesh_upgrade::{
    DoingStatus, DoneStatus, LegStatus, MeshUpgradeStatus, StepState, StepStatus, UpgradePhase,
};

use crate::display::{seconds, time};
use crate::facts::{Desired, Observed, Workload};
use crate::plan::{Action, Health, Plan, Reach, Step, What};
use crate::waiting::Place;

#[cfg(test)]
mod tests;

/// Steps that are finished and shown; earlier ones are counted. (An object may have 1.5 MB.)
const MOST_FINISHED: usize = 500;
/// Steps that are announced and shown; later ones are counted.
const MOST_ANNOUNCED: usize = 200;
/// Pods that are named per way in which they were moved.
const MOST_NAMES: usize = 10;
/// Id of the step that counts earlier ones.
const EARLIER: &str = "earlier";
/// Id of the step that counts later ones.
const LATER: &str = "later";

/// What doing one thing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Did {
    /// It is done.
    Yes,
    /// What was expected is not there any more.
    Changed,
    /// Refused, in the API server's words.
    Refused(String),
    /// Nobody knows whether it was done, for instance since no answer came.
    Unknown(String),
}

/// The legs of an upgrade that goes where it is desired to go now: the last one, or one more.
#[must_use]
pub fn legs(before: &MeshUpgradeStatus, desired: &Desired, now: u64) -> Vec<LegStatus> {
    let leg = |to: &str, since: String| LegStatus { to: to.to_owned(), since, unknown: BTreeMap::new() };
    let mut legs = before.legs.clone();
    if legs.is_empty() {
        // A record of a release that had no legs: it went forward, and perhaps back.
        let since = before.started.clone().unwrap_or_else(|| time(now));
        let back = matches!(before.phase, Some(UpgradePhase::Aborting | UpgradePhase::Aborted));
        match before.phase {
            None => {}
            Some(_) => legs.push(leg(&desired.to, since)),
        }
        if back {
            legs.push(leg(&desired.from, time(now)));
        }
    }
    if legs.last().is_none_or(|last| last.to != desired.target()) {
        legs.push(leg(desired.target(), time(now)));
    }
    legs
}

/// The number of the last leg.
#[must_use]
pub fn number(legs: &[LegStatus]) -> i64 {
    i64::try_from(legs.len()).unwrap_or(i64::MAX).max(1)
}

/// Workloads that were not healthy when this leg of the upgrade came to them, and since when.
#[must_use]
pub fn unhealthy(steps: &[StepStatus], leg: i64) -> BTreeMap<Place, u64> {
    let known = |step: &StepStatus| {
        let since = step.unhealthy_since.as_deref().and_then(seconds)?;
        Some((Place::parse(&step.id)?, since))
    };
    steps.iter().filter(|step| of(step, leg) && step.finished_at.is_none()).filter_map(known).collect()
}

/// What to know before anything moves: as it is now, until something has moved.
#[must_use]
pub fn notices(before: &MeshUpgradeStatus, plan: &Plan) -> Vec<String> {
    let moved = |step: &StepStatus| !step.done.is_empty() || step.doing.is_some();
    if before.steps.iter().any(moved) {
        return before.notices.clone();
    }
    plan.notices.iter().map(ToString::to_string).collect()
}

/// What a pass writes with.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// What it was made from.
    pub observed: &'a Observed,
    /// The legs, the current one last.
    pub legs: &'a [LegStatus],
    /// What is going to be done: the plan's actions, or none of them.
    pub actions: &'a [Action],
}

/// The steps before anything is done in a pass: what an earlier one was about to do is settled by what is observed, what
/// this one is about to do is written down, and everything else advances.
#[must_use]
pub fn intend(before: &[StepStatus], pass: &Pass<'_>) -> Vec<StepStatus> {
    let (leg, now) = (number(pass.legs), pass.observed.now);
    let mut facts: Vec<StepStatus> = before.iter().filter(|step| begun(step)).cloned().collect();
    let workloads = workloads(pass.observed);
    for fact in &mut facts {
        observe(fact, pass.legs, &workloads);
        if !of(fact, leg) && fact.finished_at.is_none() {
            give_up(
                fact,
                &format!("given up, since the upgrade turned round to {}", pass.plan.desired.target()),
                now,
            );
        }
    }
    let mut announced = Vec::new();
    let mut planned = Vec::new();
    for step in &pass.plan.steps {
        let id = step.what.id();
        let action = pass.actions.iter().find(|action| action.moves() && action.step() == id);
        let known = facts.iter().rposition(|fact| fact.id == id && of(fact, leg));
        let place = match known {
            Some(place) if facts[place].finished_at.is_none() => Some(place),
            // What was done is done; something more is another step.
            Some(_) if action.is_none() => None,
            None if step.reach == Reach::Announced && action.is_none() => {
                announced.push(announce(step, &id));
                None
            }
            _ => {
                facts.push(begin(&id, leg, now));
                Some(facts.len() - 1)
            }
        };
        if let Some(place) = place {
            advance(&mut facts[place], step, pass.plan.desired.target(), action, now);
        }
        planned.push(id);
    }
    for fact in facts.iter_mut().filter(|fact| fact.finished_at.is_none() && fact.id != EARLIER) {
        if pass.plan.over() {
            give_up(fact, "left as it was when the upgrade ended", now);
        } else if !planned.contains(&fact.id) {
            give_up(fact, "what it was about is no longer there", now);
        }
    }
    let mut steps = shorten(facts);
    steps.extend(cut(announced));
    steps
}

/// The steps after the actions were tried.
#[must_use]
pub fn settle(intended: &[StepStatus], did: &[(Action, Did)]) -> Vec<StepStatus> {
    let mut steps = intended.to_vec();
    for (action, did) in did {
        let id = action.step();
        let Some(step) = steps.iter_mut().rev().find(|step| step.id == id && step.finished_at.is_none())
        else {
            continue;
        };
        match did {
            Did::Yes => {
                if let Some(doing) = step.doing.take() {
                    add(step, doing);
                }
            }
            Did::Changed => {
                step.doing = None;
                step.reason = "not done, since it has changed meanwhile; it is looked at again".to_owned();
            }
            Did::Refused(words) => {
                step.doing = None;
                (step.state, step.reason) = (StepState::Waiting, words.clone());
            }
            Did::Unknown(words) => (step.state, step.reason) = (StepState::Waiting, words.clone()),
        }
    }
    steps
}

fn begun(step: &StepStatus) -> bool {
    !step.id.is_empty() && step.started_at.is_some()
}

fn of(step: &StepStatus, leg: i64) -> bool {
    step.leg.unwrap_or(1) == leg
}

fn begin(id: &str, leg: i64, now: u64) -> StepStatus {
    StepStatus { leg: Some(leg), started_at: Some(time(now)), ..empty(id, StepState::Running) }
}

fn empty(id: &str, state: StepState) -> StepStatus {
    StepStatus {
        step: String::new(),
        state,
        reason: String::new(),
        id: id.to_owned(),
        leg: None,
        started_at: None,
        finished_at: None,
        unhealthy_since: None,
        done: Vec::new(),
        doing: None,
        unknown: BTreeMap::new(),
    }
}

fn announce(step: &Step, id: &str) -> StepStatus {
    StepStatus { step: step.what.to_string(), reason: reason(step), ..empty(id, step.state) }
}

fn reason(step: &Step) -> String {
    step.waiting.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn give_up(fact: &mut StepStatus, why: &str, now: u64) {
    fact.state = StepState::Waiting;
    fact.reason = why.to_owned();
    fact.finished_at = Some(time(now));
}

/// A step that was begun and is not finished goes on.
fn advance(fact: &mut StepStatus, step: &Step, target: &str, action: Option<&Action>, now: u64) {
    if fact.done.is_empty() && fact.doing.is_none() {
        let since = fact.unhealthy_since.take();
        fact.unhealthy_since = (step.health == Health::Poor).then(|| since.unwrap_or_else(|| time(now)));
    }
    fact.doing = action.and_then(|action| doing(action, step, now)).or_else(|| fact.doing.take());
    fact.state = if action.is_some() { StepState::Running } else { step.state };
    fact.reason = reason(step);
    if fact.state == StepState::Done {
        fact.finished_at = Some(time(now));
    }
    fact.step = text(fact, &step.what, target);
}

/// What the step did, or before it has done anything what it is going to do.
fn text(fact: &StepStatus, what: &What, target: &str) -> String {
    let What::Move { place, moved, total, .. } = what else { return what.to_string() };
    let prefix = format!("move {place} to {target} ({moved}/{total})");
    let mut ways: Vec<(&str, i64)> = fact.done.iter().map(|done| (done.how.as_str(), done.pods)).collect();
    match (&fact.doing, ways.last_mut()) {
        (Some(doing), Some((how, pods))) if *how == doing.how => *pods += doing.pods,
        (Some(doing), _) => ways.push((&doing.how, doing.pods)),
        (None, _) => {}
    }
    match ways.as_slice() {
        [] if fact.state == StepState::Done => format!("{prefix}: nothing was left to do"),
        [] => what.to_string(),
        [(how, _)] => format!("{prefix} {how}"),
        several => {
            let words: Vec<_> = several.iter().map(|(how, pods)| format!("{pods} {how}")).collect();
            format!("{prefix}: {}", words.join("; then "))
        }
    }
}

/// What is written before a pod is disturbed.
fn doing(action: &Action, step: &Step, now: u64) -> Option<DoingStatus> {
    let What::Move { manner, no_swap, moved, total, .. } = &step.what else { return None };
    let why = no_swap.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
    let (what, uid, pods) = match action {
        Action::Evict { pod, uid, .. } | Action::Swap { pod, uid, .. } => (pod, uid.as_str(), 1),
        Action::Surge { mark, .. } => (mark, "", i64::try_from(total - moved).unwrap_or(1)),
        Action::Relabel { .. } | Action::BeginSoak { .. } => return None,
    };
    Some(DoingStatus {
        how: format!("{manner}{why}"),
        what: what.clone(),
        uid: uid.to_owned(),
        pods,
        at: time(now),
        unknown: BTreeMap::new(),
    })
}

/// What was about to be done and has been.
fn add(step: &mut StepStatus, doing: DoingStatus) {
    let DoingStatus { how, what, uid, pods, at, unknown: _ } = doing;
    // A roll-out names no pod.
    let name = (!uid.is_empty()).then_some(what);
    match step.done.last_mut() {
        Some(last) if last.how == how => {
            last.pods = last.pods.saturating_add(pods);
            last.last = at;
            let room = last.names.len() < MOST_NAMES;
            last.names.extend(name.filter(|_| room));
        }
        _ => step.done.push(DoneStatus {
            how,
            pods,
            names: name.into_iter().collect(),
            first: at.clone(),
            last: at,
            unknown: BTreeMap::new(),
        }),
    }
}

fn workloads(observed: &Observed) -> BTreeMap<String, &Workload> {
    let all = observed.namespaces.iter().flat_map(|(namespace, state)| {
        state.workloads.iter().map(move |(id, workload)| {
            let place = Place { namespace: namespace.clone(), workload: id.clone() };
            (place.id(), workload)
        })
    });
    all.collect()
}

/// Whether what an earlier pass was about to do has been done: it died before it could say so, or got no answer.
fn observe(fact: &mut StepStatus, legs: &[LegStatus], workloads: &BTreeMap<String, &Workload>) {
    let Some(doing) = fact.doing.take() else { return };
    let leg = usize::try_from(fact.leg.unwrap_or(1)).unwrap_or(1).max(1);
    let target = legs.get(leg - 1).map(|leg| leg.to.as_str());
    let done = match workloads.get(&fact.id) {
        None => true,
        Some(workload) if doing.uid.is_empty() => workload.moved_to.as_deref() == Some(doing.what.as_str()),
        Some(workload) => {
            let pod = workload.pods.values().find(|pod| pod.uid == doing.uid);
            pod.is_none_or(|pod| pod.terminating || pod.revision.as_deref() == target)
        }
    };
    if done {
        add(fact, doing);
    }
}

/// Counts the earliest finished steps instead of keeping them, when there are too many.
fn shorten(mut facts: Vec<StepStatus>) -> Vec<StepStatus> {
    let finished = |step: &StepStatus| step.finished_at.is_some() && step.id != EARLIER;
    let many = facts.iter().filter(|step| finished(step)).count().saturating_sub(MOST_FINISHED);
    for _ in 0..many {
        let Some(place) = facts.iter().position(finished) else { break };
        let gone = facts.remove(place);
        let (first, last) = (gone.started_at.unwrap_or_default(), gone.finished_at.unwrap_or_default());
        if facts.first().is_none_or(|step| step.id != EARLIER) {
            let how = "steps that are not shown any more".to_owned();
            let (names, unknown) = (Vec::new(), BTreeMap::new());
            let done =
                vec![DoneStatus { how, pods: 0, names, first: first.clone(), last: last.clone(), unknown }];
            let started_at = Some(first);
            facts.insert(0, StepStatus { done, started_at, ..empty(EARLIER, StepState::Done) });
        }
        if let Some(step) = facts.first_mut()
            && let Some(done) = step.done.first_mut()
        {
            done.pods += 1;
            done.last.clone_from(&last);
            step.step = format!("{} earlier steps", done.pods);
            step.finished_at = Some(last);
        }
    }
    facts
}

/// Counts the last announced steps instead of showing them, when there are too many.
fn cut(mut announced: Vec<StepStatus>) -> Vec<StepStatus> {
    let left = announced.len().saturating_sub(MOST_ANNOUNCED);
    if left > 0 {
        announced.truncate(MOST_ANNOUNCED);
        let step = format!("{left} more");
        announced.push(StepStatus { step, ..empty(LATER, StepState::Pending) });
    }
    announced
}
