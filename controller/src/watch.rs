//! Kubernetes as a stream of changes to the mesh.
//!
//! ```text
//!  one task per kind:  list ─▶ Apply…, then Delete for what is no longer there ─▶ Synced
//!                      watch ─▶ Apply / Delete            error ─▶ back off ─▶ list again
//! ```
//! * A relist never shrinks the world: what is gone is only known when the list is complete.
//! * An object that cannot be decoded is a problem of its own; its last good version stays.
//! * A kind that the cluster does not serve is never an empty list: the installation promises every kind, so that a
//!   replica without one waits, and says for what.
//! * A watch that is not heard of for a while makes the replica say that it is behind (`pulse.rs`, `standing.rs`).
//! * A stream is served by a replica that is as new as the API server was when it came (`current.rs`).
//! * Lists and watches only: streaming lists do not exist in Kubernetes 1.20, our floor.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crds::{
    Egress, HTTPRouteGroup, IngressBackend, MeshConfig, MeshPolicy, PolicySource, Retry, TCPRoute,
    TrafficSplit, TrafficTarget, UpstreamTrafficSetting,
};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::{Api, Client, Resource};
use mesh::{Kind, Object, ObjectRef};
use parking_lot::Mutex;
use runtime::admin::Readiness;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::certificates::trust::Directive;
use crate::snapshots::{Input, Snapshots};
use current::{Freshness, Lists, Seen, Times};
use monitor::Monitor;

pub mod current;
mod feed;
pub mod monitor;
mod pulse;
mod settings;
mod slices;
mod standing;

pub use feed::{Decoded, Feed};

/// The part of readiness that this is.
const PART: &str = "caches";
/// How long a replica that begins waits for sources that are not there as they are sealed: the operator puts back what
/// somebody edited within seconds.
const SEALING: Duration = Duration::from_secs(60);
/// What a list waits for when nothing is wrong.
const LISTING: &str = "";

/// Which lists are complete.
#[derive(Clone)]
pub struct Syncing {
    /// What is missing, and why if that is known.
    missing: Arc<Mutex<BTreeMap<&'static str, &'static str>>>,
    readiness: Readiness,
    snapshots: Snapshots,
}

impl Syncing {
    fn new(kinds: &[&'static str], readiness: Readiness, snapshots: Snapshots) -> Self {
        let missing = kinds.iter().map(|kind| (*kind, LISTING)).collect();
        let syncing = Self { missing: Arc::new(Mutex::new(missing)), readiness, snapshots };
        syncing.waiting(&syncing.missing.lock());
        syncing
    }

    fn waiting(&self, missing: &BTreeMap<&'static str, &'static str>) {
        let shown = missing.iter().map(|(kind, why)| match *why {
            LISTING => (*kind).to_owned(),
            why => format!("{kind} ({why})"),
        });
        let shown: Vec<_> = shown.collect();
        self.readiness.not_ready(PART, format!("not listed yet: {}", shown.join(", ")));
    }

    /// Why a list is not complete.
    fn held_up(&self, kind: &'static str, why: &'static str) {
        let mut missing = self.missing.lock();
        if let Some(known) = missing.get_mut(kind) {
            *known = why;
            self.waiting(&missing);
        }
    }

    /// A list is complete. The last one makes the mesh serve; the replica is ready when the mesh has taken all of them.
    async fn done(&self, kind: &'static str) {
        let all = {
            let mut missing = self.missing.lock();
            let new = missing.remove(kind).is_some();
            if !missing.is_empty() {
                self.waiting(&missing);
            }
            new && missing.is_empty()
        };
        if all {
            self.readiness.not_ready(PART, "everything is listed; the mesh takes it in");
            tokio::spawn(self.clone().finish());
        }
    }

    async fn finish(self) {
        if tokio::time::timeout(SEALING, self.sealed()).await.is_err() {
            let sources = shown(&self.snapshots.unsealed());
            tracing::warn!(sources, "served without what is not there with its sealed content");
        }
        self.snapshots.send(Input::Synced).await;
        self.snapshots.taken_in().await;
        self.readiness.ready(PART);
        tracing::info!("all caches are synced");
    }

    /// Waits until every Git source has been seen as it is sealed. What was in force of one that is just being edited is
    /// known only to those who saw it before: the operator puts it back, or seals the next commit.
    async fn sealed(&self) {
        let mut ticks = self.snapshots.ticks();
        self.snapshots.flushed().await;
        loop {
            let open = self.snapshots.unsealed();
            if open.is_empty() {
                return;
            }
            self.readiness.not_ready(PART, format!("not there as they are sealed: {}", shown(&open)));
            if ticks.changed().await.is_err() {
                return;
            }
        }
    }
}

fn shown(sources: &[ObjectRef]) -> String {
    sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Watches what meshes are made of.
struct Watching<'a> {
    client: &'a Client,
    stop: &'a CancellationToken,
    syncing: Syncing,
    seen: Seen,
    monitor: Monitor,
}

impl Watching<'_> {
    /// A feed, and the client that its watch is to be made with.
    fn feed(&self, kind: Kind) -> (Feed, Client) {
        let (pulse, client) = self.monitor.listen(kind.as_str(), self.client);
        let feed = Feed {
            kind,
            snapshots: self.syncing.snapshots.clone(),
            syncing: self.syncing.clone(),
            seen: current::is_compared(kind).then(|| self.seen.clone()),
            pulse,
            stop: self.stop.clone(),
        };
        (feed, client)
    }

