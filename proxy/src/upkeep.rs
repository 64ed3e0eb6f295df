//! Keeps certificate and roots up to date while Envoy runs, and tells the controller what Envoy holds.
//!
//! ```text
//!  renewAfter, or another root signs ──▶ new key and certificate ──▶ sds files ─┐
//!  report: "I trust …, my certificate is of …" ──▶ "trust …, be of …" ──────────┴▶ Envoy has read them? ─▶ report
//! ```
//! What is reported is what Envoy says that it uses, not what was written: a rotation of the root waits for these
//! words, and a peer that only has the files would refuse handshakes.

use std::time::{Duration, Instant};

use identity::{AnswerError, Heard, Held, Wanted};
use time::OffsetDateTime;

use crate::certificate::{self, CertificateError};
use crate::http_client::chain;
use crate::run::Paths;
use crate::sds;
use crate::sidecar::Sidecar;

/// How often the clock and the mounted roots are looked at.
const CHECK: Duration = Duration::from_secs(5);
/// How long Envoy may take to read a file, between two looks.
const READING: Duration = Duration::from_millis(200);
/// Pause after a report that failed, doubled up to the longest.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);
/// Shortest time between two certificates because another root signs.
const REISSUE: Duration = Duration::from_secs(2);

/// What is held, and what is due.
pub struct Upkeep<'a> {
    sidecar: &'a Sidecar,
    paths: &'a Paths,
    held: Held,
    mounted: Option<Vec<u8>>,
    report_at: Instant,
    failures: u32,
    /// In reports, and in certificates: a controller that knows less than another one did.
    told: Heard,
    issued: Heard,
    sequence: i64,
    renewed: Instant,
    foreign_since: Option<Instant>,
}

impl<'a> Upkeep<'a> {
    /// Of what was installed first.
    #[must_use]
    pub fn new(sidecar: &'a Sidecar, paths: &'a Paths, held: Held) -> Self {
        let mounted = std::fs::read(&paths.files.trust).ok();
        let now = Instant::now();
        Self {
            sidecar,
            paths,
            held,
            mounted,
            report_at: now,
            failures: 0,
            told: Heard::default(),
            issued: Heard::default(),
            sequence: 0,
            renewed: now,
            foreign_since: None,
        }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(self.pause()).await;
            let mounted = std::fs::read(&self.paths.files.trust).ok();
            if mounted != self.mounted {
                // The controllers have published something: hear what.
                self.mounted = mounted;
                self.report_at = Instant::now();
            }
            // The clock of the wall decides, and it may be set or the machine may sleep: look at it now and then.
            if OffsetDateTime::now_utc() >= self.held.renew_at {
                self.renew().await;
            } else if Instant::now() >= self.report_at {
                self.report().await;
            }
        }
    }

    fn pause(&self) -> Duration {
        let renewal = Duration::try_from(self.held.renew_at - OffsetDateTime::now_utc()).unwrap_or_default();
        let report = self.report_at.saturating_duration_since(Instant::now());
        renewal.min(report).clamp(Duration::from_millis(50), CHECK)
    }

    /// Gets a new certificate, however often that must be tried, and makes it the one that Envoy uses.
    async fn renew(&mut self) {
        let identity = self.sidecar.certificate(&self.paths.files, &self.held.trust.bundle).await;
        // A replica that has not heard yet what another one has may sign with a root that is on its way out.
        let held = self.held.trust.serial;
        if !self.issued.believes(held, identity.serial) {
            self.held.renew_at = OffsetDateTime::now_utc() + CHECK;
            return;
        }
        let trust = if identity.serial >= held { identity.trust() } else { self.held.trust.clone() };
        match self.sidecar.install(&identity, &trust, self.paths) {
            Ok(held) => self.held = held,
            Err(error) => {
                self.sidecar.note_failure(chain(&error));
                tracing::error!(error = chain(&error), "cannot replace the certificate");
                self.held.renew_at = OffsetDateTime::now_utc() + CHECK;
            }
        }
        self.renewed = Instant::now();
        self.report_at = self.renewed;
    }

    /// Envoy does not use what is held. Either it has not read the files yet, or they are not ours any more: a slot that
    /// tried to take over has written its own (one of 0.2.0 does before it has succeeded), and failed. Who serves says what
    /// is in them; without that nothing would ever be reported again, and a rotation of the root would wait.
    async fn reclaim(&mut self) {
        let run = self.paths.run.as_path();
        let written = (sds::read_version(&sds::trust_path(run)), sds::read_version(&sds::identity_path(run)));
        let ours = written == (Some(self.held.trust.version()), Some(self.held.version.clone()));
        // The one that tries needs them as they are until it has succeeded or failed.
        if ours || self.sidecar.is_frozen() {
            self.foreign_since = None;
            return;
        }
        if self.foreign_since.get_or_insert_with(Instant::now).elapsed() < CHECK {
            return;
        }
        self.foreign_since = None;
        tracing::warn!("another slot left its certificate behind; getting a new one");
        // It may have heard a later word about the roots.
        self.held.trust = self.held.trust.clone().later(sds::read_trust(run));
        self.renew().await;
    }

    async fn report(&mut self) {
        if !self.sidecar.envoy_has_read(&self.held).await {
            self.report_at = Instant::now() + READING;
            self.reclaim().await;
            return;
        }
        self.foreign_since = None;
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        self.sequence = i64::try_from(now).unwrap_or_default().max(self.sequence + 1);
        let environment = self.sidecar.environment();
        let told =
            certificate::report(&environment.controller, &self.paths.files, &self.held, self.sequence).await;
        match told {
            Ok(wanted) => {
                self.failures = 0;
                self.report_at = Instant::now() + jittered(wanted.report_after(), self.sequence);
                self.follow(&wanted).await;
            }
            Err(error) => {
                self.failures += 1;
                let pause = RETRY.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
                // Controllers of the release before this one do not know what a report is.
                let unknown = matches!(&error, CertificateError::Answer(AnswerError::Refused { status, .. }) if status.as_u16() == 404);
                let pause = if unknown { LONGEST } else { pause };
                tracing::debug!(failure = chain(&error), retry_in = ?pause, "no report");
                self.report_at = Instant::now() + pause;
            }
        }
    }

    /// Does what the controller wants; what was done is reported at once.
    async fn follow(&mut self, wanted: &Wanted) {
        if !self.told.believes(self.held.trust.serial, wanted.serial) {
            return;
        }
        let trust = wanted.trust();
        if trust != self.held.trust {
            let at = self.paths.run.as_path();
            match sds::write_trust(at, &trust.bundle, &trust.version()) {
                Ok(()) => {
                    tracing::info!(roots = trust.roots.len(), serial = trust.serial, "roots installed");
                    self.held.trust = trust;
                }
                Err(error) => tracing::error!(error = chain(&error), "cannot replace the roots"),
            }
            self.report_at = Instant::now();
        }
        if !wanted.wants_another_than(&self.held.issuer) {
            return;
        }
        // Two replicas may disagree for a moment: not a new certificate each time.
        if self.renewed.elapsed() >= REISSUE {
            self.renew().await;
        } else {
            self.report_at = Instant::now() + REISSUE;
        }
    }
}

/// Up to a tenth earlier, so that sidecars that were started together do not report together.
fn jittered(pause: Duration, seed: i64) -> Duration {
    let tenth = u32::try_from(seed.rem_euclid(100)).unwrap_or_default();
    pause - pause / 1000 * tenth
}
