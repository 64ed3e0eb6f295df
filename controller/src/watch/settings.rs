//! The MeshConfig of this mesh.

use crds::MeshConfig;
use crds::fleet::ProblemReport;
use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::Syncing;
use crate::certificates::trust::Directive;
use crate::snapshots::{Input, Snapshots};

pub(super) const KIND: &str = "MeshConfig";

/// Watches one MeshConfig. Without it nothing is served at the start, and the last good one is kept later.
pub(super) async fn run(
    api: Api<MeshConfig>,
    mesh: String,
    snapshots: Snapshots,
    directive: tokio::sync::watch::Sender<Option<Directive>>,
    syncing: Syncing,
    stop: CancellationToken,
) {
    let guarded: Api<DeserializeGuard<MeshConfig>> = Api::all(api.into_client());
    let config = watcher::Config::default().fields(&format!("metadata.name={mesh}"));
    let mut events = watcher::watcher(guarded, config).default_backoff().boxed();
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        let object = match event {
            None => return,
            Some(Ok(Event::Apply(object) | Event::InitApply(object))) if object.name_any() == mesh => object,
            Some(Ok(Event::Delete(_))) => {
                let message = "it was deleted; the last one stays in force";
                snapshots.send(Input::SettingsProblem(Some(problem(&mesh, "NotFound", message)))).await;
                continue;
            }
            Some(Ok(Event::Apply(_) | Event::InitApply(_) | Event::Init | Event::InitDone)) => continue,
            Some(Err(error)) => {
                let error = runtime::logging::chain(&error);
                tracing::warn!(kind = KIND, error, "the watch failed; trying again");
                continue;
            }
        };
        match object.0 {
            Ok(object) => {
                pass_on(&object, &directive);
                snapshots.send(Input::Settings(Box::new(object.spec))).await;
                syncing.done(KIND).await;
            }
            Err(invalid) => {
                let message =
                    format!("it cannot be read ({}); the last good one stays in force", invalid.error);
                snapshots.send(Input::SettingsProblem(Some(problem(&mesh, "Incomplete", &message)))).await;
            }
        }
    }
}

/// Passes on what the operator says about the root of trust, if it is something else.
fn pass_on(mesh: &MeshConfig, directive: &tokio::sync::watch::Sender<Option<Directive>>) {
    let authority = mesh.status.as_ref().and_then(|status| status.certificate_authority.as_ref());
    let said = authority.and_then(Directive::from);
    directive.send_if_modified(|known| {
        let changed = *known != said;
        known.clone_from(&said);
        changed
    });
}

fn problem(mesh: &str, reason: &str, message: &str) -> ProblemReport {
    ProblemReport {
        kind: KIND.to_owned(),
        namespace: String::new(),
        name: mesh.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}
