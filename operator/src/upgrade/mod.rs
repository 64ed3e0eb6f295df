//! Upgrades: finds or makes the record, plans, has the plan checked, executes what may be done now, and reports.
//!
//! ```text
//!  MeshConfig, MeshUpgrades ─▶ decide ─▶ gather ─▶ plan ─▶ check ─▶ intend ─▶ execute ─▶ settle ─▶ again in a second
//!                                         facts    └─ crate upgrades ──┘  └ record ┘       └ record ┘
//! ```
//! What to do is computed from observation at every pass, so the operator may die after any line; what was done is
//! written down, before it is done, against the version of the record that the pass began with: of two operators that
//! think they lead, one changes nothing. The control-plane reconciler brings revisions up and removes them, and says
//! which way it has seen the upgrade go (`status.upgradeSeen` of the MeshConfig); here namespaces and pods are moved, not
//! before that, and here is decided when a revision may be removed (`status.retire` of the record).

use std::sync::Arc;
use std::time::Duration;

use crds::mesh_config::Approval as Mode;
use crds::{MeshConfig, MeshUpgrade};
use futures::StreamExt;
use futures::future::BoxFuture;
use kube::runtime::controller::{Action as Requeue, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use upgrades::facts::{Approval, Wave};
use upgrades::ledger;
use upgrades::records::{Decision, Idle};
use upgrades::{Desired, Plan};

use crate::context::Context;
use crate::events::Weight;
use crate::fleet::FleetView;
use crate::pace::Pace;

use gather::Remembered;
use report::{Held, Outcome, Written};
use watches::Watches;

pub mod execute;
pub mod facts;
pub mod gather;
pub mod records;
pub mod report;
pub mod slots;
#[cfg(test)]
mod tests;
pub mod watches;

/// How soon an upgrade that runs is looked at again.
const RUNNING: Duration = Duration::from_secs(1);
/// How soon a mesh without an upgrade is looked at again; edits are seen at once.
const RESTING: Duration = Duration::from_secs(60);
/// How soon a failed pass is tried again.
const FAILED: Duration = Duration::from_secs(3);
/// Shortest time between the beginnings of two passes over a mesh: what a pass writes wakes it too.
const PAUSE: Duration = Duration::from_millis(200);

/// Workloads on the move at once, after the first sidecar of the new release has proven itself. Each of them lacks at
/// most one pod, and every budget holds, whatever this number is; it bounds how many new pods a cluster has to start
/// at once, and how many pods a release that breaks only some workloads can cost before it is noticed.
const WORKLOADS_AT_ONCE: usize = 4;

/// Where the state of the sidecars comes from: the controllers; in tests of the API tier there are none.
pub trait Sidecars: Send + Sync {
    /// What is known now; `None` when nobody could be asked.
    fn gather<'a>(&'a self, ctx: &'a Context, mesh: &'a MeshConfig) -> BoxFuture<'a, Option<FleetView>>;
}

/// Asks the controllers.
pub struct Controllers;

impl Sidecars for Controllers {
    fn gather<'a>(&'a self, ctx: &'a Context, mesh: &'a MeshConfig) -> BoxFuture<'a, Option<FleetView>> {
        Box::pin(async move {
            let answer = ctx.fleet.gather(&mesh.name_any(), &mesh.spec.namespace).await;
            answer.inspect_err(|error| tracing::warn!(%error, "the controllers could not be asked")).ok()
        })
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("cannot read the facts of the upgrade")]
    Gather(#[from] kube::Error),
    /// Something could not be written.
    #[error("cannot write the record")]
    Apply(#[from] crate::apply::ApplyError),
}

/// Runs until the context's shutdown begins.
///
/// # Errors
/// None; a pass that fails is tried again.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    run_with(ctx, Arc::new(Controllers)).await
}

struct State {
    ctx: Arc<Context>,
    sidecars: Arc<dyn Sidecars>,
    watches: Watches,
    pace: Pace,
}

