//! The fleet: what every controller replica that runs says about the sidecars connected to it.
//!
//! ```text
//!  controller pods that run ──GET /v1/fleet, mutual TLS──▶ FleetReport each ──▶ FleetView (pure merge)
//! ```
//! The operator's certificate comes from a controller too, for a token that the API server issues for the mesh's
//! audience, bound to the operator's pod. A replica that does not answer makes the view incomplete, and whoever
//! decides by it must treat what is missing as unknown, never as absent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use crds::fleet::{AuthorityReport, FleetReport, HoldingReport, ProblemReport, ProxyReport};
use crds::labels;
use futures::future::{BoxFuture, join_all};
use futures::lock::Mutex;
use http_body_util::Full;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use runtime::certificates::{self, Identity, TokenSource, TrustSource};
use runtime::https::{self, Limits, Peer};

use crate::context::{OPERATOR, OwnPod};

#[cfg(test)]
mod tests;

/// A replica with many sidecars sends much; 64 MiB is about 200,000 of them.
const LIMITS: Limits = Limits { time: Duration::from_secs(5), body: 64 << 20 };

/// What is known about the sidecars of a mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FleetView {
    /// Connected sidecars by namespace and pod.
    pub proxies: BTreeMap<(String, String), ProxyReport>,
    /// What is wrong with policies and other objects, sorted, each once.
    pub problems: Vec<ProblemReport>,
    /// The root of trust as each replica that answered has it, by pod name.
    pub authorities: BTreeMap<String, Option<AuthorityReport>>,
    /// The last word of each holder of a certificate, by namespace and pod.
    pub holdings: BTreeMap<(String, String), Holding>,
    /// Release of each replica that answered, by pod name.
    pub replicas: BTreeMap<String, String>,
    /// Why a replica's report is missing, by pod name. Not empty means that the rest is incomplete.
    pub missing: BTreeMap<String, String>,
    /// Release of each replica that runs, by pod name; of those that did not answer too.
    pub releases: BTreeMap<String, String>,
    /// Namespace and name of the pods whose sidecars are connected to replicas of a release. A pod may be with several:
    /// a sidecar that is replaced in place has two Envoys for a while.
    pub streams: BTreeMap<String, BTreeSet<(String, String)>>,
}

/// What a holder of a certificate says. Which report it was is not kept, so that saying the same again changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// SHA-256 of the roots that it trusts.
    pub roots: Vec<String>,
    /// SHA-256 of the root of its certificate.
    pub issuer: String,
    /// The last word of the operator that it has heard of.
    pub serial: i64,
}

impl FleetView {
    /// Whether every replica that runs answered, ready or not, and there is at least one.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.missing.is_empty() && !self.replicas.is_empty()
    }

    /// Merges the answers. A sidecar that two replicas report (it has just moved) is taken from the one that it
    /// connected to last.
    #[must_use]
    pub fn merge(answers: Vec<(String, Result<FleetReport, String>)>) -> Self {
        let mut view = Self::default();
        let mut words: BTreeMap<(String, String), HoldingReport> = BTreeMap::new();
        for (pod, answer) in answers {
            match answer {
                Ok(report) if !report.synced => {
                    view.missing.insert(pod, "its caches are not synced yet".to_owned());
                }
                Ok(mut report) => {
                    for word in std::mem::take(&mut report.holdings) {
                        let key = (word.namespace.clone(), word.pod.clone());
                        if words.get(&key).is_none_or(|known| known.sequence < word.sequence) {
                            words.insert(key, word);
                        }
                    }
                    view.add(pod, report);
                }
                Err(reason) => {
                    view.missing.insert(pod, reason);
                }
            }
        }
        let kept = |(key, word): (_, HoldingReport)| {
            (key, Holding { roots: word.roots, issuer: word.issuer, serial: word.serial })
        };
        view.holdings = words.into_iter().map(kept).collect();
        view.problems.sort();
        view.problems.dedup();
        view
    }

    fn add(&mut self, pod: String, report: FleetReport) {
        self.authorities.insert(pod.clone(), report.authority);
        let streams = self.streams.entry(report.version.clone()).or_default();
        streams.extend(report.proxies.iter().map(|proxy| (proxy.namespace.clone(), proxy.pod.clone())));
        self.releases.insert(pod.clone(), report.version.clone());
        self.replicas.insert(pod, report.version);
        self.problems.extend(report.problems);
        for proxy in report.proxies {
            let key = (proxy.namespace.clone(), proxy.pod.clone());
            let newer =
                self.proxies.get(&key).is_none_or(|known| known.connected_since < proxy.connected_since);
            if newer {
                self.proxies.insert(key, proxy);
            }
        }
    }
}

