//! The identity of this sidecar: a P-256 key that never leaves the pod, and a certificate for it from the
//! controller (`POST /v1/certificates`).
//!
//! Every renewal makes a new key. What the controller answers is checked before use: the certificate must be for
//! our key and our SPIFFE id.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::environment::{Controller, Workload};
use crate::holding::Trust;
use crate::http_client::{self, Address, HttpError, Limits, Transport};
use crate::tls::{self, TrustError};

const LIMITS: Limits = Limits { time: Duration::from_secs(10), body: 256 * 1024 };
const MAX_ROOTS: usize = 64;

/// Where the parts of a request are.
#[derive(Debug, Clone)]
pub struct Files {
    /// The projected service-account token; kubelet replaces it.
    pub token: PathBuf,
    /// The roots to trust; kubelet replaces them.
    pub trust: PathBuf,
}

/// The private key, as PEM. Its `Debug` shows nothing.
pub struct PrivateKey(String);

impl PrivateKey {
    /// The key itself: for the SDS file and nothing else.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PrivateKey(…)")
    }
}

/// A certificate in hand.
#[derive(Debug)]
pub struct Identity {
    /// Chain, leaf first, PEM.
    pub chain: String,
    /// Key of the leaf.
    pub key: PrivateKey,
    /// SHA-256 of the root of the chain; empty when the controller did not say.
    pub issuer: String,
    /// Roots of the mesh, PEM.
    pub trust_bundle: String,
    /// Their SHA-256; empty when the controller did not say.
    pub roots: Vec<String>,
    /// Which word of the operator the controller obeys; of two, the higher one counts.
    pub serial: i64,
    /// Serial number of the leaf, hexadecimal.
    pub number: String,
    /// When it ends.
    pub not_after: OffsetDateTime,
    /// When to get the next one.
    pub renew_at: OffsetDateTime,
}

