//! `POST /v1/certificates` and `POST /v1/holdings` (docs/ARCHITECTURE.md, "Controller port").

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::future::BoxFuture;
use mesh::{NotOurs, PodFacts};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use runtime::tls::PeerAddress;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::authority::{Leaf, Subject};
use super::csr::{MAX_CSR, SigningRequest};
use super::holdings::{self, Holding, Holdings, MAX_BODY, Wanted};
use super::refusal::{Reason, Refusal, Refused};
use super::token::Bearer;
use super::trust::InForce;
use super::verifier::TokenVerifier;

/// A request that takes longer is given up; the longest part is waiting for a new pod to appear in the cache.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// What is known of pods.
pub trait Pods: Send + Sync + 'static {
    /// The pod of that name and uid, waiting for it a bounded time: it may be so new that the watch has not told
    /// of it yet. The pod of that name, whatever its uid, when the time is over.
    fn wait_for<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        uid: &'a str,
    ) -> BoxFuture<'a, Option<PodFacts>>;
}

/// What the MeshConfig says of certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Life of a leaf.
    pub workload_ttl: Duration,
}

/// Counts of the endpoint.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    issued: Counter,
    refused: Family<Refused, Counter>,
}

impl Metrics {
    /// Registers the counts.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "meshwright_certificates_issued",
            "Workload certificates issued",
            metrics.issued.clone(),
        );
        registry.register(
            "meshwright_certificates_refused",
            "Requests for a certificate that were refused, by reason",
            metrics.refused.clone(),
        );
        metrics
    }
}

/// Everything that issuing needs.
pub struct Issuing {
    /// Judges tokens.
    pub verifier: TokenVerifier,
    /// What is trusted and what signs, when it is loaded.
    pub trust: Arc<ArcSwapOption<InForce>>,
    /// What holders of certificates say.
    pub holdings: Holdings,
    /// The MeshConfig's part, when it has been seen.
    pub policy: Arc<ArcSwapOption<Policy>>,
    /// The cache of pods.
    pub pods: Arc<dyn Pods>,
    /// Namespace of the control plane.
    pub control_plane: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Counts.
    pub metrics: Metrics,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    certificate_chain: String,
    issuer: String,
    trust_bundle: String,
    trusted_roots: Vec<String>,
    serial: i64,
    issued_at: String,
    not_after: String,
    renew_after: String,
}

/// The routes.
pub fn router(issuing: Arc<Issuing>) -> Router {
    Router::new()
        .route("/v1/certificates", post(certificates))
        .route("/v1/holdings", post(holdings))
        .with_state(issuing)
}

/// Where a request comes from; all that come without an address are one caller.
fn caller(peer: Option<Extension<PeerAddress>>) -> IpAddr {
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |Extension(PeerAddress(address))| address.ip())
}

async fn certificates(
    State(issuing): State<Arc<Issuing>>,
    peer: Option<Extension<PeerAddress>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let limited = tokio::time::timeout(TIME_LIMIT, async {
        let csr = to_bytes(body, MAX_CSR).await.map_err(|_| Refusal::CsrTooLarge(MAX_CSR))?;
        issuing.issue(&headers, caller(peer), &csr).await
    });
    match limited.await.unwrap_or(Err(Refusal::Unavailable)) {
        Ok(answer) => {
            issuing.metrics.issued.inc();
            axum::Json(answer).into_response()
        }
        Err(refusal) => {
            issuing.metrics.refused.get_or_create(&Refused { reason: Reason(refusal.reason()) }).inc();
            tracing::info!(reason = refusal.reason(), message = %refusal, "certificate refused");
            refused(&refusal)
        }
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN);
    let body = serde_json::json!({"reason": refusal.reason(), "message": refusal.to_string()});
    (status, axum::Json(body)).into_response()
}

async fn holdings(
    State(issuing): State<Arc<Issuing>>,
    peer: Option<Extension<PeerAddress>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let limited = tokio::time::timeout(TIME_LIMIT, async {
        let report = to_bytes(body, MAX_BODY).await.map_err(|_| Refusal::ReportUnreadable)?;
        issuing.note(&headers, caller(peer), &report).await
    });
    match limited.await.unwrap_or(Err(Refusal::Unavailable)) {
        Ok(wanted) => axum::Json(wanted).into_response(),
        Err(refusal) => {
            tracing::info!(reason = refusal.reason(), message = %refusal, "report refused");
            refused(&refusal)
        }
    }
}