/// A replica whose process runs: one that is not ready, or that ends, may hold streams too.
#[derive(Debug, Clone)]
struct Replica {
    pod: String,
    version: String,
    ready: bool,
    /// How to reach it, or why it cannot be reached.
    peer: Result<Peer, &'static str>,
}

/// Asks the controllers; holds one certificate per control-plane namespace and mesh.
pub struct Fleet {
    client: Client,
    namespace: String,
    pod: Option<OwnPod>,
    identities: Mutex<BTreeMap<(String, String), Held>>,
}

#[derive(Clone)]
struct Held {
    identity: Identity,
    renew_after: Timestamp,
    bundle: Option<String>,
}

impl Fleet {
    /// `namespace` and `pod` are the operator's own.
    #[must_use]
    pub fn new(client: Client, namespace: String, pod: Option<OwnPod>) -> Self {
        Self { client, namespace, pod, identities: Mutex::default() }
    }

    /// Asks every controller that runs, of the mesh whose control plane is in `namespace`.
    ///
    /// # Errors
    /// Only when the controllers' pods cannot be listed; whatever goes wrong with one of them is in the view.
    pub async fn gather(&self, mesh: &str, namespace: &str) -> Result<FleetView, kube::Error> {
        let replicas = self.replicas(mesh, namespace).await?;
        // The operator's own certificate comes from one that is ready, if there is one.
        let reachable = |replica: &&Replica| replica.peer.is_ok();
        let first = replicas.iter().filter(reachable).max_by_key(|replica| replica.ready);
        let tls = match first.and_then(|replica| replica.peer.as_ref().ok()) {
            Some(peer) => match self.identity(mesh, namespace, peer).await {
                Ok(identity) => identity.client_config().map_err(|error| error.to_string()),
                Err(error) => Err(format!("{error:#}")),
            },
            None => Err("no controller can be reached".to_owned()),
        };
        let releases: BTreeMap<_, _> =
            replicas.iter().map(|replica| (replica.pod.clone(), replica.version.clone())).collect();
        let answers = replicas.into_iter().map(|replica| {
            let tls = tls.clone();
            async move {
                let answer = match (tls, &replica.peer) {
                    (_, Err(why)) => Err((*why).to_owned()),
                    (Ok(tls), Ok(peer)) => ask(peer, tls).await.map_err(|error| format!("{error:#}")),
                    (Err(reason), Ok(_)) => Err(format!("no certificate for asking: {reason}")),
                };
                let not_ready = |why| format!("it is not ready, and {why}");
                let answer = if replica.ready { answer } else { answer.map_err(not_ready) };
                (replica.pod, answer)
            }
        });
        let mut view = FleetView::merge(join_all(answers).await);
        for (pod, release) in releases {
            view.releases.entry(pod).or_insert(release);
        }
        Ok(view)
    }

