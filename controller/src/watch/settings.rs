//! The MeshConfig of this mesh.

use std::sync::Arc;

use crds::MeshConfig;
use crds::fleet::ProblemReport;
use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::Syncing;
use super::current::Seen;
use super::pulse::{HEARTBEAT, Pulse};
use crate::certificates::trust::Directive;
use crate::snapshots::{Input, Snapshots};

pub(super) const KIND: &str = "MeshConfig";

/// Watches one MeshConfig. Without it nothing is served at the start, and the last good one is kept later.
pub(super) struct Settings {
    pub(super) mesh: String,
    pub(super) snapshots: Snapshots,
    pub(super) directive: tokio::sync::watch::Sender<Option<Directive>>,
    pub(super) syncing: Syncing,
    pub(super) seen: Seen,
    pub(super) pulse: Arc<Pulse>,
    pub(super) stop: CancellationToken,
}

impl Settings {
    pub(super) async fn run(self, api: Api<MeshConfig>) {
        let guarded: Api<DeserializeGuard<MeshConfig>> = Api::all(api.into_client());
        let config =
            watcher::Config::default().fields(&format!("metadata.name={}", self.mesh)).timeout(HEARTBEAT);
        let mut events = watcher::watcher(guarded, config).default_backoff().boxed();
        let mut listed = false;
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                None => return,
                Some(Ok(Event::Init)) => listed = false,
                Some(Ok(Event::InitApply(object))) if object.name_any() == self.mesh => {
                    listed = true;
                    self.take(object).await;
                }
                Some(Ok(Event::Apply(object))) if object.name_any() == self.mesh => self.take(object).await,
                Some(Ok(Event::InitDone)) => {
                    self.pulse.beat();
                    if !listed {
                        self.gone().await;
                    }
                }
                Some(Ok(Event::Delete(object))) if object.name_any() == self.mesh => self.gone().await,
                Some(Ok(Event::Apply(_) | Event::InitApply(_) | Event::Delete(_))) => {}
                Some(Err(error)) => {
                    let error = runtime::logging::chain(&error);
                    tracing::warn!(kind = KIND, error, "the watch failed; trying again");
                }
            }
        }
    }

    async fn take(&self, object: DeserializeGuard<MeshConfig>) {
        let version = object.meta().resource_version.clone();
        match object.0 {
            Ok(object) => {
                pass_on(&object, &self.directive);
                self.snapshots.send(Input::Settings(Box::new(object.spec))).await;
                self.note(version);
                self.syncing.done(KIND).await;
            }
            Err(invalid) => {
                let message =
                    format!("it cannot be read ({}); the last good one stays in force", invalid.error);
                self.problem("Incomplete", &message).await;
                self.note(version);
            }
        }
    }

    /// It was deleted, or was not there when everything was listed.
    async fn gone(&self) {
        self.problem("NotFound", "it does not exist; the last one, if there was one, stays in force").await;
        self.note(None);
    }

    fn note(&self, version: Option<String>) {
        self.seen.note(KIND, (String::new(), self.mesh.clone()), version);
    }

    async fn problem(&self, reason: &str, message: &str) {
        let problem = ProblemReport {
            kind: KIND.to_owned(),
            namespace: String::new(),
            name: self.mesh.clone(),
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        self.snapshots.send(Input::SettingsProblem(Some(problem))).await;
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
