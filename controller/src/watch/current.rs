//! Whether this replica is as new as the API server, asked before a stream is served.
//!
//! ```text
//!  stream comes ──▶ list names and versions of what decides (a consistent read) ──▶ the watches have them all? ──▶ serve
//!                                        ▲                                                │ not yet
//!                                        └────────────── a moment later ◀─────────────────┘
//! ```
//! A sidecar that comes from another replica may hold something newer than this one knows of; serving it would undo that:
//! open again what was revoked. What it holds was made from what was in the API server before it came, so a replica that
//! has everything that a list of after its coming shows is at least as new. One look is for all streams that came before
//! it, and there is at most one in [`Times::pause`]. Versions are compared for equality only, as the API's contract has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crds::{MeshConfig, PolicyKind, PolicySource};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Namespace, Service};
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

/// Whether objects of a kind are compared: what can open something to somebody when it is older than what a sidecar holds,
/// and is few and seldom written, for all of them are listed.
#[must_use]
pub(super) fn is_compared(kind: Kind) -> bool {
    match kind {
        Kind::TrafficTarget
        | Kind::HTTPRouteGroup
        | Kind::TCPRoute
        | Kind::TrafficSplit
        | Kind::MeshPolicy
        | Kind::PolicySource
        | Kind::Egress
        | Kind::IngressBackend
        | Kind::Retry
        | Kind::UpstreamTrafficSetting => true,
        // Its labels say whether a namespace is of the mesh: an older one lets callers in, and policies count, that are
        // of it no more.
        Kind::Namespace => true,
        // It says which ports of a pod are requests and which are bytes, so what rules see of a call; and whom an
        // IngressBackend that names a service lets in.
        Kind::Service => true,
        // The most of all objects, and each is written several times when it starts: to list ten thousand of them for
        // streams that come would slow the API server just when replicas change. Of one pod the uid and the service
        // account never change, and both are compared with the certificate and the first request; who may call it goes
        // by service accounts, not by pods. What stays: labels of a running pod that put it under a stricter MeshPolicy
        // reach it as late as this replica's watch is, which is unready when that is overdue (`standing.rs`).
        Kind::Pod => false,
        // As many and as often written. Addresses say where a call goes; the certificate there says to whom. What stays,
        // as late as the watch: the address of a source that an IngressBackend without certificates goes by.
        Kind::EndpointSlice => false,
    }
}

/// Objects of one page of a list.
const PAGE: u32 = 500;

/// Kind, namespace and name of an object.
pub type Key = (&'static str, String, String);
/// The version of each.
pub type Versions = BTreeMap<Key, String>;

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Every object.
    pub versions: Versions,
    /// Kinds of which the API server says that there are none, or that this replica may not see them. They are not
    /// compared: no replica knows more of them, and sidecars that are refused for that would miss all else.
    pub unseen: BTreeSet<&'static str>,
}

/// Says what there is now.
pub trait Newest: Send + Sync + 'static {
    /// Every object that is compared, as the API server has it at the time of the call.
    fn newest(&self) -> BoxFuture<'_, Result<Listed, String>>;
}

/// What the watches have handed over so far.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Handed>>);

#[derive(Default)]
struct Handed {
    now: Versions,
    /// What was known when the look began, and since.
    since: BTreeSet<(Key, String)>,
}

impl Seen {
    /// Notes a version, or that an object is gone.
    pub fn note(&self, kind: &'static str, (namespace, name): (String, String), version: Option<String>) {
        let (mut handed, key) = (self.0.lock(), (kind, namespace, name));
        match version {
            Some(version) => {
                handed.since.insert((key.clone(), version.clone()));
                handed.now.insert(key, version);
            }
            None => {
                handed.now.remove(&key);
            }
        }
    }

    /// A look begins.
    fn begin(&self) {
        let mut handed = self.0.lock();
        handed.since = handed.now.clone().into_iter().collect();
    }

    /// An object that is not known as it is listed, or is not listed any more; `None` when there is none. What has
    /// moved on since it was listed has been known as it was.
    fn missing(&self, listed: &Listed) -> Option<String> {
        let handed = self.0.lock();
        let known =
            |(key, version): &(&Key, &String)| handed.since.contains(&((*key).clone(), (*version).clone()));
        let different = listed.versions.iter().find(|one| !known(one)).map(|(key, _)| key);
        let gone = || {
            let seen = handed.now.keys().filter(|key| !listed.unseen.contains(key.0));
            seen.into_iter().find(|key| !listed.versions.contains_key(*key))
        };
        let (kind, namespace, name) = different.or_else(gone)?;
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
        self.seen.begin();
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
pub(super) struct Lists {
    pub(super) client: Client,
    pub(super) mesh: String,
}

type OfKind = Result<Option<Versions>, String>;

impl Newest for Lists {
    fn newest(&self) -> BoxFuture<'_, Result<Listed, String>> {
        let client = &self.client;
        let configs = async {
            let mut all = list::<MeshConfig>(client, settings::KIND).await?;
            all.iter_mut().for_each(|all| all.retain(|(_, _, name), _| *name == self.mesh));
            Ok(all)
        };
        Box::pin(async move {
            let mut kinds: Vec<(&'static str, BoxFuture<'_, OfKind>)> = vec![
                (settings::KIND, Box::pin(configs)),
                kind::<Namespace>(client, Kind::Namespace),
                kind::<Service>(client, Kind::Service),
                kind::<PolicySource>(client, Kind::PolicySource),
            ];
            kinds.extend(
                PolicyKind::ALL
                    .map(|policy| crds::with_policy_type!(policy, T => kind::<T>(client, policy.into()))),
            );
            let (names, lists): (Vec<_>, Vec<_>) = kinds.into_iter().unzip();
            let mut listed = Listed::default();
            for (kind, versions) in names.into_iter().zip(futures::future::try_join_all(lists).await?) {
                match versions {
                    Some(versions) => listed.versions.extend(versions),
                    None => drop(listed.unseen.insert(kind)),
                }
            }
            Ok(listed)
        })
    }
}

fn kind<K>(client: &Client, kind: Kind) -> (&'static str, BoxFuture<'_, OfKind>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    (kind.as_str(), Box::pin(list::<K>(client, kind.as_str())))
}

/// Names and versions of a kind; `None` when it is not served or may not be seen. Without a resource version in the question
/// the answer is consistent with all that was written before.
async fn list<K>(client: &Client, kind: &'static str) -> OfKind
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let (mut versions, mut params) = (Versions::new(), ListParams::default().limit(PAGE));
    loop {
        let page = match api.list_metadata(&params).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                tracing::warn!(kind, code = status.code, "not compared: the API server shows none");
                return Ok(None);
            }
            Err(error) => {
                return Err(format!("{kind} cannot be listed: {}", runtime::logging::chain(&error)));
            }
        };
        for object in page.items {
            let key = (kind, object.namespace().unwrap_or_default(), object.name_any());
            versions.insert(key, object.resource_version().unwrap_or_default());
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(Some(versions)),
        }
    }
}
