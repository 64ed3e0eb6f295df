//! Writes a plan to the record's status, and tells people when the phase changes.

use crds::mesh_upgrade::{MeshUpgradeStatus, SoakStatus, UpgradePhase};
use crds::{MeshConfig, MeshUpgrade};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use upgrades::{Action, Note, Plan};

use super::Error;
use crate::apply;
use crate::conditions::{Conditions, Standing};
use crate::context::Context;
use crate::events::Weight;

/// Steps shown; a thousand workloads would not fit into an object.
const MOST_STEPS: usize = 200;

/// What happened to a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Words of the API server.
    pub refused: Vec<String>,
    /// What the checker says; with any of them nothing was executed.
    pub notes: Vec<Note>,
    /// Why the operator holds the upgrade, if it does.
    pub held: Option<Held>,
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

/// Writes where the upgrade stands.
///
/// # Errors
/// When the status cannot be written.
pub async fn report(
    ctx: &Context,
    mesh: &MeshConfig,
    record: &MeshUpgrade,
    plan: &Plan,
    outcome: &Outcome,
) -> Result<(), Error> {
    let before = record.status.clone();
    let after = status(record, plan, outcome, Timestamp::now());
    let api: Api<MeshUpgrade> = Api::all(ctx.client.clone());
    let was = before.as_ref().and_then(|status| status.phase);
    apply::status(&api, record, before.as_ref(), &after).await?;
    if was != after.phase {
        let (reason, note) = announcement(plan);
        ctx.events.tell(record, Weight::Normal, reason, "Upgrade", &note).await;
        ctx.events.tell(mesh, Weight::Normal, reason, "Upgrade", &note).await;
    }
    if let Some(reason) = needs_a_person(plan, outcome) {
        ctx.events.tell(record, Weight::Warning, reason, "Upgrade", &after.waiting_on).await;
    }
    Ok(())
}

/// The record's status: pure.
#[must_use]
pub fn status(record: &MeshUpgrade, plan: &Plan, outcome: &Outcome, now: Timestamp) -> MeshUpgradeStatus {
    let before = record.status.clone().unwrap_or_default();
    let mut conditions = Conditions::from(&before.conditions, record.metadata.generation, now);
    conditions.stand(&standing(plan, outcome));
    let mut soaks = before.soaks;
    for action in &plan.actions {
        if let Action::BeginSoak { wave, since } = action {
            soaks.retain(|soak| soak.wave != *wave);
            soaks.push(SoakStatus { wave: wave.clone(), since: upgrades::display::time(*since) });
        }
    }
    MeshUpgradeStatus {
        conditions: conditions.finish(),
        phase: Some(plan.phase),
        progress: plan.progress(),
        waiting_on: waiting(plan, outcome),
        steps: plan.statuses(MOST_STEPS),
        soaks,
        started: before.started.or_else(|| Some(text(now))),
        finished: plan.over().then(|| before.finished.unwrap_or_else(|| text(now))),
    }
}

fn waiting(plan: &Plan, outcome: &Outcome) -> String {
    let Outcome { refused, notes, held } = outcome;
    if let Some(note) = notes.first() {
        return format!("the plan breaks a rule and is not executed: {note}");
    }
    if let Some(held) = held {
        return held.message.clone();
    }
    match refused.first() {
        Some(refused) => refused.clone(),
        None if plan.actions.is_empty() && plan.phase != UpgradePhase::Complete => plan.waiting_line(),
        None => String::new(),
    }
}

/// Why a person has to do something, if so.
fn needs_a_person(plan: &Plan, outcome: &Outcome) -> Option<&'static str> {
    if !outcome.notes.is_empty() {
        return Some("UnsafePlan");
    }
    let wait = plan.waiting.iter().find(|wait| wait.needs_a_person());
    outcome.held.as_ref().map(|held| held.reason).or(wait.map(upgrades::WaitingOn::reason))
}

fn standing(plan: &Plan, outcome: &Outcome) -> Standing {
    let message = waiting(plan, outcome);
    let progress = plan.progress();
    match (needs_a_person(plan, outcome), plan.waiting.first()) {
        _ if plan.over() && outcome.notes.is_empty() => Standing::Ready { message: announcement(plan).1 },
        (Some(reason), _) => Standing::Stalled { reason, message },
        (None, _) if message.is_empty() => Standing::Reconciling { reason: "Moving", message: progress },
        (None, first) => {
            let reason = first.map_or("Refused", upgrades::WaitingOn::reason);
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
