//! What is held — roots, and a certificate of one of them — and what a controller wants to be held
//! (`POST /v1/holdings`).

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use time::OffsetDateTime;

use crate::answer::{AnswerError, Identity, certificates, refusal};

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

/// What is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The roots.
    pub trust: Trust,
    /// SHA-256 of the root of the certificate.
    pub issuer: String,
    /// Version of the certificate.
    pub version: String,
    /// When to get the next one.
    pub renew_at: OffsetDateTime,
}

impl Held {
    /// After both were installed.
    #[must_use]
    pub fn new(identity: &Identity, trust: &Trust) -> Self {
        Self {
            trust: trust.clone(),
            issuer: identity.issuer.clone(),
            version: identity.version(),
            renew_at: identity.renew_at,
        }
    }
}

/// What a controller wants to be held.
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

    /// Whether the certificate that is held shall be replaced because another root signs.
    #[must_use]
    pub fn wants_another_than(&self, issuer: &str) -> bool {
        !self.issuer.is_empty() && self.issuer != issuer
    }
}

/// What a controller is told: roots in use and the root of the certificate. `sequence` grows with each report.
#[must_use]
pub fn report(trust: &Trust, issuer: &str, sequence: i64) -> String {
    let (roots, serial) = (&trust.roots, trust.serial);
    serde_json::json!({ "roots": roots, "issuer": issuer, "serial": serial, "sequence": sequence })
        .to_string()
}

/// What it answers.
///
/// # Errors
/// When it refused, or when the answer isn't roots.
pub fn told(status: StatusCode, body: &[u8]) -> Result<Wanted, AnswerError> {
    if status != StatusCode::OK {
        return Err(refusal(status, body));
    }
    let wanted: Wanted =
        serde_json::from_slice(body).map_err(|_| AnswerError::Unusable("it is not the JSON agreed on"))?;
    certificates(&wanted.trust_bundle)?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Authority;

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
    fn who_begins_anew_trusts_no_root_that_was_dropped() {
        let (both, one) = (trust(3, &["aa", "bb"]), trust(4, &["bb"]));
        assert_eq!(both.clone().later(Some(one.clone())), one, "this replica has not heard yet");
        assert_eq!(one.clone().later(Some(both.clone())), one);
        assert_eq!(both.clone().later(None), both);
    }

    /// The words of the protocol are a contract with controllers of other releases.
    #[test]
    fn a_report_and_its_answer_are_the_json_agreed_on() {
        let told_them: serde_json::Value =
            serde_json::from_str(&report(&trust(4, &["aa", "bb"]), "aa", 9)).unwrap();
        let agreed = serde_json::json!({ "roots": ["aa", "bb"], "issuer": "aa", "serial": 4, "sequence": 9 });
        assert_eq!(told_them, agreed);
        let answer = |bundle: &str, after: u64| {
            let answer = serde_json::json!({ "trustBundle": bundle, "trustedRoots": ["aa"], "issuer": "bb", "serial": 5,
                "reportAfterSeconds": after, "ofTomorrow": {} });
            told(StatusCode::OK, answer.to_string().as_bytes())
        };
        let root = Authority::new("a").root();
        let wanted = answer(&root, 0).unwrap();
        assert_eq!(wanted.trust(), Trust { bundle: root.clone(), roots: vec!["aa".to_owned()], serial: 5 });
        assert!(wanted.wants_another_than("aa") && !wanted.wants_another_than("bb"));
        let pause = |after| answer(&root, after).unwrap().report_after().as_secs();
        assert_eq!((pause(0), pause(60), pause(u64::MAX)), (1, 60, 3600));
        for bundle in ["", "garbage", "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(answer(bundle, 1), Err(AnswerError::Unusable(_))), "{bundle}");
        }
        let refused = told(StatusCode::FORBIDDEN, br#"{"reason": "PodGone", "message": "no"}"#);
        assert!(matches!(refused, Err(AnswerError::Refused { reason, .. }) if reason == "PodGone"));
    }
}
