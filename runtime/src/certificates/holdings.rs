//! Tells the controller which roots this process trusts and which root its certificate is of (`POST /v1/holdings`),
//! and does what it answers: a rotation of the root waits for these words.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::Full;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{CertificateError, Client, Issued, LIMITS, SHORTEST, bearer, pause_before, refused};
use crate::https;
use crate::tls::{self, Certificate};

/// Pause after a report that failed.
const RETRY: Duration = Duration::from_secs(15);

/// What the controller wants this process to hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    trust_bundle: String,
    trusted_roots: Vec<String>,
    issuer: String,
    serial: i64,
    report_after_seconds: u64,
}

impl Client {
    /// Reports until it is time for another certificate, or until `stop` is cancelled.
    pub(super) async fn hold(&self, mut held: Issued, stop: &CancellationToken) -> ControlFlow<()> {
        let mut report_at = Timestamp::now();
        // Two replicas may disagree for a moment: not a new certificate each time.
        let soonest = report_at.checked_add(SHORTEST).unwrap_or(Timestamp::MAX);
        loop {
            let now = Timestamp::now();
            if now >= held.renew_after {
                return ControlFlow::Continue(());
            }
            if now >= report_at {
                let pause = match self.report(&held).await {
                    Ok(wanted) if wanted.serial >= held.serial && self.follow(&wanted, &mut held) => {
                        SHORTEST / 5
                    }
                    Ok(wanted) if !wanted.issuer.is_empty() && wanted.issuer != held.issuer => {
                        if now >= soonest {
                            return ControlFlow::Continue(());
                        }
                        SHORTEST / 5
                    }
                    Ok(wanted) => Duration::from_secs(wanted.report_after_seconds.clamp(1, 3600)),
                    Err(error) => {
                        tracing::debug!(error = crate::logging::chain(&error), "no report");
                        RETRY
                    }
                };
                report_at = now.checked_add(pause).unwrap_or(Timestamp::MAX);
            }
            let pause = pause_before(held.renew_after.min(report_at), Timestamp::now()).min(RETRY);
            tokio::select! {
                () = stop.cancelled() => return ControlFlow::Break(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Trusts what the controller says. Whether that was something else.
    fn follow(&self, wanted: &Wanted, held: &mut Issued) -> bool {
        if (wanted.serial, &wanted.trusted_roots) == (held.serial, &held.roots) {
            return false;
        }
        if let Err(error) = self.set_roots(&wanted.trust_bundle) {
            tracing::warn!(
                error = crate::logging::chain(&error),
                "the roots that the controller tells cannot be used"
            );
            return false;
        }
        self.told.store(Some(wanted.trust_bundle.clone().into()));
        held.roots.clone_from(&wanted.trusted_roots);
        held.serial = wanted.serial;
        self.heard.store(wanted.serial, Ordering::Relaxed);
        tracing::info!(roots = held.roots.len(), serial = held.serial, "roots installed");
        true
    }

    async fn report(&self, held: &Issued) -> Result<Wanted, CertificateError> {
        let token = self.settings.token.read().await.map_err(CertificateError::Token)?;
        let sequence = Timestamp::now().as_millisecond();
        let body = serde_json::json!({"roots": held.roots, "issuer": held.issuer, "serial": held.serial, "sequence": sequence});
        let request = Request::post("/v1/holdings")
            .header(header::AUTHORIZATION, bearer(&token)?)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::<Bytes>::from(body.to_string()))
            .map_err(|error| CertificateError::Answer(error.into()))?;
        let tls = tls::client_config(Certificate::none(), self.identity.roots.clone())
            .map_err(|source| CertificateError::Tls { what: "trust bundle", source })?;
        let (status, body) = https::send(&self.settings.controller, tls, request, LIMITS)
            .await
            .map_err(CertificateError::Https)?;
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| CertificateError::Answer(error.into()))
    }
}
