//! `DeltaAggregatedResources` as an HTTP route: who may open a stream. What happens on it is in `stream.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::post;
use crds::labels;
use runtime::tls::PeerCertificates;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::body::{Item, NoRequest, Requests, Responses};
use super::door::{Account, Closed, Door, Inside};
use super::leave::Leaving;
use super::session::Session;
use super::text;
use super::trial::{Canaries, Who};
use super::wire::{DeltaRequest, Node};
use crate::fleet::{Connected, Proxies};
use crate::identity::{self, Identity};
use crate::metrics::{End, Ended, Metrics};
use crate::snapshots::{Feed, Holds, PodRef, Snapshots};
use stream::Stream;

mod price;
mod stream;

/// The one method that is served.
const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Responses that may wait for the socket; each is only references to shared bytes.
const WINDOW: usize = 8;

/// Characters of a release that a sidecar says it is of.
const MOST_VERSION: usize = 64;
/// Bytes of a node id: the names of a pod and of its namespace (RFC 1123).
const MOST_NODE_ID: usize = 253 + 1 + 63;
/// Bytes of a uid.
const MOST_UID: usize = 128;

/// Limits of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until the first request.
    pub first_request: Duration,
    /// Until the pod is known: it may be newer than the watch.
    pub known: Duration,
    /// Until a response is written or acknowledged. Envoy holds an acknowledgement back while it waits for endpoints,
    /// up to its fetch timeout of 15 s.
    pub stuck: Duration,
    /// The greatest age of a stream, and at least three quarters of it; then it ends without an error, and its Envoy
    /// connects anew, perhaps to another replica: so that those that were started later get their share.
    pub age: Duration,
}

/// The greatest age of a stream when nobody says otherwise.
pub const AGE: Duration = Duration::from_secs(6 * 3600);

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { first_request: seconds(15), known: seconds(15), stuck: seconds(90), age: AGE }
    }
}

/// Serves streams.
#[derive(Clone)]
pub struct Ads {
    /// The mesh.
    pub snapshots: Snapshots,
    /// Where streams are listed.
    pub proxies: Arc<Proxies>,
    /// Who tries new content first.
    pub canaries: Arc<Canaries>,
    /// Counts.
    pub metrics: Metrics,
    /// Who may open a stream, and how often.
    pub door: Arc<Door>,
    /// Ends every stream, each at its turn.
    pub stopping: CancellationToken,
    /// The turns.
    pub leaving: Arc<Leaving>,
    /// Limits.
    pub limits: Limits,
}

type Out = mpsc::Sender<Item>;

/// The route.
pub fn router(ads: Ads) -> Router {
    Router::new().route(PATH, post(accept)).with_state(ads)
}

