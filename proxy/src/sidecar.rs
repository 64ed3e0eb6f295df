//! The running sidecar as its server and its main loop share it: certificate, readiness, hold and drain.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use identity::{Held, Identity, Trust};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::OnceCell;

use crate::certificate::{self, Files};
use crate::drain::{self, Ended, Hold, Idle, Reading};
use crate::environment::Environment;
use crate::envoy::Admin;
use crate::http_client::chain;
use crate::readiness::{self, CertificateFact, EnvoyFact, EnvoyState, NotReady};
use crate::run::Paths;
use crate::sds::{self, WriteError};
use crate::stats::Stats;
use crate::swap::Slot;

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Drained {
    /// Why clients were no longer waited for.
    pub held: Ended,
    /// Why work in flight was no longer waited for.
    pub drained: Ended,
}

#[derive(Debug, Default)]
struct CertificateState {
    not_after: Option<OffsetDateTime>,
    last_failure: Option<String>,
}

/// The running sidecar, shared by the server and the main loop.
#[derive(Debug)]
pub struct Sidecar {
    environment: Environment,
    admin: Admin,
    certificate: Mutex<CertificateState>,
    ending_since: OnceLock<Instant>,
    drained: OnceCell<Drained>,
    last: Mutex<Last>,
    seen: tokio::sync::Mutex<Option<Seen>>,
    generation: AtomicU64,
}

/// What Envoy said a moment ago, so that many who ask at once cost one question.
#[derive(Debug)]
struct Seen {
    at: Instant,
    generation: u64,
    fact: EnvoyFact,
}

/// How long an answer of Envoy is passed on. The kubelet asks every second.
const FRESH: Duration = Duration::from_millis(200);
/// The same while it starts: its pod's containers wait for it.
const FRESH_AT_START: Duration = Duration::from_millis(20);

/// For how long a fact may be passed on.
fn fresh(fact: &EnvoyFact) -> Duration {
    match fact {
        EnvoyFact::Answers { state: EnvoyState::Live, .. } => FRESH,
        EnvoyFact::Answers { .. } | EnvoyFact::Unreachable(_) => FRESH_AT_START,
    }
}

/// What was seen of the own Envoy last. While another slot tries to take over, its Envoy answers on the admin
/// interface, and about itself.
#[derive(Debug, Default)]
struct Last {
    /// Restart epoch of the own Envoy, once it is live.
    epoch: Option<u64>,
    frozen: bool,
    ready: bool,
    /// The admin interface of an Envoy that was ready went away: another slot's has taken it, and may be gone too.
    lost: bool,
    reading: Reading,
}

