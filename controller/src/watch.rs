//! Kubernetes as a stream of changes to the mesh.
//!
//! ```text
//!  one task per kind:  list ─▶ Apply…, then Delete for what is no longer there ─▶ Synced
//!                      watch ─▶ Apply / Delete            error ─▶ back off ─▶ list again
//! ```
//! * A relist never shrinks the world: what is gone is only known when the list is complete.
//! * An object that cannot be decoded is a problem of its own; its last good version stays.
//! * A kind that the cluster does not serve counts as empty at the start; what was known of it before stays.
//! * Lists and watches only: streaming lists do not exist in Kubernetes 1.20, our floor.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::{
    Egress, HTTPRouteGroup, IngressBackend, MeshConfig, MeshPolicy, PolicySource, Retry, TCPRoute,
    TrafficSplit, TrafficTarget, UpstreamTrafficSetting,
};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::{Api, Client};
use mesh::Kind;
use parking_lot::Mutex;
use runtime::admin::Readiness;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::certificates::trust::Directive;
use crate::snapshots::{Input, Snapshots};

mod feed;
mod settings;
mod slices;

pub use feed::{Decoded, Feed};

/// The part of readiness that this is.
const PART: &str = "caches";

/// Which lists are complete.
#[derive(Clone)]
pub struct Syncing {
    missing: Arc<Mutex<BTreeSet<&'static str>>>,
    readiness: Readiness,
    snapshots: Snapshots,
}

impl Syncing {
    fn new(kinds: &[&'static str], readiness: Readiness, snapshots: Snapshots) -> Self {
        let syncing =
            Self { missing: Arc::new(Mutex::new(kinds.iter().copied().collect())), readiness, snapshots };
        syncing.waiting(&syncing.missing.lock());
        syncing
    }

    fn waiting(&self, missing: &BTreeSet<&'static str>) {
        let names: Vec<_> = missing.iter().copied().collect();
        self.readiness.not_ready(PART, format!("not listed yet: {}", names.join(", ")));
    }

    /// A list is complete. The last one makes the mesh serve.
    async fn done(&self, kind: &'static str) {
        let all = {
            let mut missing = self.missing.lock();
            let new = missing.remove(kind);
            if !missing.is_empty() {
                self.waiting(&missing);
            }
            new && missing.is_empty()
        };
        if all {
            self.snapshots.send(Input::Synced).await;
            self.readiness.ready(PART);
            tracing::info!("all caches are synced");
        }
    }
}

/// Watches everything that the mesh called `mesh` is made of, until `stop` is cancelled. What the operator says about
/// the root of trust goes to `directive`.
pub fn start(
    client: &Client,
    mesh: &str,
    snapshots: &Snapshots,
    readiness: &Readiness,
    directive: watch::Sender<Option<Directive>>,
    stop: &CancellationToken,
) {
    let kinds = [
        Kind::Namespace,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::TrafficTarget,
        Kind::HTTPRouteGroup,
        Kind::TCPRoute,
        Kind::TrafficSplit,
        Kind::MeshPolicy,
        Kind::PolicySource,
        Kind::Egress,
        Kind::IngressBackend,
        Kind::Retry,
        Kind::UpstreamTrafficSetting,
    ];
    let mut names: Vec<_> = kinds.map(Kind::as_str).to_vec();
    names.push(settings::KIND);
    let syncing = Syncing::new(&names, readiness.clone(), snapshots.clone());
    let feed =
        |kind| Feed { kind, snapshots: snapshots.clone(), syncing: syncing.clone(), stop: stop.clone() };
    tokio::spawn(feed(Kind::Namespace).run(Api::<Namespace>::all(client.clone())));
    tokio::spawn(feed(Kind::Pod).run(Api::<Pod>::all(client.clone())));
    tokio::spawn(feed(Kind::Service).run(Api::<Service>::all(client.clone())));
    tokio::spawn(slices::run(client.clone(), feed(Kind::EndpointSlice)));
    tokio::spawn(feed(Kind::TrafficTarget).run(Api::<TrafficTarget>::all(client.clone())));
    tokio::spawn(feed(Kind::HTTPRouteGroup).run(Api::<HTTPRouteGroup>::all(client.clone())));
    tokio::spawn(feed(Kind::TCPRoute).run(Api::<TCPRoute>::all(client.clone())));
    tokio::spawn(feed(Kind::TrafficSplit).run(Api::<TrafficSplit>::all(client.clone())));
    tokio::spawn(feed(Kind::MeshPolicy).run(Api::<MeshPolicy>::all(client.clone())));
    tokio::spawn(feed(Kind::PolicySource).run(Api::<PolicySource>::all(client.clone())));
    tokio::spawn(feed(Kind::Egress).run(Api::<Egress>::all(client.clone())));
    tokio::spawn(feed(Kind::IngressBackend).run(Api::<IngressBackend>::all(client.clone())));
    tokio::spawn(feed(Kind::Retry).run(Api::<Retry>::all(client.clone())));
    let settings = Api::<UpstreamTrafficSetting>::all(client.clone());
    tokio::spawn(feed(Kind::UpstreamTrafficSetting).run(settings));
    let configs = Api::<MeshConfig>::all(client.clone());
    tokio::spawn(settings::run(
        configs,
        mesh.to_owned(),
        snapshots.clone(),
        directive,
        syncing,
        stop.clone(),
    ));
}
