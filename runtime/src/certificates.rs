//! A daemon's own certificate: key made in memory, CSR, `POST /v1/certificates`, renewed for as long as it runs.
//!
//! ```text
//!  token + trust bundle ──▶ issue ──▶ Identity {certificate, roots} ──▶ server_config / client_config
//!                             ▲  │ renewAfter, or back-off after a failure, or another root signs (holdings)
//!                             └──┘ keep
//! ```
//! The key is made anew for every certificate and never written anywhere. The protocol is the one of
//! docs/ARCHITECTURE.md, "Controller port".

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use k8s_openapi::jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::https::{self, HttpsError, Limits, Peer};
use crate::tls::{self, Certificate, ClientAuth, Roots, TlsError};

mod holdings;
#[cfg(test)]
mod tests;

const LIMITS: Limits = Limits { time: Duration::from_secs(10), body: 1 << 20 };
/// Never renew more often than this, whatever the answer says.
const SHORTEST: Duration = Duration::from_secs(5);
/// So many certificates in a row may be refused for being of an older word of the operator; then the older word is
/// believed, for the mesh may have been restored from a backup.
const STUBBORN: u32 = 10;
/// Never wait longer than this before looking whether it is time: clocks are set, machines sleep.
const LONGEST: Duration = Duration::from_secs(3600);

/// A function that gets a token, for daemons that ask the API server for one.
pub type AskForToken = Arc<dyn Fn() -> BoxFuture<'static, Result<String, anyhow::Error>> + Send + Sync>;

/// Where the token comes from; read anew for every certificate, because the kubelet replaces it.
#[derive(Clone)]
pub enum TokenSource {
    /// A projected token.
    File(PathBuf),
    /// Asked for.
    Ask(AskForToken),
}

/// Where the roots come from, with which the first connection is verified.
#[derive(Debug, Clone)]
pub enum TrustSource {
    /// A mounted PEM file; it may appear later.
    File(PathBuf),
    /// PEM that the process keeps up to date itself; may be empty at first.
    Shared(Arc<ArcSwapOption<String>>),
}

/// Whom to ask and how.
#[derive(Clone)]
pub struct Settings {
    /// The controller.
    pub controller: Peer,
    /// Proof of who we are.
    pub token: TokenSource,
    /// Whom we trust.
    pub trust: TrustSource,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The token cannot be had.
    #[error("no token")]
    Token(#[source] anyhow::Error),
    /// The trust bundle is not there yet or cannot be read.
    #[error("no trust bundle yet: {0}")]
    Trust(String),
    /// The bundle or the issued certificate cannot be used.
    #[error("unusable {what}")]
    Tls {
        /// `trust bundle` or `certificate`.
        what: &'static str,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// Key or CSR could not be made.
    #[error("cannot make a key or signing request")]
    Request(#[source] rcgen::Error),
    /// No answer.
    #[error("the controller cannot be asked")]
    Https(#[source] HttpsError),
    /// The controller said no.
    #[error("the controller refuses ({status}): {reason}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// CamelCase, part of the API.
        reason: String,
        /// For a person.
        message: String,
    },
    /// It may have been signed with a root that is on its way out.
    #[error("the controller obeys word {serial} of the operator, another one {heard} already: asking again")]
    Outdated {
        /// Of the answer.
        serial: i64,
        /// Of the latest answer of any controller.
        heard: i64,
    },
    /// The controller said something else.
    #[error("the controller's answer is not understood")]
    Answer(#[source] anyhow::Error),
}

/// Certificate and roots of this process, current at any time.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Own chain and key.
    pub certificate: Arc<Certificate>,
    /// Trusted roots.
    pub roots: Arc<Roots>,
}

impl Default for Identity {
    fn default() -> Self {
        Self { certificate: Certificate::none(), roots: Roots::none() }
    }
}

impl Identity {
    /// For serving; client certificates are verified against the same roots if they are sent.
    ///
    /// # Errors
    /// See [`tls::server_config`].
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        tls::server_config(self.certificate.clone(), ClientAuth::Optional(self.roots.clone()))
    }

    /// For serving callers that have no certificate of ours, as the API server calling a webhook.
    ///
    /// # Errors
    /// See [`tls::server_config`].
    pub fn server_config_without_clients(&self) -> Result<Arc<ServerConfig>, TlsError> {
        tls::server_config(self.certificate.clone(), ClientAuth::None)
    }

    /// For asking peers.
    ///
    /// # Errors
    /// See [`tls::client_config`].
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        tls::client_config(self.certificate.clone(), self.roots.clone())
    }
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// End of its life.
    pub not_after: Timestamp,
    /// When to ask for the next.
    pub renew_after: Timestamp,
    /// The roots that came with it (PEM).
    pub trust_bundle: String,
    /// SHA-256 of these roots; empty when the controller did not say.
    pub roots: Vec<String>,
    /// SHA-256 of the root of the certificate; empty when the controller did not say.
    pub issuer: String,
    /// Which word of the operator the controller obeys; of two, the higher one counts.
    pub serial: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    certificate_chain: String,
    trust_bundle: String,
    not_after: Timestamp,
    renew_after: Timestamp,
    #[serde(default)]
    trusted_roots: Vec<String>,
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    serial: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refusal {
    reason: String,
    message: String,
}

/// Gets certificates and keeps them fresh.
pub struct Client {
    settings: Settings,
    identity: Identity,
    /// The roots that a controller told last (PEM): while a root is rotated they may be newer than the mounted ones.
    told: ArcSwapOption<String>,
    /// The last word of the operator that was heard of, and certificates refused in a row for being of an older one.
    heard: AtomicI64,
    outdated: AtomicU32,
}

impl Client {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            identity: Identity::default(),
            told: ArcSwapOption::empty(),
            heard: AtomicI64::new(0),
            outdated: AtomicU32::new(0),
        }
    }

