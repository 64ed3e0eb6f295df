//! Whether this replica is as new as the API server, asked before a stream is served.
//!
//! ```text
//!  stream comes ──▶ list names and versions of all policies (a consistent read) ──▶ the watches have them all? ──▶ serve
//!                                        ▲                                                │ not yet
//!                                        └────────────── a moment later ◀─────────────────┘
//! ```
//! A sidecar that comes from another replica may hold something newer than this one knows of; serving it would undo that:
//! open again what was revoked. What it holds was made from what was in the API server before it came, so a replica that
//! has everything that a list of after its coming shows is at least as new. One look is for all streams that came before
//! it, and there is at most one in [`Times::pause`]. Versions are compared for equality only, as the API's contract has it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crds::{
    Egress, HTTPRouteGroup, IngressBackend, MeshConfig, MeshPolicy, PolicySource, Retry, TCPRoute,
    TrafficSplit, TrafficTarget, UpstreamTrafficSetting,
};
use futures::future::BoxFuture;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use mesh::Kind;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::settings;
use crate::snapshots::{Found, Gate, Snapshots};

/// How looks follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Shortest time from one look to the next.
    pub pause: Duration,
    /// Until the watches must have what a list shows.
    pub patience: Duration,
    /// Between two lists while they have not.
    pub again: Duration,
}

/// A look that fails lasts less than the 15 s that an Envoy waits for its first configuration.
impl Default for Times {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self { pause: millis(1_000), patience: millis(10_000), again: millis(250) }
    }
}

/// Objects of one page of a list.
const PAGE: u32 = 500;

/// Kind, namespace and name of an object, and its version.
pub type Versions = BTreeMap<(&'static str, String, String), String>;

/// Says what there is now.
pub trait Newest: Send + Sync + 'static {
    /// Every policy and what decides about them, as the API server has it at the time of the call.
    fn newest(&self) -> BoxFuture<'_, Result<Versions, String>>;
}

/// What the watches have handed over so far.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Versions>>);

impl Seen {
    /// Notes a version, or that an object is gone.
    pub fn note(&self, kind: &'static str, (namespace, name): (String, String), version: Option<String>) {
        let mut all = self.0.lock();
        match version {
            Some(version) => all.insert((kind, namespace, name), version),
            None => all.remove(&(kind, namespace, name)),
        };
    }

    /// An object that is not known as it is; `None` when all are.
    fn missing(&self, newest: &Versions) -> Option<String> {
        let all = self.0.lock();
        let different = newest.iter().find(|(key, version)| all.get(*key) != Some(version));
        let gone = || all.keys().find(|key| !newest.contains_key(*key));
        let (kind, namespace, name) = different.map(|(key, _)| key).or_else(gone)?;
        Some(format!("{kind} {namespace}/{name}"))
    }
}

/// Compares the two.
pub struct Freshness {
    seen: Seen,
    newest: Arc<dyn Newest>,
    snapshots: Snapshots,
    times: Times,
    last: tokio::sync::Mutex<Option<(Instant, Found)>>,
}

impl Freshness {
    /// What the watches note in `seen` goes to `snapshots`.
    pub fn new(seen: Seen, newest: Arc<dyn Newest>, snapshots: Snapshots, times: Times) -> Self {
        Self { seen, newest, snapshots, times, last: tokio::sync::Mutex::default() }
    }

    async fn ask(&self) -> Found {
        let came = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((began, found)) = &*last {
            if *began >= came {
                return found.clone();
            }
            tokio::time::sleep_until(*began + self.times.pause).await;
        }
        let began = Instant::now();
        let found = self.look().await;
        *last = Some((began, found.clone()));
        found
    }

    async fn look(&self) -> Found {
        let until = Instant::now() + self.times.patience;
        loop {
            let newest = match tokio::time::timeout_at(until, self.newest.newest()).await {
                Ok(Ok(newest)) => newest,
                Ok(Err(error)) => return Found::Unknown(error),
                Err(_) => return Found::Unknown("the API server does not answer".to_owned()),
            };
            let Some(missing) = self.seen.missing(&newest) else {
                // Noted is queued; the mesh has it when the queue has come so far.
                self.snapshots.flushed().await;
                return Found::Current;
            };
            if Instant::now() + self.times.again >= until {
                return Found::Behind(format!("{missing} is not known here as it is"));
            }
            tokio::time::sleep(self.times.again).await;
        }
    }
}

impl Gate for Freshness {
    fn check(&self) -> BoxFuture<'_, Found> {
        Box::pin(self.ask())
    }
}

/// Asks the API server.
pub(super) struct Listed {
    pub(super) client: Client,
    pub(super) mesh: String,
}

impl Newest for Listed {
    fn newest(&self) -> BoxFuture<'_, Result<Versions, String>> {
        let client = &self.client;
        let configs = async {
            let mut all = list::<MeshConfig>(client, settings::KIND).await?;
            all.retain(|(_, _, name), _| *name == self.mesh);
            Ok(all)
        };
        Box::pin(async move {
            let kinds: Vec<BoxFuture<'_, Result<Versions, String>>> = vec![
                Box::pin(configs),
                Box::pin(list::<PolicySource>(client, Kind::PolicySource.as_str())),
                Box::pin(list::<TrafficTarget>(client, Kind::TrafficTarget.as_str())),
                Box::pin(list::<HTTPRouteGroup>(client, Kind::HTTPRouteGroup.as_str())),
                Box::pin(list::<TCPRoute>(client, Kind::TCPRoute.as_str())),
                Box::pin(list::<TrafficSplit>(client, Kind::TrafficSplit.as_str())),
                Box::pin(list::<MeshPolicy>(client, Kind::MeshPolicy.as_str())),
                Box::pin(list::<Egress>(client, Kind::Egress.as_str())),
                Box::pin(list::<IngressBackend>(client, Kind::IngressBackend.as_str())),
                Box::pin(list::<Retry>(client, Kind::Retry.as_str())),
                Box::pin(list::<UpstreamTrafficSetting>(client, Kind::UpstreamTrafficSetting.as_str())),
            ];
            let all = futures::future::try_join_all(kinds).await?;
            Ok(all.into_iter().flatten().collect())
        })
    }
}

/// Names and versions of a kind. Without a resource version in the question the answer is consistent with all that was
/// written before.
async fn list<K>(client: &Client, kind: &'static str) -> Result<Versions, String>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let (mut versions, mut params) = (Versions::new(), ListParams::default().limit(PAGE));
    loop {
        let page = api
            .list_metadata(&params)
            .await
            .map_err(|error| format!("{kind} cannot be listed: {}", runtime::logging::chain(&error)))?;
        for object in page.items {
            let key = (kind, object.namespace().unwrap_or_default(), object.name_any());
            versions.insert(key, object.resource_version().unwrap_or_default());
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(versions),
        }
    }
}
