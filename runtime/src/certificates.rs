//! A daemon's own certificate: asked for with `POST /v1/certificates`, renewed for as long as it runs. What is asked and
//! what of an answer is believed is in the crate [`identity`]; the connection, and what is made of it, is here.
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
use std::time::Duration;

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::Full;
use identity::{AnswerError, Expected, Heard, RequestError, Trust};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio_util::sync::CancellationToken;

use crate::https::{self, HttpsError, Limits, Peer};
use crate::tls::{self, Certificate, ClientAuth, Roots, TlsError};

mod account;
mod holdings;
#[cfg(test)]
mod tests;

const LIMITS: Limits = Limits { time: identity::TIME_LIMIT, body: identity::MAX_ANSWER };
/// Never renew more often than this, whatever the answer says.
const SHORTEST: Duration = Duration::from_secs(5);
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
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Token or body cannot be sent.
    #[error("cannot make an HTTP request")]
    Http(#[source] http::Error),
    /// No answer.
    #[error("the controller cannot be asked")]
    Https(#[source] HttpsError),
    /// What it answered is of no use, or it refused.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// It may have been signed with a root that is on its way out.
    #[error("the controller obeys word {serial} of the operator, another one {heard} already: asking again")]
    Outdated {
        /// Of the answer.
        serial: i64,
        /// Of the latest answer of any controller.
        heard: i64,
    },
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
    /// The roots that came with it.
    pub trust: Trust,
    /// SHA-256 of the root of the certificate; empty when the controller did not say.
    pub issuer: String,
}

impl Issued {
    fn of(identity: &identity::Identity) -> Self {
        let at = |time: time::OffsetDateTime| {
            Timestamp::from_second(time.unix_timestamp()).unwrap_or(Timestamp::MAX)
        };
        Self {
            not_after: at(identity.not_after),
            renew_after: at(identity.renew_at),
            trust: identity.trust(),
            issuer: identity.issuer.clone(),
        }
    }
}

/// Gets certificates and keeps them fresh.
pub struct Client {
    settings: Settings,
    identity: Identity,
    /// The roots that a controller told last (PEM): while a root is rotated they may be newer than the mounted ones.
    told: ArcSwapOption<String>,
    words: Mutex<Words>,
}

/// The last word of the operator that was believed, and how often in a row an older one was heard.
#[derive(Default)]
struct Words {
    last: Option<i64>,
    issued: Heard,
    told: Heard,
}

impl Words {
    fn last(&self, serial: i64) -> i64 {
        self.last.unwrap_or(serial)
    }
}

impl Client {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            identity: Identity::default(),
            told: ArcSwapOption::empty(),
            words: Mutex::default(),
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
        let (key, csr) = identity::key_and_request(None)?;
        let request = request(identity::CERTIFICATES, identity::CSR_TYPE, &token, csr)?;
        // For this question alone: what this process trusts is what a controller says, and a mounted file may still hold a
        // root that was dropped.
        let asked = Roots::none();
        let known = self.settings.trust.read(self.told.load().as_deref())?;
        asked.set(&known).map_err(|source| CertificateError::Tls { what: "trust bundle", source })?;
        let (status, body) = self.ask(request, asked).await?;
        let expected = expected(&token)?;
        let issued = identity::accept(status, &body, &expected, &key, time::OffsetDateTime::now_utc())?;
        self.believe(issued.serial)?;
        self.use_it(&issued)?;
        Ok(Issued::of(&issued))
    }

    /// One request. Asked without the old certificate: the token alone says who we are, and an expired certificate must not
    /// stand in the way of a new one.
    async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        roots: Arc<Roots>,
    ) -> Result<(StatusCode, Bytes), CertificateError> {
        let tls = tls::client_config(Certificate::none(), roots)
            .map_err(|source| CertificateError::Tls { what: "trust bundle", source })?;
        https::send(&self.settings.controller, tls, request, LIMITS).await.map_err(CertificateError::Https)
    }

    /// A controller that knows less than another one did may have signed with a root that is on its way out.
    fn believe(&self, serial: i64) -> Result<(), CertificateError> {
        let mut words = self.words.lock();
        let heard = words.last(serial);
        if !words.issued.believes(heard, serial) {
            return Err(CertificateError::Outdated { serial, heard });
        }
        words.last = Some(serial);
        Ok(())
    }

    fn use_it(&self, issued: &identity::Identity) -> Result<(), CertificateError> {
        let unusable = |source| CertificateError::Tls { what: "certificate", source };
        let key = PrivateKeyDer::from_pem_slice(issued.key.pem().as_bytes());
        let key = key.map_err(|error| unusable(TlsError::Pem(error)))?;
        self.identity.certificate.set(&issued.chain, key).map_err(unusable)?;
        self.set_roots(&issued.trust_bundle)?;
        self.told.store(Some(issued.trust_bundle.clone().into()));
        Ok(())
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

fn request(
    path: &str,
    content_type: &'static str,
    token: &str,
    body: String,
) -> Result<Request<Full<Bytes>>, CertificateError> {
    let no_token = || CertificateError::Token(anyhow::anyhow!("it is empty, or no value of a header"));
    Request::post(path)
        .header(header::AUTHORIZATION, identity::bearer(token).ok_or_else(no_token)?)
        .header(header::CONTENT_TYPE, HeaderValue::from_static(content_type))
        .body(Full::from(body))
        .map_err(CertificateError::Http)
}

/// The certificate must be of the service account that the token is of.
fn expected(token: &str) -> Result<Expected, CertificateError> {
    let unnamed = || CertificateError::Token(anyhow::anyhow!("it names no service account"));
    account::of(token).ok_or_else(unnamed)
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
