//! What of a controller's answer is believed.

use std::sync::Arc;
use std::time::Duration as Span;

use http::StatusCode;
use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::holding::Trust;

#[cfg(test)]
mod tests;

/// Certificates in a chain or a bundle, at most.
const MAX_CERTIFICATES: usize = 64;
/// Characters of a controller's words that are kept: they go to logs and to people.
const MAX_WORDS: usize = 500;

/// The private key, as PEM. Its `Debug` shows nothing.
pub struct PrivateKey(String);

impl PrivateKey {
    /// The key itself: for who uses it and nobody else.
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

/// Whose certificate it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Of this SPIFFE id.
    Id(String),
    /// Of this service account, in whatever trust domain the controller serves: a daemon is not told which.
    Account {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Expected {
    fn is(&self, id: &str) -> bool {
        match self {
            Self::Id(expected) => id == expected,
            Self::Account { namespace, name } => {
                let path = id.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
                path.is_some_and(|(domain, path)| {
                    !domain.is_empty() && path == format!("ns/{namespace}/sa/{name}")
                })
            }
        }
    }
}

/// Why an answer is of no use.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
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
    Unusable(&'static str),
    /// No peer would believe the certificate.
    #[error("the controller's answer cannot be used: its roots do not vouch for the certificate")]
    Untrusted(#[source] rustls::Error),
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

/// Checks what the controller answered to the request for this key.
///
/// # Errors
/// When it refused, or when the answer isn't a certificate for this key and name that its own roots vouch for and that is
/// valid at `now`.
pub fn accept(
    status: StatusCode,
    body: &[u8],
    expected: &Expected,
    key: &KeyPair,
    now: OffsetDateTime,
) -> Result<Identity, AnswerError> {
    if status != StatusCode::OK {
        return Err(refusal(status, body));
    }
    let issued: Issued =
        serde_json::from_slice(body).map_err(|_| AnswerError::Unusable("it is not the JSON agreed on"))?;
    let chain = certificates(&issued.certificate_chain)?;
    let roots = certificates(&issued.trust_bundle)?;
    let [first, between @ ..] = chain.as_slice() else {
        return Err(AnswerError::Unusable("the chain is empty"));
    };
    let (_, leaf) = X509Certificate::from_der(first)
        .map_err(|_| AnswerError::Unusable("the leaf is no X.509 certificate"))?;
    if leaf.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(AnswerError::Unusable("the certificate is for another key"));
    }
    if !has_only_identity(&leaf, expected) {
        return Err(AnswerError::Unusable("the certificate is for another identity"));
    }
    let (not_before, not_after) =
        (leaf.validity().not_before.to_datetime(), leaf.validity().not_after.to_datetime());
    if now >= not_after {
        return Err(AnswerError::Unusable("the certificate has expired already"));
    }
    // By a clock that is behind it is not valid yet. Peers have other clocks, and it will be.
    vouch(first, between, roots, now.max(not_before))?;
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

/// Verifies the chain as peers will.
fn vouch(
    leaf: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    roots: Vec<CertificateDer<'static>>,
    at: OffsetDateTime,
) -> Result<(), AnswerError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(AnswerError::Untrusted)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|_| AnswerError::Unusable("its roots are of no use"))?;
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or_default();
    let at = UnixTime::since_unix_epoch(Span::from_secs(seconds));
    verifier.verify_client_cert(leaf, between, at).map(drop).map_err(AnswerError::Untrusted)
}

pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> AnswerError {
    let refusal = serde_json::from_slice(body).unwrap_or_else(|_| Refusal {
        reason: "Unknown".to_owned(),
        message: "no reason was given".to_owned(),
    });
    let printable = |text: String| text.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
    AnswerError::Refused { status, reason: printable(refusal.reason), message: printable(refusal.message) }
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, AnswerError> {
    let parsed: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MAX_CERTIFICATES + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| AnswerError::Unusable("it holds PEM that is no certificate"))?;
    if parsed.is_empty() || parsed.len() > MAX_CERTIFICATES {
        return Err(AnswerError::Unusable("it holds no certificate, or too many"));
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

/// Whether it holds one URI, and that is the right one. (The control plane's have names of services beside it.)
fn has_only_identity(leaf: &X509Certificate<'_>, expected: &Expected) -> bool {
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
    matches!(uris.as_slice(), [id] if expected.is(id))
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
    // One that was made before its certificate is valid, or after its end, is no time to count from.
    let issued_at = parse(&issued.issued_at).filter(|at| (not_before..not_after).contains(at));
    let at = match (asked, issued_at) {
        (Some(asked), Some(issued_at)) => now + (asked - issued_at),
        (Some(asked), None) => asked,
        (None, Some(issued_at)) => now + (not_after - issued_at) * 2 / 3,
        (None, None) => not_before + (not_after - not_before) * 2 / 3,
    };
    // Never at once, whatever clocks say: a controller must not be asked in a tight loop.
    at.max(now + Duration::SECOND)
}