    async fn replicas(&self, mesh: &str, namespace: &str) -> Result<Vec<Replica>, kube::Error> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let selector = format!("{}=controller,{}={mesh}", labels::COMPONENT, labels::MESH);
        let mut replicas: Vec<_> =
            pods.list(&ListParams::default().labels(&selector)).await?.iter().filter_map(replica).collect();
        replicas.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(replicas)
    }

    /// The certificate for a mesh, made or renewed when it is time.
    async fn identity(&self, mesh: &str, namespace: &str, peer: &Peer) -> anyhow::Result<Identity> {
        let key = (namespace.to_owned(), mesh.to_owned());
        let mut identities = self.identities.lock().await;
        let bundle = self.trust_bundle(namespace).await?;
        // Another bundle, or the same roots in another order: another root is trusted, or signs.
        if let Some(held) = identities.get(&key)
            && held.renew_after > Timestamp::now()
            && held.bundle == bundle
        {
            return Ok(held.identity.clone());
        }
        let trust = Arc::new(ArcSwapOption::empty());
        trust.store(bundle.clone().map(Arc::new));
        let client = certificates::Client::new(certificates::Settings {
            controller: peer.clone(),
            token: self.token_source(labels::audience(mesh)),
            trust: TrustSource::Shared(trust),
        });
        let issued = client.issue().await?;
        let held = Held { identity: client.identity(), renew_after: issued.renew_after, bundle };
        identities.insert(key, held.clone());
        Ok(held.identity)
    }

    async fn trust_bundle(&self, namespace: &str) -> anyhow::Result<Option<String>> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let map = maps.get_opt(labels::TRUST_BUNDLE).await.context("cannot read the trust bundle")?;
        Ok(map.and_then(|map| map.data).and_then(|mut data| data.remove(labels::TRUST_BUNDLE_KEY)))
    }

    fn token_source(&self, audience: String) -> TokenSource {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let bound = self.pod.as_ref().map(|pod| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
        });
        TokenSource::Ask(Arc::new(move || -> BoxFuture<'static, anyhow::Result<String>> {
            let (accounts, audience, bound) = (accounts.clone(), audience.clone(), bound.clone());
            Box::pin(async move {
                let spec = TokenRequestSpec {
                    audiences: vec![audience],
                    bound_object_ref: bound,
                    expiration_seconds: Some(600),
                };
                let request = TokenRequest { spec, ..Default::default() };
                let answer = accounts
                    .create_token_request(OPERATOR, &PostParams::default(), &request)
                    .await
                    .context("the API server issues no token for the operator")?;
                Ok(answer.status.context("the API server's answer holds no token")?.token)
            })
        }))
    }
}

/// The replica of a pod, if its process runs. Whether it is ready says nothing about who is connected to it: to leave it
/// out would take what it knows for nothing.
fn replica(pod: &Pod) -> Option<Replica> {
    let status = pod.status.as_ref()?;
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let ready = ready && pod.metadata.deletion_timestamp.is_none();
    let statuses = status.container_statuses.iter().flatten();
    let runs = statuses.filter_map(|status| status.state.as_ref()).any(|state| state.running.is_some());
    if !runs && !ready {
        return None;
    }
    let version = pod.labels().get(labels::VERSION)?.clone();
    let server_name = format!("{}.{}.svc", labels::controller_name(&version), pod.namespace()?);
    let peer = status.pod_ip.as_ref().filter(|address| !address.is_empty()).map(|address| {
        let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
        Peer { address: format!("{host}:{}", labels::CONTROLLER_PORT), server_name }
    });
    // Where nobody says that the process runs, a pod without an address has none.
    if peer.is_none() && !runs {
        return None;
    }
    Some(Replica { pod: pod.name_any(), version, ready, peer: peer.ok_or("it has no address") })
}

async fn ask(peer: &Peer, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<FleetReport> {
    let request = http::Request::get("/v1/fleet").body(Full::new(Bytes::new()))?;
    let (status, body) = https::send(peer, tls, request, LIMITS).await?;
    anyhow::ensure!(
        status.is_success(),
        "it answers {status}: {}",
        String::from_utf8_lossy(&body[..body.len().min(200)])
    );
    serde_json::from_slice(&body).context("its report is not understood")
}