impl Issuing {
    async fn issue(&self, headers: &HeaderMap, caller: IpAddr, csr: &Bytes) -> Result<Answer, Refusal> {
        let token = bearer_token(headers)?;
        let now = OffsetDateTime::now_utc();
        let bearer = self.verifier.verify(token, caller, now.unix_timestamp()).await?;
        self.check_pod(&bearer).await?;
        let not_ready = |what: &str| Refusal::NotReady(what.to_owned());
        let policy = self.policy.load_full().ok_or_else(|| not_ready("the MeshConfig has not been seen"))?;
        let trust = self.trust.load_full().ok_or_else(|| not_ready("the Secret is missing"))?;
        let authority = trust.authority.as_ref();
        let authority =
            authority.ok_or_else(|| not_ready("this replica has not got the key of the root that signs"))?;
        let subject = Subject::of(&bearer, &policy.trust_domain, &self.control_plane, &self.cluster_domain);
        let request = SigningRequest::parse(csr)?;
        request.check_names(&subject.names()?)?;
        let leaf = authority.sign(&subject, &request.key, policy.workload_ttl, now)?;
        tracing::info!(id = subject.spiffe_id, pod = bearer.pod, not_after = %leaf.not_after, "certificate issued");
        answer(leaf, authority.fingerprint(), &trust)
    }

    /// Notes what a pod says that it holds, and says what it should. Whoever proves to be a pod of the cluster may
    /// tell of itself alone; the operator asks only for pods of the mesh.
    async fn note(&self, headers: &HeaderMap, caller: IpAddr, body: &[u8]) -> Result<Wanted, Refusal> {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let bearer = self.verifier.verify(bearer_token(headers)?, caller, now).await?;
        let holding = Holding::parse(body).ok_or(Refusal::ReportUnreadable)?;
        let not_ready = || Refusal::NotReady("the Secret is missing".to_owned());
        let trust = self.trust.load_full().ok_or_else(not_ready)?;
        self.check_pod(&bearer).await?;
        let holders = self.holdings.note(&bearer, holding, Instant::now());
        // Without the key nobody can be given another certificate: they keep what they have.
        let issuer = trust.authority.as_ref().map(|authority| authority.fingerprint().to_owned());
        Ok(Wanted {
            trust_bundle: trust.bundle.clone(),
            trusted_roots: trust.trusted.clone(),
            issuer: issuer.unwrap_or_default(),
            serial: trust.serial,
            report_after_seconds: holdings::pause(holders, trust.rotating),
        })
    }

    async fn check_pod(&self, bearer: &Bearer) -> Result<(), Refusal> {
        let found = self.pods.wait_for(&bearer.namespace, &bearer.pod, &bearer.pod_uid).await;
        let Some(pod) = found else {
            return Err(Refusal::PodNotFound(format!("{}/{}", bearer.namespace, bearer.pod)));
        };
        if pod.uid != bearer.pod_uid {
            return Err(Refusal::PodReplaced);
        }
        if pod.service_account != bearer.service_account {
            return Err(Refusal::ServiceAccountMismatch);
        }
        match pod.not_ours {
            Some(NotOurs::Finished | NotOurs::UnknownPod) => {
                Err(Refusal::PodNotFound(format!("{}/{}", bearer.namespace, bearer.pod)))
            }
            Some(NotOurs::NamespaceNotInMesh) if bearer.namespace != self.control_plane => {
                Err(Refusal::NamespaceNotInMesh(bearer.namespace.clone()))
            }
            // A pod that was kept out of the mesh may still prove who it is, if it mounts a token for us.
            Some(NotOurs::NamespaceNotInMesh | NotOurs::NoSidecar) | None => Ok(()),
        }
    }
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let (scheme, token) = value.and_then(|value| value.split_once(' ')).ok_or(Refusal::TokenMissing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Refusal::TokenMissing) }
}

fn answer(leaf: Leaf, issuer: &str, trust: &InForce) -> Result<Answer, Refusal> {
    let text = |time: OffsetDateTime| {
        time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).map_err(|_| Refusal::Unavailable)
    };
    Ok(Answer {
        issued_at: text(leaf.issued_at)?,
        not_after: text(leaf.not_after)?,
        renew_after: text(leaf.renew_after)?,
        certificate_chain: leaf.chain,
        issuer: issuer.to_owned(),
        trust_bundle: trust.bundle.clone(),
        trusted_roots: trust.trusted.clone(),
        serial: trust.serial,
    })
}

#[cfg(test)]
mod tests;
