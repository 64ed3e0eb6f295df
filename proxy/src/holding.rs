//! What this sidecar holds — roots, and a certificate of one of them — and telling the controller so
//! (`POST /v1/holdings`).

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use time::OffsetDateTime;

use crate::certificate::{CertificateError, Files, Identity, ask, certificates, refusal, request, token};
use crate::environment::Controller;

/// Roots to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// PEM.
    pub bundle: String,
    /// Their SHA-256.
    pub roots: Vec<String>,
    /// See [`Identity::serial`].
    pub serial: i64,
}

impl Trust {
    /// Differs whenever the roots do; Envoy tells it back.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}-{}", self.serial, self.roots.join("-"))
    }

    /// The same read back, from [`Self::version`].
    #[must_use]
    pub fn of_version(bundle: &str, version: &str) -> Option<Self> {
        // A serial may be negative; a SHA-256 in hexadecimal holds no hyphen.
        let at = version.char_indices().skip(1).find(|(_, letter)| *letter == '-')?.0;
        let roots = version[at + 1..].split('-').filter(|root| !root.is_empty()).map(str::to_owned).collect();
        Some(Self { bundle: bundle.to_owned(), roots, serial: version[..at].parse().ok()? })
    }

    /// The later word of both: whoever begins must not trust more, or less, than a controller has said already.
    #[must_use]
    pub fn later(self, told_before: Option<Self>) -> Self {
        match told_before {
            Some(before) if before.serial > self.serial => before,
            _ => self,
        }
    }
}

/// What Envoy was given.
#[derive(Debug, Clone)]
pub struct Held {
    /// PEM of the roots.
    pub bundle: String,
    /// Which word of the operator they are of.
    pub serial: i64,
    /// SHA-256 of the root of the certificate.
    pub issuer: String,
    /// Version of the certificate.
    pub version: String,
    /// When to get the next one.
    pub renew_at: OffsetDateTime,
    roots: Vec<String>,
}

impl Held {
    /// After both were installed.
    #[must_use]
    pub fn new(identity: &Identity, trust: &Trust) -> Self {
        Self {
            bundle: trust.bundle.clone(),
            serial: trust.serial,
            issuer: identity.issuer.clone(),
            version: identity.version(),
            renew_at: identity.renew_at,
            roots: trust.roots.clone(),
        }
    }

    /// The roots.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust { bundle: self.bundle.clone(), roots: self.roots.clone(), serial: self.serial }
    }

    /// After other roots were installed.
    pub fn set_trust(&mut self, trust: Trust) {
        Trust { bundle: self.bundle, roots: self.roots, serial: self.serial } = trust;
    }
}

/// What the controller wants this sidecar to hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    trust_bundle: String,
    trusted_roots: Vec<String>,
    /// SHA-256 of the root that the certificate should be of; empty: whatever it is of.
    pub issuer: String,
    /// See [`Identity::serial`].
    pub serial: i64,
    report_after_seconds: u64,
}

impl Wanted {
    /// The roots to trust.
    #[must_use]
    pub fn trust(&self) -> Trust {
        Trust { bundle: self.trust_bundle.clone(), roots: self.trusted_roots.clone(), serial: self.serial }
    }

    /// When to report again.
    #[must_use]
    pub fn report_after(&self) -> Duration {
        Duration::from_secs(self.report_after_seconds.clamp(1, 3600))
    }
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
    let body = serde_json::json!({ "roots": held.roots, "issuer": held.issuer, "serial": held.serial, "sequence": sequence });
    let request = request("/v1/holdings", "application/json", controller, token(files)?, body.to_string())?;
    let answer = ask(controller, files, &held.bundle, request).await?;
    if answer.status() != StatusCode::OK {
        return Err(refusal(&answer));
    }
    let wanted: Wanted = serde_json::from_slice(answer.body())
        .map_err(|_| CertificateError::Answer("it is not the JSON agreed on"))?;
    certificates(&wanted.trust_bundle)?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(serial: i64, roots: &[&str]) -> Trust {
        let roots = roots.iter().map(|root| (*root).to_owned()).collect();
        Trust { bundle: "PEM".to_owned(), roots, serial }
    }

    #[test]
    fn what_was_told_is_read_back() {
        for told in [trust(7, &["aa", "bb"]), trust(0, &[]), trust(-3, &["aa"])] {
            assert_eq!(Trust::of_version("PEM", &told.version()), Some(told));
        }
        for garbage in ["", "-", "x", "7", "x-aa", "é-aa"] {
            assert_eq!(Trust::of_version("PEM", garbage), None, "{garbage}");
        }
    }

    #[test]
    fn a_sidecar_that_begins_anew_trusts_no_root_that_was_dropped() {
        let (both, one) = (trust(3, &["aa", "bb"]), trust(4, &["bb"]));
        assert_eq!(both.clone().later(Some(one.clone())), one, "this replica has not heard yet");
        assert_eq!(one.clone().later(Some(both.clone())), one);
        assert_eq!(both.clone().later(None), both);
    }
}
