//! MeshConfig → the control plane, its revisions, webhooks, namespaces and trust.
//!
//! ```text
//!  triggers ──▶ gather ──▶ Facts ──▶ plan (revisions, namespaces: pure) ──▶ build (pure) ──▶ execute ──▶ report, tell
//!                            ▲  └────▶ rotation (root of trust: pure) ───────────────────────▲
//!                 fleet ─────┘ asked every few seconds, in the background
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::MeshConfig;
use crds::mesh_config::RotationStep;
use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::runtime::{Controller, watcher};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::apply::ApplyError;
use crate::context::Context;
use crate::fleet::FleetView;
use crate::pace::Pace;

pub use gather::budget_api;

pub mod build;
mod execute;
pub mod facts;
pub mod gather;
pub mod namespaces;
mod orphans;
pub mod plan;
pub mod pruning;
pub mod report;
pub mod restarts;
pub mod revisions;
pub mod rotation;
mod tell;
#[cfg(test)]
mod tests;
mod triggers;

/// Looked at this often even when nothing happens.
const RESYNC: Duration = Duration::from_secs(60);
/// Looked at this often while the root of trust is rotated or pods that escaped are restarted.
const MOVING: Duration = Duration::from_secs(2);
/// Shortest time between two looks at a mesh.
const PAUSE: Duration = Duration::from_millis(200);
/// Tried again after a failure.
const RETRY: Duration = Duration::from_secs(3);
/// Controllers are asked this often.
const ASK: Duration = Duration::from_secs(3);

/// Why a reconcile is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The facts could not be read.
    #[error("cannot read the cluster")]
    Gather(#[source] kube::Error),
    /// Something could not be done; the status says what.
    #[error("not everything could be done: {0}")]
    Execute(String),
    /// The status could not be written.
    #[error(transparent)]
    Report(ApplyError),
}

/// The reconciler's own state: nothing that a crash could lose.
struct Reconciler {
    ctx: Arc<Context>,
    fleets: Mutex<BTreeMap<String, FleetView>>,
    notify: Arc<Notify>,
    pace: Pace,
}

/// Runs until the context's shutdown begins.
///
/// # Errors
/// When the API server cannot be asked what it offers.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    let notify = Arc::new(Notify::new());
    let stop = ctx.shutdown.stopping.clone();
    triggers::watch(&ctx.client, gather::budget_api(&ctx.client).await?, &notify, &stop);
    let reconciler = Arc::new(Reconciler {
        ctx: ctx.clone(),
        fleets: Mutex::default(),
        notify: notify.clone(),
        pace: Pace::new(PAUSE),
    });
    let meshes: Api<MeshConfig> = Api::all(ctx.client.clone());
    let controller = Controller::new(meshes, watcher::Config::default())
        .reconcile_all_on(triggers::looks(notify))
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    let asking = tokio::spawn(ask(reconciler.clone(), controller.store()));
    let cleaning = tokio::spawn(orphans::run(ctx.clone()));
    controller
        .run(reconcile, |_, error, _| retry(error), reconciler)
        .for_each(|_| futures::future::ready(()))
        .await;
    asking.abort();
    cleaning.abort();
    Ok(())
}

fn retry(error: &ReconcileError) -> Action {
    tracing::warn!(error = runtime::logging::chain(error), "control plane: tried again");
    Action::requeue(RETRY)
}

async fn reconcile(mesh: Arc<MeshConfig>, reconciler: Arc<Reconciler>) -> Result<Action, ReconcileError> {
    // What it writes wakes it.
    if let Some(wait) = reconciler.pace.wait(&mesh.name_any()) {
        return Ok(Action::requeue(wait));
    }
    let result = Box::pin(reconciler.reconcile(&mesh)).await;
    reconciler.ctx.metrics.reconciled("control_plane", result.is_ok());
    result
}

