//! The identity of this sidecar, from the controller (`POST /v1/certificates`), and telling it what Envoy uses
//! (`POST /v1/holdings`). What is asked and what of an answer is believed is in the crate [`identity`]; the connection is
//! here.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use identity::{AnswerError, Expected, Held, Identity, RequestError, Wanted};
use rustls_pki_types::ServerName;
use time::OffsetDateTime;

use crate::environment::{Controller, Workload};
use crate::http_client::{self, Address, HttpError, Limits, Transport};
use crate::tls::{self, TrustError};

const LIMITS: Limits = Limits { time: identity::TIME_LIMIT, body: identity::MAX_ANSWER };

/// Where the parts of a request are.
#[derive(Debug, Clone)]
pub struct Files {
    /// The projected service-account token; kubelet replaces it.
    pub token: PathBuf,
    /// The roots to trust; kubelet replaces them.
    pub trust: PathBuf,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file isn't there.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The token file holds something else.
    #[error("{} holds no token", .0.display())]
    NoToken(PathBuf),
    /// The trust file holds something else.
    #[error("{} cannot be used", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: TrustError,
    },
    /// The controller's host isn't a name for TLS.
    #[error("{0:?} is not a name that a certificate can have")]
    ControllerName(String),
    /// No key or request could be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The HTTP request could not be made.
    #[error("cannot make an HTTP request")]
    HttpRequest(#[source] http::Error),
    /// No answer.
    #[error("no certificate from the controller")]
    NoAnswer(#[source] HttpError),
    /// What it answered is of no use, or it refused.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// One attempt to get a certificate. Token and roots are read anew each time.
///
/// # Errors
/// With what stood in the way. No error holds the token.
pub async fn obtain(
    workload: &Workload,
    controller: &Controller,
    files: &Files,
    told: &str,
) -> Result<Identity, CertificateError> {
    let spiffe_id = workload.spiffe_id();
    let (key, csr) = identity::key_and_request(Some(&spiffe_id))?;
    let request = request(identity::CERTIFICATES, identity::CSR_TYPE, controller, token(files)?, csr)?;
    let answer = ask(controller, files, told, request).await?;
    let (expected, now) = (Expected::Id(spiffe_id), OffsetDateTime::now_utc());
    Ok(identity::accept(answer.status(), answer.body(), &expected, &key, now)?)
}

/// Tells the controller what Envoy uses, and hears what it should use.
///
/// # Errors
/// With what stood in the way. No error holds the token.
pub async fn report(
    controller: &Controller,
    files: &Files,
    held: &Held,
    sequence: i64,
) -> Result<Wanted, CertificateError> {
    let body = identity::report(&held.trust, &held.issuer, sequence);
    let request = request(identity::HOLDINGS, "application/json", controller, token(files)?, body)?;
    let answer = ask(controller, files, &held.trust.bundle, request).await?;
    Ok(identity::told(answer.status(), answer.body())?)
}

/// One request. The controller is verified with the mounted roots and those that a controller told last (PEM): while
/// a root is rotated, either may be ahead of the other.
async fn ask(
    controller: &Controller,
    files: &Files,
    told: &str,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, CertificateError> {
    let mut bundle = read(&files.trust)?;
    bundle.push(b'\n');
    bundle.extend_from_slice(told.as_bytes());
    let config = tls::verified(&bundle)
        .map_err(|source| CertificateError::Trust { path: files.trust.clone(), source })?;
    let name = ServerName::try_from(controller.host.clone())
        .map_err(|_| CertificateError::ControllerName(controller.host.clone()))?;
    let address = Address::Name(controller.host.clone(), controller.port);
    let answer = http_client::send(&address, &Transport::Tls(config, name), request, LIMITS).await;
    answer.map_err(CertificateError::NoAnswer)
}

fn read(path: &PathBuf) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read { path: path.clone(), source })
}

fn token(files: &Files) -> Result<HeaderValue, CertificateError> {
    let invalid = || CertificateError::NoToken(files.token.clone());
    let text = String::from_utf8(read(&files.token)?).map_err(|_| invalid())?;
    identity::bearer(&text).ok_or_else(invalid)
}

fn request(
    path: &str,
    content_type: &'static str,
    controller: &Controller,
    token: HeaderValue,
    body: String,
) -> Result<Request<Full<Bytes>>, CertificateError> {
    Request::post(path)
        .header(HOST, format!("{}:{}", controller.host, controller.port))
        .header(AUTHORIZATION, token)
        .header(CONTENT_TYPE, content_type)
        .header(CONNECTION, "close")
        .body(Full::from(body))
        .map_err(CertificateError::HttpRequest)
}