impl Sidecar {
    pub(crate) fn new(environment: Environment, run: &Path) -> Self {
        Self {
            environment,
            admin: Admin::new(run),
            certificate: Mutex::default(),
            ending_since: OnceLock::new(),
            drained: OnceCell::new(),
            last: Mutex::default(),
            seen: tokio::sync::Mutex::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// While frozen, the sidecar counts as what it was: ready, if it was.
    pub(crate) fn freeze(&self, frozen: bool) {
        let before = std::mem::replace(&mut self.last().frozen, frozen);
        if before != frozen {
            self.forget();
        }
    }

    /// Whether another slot tries to take over, or may have left traces of that.
    pub(crate) fn is_frozen(&self) -> bool {
        self.last().frozen
    }

    /// Whether the admin interface has gone away since this was asked last.
    pub(crate) fn has_lost_admin(&self) -> bool {
        std::mem::take(&mut self.last().lost)
    }

    /// An Envoy that took over has shown that it is ready, whether or not anybody has asked since.
    pub(crate) fn proven(&self) {
        *self.last() = Last { ready: true, ..Last::default() };
        self.forget();
    }

    /// The own Envoy is live, and this is its restart epoch.
    pub(crate) fn serves(&self, epoch: u32) {
        self.last().epoch = Some(epoch.into());
        self.forget();
    }

    /// Whether the own Envoy answers on its admin interface.
    pub(crate) async fn admin_answers(&self) -> bool {
        self.forget();
        matches!(self.own().await, EnvoyFact::Answers { .. })
    }

    /// What whichever Envoy answers says at this moment.
    pub(crate) async fn fact_now(&self) -> EnvoyFact {
        self.admin.fact().await
    }

    /// The admin interface of whichever Envoy has it at this moment.
    pub(crate) fn admin(&self) -> &Admin {
        &self.admin
    }

    /// What Envoy says. Whoever asks while somebody else does hears the same; so a flood of questions is one question.
    async fn fact(&self) -> EnvoyFact {
        let mut seen = self.seen.lock().await;
        let generation = self.generation.load(Ordering::Relaxed);
        if let Some(seen) = seen.as_ref()
            && (seen.generation, seen.at.elapsed() < fresh(&seen.fact)) == (generation, true)
        {
            return seen.fact.clone();
        }
        let fact = self.admin.fact().await;
        *seen = Some(Seen { at: Instant::now(), generation, fact: fact.clone() });
        fact
    }

    /// What was said before is of another Envoy.
    fn forget(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// What the own Envoy says. One of another slot that tries to take over answers at the same address, and this may
    /// be asked before the main loop has seen the attempt.
    async fn own(&self) -> EnvoyFact {
        match self.fact().await {
            EnvoyFact::Answers { stats, .. } if self.is_foreign(&stats) => {
                EnvoyFact::Unreachable("the Envoy of another slot answers there".to_owned())
            }
            fact => fact,
        }
    }

    fn is_foreign(&self, stats: &Stats) -> bool {
        self.last().epoch.is_some_and(|own| stats.epoch != Some(own))
    }

    /// Why there is no certificate.
    pub(crate) fn certificate_failure(&self) -> String {
        let state = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        state.last_failure.clone().unwrap_or_else(|| "the controller did not answer".to_owned())
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reading of the own Envoy for hold and drain; the last one where it cannot be asked any more.
    async fn reading(&self) -> Reading {
        let frozen = self.last().frozen;
        let reading = if frozen { None } else { self.admin.reading().await };
        let reading = reading.filter(|stats| !self.is_foreign(stats));
        let mut last = self.last();
        match reading {
            Some(stats) => last.reading = Some(stats),
            None if self.environment.slot.is_some() => return last.reading,
            None => {}
        }
        reading
    }

    /// What the injector told.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Whether traffic may come.
    ///
    /// # Errors
    /// With the reason why not.
    pub async fn readiness(&self) -> Result<(), NotReady> {
        {
            let last = self.last();
            if last.frozen {
                return if last.ready { Ok(()) } else { Err(NotReady::AnotherSlotTries) };
            }
        }
        let verdict = self.judge().await;
        let mut last = self.last();
        // The main loop sees an attempt of the other slot a moment later than it begins and ends. If the own Envoy had
        // ended, this program would have ended with it.
        let taken = matches!(verdict, Err(NotReady::EnvoyUnreachable { .. } | NotReady::EnvoyNotLive { .. }));
        if self.environment.slot.is_some() && last.ready && (taken || last.frozen) {
            last.lost = true;
            return Ok(());
        }
        last.ready = verdict.is_ok();
        verdict
    }

    async fn judge(&self) -> Result<(), NotReady> {
        let certificate = self.certificate_fact();
        let envoy = match &certificate {
            CertificateFact::Held { .. } => self.own().await,
            CertificateFact::Awaited { .. } => EnvoyFact::Unreachable("it has not been started".to_owned()),
        };
        readiness::check(&self.controller(), certificate, envoy)
    }

    /// What is known, for people.
    pub async fn summary(&self) -> Value {
        let (not_after, failure) = {
            let state = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
            (state.not_after.and_then(|at| at.format(&Rfc3339).ok()), state.last_failure.clone())
        };
        let envoy = match self.fact().await {
            EnvoyFact::Answers { state, stats } => {
                json!({ "version": self.admin.version().await, "state": state.to_string(), "stats": stats })
            }
            EnvoyFact::Unreachable(failure) => json!({ "failure": failure }),
        };
        json!({
            "identity": self.environment.workload.spiffe_id(),
            "controller": self.controller(),
            "certificate": { "notAfter": not_after, "lastFailure": failure },
            "envoy": envoy,
            "draining": self.ending_since.get().is_some(),
            "slot": self.environment.slot.map(Slot::name),
        })
    }

    /// Returns when clients have stopped sending new work to this pod.
    pub async fn hold(&self) -> Ended {
        let began = Instant::now();
        let mut hold = Hold::new(self.environment.grace);
        loop {
            if let Some(ended) = hold.observe(began.elapsed(), self.reading().await) {
                return ended;
            }
            tokio::time::sleep(drain::POLL).await;
        }
    }

    /// Ends the traffic of this pod: returns when nothing is in flight any more. However often and from wherever
    /// it is called, there is one drain.
    pub async fn drain(&self) -> Drained {
        *self.drained.get_or_init(|| self.drain_once()).await
    }

    async fn drain_once(&self) -> Drained {
        let began = *self.ending_since.get_or_init(Instant::now);
        tracing::info!("draining: waiting for clients to go elsewhere");
        if let Err(failure) = self.admin.drain_inbound().await {
            tracing::warn!(failure, "cannot ask Envoy to drain");
        }
        let held = self.hold().await;
        let mut idle = Idle::new(self.environment.grace);
        loop {
            if let Some(drained) = idle.observe(began.elapsed(), self.reading().await) {
                tracing::info!(?held, ?drained, "drained");
                return Drained { held, drained };
            }
            tokio::time::sleep(drain::POLL).await;
        }
    }

    fn controller(&self) -> String {
        let controller = &self.environment.controller;
        format!("{}:{}", controller.host, controller.port)
    }

    fn certificate_fact(&self) -> CertificateFact {
        let state = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        let last_failure = state.last_failure.clone();
        match state.not_after {
            None => CertificateFact::Awaited { last_failure },
            Some(end) => CertificateFact::Held { expired: end <= OffsetDateTime::now_utc(), last_failure },
        }
    }

    fn note_certificate(&self, outcome: Result<&Identity, String>) {
        let mut state = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(identity) => {
                *state = CertificateState { not_after: Some(identity.not_after), last_failure: None }
            }
            Err(failure) => state.last_failure = Some(failure),
        }
    }

    pub(crate) fn note_failure(&self, failure: String) {
        self.note_certificate(Err(failure));
    }

    /// Whether Envoy uses what was written last.
    pub(crate) async fn envoy_has_read(&self, held: &Held) -> bool {
        let versions = self.admin.secrets().await;
        versions.is_ok_and(|versions| versions.are(&held.version, &held.trust.version()))
    }

    /// Asks for a certificate until there is one. The controller is trusted by the mounted roots and by those that a
    /// controller told last: either may be the newer.
    pub(crate) async fn certificate(&self, files: &Files, told: &str) -> Identity {
        let mut pauses = backoff();
        loop {
            let workload = &self.environment.workload;
            match certificate::obtain(workload, &self.environment.controller, files, told).await {
                Ok(identity) => return identity,
                Err(error) => {
                    let pause = pauses.next().unwrap_or(Duration::from_secs(10));
                    let failure = chain(&error);
                    tracing::warn!(failure, retry_in = ?pause, "no certificate");
                    self.note_certificate(Err(failure));
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Makes a certificate the one that Envoy uses.
    pub(crate) fn install(
        &self,
        identity: &Identity,
        trust: &Trust,
        paths: &Paths,
    ) -> Result<Held, WriteError> {
        sds::write(&paths.run, identity, trust)?;
        self.note_certificate(Ok(identity));
        let (not_after, renew_at) = (identity.not_after, identity.renew_at);
        tracing::info!(id = self.environment.workload.spiffe_id(), %not_after, %renew_at, "certificate installed");
        Ok(Held::new(identity, trust))
    }

    /// The same for the first certificate of this process. An earlier one, or the other slot, may have heard a later word
    /// about the roots than the replica that signed this one.
    pub(crate) fn install_first(&self, identity: &Identity, paths: &Paths) -> Result<Held, WriteError> {
        let trust = identity.trust().later(sds::read_trust(&paths.run));
        self.install(identity, &trust, paths)
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times()
        .build()
}