impl Reconciler {
    async fn reconcile(&self, mesh: &MeshConfig) -> Result<Action, ReconcileError> {
        let ctx = &*self.ctx;
        if mesh.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        let fleet = self.fleets.lock().get(&mesh.name_any()).cloned();
        let facts = match Box::pin(gather::gather(&ctx.client, mesh, fleet)).await {
            Ok(facts) => facts,
            Err(error) => {
                let status = report::unread(mesh, &runtime::logging::chain(&error), Timestamp::now());
                let api: Api<MeshConfig> = Api::all(ctx.client.clone());
                // When that fails too, the API server is gone, which the log says.
                let written = ctx.writer.status(&api, mesh, mesh.status.as_ref(), &status).await;
                written.map_err(ReconcileError::Report)?;
                return Err(ReconcileError::Gather(error));
            }
        };
        let plan = plan::Plan::decide(mesh, &facts, &ctx.catalogue);
        if let Some(rival) = &plan.rival {
            let status = report::rivalled(mesh, rival, Timestamp::now());
            self.write(mesh, &facts, &status, &execute::Done::default()).await?;
            return Ok(Action::requeue(RESYNC));
        }
        let blueprint = plan.blueprint(mesh, &facts, &ctx.image_prefix, &ctx.cluster_domain, &ctx.namespace);
        let children = build::all(&blueprint);
        let now = Timestamp::now();
        let seen = rotation::observe(mesh, &facts, now);
        let mut root = rotation::Decision::make(&seen);
        let done = execute::execute(ctx, mesh, &plan, &facts, &children, root.action.as_ref()).await;
        let failure = done.failures.first().map(|failure| runtime::logging::chain(failure));
        if failure.is_some() {
            // The published roots may not have reached everybody: the next step is not ordered.
            root = root.held_back(seen.before.as_ref());
        }
        let mut status = report::status(mesh, &facts, &plan, &root, &done, now);
        let looked = restarts::look(ctx, mesh, &facts, &plan).await;
        status.restarts.clone_from(&looked.entries);
        let said = self.write(mesh, &facts, &status, &done).await?;
        match failure {
            Some(failure) => return Err(ReconcileError::Execute(failure)),
            None if said => restarts::act(ctx, mesh, &looked).await,
            None => {}
        }
        let soon = looked.moving || root.step != RotationStep::Stable;
        Ok(Action::requeue(if soon { MOVING } else { RESYNC }))
    }

    /// Returns whether the MeshConfig says it now.
    async fn write(
        &self,
        mesh: &MeshConfig,
        facts: &facts::Facts,
        status: &crds::mesh_config::MeshConfigStatus,
        done: &execute::Done,
    ) -> Result<bool, ReconcileError> {
        let api: Api<MeshConfig> = Api::all(self.ctx.client.clone());
        let written = self.ctx.writer.status(&api, mesh, mesh.status.as_ref(), status).await;
        // Somebody wrote the MeshConfig meanwhile; its watch brings the next pass.
        let said = written.map_err(ReconcileError::Report)?.is_said();
        if said {
            tell::tell(&self.ctx, mesh, facts, status, done).await;
        }
        Ok(said)
    }
}

/// Asks the controllers of every mesh again and again; what is new makes the meshes be looked at.
async fn ask(reconciler: Arc<Reconciler>, meshes: Store<MeshConfig>) {
    loop {
        let state = meshes.state();
        let names: Vec<_> = state.iter().map(|mesh| mesh.name_any()).collect();
        reconciler.fleets.lock().retain(|name, _| names.contains(name));
        for mesh in state {
            let name = mesh.name_any();
            match reconciler.ctx.fleet.gather(&name, &mesh.spec.namespace).await {
                Ok(view) => {
                    let before = reconciler.fleets.lock().insert(name, view.clone());
                    if before.as_ref() != Some(&view) {
                        reconciler.notify.notify_one();
                    }
                }
                Err(error) => {
                    tracing::warn!(mesh = name, error = runtime::logging::chain(&error), "fleet");
                    // What was heard before may not be so any more: nobody knows.
                    reconciler.fleets.lock().remove(&name);
                }
            }
        }
        tokio::time::sleep(ASK).await;
    }
}
