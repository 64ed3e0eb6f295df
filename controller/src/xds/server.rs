//! `DeltaAggregatedResources` as an HTTP route, and the task of each stream.

use std::sync::Arc;
use std::time::Duration;

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

use super::body::{Item, Requests, Responses};
use super::leave::Leaving;
use super::session::{Said, Session};
use super::trial::Canaries;
use super::wire::{DeltaRequest, DeltaResponse, Node};
use crate::fleet::{Connected, Proxies};
use crate::identity::{self, Identity};
use crate::metrics::{End, Ended, Metrics};
use crate::snapshots::{Feed, Holds, PodRef, Snapshots};

/// The one method that is served.
const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Responses that may wait for the socket; each is only references to shared bytes.
const WINDOW: usize = 8;

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
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { first_request: seconds(15), known: seconds(15), stuck: seconds(90) }
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
                tracing::debug!(?reason, message = status.message(), "stream ended");
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

impl Ads {
    async fn stream(&self, peer: Option<Identity>, mut requests: Requests, out: &Out) -> Result<End, Failed> {
        let peer = peer.ok_or((End::Refused, Status::unauthenticated("a client certificate is needed")))?;
        let first = tokio::time::timeout(self.limits.first_request, requests.message())
            .await
            .map_err(|_| (End::Stuck, Status::deadline_exceeded("no request came")))?
            .map_err(|status| (End::Closed, status))?
            .ok_or((End::Closed, Status::cancelled("closed without a request")))?;
        let node = first.node.clone().unwrap_or_default();
        let feed = self.admit(&peer, &node).await?;
        let holds =
            if first.initial_resource_versions.is_empty() { Holds::Nothing } else { Holds::Something };
        let current = self.snapshots.current(holds).await;
        current.map_err(|why| (End::Behind, Status::unavailable(why)))?;
        let (pod, facts) = (pod_of(&node)?, &feed.facts);
        let version =
            Some(node.metadata_text("revision")).filter(|text| !text.is_empty()).unwrap_or(&facts.revision);
        let connected = Arc::new(Connected {
            pod,
            version: version.to_owned(),
            envoy: node.envoy_version(),
            since: OffsetDateTime::now_utc()
                .replace_nanosecond(0)
                .ok()
                .and_then(|now| now.format(&Rfc3339).ok())
                .unwrap_or_default(),
            replaced: CancellationToken::new(),
            status: parking_lot::Mutex::default(),
        });
        tracing::info!(
            pod = connected.pod.name,
            namespace = connected.pod.namespace,
            envoy = connected.envoy,
            "connected"
        );
        self.proxies.add(connected.clone());
        self.metrics.streams.inc();
        let served = feed.served.borrow().clone();
        let name = format!("{}/{}", connected.pod.namespace, connected.pod.name);
        let gate = self.canaries.gate(&connected.envoy, &name);
        let session = Session::new(served, gate);
        let stream = Stream { ads: self, out, session, feed, connected: connected.clone() };
        let end = stream.run(first, requests, peer.not_after).await;
        self.metrics.streams.dec();
        self.proxies.remove(&connected);
        tracing::info!(pod = connected.pod.name, namespace = connected.pod.namespace, "disconnected");
        end
    }

    /// The pod that the node says it is must be ours and run as the service account of the certificate.
    async fn admit(&self, peer: &Identity, node: &Node) -> Result<Feed, Failed> {
        let pod = pod_of(node)?;
        let trust_domain = self.snapshots.settings().trust_domain;
        // Before waiting for anything: strangers to the namespace do not get to wait.
        let home = labels::spiffe_id(&trust_domain, &pod.namespace, "");
        if !peer.id.starts_with(&home) {
            return Err(refused(peer, &pod));
        }
        let attached = tokio::time::timeout(self.limits.known, self.snapshots.attach(pod.clone())).await;
        let Ok(Some(feed)) = attached else {
            let why = match self.snapshots.why_not(&pod) {
                Some(why) => why.to_string(),
                None if !self.snapshots.synced() => "this replica is not synced yet".to_owned(),
                None => "its uid is that of another pod".to_owned(),
            };
            let message = format!("pod {}/{}: {why}", pod.namespace, pod.name);
            return Err((End::Unknown, Status::unavailable(message)));
        };
        if peer.id != labels::spiffe_id(&trust_domain, &pod.namespace, &feed.facts.service_account) {
            return Err(refused(peer, &pod));
        }
        Ok(feed)
    }
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
    Ok(PodRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() })
}