    /// The identity that this client fills and refills; clones share it.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Asks for one certificate and, when it is good, puts it in place. On an error the old one stays.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub async fn issue(&self) -> Result<Issued, CertificateError> {
        let token = self.settings.token.read().await.map_err(CertificateError::Token)?;
        // For this question alone: what this process trusts is what a controller says, and a mounted file may still hold a
        // root that was dropped.
        let asked = Roots::none();
        let known = self.settings.trust.read(self.told.load().as_deref())?;
        asked.set(&known).map_err(|source| CertificateError::Tls { what: "trust bundle", source })?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CertificateError::Request)?;
        let request = signing_request(&key, &token)?;
        // Asked without the old certificate: the token alone says who we are, and an expired certificate must not
        // stand in the way of a new one.
        let tls = tls::client_config(Certificate::none(), asked)
            .map_err(|source| CertificateError::Tls { what: "trust bundle", source })?;
        let (status, body) = https::send(&self.settings.controller, tls, request, LIMITS)
            .await
            .map_err(CertificateError::Https)?;
        let answer = read_answer(status, &body)?;
        let heard = self.heard.load(Ordering::Relaxed);
        if answer.serial < heard && self.outdated.fetch_add(1, Ordering::Relaxed) < STUBBORN {
            return Err(CertificateError::Outdated { serial: answer.serial, heard });
        }
        self.outdated.store(0, Ordering::Relaxed);
        self.heard.store(answer.serial, Ordering::Relaxed);
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        self.identity
            .certificate
            .set(&answer.certificate_chain, der)
            .map_err(|source| CertificateError::Tls { what: "certificate", source })?;
        self.set_roots(&answer.trust_bundle)?;
        self.told.store(Some(answer.trust_bundle.clone().into()));
        Ok(Issued {
            roots: answer.trusted_roots,
            issuer: answer.issuer,
            serial: answer.serial,
            not_after: answer.not_after,
            renew_after: answer.renew_after,
            trust_bundle: answer.trust_bundle,
        })
    }

    /// Gets a certificate and renews it until `stop` is cancelled. `told` hears of every attempt, for readiness.
    pub async fn keep(&self, stop: CancellationToken, told: impl Fn(&Result<Issued, CertificateError>)) {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(500))
            .with_max_delay(Duration::from_secs(30))
            .with_jitter()
            .without_max_times();
        let mut delays = backoff.build();
        loop {
            let result = self.issue().await;
            told(&result);
            let waited = match result {
                Ok(mut issued) => {
                    delays = backoff.build();
                    tracing::info!(not_after = %issued.not_after, renew_after = %issued.renew_after, "certificate issued");
                    let soonest = Timestamp::now().checked_add(SHORTEST).unwrap_or(Timestamp::MAX);
                    issued.renew_after = issued.renew_after.max(soonest);
                    self.hold(issued, &stop).await
                }
                Err(error) => {
                    tracing::warn!(error = crate::logging::chain(&error), "no certificate");
                    let delay = delays.next().unwrap_or(SHORTEST);
                    wait_until(Timestamp::now().checked_add(delay).unwrap_or(Timestamp::MAX), &stop).await
                }
            };
            if waited.is_break() {
                return;
            }
        }
    }

    fn set_roots(&self, pem: &str) -> Result<(), CertificateError> {
        self.identity.roots.set(pem).map_err(|source| CertificateError::Tls { what: "trust bundle", source })
    }
}