impl Identity {
    /// The roots that came with it.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust { bundle: self.trust_bundle.clone(), roots: self.roots.clone(), serial: self.serial }
    }

    /// Differs for every certificate; Envoy tells it back.
    #[must_use]
    pub fn version(&self) -> String {
        self.number.clone()
    }
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
    #[error("cannot make a certificate request")]
    Request(#[source] rcgen::Error),
    /// The HTTP request could not be made.
    #[error("cannot make an HTTP request")]
    HttpRequest(#[source] http::Error),
    /// No answer.
    #[error("no certificate from the controller")]
    NoAnswer(#[source] HttpError),
    /// The controller said no, and why.
    #[error("the controller refused ({status}): {reason}: {message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its reason, such as `TokenExpired`.
        reason: String,
        /// Its explanation.
        message: String,
    },
    /// The answer isn't usable.
    #[error("the controller's answer cannot be used: {0}")]
    Answer(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    certificate_chain: String,
    trust_bundle: String,
    #[serde(default)]
    issuer: String,
    #[serde(default)]
    trusted_roots: Vec<String>,
    #[serde(default)]
    serial: i64,
    #[serde(default)]
    issued_at: Option<String>,
    #[serde(default)]
    renew_after: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    reason: String,
    #[serde(default)]
    message: String,
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
    let (key, csr) = key_and_request(&spiffe_id).map_err(CertificateError::Request)?;
    let request = request("/v1/certificates", "application/x-pem-file", controller, token(files)?, csr)?;
    let answer = ask(controller, files, told, request).await?;
    accept(&answer, &spiffe_id, &key, OffsetDateTime::now_utc())
}

/// One request. The controller is verified with the mounted roots and those that a controller told last (PEM): while
/// a root is rotated, either may be ahead of the other.
pub(crate) async fn ask(
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

pub(crate) fn token(files: &Files) -> Result<HeaderValue, CertificateError> {
    let invalid = || CertificateError::NoToken(files.token.clone());
    let text = String::from_utf8(read(&files.token)?).map_err(|_| invalid())?;
    let token = text.trim();
    if token.is_empty() {
        return Err(invalid());
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| invalid())?;
    value.set_sensitive(true);
    Ok(value)
}

pub(crate) fn request(
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

/// A new key and a CSR (PEM) that names this SPIFFE id.
///
/// # Errors
/// When the id can't stand in a certificate, or the random generator fails.
pub fn key_and_request(spiffe_id: &str) -> Result<(KeyPair, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI(spiffe_id.try_into()?)];
    let csr = parameters.serialize_request(&key)?.pem()?;
    Ok((key, csr))
}

/// Checks what the controller answered to the request for this key.
///
/// # Errors
/// When it refused, or when the answer isn't a certificate for this key and id that is valid at `now`.
pub fn accept(
    answer: &Response<Bytes>,
    spiffe_id: &str,
    key: &KeyPair,
    now: OffsetDateTime,
) -> Result<Identity, CertificateError> {
    if answer.status() != StatusCode::OK {
        return Err(refusal(answer));
    }
    let issued: Issued = serde_json::from_slice(answer.body())
        .map_err(|_| CertificateError::Answer("it is not the JSON agreed on"))?;
    let chain = certificates(&issued.certificate_chain)?;
    certificates(&issued.trust_bundle)?;
    let leaf = chain.first().ok_or(CertificateError::Answer("the chain is empty"))?;
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|_| CertificateError::Answer("the leaf is no X.509 certificate"))?;
    if leaf.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(CertificateError::Answer("the certificate is for another key"));
    }
    if !has_only_identity(&leaf, spiffe_id) {
        return Err(CertificateError::Answer("the certificate is for another identity"));
    }
    let (not_before, not_after) =
        (leaf.validity().not_before.to_datetime(), leaf.validity().not_after.to_datetime());
    if now >= not_after {
        return Err(CertificateError::Answer("the certificate has expired already"));
    }
    Ok(Identity {
        renew_at: renewal(&issued, not_before, not_after, now),
        issuer: issued.issuer,
        roots: issued.trusted_roots,
        serial: issued.serial,
        number: leaf.raw_serial_as_string(),
        chain: issued.certificate_chain,
        key: PrivateKey(key.serialize_pem()),
        trust_bundle: issued.trust_bundle,
        not_after,
    })
}

pub(crate) fn refusal(answer: &Response<Bytes>) -> CertificateError {
    let refusal = serde_json::from_slice(answer.body()).unwrap_or_else(|_| Refusal {
        reason: "Unknown".to_owned(),
        message: "no reason was given".to_owned(),
    });
    let printable = |text: String| text.chars().filter(|c| !c.is_control()).take(500).collect();
    CertificateError::Refused {
        status: answer.status(),
        reason: printable(refusal.reason),
        message: printable(refusal.message),
    }
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let parsed: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MAX_ROOTS + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::Answer("it holds PEM that is no certificate"))?;
    if parsed.is_empty() || parsed.len() > MAX_ROOTS {
        return Err(CertificateError::Answer("it holds no certificate, or too many"));
    }
    Ok(parsed)
}

/// When the life of a chain's leaf ends; `None` when there is none.
#[must_use]
pub fn end_of(chain: &str) -> Option<OffsetDateTime> {
    let chain = certificates(chain).ok()?;
    let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(leaf.validity().not_after.to_datetime())
}

fn has_only_identity(leaf: &X509Certificate<'_>, spiffe_id: &str) -> bool {
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return false };
    let uris: Vec<_> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    uris == [spiffe_id]
}

/// When to renew: when the controller says, if that is before the end; else at two thirds of the life. The controller
/// counts from its own clock: from now, by ours, it is as long, so a clock that is wrong by minutes renews no earlier
/// and no later.
fn renewal(
    issued: &Issued,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    now: OffsetDateTime,
) -> OffsetDateTime {
    let parse = |text: &Option<String>| OffsetDateTime::parse(text.as_deref()?, &Rfc3339).ok();
    let asked = parse(&issued.renew_after).filter(|at| *at < not_after);
    let at = match (asked, parse(&issued.issued_at)) {
        (Some(asked), Some(issued_at)) => now + (asked - issued_at),
        (Some(asked), None) => asked,
        (None, Some(issued_at)) => now + (not_after - issued_at) * 2 / 3,
        (None, None) => not_before + (not_after - not_before) * 2 / 3,
    };
    // Never at once, whatever clocks say: a controller must not be asked in a tight loop.
    at.max(now + time::Duration::SECOND)
}
