//! Writes a plan and what came of it to the record, and tells people when the phase changes.

use crds::mesh_upgrade::{LegStatus, MeshUpgradeStatus, SoakStatus, StepStatus, UpgradePhase};
use crds::{MeshConfig, MeshUpgrade};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use upgrades::{Action, Desired, Note, Plan, WaitingOn};

use super::Error;
use super::execute::Done;
use crate::apply::{ApplyError, Reported};
use crate::conditions::{Conditions, Standing};
use crate::context::Context;
use crate::events::Weight;

/// What happened to a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What came of each action.
    pub done: Vec<(Action, Done)>,
    /// What the checker says; with any of them nothing was executed.
    pub notes: Vec<Note>,
    /// Why the operator holds the upgrade, if it does.
    pub held: Option<Held>,
}

/// What the record remembers.
#[derive(Debug, Clone)]
pub struct Page {
    /// What was done, and what is still to do.
    pub steps: Vec<StepStatus>,
    /// What to know before anything moves.
    pub notices: Vec<String>,
    /// Which way it went.
    pub legs: Vec<LegStatus>,
    /// How long each wave was watched.
    pub soaks: Vec<SoakStatus>,
}

/// What writing a record came to.
#[derive(Debug)]
pub enum Written {
    /// It is written, or was so already; the record as it is now.
    Yes(Box<MeshUpgrade>),
    /// Somebody has written since it was read, or it is gone: nothing was written.
    Changed,
}

/// Why the operator holds an upgrade: what the MeshConfig asks for cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// CamelCase.
    pub reason: &'static str,
    /// What to do.
    pub message: String,
}