/// Like [`run`], with another source of the state of sidecars.
///
/// # Errors
/// None; a pass that fails is tried again.
pub async fn run_with(ctx: Arc<Context>, sidecars: Arc<dyn Sidecars>) -> anyhow::Result<()> {
    let stopping = ctx.shutdown.stopping.clone();
    let meshes: Api<MeshConfig> = Api::all(ctx.client.clone());
    let upgrades: Api<MeshUpgrade> = Api::all(ctx.client.clone());
    let state = Arc::new(State { ctx, sidecars, watches: Watches::default(), pace: Pace::new(PAUSE) });
    Controller::new(meshes, watcher::Config::default())
        .watches(upgrades, watcher::Config::default(), |upgrade| Some(ObjectRef::new(&upgrade.spec.mesh)))
        .graceful_shutdown_on(async move { stopping.cancelled().await })
        .run(reconcile, failed, state)
        .for_each(|_| futures::future::ready(()))
        .await;
    Ok(())
}

#[allow(clippy::needless_pass_by_value)] // The signature is kube's.
fn failed(_: Arc<MeshConfig>, error: &Error, state: Arc<State>) -> Requeue {
    state.ctx.metrics.reconciled("upgrade", false);
    tracing::warn!(error = runtime::logging::chain(error), "a pass of the upgrade failed; it is tried again");
    Requeue::requeue(FAILED)
}

async fn reconcile(mesh: Arc<MeshConfig>, state: Arc<State>) -> Result<Requeue, Error> {
    let ctx = &state.ctx;
    if let Some(wait) = state.pace.wait(&mesh.name_any()) {
        return Ok(Requeue::requeue(wait));
    }
    // Read again: what a watch remembers may be older than what this reconciler wrote a moment ago.
    let meshes: Api<MeshConfig> = Api::all(ctx.client.clone());
    let Some(mesh) = meshes.get_opt(&mesh.name_any()).await? else { return Ok(Requeue::await_change()) };
    if mesh.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::await_change());
    }
    let running = Box::pin(pass(ctx, state.sidecars.as_ref(), &state.watches, &mesh)).await?;
    ctx.metrics.reconciled("upgrade", true);
    Ok(Requeue::requeue(if running { RUNNING } else { RESTING }))
}

/// One pass over a mesh; returns whether an upgrade runs.
///
/// # Errors
/// [`Error`]; whatever was done before stays done, and the next pass goes on from there.
pub async fn pass(
    ctx: &Context,
    sidecars: &dyn Sidecars,
    watches: &Watches,
    mesh: &MeshConfig,
) -> Result<bool, Error> {
    let name = mesh.name_any();
    let effective =
        mesh.status.as_ref().and_then(|status| status.version.clone()).unwrap_or_default().effective;
    let records = records::list(ctx, &name).await?;
    let facts: Vec<_> = records.iter().map(records::fact).collect();
    let find = |name: &str| records.iter().find(|record| record.name_any() == name);
    match upgrades::records::decide(&name, &effective, &mesh.spec.version, &facts, &ctx.catalogue) {
        Decision::Idle(idle) => {
            rest(ctx, mesh, &idle).await;
            return Ok(false);
        }
        Decision::Begin { name, from, to, forget } => {
            records::begin(ctx, mesh, &name, (&from, &to)).await?;
            let old = forget.iter().filter_map(|name| find(name));
            records::forget(ctx, old).await?;
        }
        Decision::Continue(name) => {
            if let Some(record) = find(&name) {
                Box::pin(advance(ctx, sidecars, watches, mesh, record, None)).await?;
            }
        }
        Decision::Hold { name, why } => {
            if let Some(record) = find(&name) {
                let held = Held {
                    reason: why.reason(),
                    message: format!("the MeshConfig asks for what cannot be: {why}"),
                };
                Box::pin(advance(ctx, sidecars, watches, mesh, record, Some(held))).await?;
            }
        }
        Decision::Supersede { name, by } => {
            if let Some(record) = find(&name) {
                records::close(ctx, record, &format!("superseded: the MeshConfig asks for {by}")).await?;
            }
        }
        Decision::Close(name) => {
            if let Some(record) = find(&name) {
                records::close(ctx, record, &format!("back at {}", record.spec.from)).await?;
            }
        }
    }
    Ok(true)
}

/// Says why there is no upgrade, where somebody may be waiting for one.
async fn rest(ctx: &Context, mesh: &MeshConfig, idle: &Idle) {
    match idle {
        Idle::NothingInEffect | Idle::UpToDate => {}
        Idle::Unreachable(why) => {
            ctx.events.tell(mesh, Weight::Warning, why.reason(), "Upgrade", &why.to_string()).await;
        }
        Idle::Aborted(name) => {
            let note = format!(
                "MeshUpgrade {name} was aborted; set spec.version back, or delete that record to try again"
            );
            ctx.events.tell(mesh, Weight::Warning, "UpgradeAborted", "Upgrade", &note).await;
        }
    }
}

