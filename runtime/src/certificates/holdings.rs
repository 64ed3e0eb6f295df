//! Tells the controller which roots this process trusts and which root its certificate is of (`POST /v1/holdings`),
//! and does what it answers: a rotation of the root waits for these words.

use std::ops::ControlFlow;
use std::time::Duration;

use identity::Wanted;
use k8s_openapi::jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{CertificateError, Client, Issued, SHORTEST, pause_before, request};

/// Pause after a report that failed.
const RETRY: Duration = Duration::from_secs(15);

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
                    Ok(wanted) if self.follow(&wanted, &mut held) => SHORTEST / 5,
                    Ok(wanted) if wanted.wants_another_than(&held.issuer) => {
                        if now >= soonest {
                            return ControlFlow::Continue(());
                        }
                        SHORTEST / 5
                    }
                    Ok(wanted) => wanted.report_after(),
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

    /// Trusts what the controller says, if it is believed. Whether that was something else.
    fn follow(&self, wanted: &Wanted, held: &mut Issued) -> bool {
        let mut words = self.words.lock();
        if !words.told.believes(held.trust.serial, wanted.serial) {
            return false;
        }
        let trust = wanted.trust();
        if (trust.serial, &trust.roots) == (held.trust.serial, &held.trust.roots) {
            return false;
        }
        if let Err(error) = self.set_roots(&trust.bundle) {
            tracing::warn!(
                error = crate::logging::chain(&error),
                "the roots that the controller tells cannot be used"
            );
            return false;
        }
        self.told.store(Some(trust.bundle.clone().into()));
        words.last = Some(trust.serial);
        tracing::info!(roots = trust.roots.len(), serial = trust.serial, "roots installed");
        held.trust = trust;
        true
    }

    async fn report(&self, held: &Issued) -> Result<Wanted, CertificateError> {
        let token = self.settings.token.read().await.map_err(CertificateError::Token)?;
        let body = identity::report(&held.trust, &held.issuer, Timestamp::now().as_millisecond());
        let request = request(identity::HOLDINGS, "application/json", &token, body)?;
        let (status, body) = self.ask(request, self.identity.roots.clone()).await?;
        Ok(identity::told(status, &body)?)
    }
}