/// A time as the record writes it.
#[must_use]
pub fn text(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Writes where the upgrade stands, and tells people.
///
/// # Errors
/// When the status cannot be written.
pub async fn report(
    ctx: &Context,
    mesh: &MeshConfig,
    record: &MeshUpgrade,
    before: &MeshUpgradeStatus,
    plan: &Plan,
    page: &Page,
    outcome: &Outcome,
) -> Result<(), Error> {
    let after = status(record, plan, page, outcome);
    match write(ctx, record, after.clone()).await? {
        Written::Yes(_) => {}
        // Looked at again at once: the change wakes this reconciler.
        Written::Changed => return Ok(()),
    }
    if before.phase != after.phase {
        let (reason, mut note) = announcement(plan);
        for notice in &after.notices {
            if matches!(plan.phase, UpgradePhase::AwaitingApproval | UpgradePhase::ControlPlane) {
                note.push_str("; ");
                note.push_str(notice);
            }
        }
        ctx.events.tell(record, Weight::Normal, reason, "Upgrade", &note).await;
        ctx.events.tell(mesh, Weight::Normal, reason, "Upgrade", &note).await;
    }
    for (reason, words) in warnings(plan, outcome) {
        ctx.events.tell(record, Weight::Warning, reason, "Upgrade", &words).await;
        ctx.events.tell(mesh, Weight::Warning, reason, "Upgrade", &words).await;
    }
    Ok(())
}

/// Says on the record that a pass could not even read its facts; nothing else of it changes.
///
/// # Errors
/// When the status cannot be written.
pub async fn unread(ctx: &Context, record: &MeshUpgrade, error: &kube::Error) -> Result<(), Error> {
    let before = record.status.clone().unwrap_or_default();
    let words = format!("the facts to be read; tried again soon: {}", runtime::logging::chain(error));
    let mut conditions = Conditions::from(&before.conditions, record.metadata.generation, Timestamp::now());
    conditions
        .stand(&Standing::Reconciling { reason: "FactsNotRead", message: format!("waits for {words}") });
    let after = MeshUpgradeStatus { conditions: conditions.finish(), waiting_on: words.clone(), ..before };
    write(ctx, record, after).await?;
    ctx.events.tell(record, Weight::Warning, "FactsNotRead", "Upgrade", &words).await;
    Ok(())
}

/// Writes a status over the one that was read, and over no other.
///
/// # Errors
/// When the API server says no for another reason than that the record has changed.
pub async fn write(
    ctx: &Context,
    record: &MeshUpgrade,
    after: MeshUpgradeStatus,
) -> Result<Written, ApplyError> {
    let api: Api<MeshUpgrade> = Api::all(ctx.client.clone());
    Ok(match ctx.writer.status(&api, record, record.status.as_ref(), &after).await? {
        Reported::Unchanged => Written::Yes(Box::new(record.clone())),
        Reported::Changed(now) => Written::Yes(now),
        Reported::Raced | Reported::Gone => Written::Changed,
    })
}

/// The record's status: pure but for the time of its conditions.
#[must_use]
pub fn status(record: &MeshUpgrade, plan: &Plan, page: &Page, outcome: &Outcome) -> MeshUpgradeStatus {
    let before = record.status.clone().unwrap_or_default();
    let now = Timestamp::now();
    let mut conditions = Conditions::from(&before.conditions, record.metadata.generation, now);
    conditions.stand(&standing(plan, outcome));
    let Page { steps, notices, legs, soaks } = page.clone();
    MeshUpgradeStatus {
        leader_term: before.leader_term,
        conditions: conditions.finish(),
        phase: Some(plan.phase),
        progress: plan.progress(),
        notices,
        waiting_on: waiting(plan, outcome),
        steps,
        legs,
        soaks,
        retire: plan.retire.clone().filter(|_| outcome.notes.is_empty()),
        started: before.started.or_else(|| Some(text(now))),
        finished: plan.over().then(|| before.finished.unwrap_or_else(|| text(now))),
        unknown: before.unknown,
    }
}

/// The soaks after the actions were tried: those that began; and what moves in a wave that was watched is watched anew.
#[must_use]
pub fn soaks(
    mut soaks: Vec<SoakStatus>,
    leg: i64,
    done: &[(Action, Done)],
    desired: &Desired,
) -> Vec<SoakStatus> {
    let ids = upgrades::facts::wave_ids(&desired.waves);
    let wave_of = |namespace: &String| {
        let named = desired.waves.iter().position(|wave| wave.namespaces.contains(namespace));
        named.and_then(|place| ids.get(place)).cloned().unwrap_or(upgrades::facts::WaveId::Others)
    };
    for (action, _) in done.iter().filter(|(_, done)| *done == Done::Yes) {
        match action {
            Action::BeginSoak { wave, since } => soaks.push(upgrades::soak::begin(wave, leg, *since)),
            Action::Relabel { namespace, .. }
            | Action::Evict { namespace, .. }
            | Action::Swap { namespace, .. }
            | Action::Surge { namespace, .. } => {
                let moved = wave_of(namespace);
                soaks.retain(|soak| upgrades::soak::wave(soak, leg, desired).as_ref() != Some(&moved));
            }
        }
    }
    soaks
}

fn waiting(plan: &Plan, outcome: &Outcome) -> String {
    let Outcome { done, notes, held } = outcome;
    if let Some(note) = notes.first() {
        return format!("the plan breaks a rule and is not executed: {note}");
    }
    if let Some(held) = held {
        return held.message.clone();
    }
    let trouble = done.iter().find_map(|(action, done)| match done {
        Done::Yes | Done::Changed => None,
        Done::Busy(why) | Done::Refused(why) | Done::Unknown(why) => Some(format!("{action}: {why}")),
    });
    let person = plan.waiting.iter().find(|wait| wait.needs_a_person()).map(ToString::to_string);
    match trouble.or(person.filter(|_| !plan.actions.is_empty())) {
        Some(words) => words,
        None if plan.actions.is_empty() && plan.phase != UpgradePhase::Complete => plan.waiting_line(),
        None => String::new(),
    }
}

/// What a person has to see to, each with its reason.
fn warnings(plan: &Plan, outcome: &Outcome) -> Vec<(&'static str, String)> {
    let mut warnings = Vec::new();
    if let Some(note) = outcome.notes.first() {
        warnings.push(("UnsafePlan", note.to_string()));
    }
    if let Some(held) = &outcome.held {
        warnings.push((held.reason, held.message.clone()));
    }
    for (action, done) in &outcome.done {
        if let Done::Refused(why) = done {
            warnings.push(("Refused", format!("{action}: {why}")));
        }
    }
    let waits = plan.waiting.iter().filter(|wait| wait.needs_a_person());
    // A pause is somebody's wish, and approval is announced with the phase.
    let waits = waits.filter(|wait| !matches!(wait, WaitingOn::Pause));
    warnings.extend(waits.map(|wait| (wait.reason(), wait.to_string())));
    warnings
}

fn standing(plan: &Plan, outcome: &Outcome) -> Standing {
    let message = waiting(plan, outcome);
    let progress = plan.progress();
    let refused = outcome.done.iter().any(|(_, done)| matches!(done, Done::Refused(_)));
    let person = plan.waiting.iter().find(|wait| wait.needs_a_person());
    // What else is waited for passes only after that.
    let alone = plan.waiting.iter().all(|wait| {
        wait.needs_a_person() || matches!(wait, WaitingOn::InUse { .. } | WaitingOn::Turn { .. })
    });
    let stalled = if !outcome.notes.is_empty() {
        Some("UnsafePlan")
    } else if let Some(held) = &outcome.held {
        Some(held.reason)
    } else if refused {
        Some("Refused")
    } else {
        let stuck = plan.actions.is_empty() && (alone || plan.desired.paused);
        person.filter(|_| stuck).map(WaitingOn::reason)
    };
    match (stalled, plan.waiting.first()) {
        _ if plan.over() && outcome.notes.is_empty() => Standing::Ready { message: announcement(plan).1 },
        (Some(reason), _) => Standing::Stalled { reason, message },
        (None, _) if message.is_empty() => Standing::Reconciling { reason: "Moving", message: progress },
        (None, first) => {
            let reason = first.map_or("Refused", WaitingOn::reason);
            Standing::Reconciling { reason, message: format!("{progress}; waits for {message}") }
        }
    }
}

/// What people are told about a phase.
fn announcement(plan: &Plan) -> (&'static str, String) {
    let (from, to) = (&plan.desired.from, &plan.desired.to);
    let way = format!("from {from} to {to}");
    match plan.phase {
        UpgradePhase::AwaitingApproval => {
            ("AwaitingApproval", format!("the upgrade {way} waits for approval"))
        }
        UpgradePhase::ControlPlane => ("UpgradeStarted", format!("the upgrade {way} has begun")),
        UpgradePhase::Moving => ("UpgradeMoving", format!("sidecars move {way}")),
        UpgradePhase::Retiring => {
            ("UpgradeRetiring", format!("all that can be moved has moved; upgrade {way}"))
        }
        UpgradePhase::Complete => {
            ("UpgradeComplete", format!("the upgrade {way} is complete: {}", plan.progress()))
        }
        UpgradePhase::Paused => ("UpgradePaused", format!("the upgrade {way} is held")),
        UpgradePhase::Aborting => ("UpgradeAborting", format!("the upgrade {way} goes back to {from}")),
        UpgradePhase::Aborted if plan.desired.wanted == *to => (
            "UpgradeAborted",
            format!(
                "back at {from}; set spec.version of MeshConfig {} to {from}, or delete this record to try again",
                plan.desired.mesh
            ),
        ),
        UpgradePhase::Aborted => ("UpgradeAborted", format!("back at {from}")),
    }
}