/// One pass over a record that is not over. Whatever becomes of it, the record says so.
async fn advance(
    ctx: &Context,
    sidecars: &dyn Sidecars,
    watches: &Watches,
    mesh: &MeshConfig,
    record: &MeshUpgrade,
    held: Option<Held>,
) -> Result<(), Error> {
    let (desired, held) = desired(mesh, record, held);
    let before = record.status.clone().unwrap_or_default();
    let now = gather::now();
    let legs = ledger::legs(&before, &desired, now);
    let leg = ledger::number(&legs);
    let watched = watches.look(&record.uid().unwrap_or_default(), leg, &before.soaks, &desired, now);
    let fleet = sidecars.gather(ctx, mesh).await;
    let remembered = Remembered { now, soaks: watched.seconds, leg };
    let gathered = match gather::gather(ctx, mesh, record, fleet.as_ref(), remembered).await {
        Ok(gathered) => gathered,
        Err(error) => {
            report::unread(ctx, record, &error).await?;
            return Err(error.into());
        }
    };
    let plan: Plan = upgrades::plan(&gathered.observed, &desired);
    let notes = upgrades::check(&plan, &gathered.observed);
    if !notes.is_empty() {
        tracing::error!(?notes, %plan, "the plan breaks a rule and is not executed");
    }
    let actions = if notes.is_empty() { plan.actions.as_slice() } else { &[] };
    let pass = ledger::Pass { plan: &plan, observed: &gathered.observed, legs: &legs, actions };
    let mut page = report::Page {
        steps: ledger::intend(&before.steps, &pass),
        notices: ledger::notices(&before, &plan),
        legs: legs.clone(),
        soaks: watched.record,
    };
    let outcome = Outcome { done: Vec::new(), notes: notes.clone(), held: held.clone() };
    let mut record = record.clone();
    if actions.iter().any(upgrades::Action::moves) {
        // Nothing is done that is not written down, and nothing by somebody who knows an older record.
        match report::write(ctx, &record, report::status(&record, &plan, &page, &outcome)).await? {
            Written::Yes(written) => record = *written,
            Written::Changed => {
                tracing::info!(
                    record = record.name_any(),
                    "the record has changed meanwhile; looked at again"
                );
                return Ok(());
            }
        }
    }
    let done = execute::execute(ctx, mesh, &record, actions, &gathered).await;
    let did: Vec<_> = done.iter().map(|(action, done)| (action.clone(), done.did())).collect();
    page.steps = ledger::settle(&page.steps, &did);
    page.soaks = report::soaks(page.soaks, leg, &done, &desired);
    report::report(ctx, mesh, &record, &before, &plan, &page, &Outcome { done, notes, held }).await
}

/// What the MeshConfig and the record say; what cannot be understood holds the upgrade.
fn desired(mesh: &MeshConfig, record: &MeshUpgrade, held: Option<Held>) -> (Desired, Option<Held>) {
    let upgrade = &mesh.spec.upgrade;
    let soak = crds::duration::parse(&upgrade.soak);
    let held = held.or_else(|| {
        let message = format!("spec.upgrade.soak of the MeshConfig: {}", soak.as_ref().err()?);
        Some(Held { reason: "SoakNotUnderstood", message })
    });
    let waves = upgrade.waves.iter();
    let desired = Desired {
        mesh: mesh.name_any(),
        from: record.spec.from.clone(),
        to: record.spec.to.clone(),
        wanted: mesh.spec.version.clone(),
        waves: waves
            .map(|wave| Wave { name: wave.name.clone(), namespaces: wave.namespaces.clone() })
            .collect(),
        soak: soak.unwrap_or_default(),
        approval: match (upgrade.approval, record.spec.approved) {
            (Mode::Automatic, _) => Approval::NotNeeded,
            (Mode::Manual, true) => Approval::Given,
            (Mode::Manual, false) => Approval::Missing,
        },
        paused: record.spec.paused || held.is_some(),
        abort: record.spec.abort,
        workloads_at_once: WORKLOADS_AT_ONCE,
    };
    (desired, held)
}