struct Stream<'a> {
    ads: &'a Ads,
    out: &'a Out,
    session: Session,
    feed: Feed,
    connected: Arc<Connected>,
}

impl Stream<'_> {
    async fn run(
        mut self,
        first: DeltaRequest,
        mut requests: Requests,
        not_after: i64,
    ) -> Result<End, Failed> {
        self.request(&first).await?;
        let left = not_after.saturating_sub(OffsetDateTime::now_utc().unix_timestamp());
        let expiry = tokio::time::sleep(Duration::from_secs(u64::try_from(left).unwrap_or(0)));
        tokio::pin!(expiry);
        let mut watchdog = tokio::time::interval(self.ads.limits.stuck);
        watchdog.tick().await;
        let mut waited_for: Option<String> = None;
        let (wake, patience) = (self.session.wake(), self.session.patience());
        let mut again = tokio::time::Instant::now();
        let ads = self.ads;
        let turn = async {
            ads.stopping.cancelled().await;
            tokio::time::sleep(ads.leaving.turn(ads.metrics.streams.get())).await;
        };
        tokio::pin!(turn);
        loop {
            tokio::select! {
                message = requests.message() => match message {
                    Ok(Some(request)) => self.request(&request).await?,
                    Ok(None) | Err(_) => return Ok(End::Closed),
                },
                changed = self.feed.served.changed() => {
                    if changed.is_err() {
                        return Ok(End::Stopping);
                    }
                    let served = self.feed.served.borrow_and_update().clone();
                    let responses = self.session.on_snapshot(served);
                    self.send(responses).await?;
                }
                () = wake.notified() => {
                    let responses = self.session.on_answer();
                    self.send(responses).await?;
                }
                () = tokio::time::sleep_until(again), if self.session.gated() => {
                    let responses = self.session.on_answer();
                    self.send(responses).await?;
                    again = tokio::time::Instant::now() + patience;
                }
                _ = watchdog.tick() => {
                    let waits = self.session.waits_for();
                    if waits.is_some() && waits == waited_for.as_deref() {
                        return Err((End::Stuck, Status::aborted("a response was not acknowledged in time")));
                    }
                    waited_for = waits.map(str::to_owned);
                }
                // Envoy comes back with the certificate that it has by then, or not at all.
                () = &mut expiry => return Ok(End::Expired),
                () = self.connected.replaced.cancelled() => {
                    return Err((End::Replaced, Status::aborted("a newer stream took the place of this one")));
                }
                // An end without an error: Envoy connects to another replica at once.
                () = &mut turn => return Ok(End::Stopping),
            }
        }
    }

    async fn request(&mut self, request: &DeltaRequest) -> Result<(), Failed> {
        let outcome = self
            .session
            .on_request(request)
            .map_err(|violation| (End::Violation, Status::invalid_argument(violation.to_string())))?;
        match outcome.said {
            Said::Accepted(kind) => {
                self.ads.metrics.acks.get_or_create(&Metrics::per(kind)).inc();
            }
            Said::Refused(kind) => {
                self.ads.metrics.nacks.get_or_create(&Metrics::per(kind)).inc();
                let error =
                    request.error_detail.as_ref().map(|error| error.message.as_str()).unwrap_or_default();
                let (pod, namespace) = (&self.connected.pod.name, &self.connected.pod.namespace);
                tracing::warn!(pod, namespace, r#type = kind.as_str(), error, "rejected by Envoy");
            }
            Said::Nothing | Said::Foreign => {}
        }
        self.send(outcome.responses).await
    }

    async fn send(&self, responses: Vec<DeltaResponse>) -> Result<(), Failed> {
        for response in responses {
            if let Some(kind) = mesh::ResourceType::from_type_url(&response.type_url) {
                self.ads.metrics.pushes.get_or_create(&Metrics::per(kind)).inc();
                self.ads
                    .metrics
                    .sent
                    .get_or_create(&Metrics::per(kind))
                    .inc_by(response.resources.len() as u64);
            }
            self.ads.metrics.bytes.inc_by(prost::Message::encoded_len(&response) as u64);
            match tokio::time::timeout(self.ads.limits.stuck, self.out.send(Ok(Box::new(response)))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err((End::Closed, Status::cancelled("closed"))),
                Err(_) => return Err((End::Stuck, Status::aborted("nothing was read for too long"))),
            }
        }
        let mut status = self.connected.status.lock();
        status.in_sync = self.session.in_sync();
        status.rejected = self.session.rejections();
        if self.session.idle() {
            status.held = self.session.held();
        }
        Ok(())
    }
}