/// Waits by the wall clock, which is the one that certificates expire by, at least a moment.
async fn wait_until(due: Timestamp, stop: &CancellationToken) -> std::ops::ControlFlow<()> {
    let mut pause = pause_before(due, Timestamp::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return std::ops::ControlFlow::Break(()),
            () = tokio::time::sleep(pause) => {}
        }
        let now = Timestamp::now();
        if now >= due {
            return std::ops::ControlFlow::Continue(());
        }
        pause = pause_before(due, now);
    }
}

/// How long to sleep before looking at the clock again.
fn pause_before(due: Timestamp, now: Timestamp) -> Duration {
    let left = Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO);
    if left.is_zero() { SHORTEST } else { left.min(LONGEST) }
}

fn signing_request(key: &KeyPair, token: &str) -> Result<Request<Full<Bytes>>, CertificateError> {
    let csr = CertificateParams::default()
        .serialize_request(key)
        .and_then(|csr| csr.pem())
        .map_err(CertificateError::Request)?;
    Request::post("/v1/certificates")
        .header(header::AUTHORIZATION, bearer(token)?)
        .header(header::CONTENT_TYPE, "application/pkcs10")
        .body(Full::from(csr))
        .map_err(|error| CertificateError::Answer(error.into()))
}

fn bearer(token: &str) -> Result<HeaderValue, CertificateError> {
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| CertificateError::Token(anyhow::anyhow!("the token is not a header value")))?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

fn read_answer(status: StatusCode, body: &[u8]) -> Result<Answer, CertificateError> {
    if status.is_success() {
        return serde_json::from_slice(body).map_err(|error| CertificateError::Answer(error.into()));
    }
    Err(refused(status, body))
}

fn refused(status: StatusCode, body: &[u8]) -> CertificateError {
    let refusal: Refusal = serde_json::from_slice(body).unwrap_or_default();
    CertificateError::Refused { status: status.as_u16(), reason: refusal.reason, message: refusal.message }
}

impl TokenSource {
    async fn read(&self) -> Result<String, anyhow::Error> {
        match self {
            Self::File(path) => {
                let read = tokio::fs::read_to_string(path).await;
                read.map_err(|error| anyhow::Error::new(error).context(path.display().to_string()))
            }
            Self::Ask(ask) => ask().await,
        }
    }
}

impl TrustSource {
    /// A mounted file may lag behind what a controller has told, and the other way round.
    fn read(&self, told: Option<&String>) -> Result<String, CertificateError> {
        match self {
            Self::File(path) => std::fs::read_to_string(path)
                .map(|mounted| format!("{mounted}\n{}", told.map_or("", String::as_str)))
                .map_err(|error| CertificateError::Trust(format!("{}: {error}", path.display()))),
            Self::Shared(shared) => match shared.load_full() {
                Some(pem) => Ok(pem.as_ref().clone()),
                None => Err(CertificateError::Trust("no controller has published it".to_owned())),
            },
        }
    }
}