    fn start<K>(&self, kind: Kind)
    where
        K: Resource<DynamicType = ()> + Into<Object> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (feed, client) = self.feed(kind);
        tokio::spawn(feed.run(Api::<K>::all(client)));
    }
}

/// Watches everything that the mesh called `mesh` is made of, until `stop` is cancelled. What the operator says about
/// the root of trust goes to `directive`.
pub fn start(
    client: &Client,
    mesh: &str,
    snapshots: &Snapshots,
    readiness: &Readiness,
    monitor: &Monitor,
    directive: watch::Sender<Option<Directive>>,
    stop: &CancellationToken,
) {
    let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).chain([settings::KIND]).collect();
    let syncing = Syncing::new(&names, readiness.clone(), snapshots.clone());
    let seen = Seen::default();
    let newest = Lists { client: client.clone(), mesh: mesh.to_owned() };
    let fresh = Freshness::new(seen.clone(), Arc::new(newest), snapshots.clone(), Times::default());
    snapshots.guard(Arc::new(fresh));
    let watching = Watching { client, stop, syncing, seen, monitor: monitor.clone() };
    for &kind in Kind::ALL {
        match kind {
            Kind::Namespace => watching.start::<Namespace>(kind),
            Kind::Pod => watching.start::<Pod>(kind),
            Kind::Service => watching.start::<Service>(kind),
            Kind::EndpointSlice => {
                let (feed, client) = watching.feed(kind);
                tokio::spawn(slices::run(client, feed));
            }
            Kind::TrafficTarget => watching.start::<TrafficTarget>(kind),
            Kind::HTTPRouteGroup => watching.start::<HTTPRouteGroup>(kind),
            Kind::TCPRoute => watching.start::<TCPRoute>(kind),
            Kind::TrafficSplit => watching.start::<TrafficSplit>(kind),
            Kind::MeshPolicy => watching.start::<MeshPolicy>(kind),
            Kind::PolicySource => watching.start::<PolicySource>(kind),
            Kind::Egress => watching.start::<Egress>(kind),
            Kind::IngressBackend => watching.start::<IngressBackend>(kind),
            Kind::Retry => watching.start::<Retry>(kind),
            Kind::UpstreamTrafficSetting => watching.start::<UpstreamTrafficSetting>(kind),
        }
    }
    let (pulse, client) = monitor.listen(settings::KIND, client);
    let Watching { syncing, seen, .. } = watching;
    let settings = settings::Settings {
        mesh: mesh.to_owned(),
        snapshots: snapshots.clone(),
        directive,
        syncing,
        seen,
        pulse,
        stop: stop.clone(),
    };
    tokio::spawn(settings.run(Api::<MeshConfig>::all(client)));
}

#[cfg(test)]
mod tests;