async fn accept(State(ads): State<Ads>, request: Request) -> http::Response<Body> {
    let peer = request.extensions().get::<PeerCertificates>().and_then(identity::of);
    let (out, responses) = mpsc::channel(WINDOW);
    let requests = Requests::new(request.into_body());
    tokio::spawn(async move {
        let reason = match Box::pin(ads.stream(peer, requests, &out)).await {
            Ok(reason) => reason,
            Err((reason, status)) => {
                match reason {
                    End::Violation | End::Full => {
                        tracing::warn!(?reason, message = status.message(), "stream ended");
                    }
                    _ => tracing::debug!(?reason, message = status.message(), "stream ended"),
                }
                // Nobody may be there to read it.
                let _ = out.try_send(Err(Box::new(status)));
                reason
            }
        };
        ads.metrics.ended.get_or_create(&Ended { reason }).inc();
    });
    let mut response = http::Response::new(Body::new(Responses::new(responses)));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

type Failed = (End, Status);

/// A stream that was let in. Nothing of the first request but this is kept.
struct Opened {
    connected: Arc<Connected>,
    session: Session,
    feed: Feed,
    account: Arc<Account>,
    inside: Inside,
}

impl Ads {
    async fn stream(&self, peer: Option<Identity>, mut requests: Requests, out: &Out) -> Result<End, Failed> {
        let peer = peer.ok_or((End::Refused, Status::unauthenticated("a client certificate is needed")))?;
        let mut stream = {
            let (opened, first) = Box::pin(self.open(&peer, &mut requests)).await?;
            let mut stream = Stream::new(self, out, opened);
            stream.request(&first).await?;
            stream
        };
        let end = Box::pin(stream.run(requests, peer.not_after)).await;
        let pod = &stream.connected.pod;
        tracing::info!(pod = pod.name, namespace = pod.namespace, ?end, "disconnected");
        end
    }

    /// Takes the first request. Few of one service account's streams are here at a time.
    async fn open(&self, peer: &Identity, requests: &mut Requests) -> Result<(Opened, DeltaRequest), Failed> {
        let account = self.door.account(&peer.id, Instant::now());
        let _turn = account.open().await;
        let mut first = tokio::time::timeout(self.limits.first_request, requests.message())
            .await
            .map_err(|_| (End::Stuck, Status::deadline_exceeded("no request came")))?
            .map_err(|why| no_request(&why))?
            .ok_or((End::Closed, Status::cancelled("closed without a request")))?;
        let node = first.node.take().unwrap_or_default();
        let pod = pod_of(&node)?;
        let known = self.snapshots.pod(&pod.namespace, &pod.name).is_some_and(|facts| facts.uid == pod.uid);
        match account.come(known.then_some(pod.uid.as_str()), Instant::now()) {
            Ok(pause) => tokio::time::sleep(pause).await,
            Err(why) => {
                tokio::time::sleep(account.patience()).await;
                return Err(closed(why));
            }
        }
        let feed = self.admit(peer, &pod).await?;
        let holds =
            if first.initial_resource_versions.is_empty() { Holds::Nothing } else { Holds::Something };
        let current = self.snapshots.current(holds).await;
        current.map_err(|why| (End::Behind, Status::unavailable(why)))?;
        let inside = self.door.enter().map_err(closed)?;
        let envoy = node.envoy();
        let revision = Some(node.metadata_text("revision")).filter(|text| !text.is_empty());
        let connected = Arc::new(Connected {
            pod,
            version: text::told(revision.unwrap_or(&feed.facts.revision), MOST_VERSION),
            envoy: envoy.map(|version| version.to_string()).unwrap_or_default(),
            since: now(),
            began: Instant::now(),
            spare: CancellationToken::new(),
            replaced: CancellationToken::new(),
            status: parking_lot::Mutex::default(),
        });
        let (namespace, pod) = (&connected.pod.namespace, &connected.pod.name);
        tracing::info!(pod, namespace, envoy = connected.envoy, "connected");
        let name = format!("{namespace}/{pod}");
        let who = Who { account: &peer.id, proxy: &name, envoy: envoy.unwrap_or_default() };
        let session = Session::new(feed.served.borrow().clone(), self.canaries.gate(who));
        Ok((Opened { connected, session, feed, account, inside }, first))
    }

    /// The pod that the node says it is must be ours and run as the service account of the certificate.
    async fn admit(&self, peer: &Identity, pod: &PodRef) -> Result<Feed, Failed> {
        let trust_domain = self.snapshots.settings().trust_domain;
        // Before waiting for anything: strangers to the namespace do not get to wait.
        let home = labels::spiffe_id(&trust_domain, &pod.namespace, "");
        if !peer.id.starts_with(&home) {
            return Err(refused(peer, pod));
        }
        let attached = tokio::time::timeout(self.limits.known, self.snapshots.attach(pod.clone())).await;
        let Ok(Some(feed)) = attached else {
            let why = match self.snapshots.why_not(pod) {
                Some(why) => why.to_string(),
                None if !self.snapshots.synced() => "this replica is not synced yet".to_owned(),
                None => "its uid is that of another pod".to_owned(),
            };
            let message = format!("pod {}/{}: {why}", pod.namespace, pod.name);
            return Err((End::Unknown, Status::unavailable(message)));
        };
        if peer.id != labels::spiffe_id(&trust_domain, &pod.namespace, &feed.facts.service_account) {
            return Err(refused(peer, pod));
        }
        Ok(feed)
    }
}

fn closed(why: Closed) -> Failed {
    let end = match why {
        Closed::TooOften(_) => End::TooOften,
        Closed::Full(_) => End::Full,
    };
    (end, Status::unavailable(why.to_string()))
}

fn no_request(why: &NoRequest) -> Failed {
    let end = match why {
        NoRequest::Broken(_) => End::Closed,
        NoRequest::TooLarge(_) | NoRequest::TooManyNames(_) | NoRequest::Garbled(_) => End::Violation,
    };
    (end, why.status())
}

/// RFC 3339, in seconds.
fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).ok();
    now.and_then(|now| now.format(&Rfc3339).ok()).unwrap_or_default()
}

fn refused(peer: &Identity, pod: &PodRef) -> Failed {
    let message = format!("{} is not the identity of pod {}/{}", peer.id, pod.namespace, pod.name);
    tracing::warn!(message, "stream refused");
    (End::Refused, Status::permission_denied(message))
}

/// Node id `<pod>.<namespace>` (docs/ARCHITECTURE.md). A pod's name may hold dots, a namespace's may not.
fn pod_of(node: &Node) -> Result<PodRef, Failed> {
    let (name, namespace) = node
        .id
        .rsplit_once('.')
        .ok_or((End::Refused, Status::invalid_argument("the node id must be <pod>.<namespace>")))?;
    let uid = node.metadata_text("pod_uid");
    if node.id.len() > MOST_NODE_ID || uid.len() > MOST_UID {
        return Err((End::Refused, Status::invalid_argument("the node id or pod_uid is too long")));
    }
    Ok(PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() })
}
