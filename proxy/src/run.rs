//! Verb `run`, pid 1 of the sidecar: certificate, secrets, Envoy, server, and the end of it all.
//!
//! ```text
//!  environment ─▶ server up ─▶ certificate (retried for ever) ─▶ secrets ─▶ Envoy ─▶ renewals …
//!  SIGTERM ─▶ drain (unless preStop did it) ─▶ SIGTERM to Envoy ─▶ exit 0
//!  Envoy ends by itself ─▶ exit with its code: kubelet restarts the container
//! ```

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use rustix::process::Signal;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::OnceCell;

use crate::certificate::{self, Files, Identity};
use crate::drain::{self, Ended, Hold, Idle};
use crate::environment::Environment;
use crate::envoy::{self, Admin, StartError};
use crate::holding::{Held, Trust};
use crate::http_client::chain;
use crate::readiness::{self, CertificateFact, EnvoyFact, NotReady};
use crate::sds::{self, WriteError};
use crate::server;
use crate::supervise::{Children, Event, Signals};
use crate::upkeep::Upkeep;

/// How long Envoy may take to end before it is killed.
const STOP_TIME: Duration = Duration::from_secs(4);

/// Where things are; the defaults are the paths of ARCHITECTURE.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Directory shared with nobody but Envoy.
    pub run: PathBuf,
    /// Token and roots.
    pub files: Files,
    /// Envoy.
    pub envoy: PathBuf,
}

/// Why the sidecar can't run at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The signals can't be taken over.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
    /// The server's port is taken.
    #[error("cannot listen on port {}", crate::constants::PROXY_PORT)]
    Listen(#[source] std::io::Error),
    /// The secrets can't be written.
    #[error("cannot hand the secrets to Envoy")]
    Secrets(#[source] WriteError),
    /// Envoy can't be started.
    #[error("cannot start Envoy")]
    Envoy(#[source] StartError),
}

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
}

impl Sidecar {
    fn new(environment: Environment) -> Self {
        Self {
            environment,
            admin: Admin::default(),
            certificate: Mutex::default(),
            ending_since: OnceLock::new(),
            drained: OnceCell::new(),
        }
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
        let certificate = self.certificate_fact();
        let envoy = match &certificate {
            CertificateFact::Held { .. } => self.admin.fact().await,
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
        let envoy = match self.admin.fact().await {
            EnvoyFact::Answers { state, stats } => json!({ "state": state, "stats": stats }),
            EnvoyFact::Unreachable(failure) => json!({ "failure": failure }),
        };
        json!({
            "identity": self.environment.workload.spiffe_id(),
            "controller": self.controller(),
            "certificate": { "notAfter": not_after, "lastFailure": failure },
            "envoy": envoy,
            "draining": self.ending_since.get().is_some(),
        })
    }

    /// Returns when clients have stopped sending new work to this pod.
    pub async fn hold(&self) -> Ended {
        let began = Instant::now();
        let mut hold = Hold::new(self.environment.grace);
        loop {
            if let Some(ended) = hold.observe(began.elapsed(), self.admin.reading().await) {
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
            if let Some(drained) = idle.observe(began.elapsed(), self.admin.reading().await) {
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
        versions.is_ok_and(|versions| versions.are(&held.version, &held.trust().version()))
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
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Runs the sidecar. Returns the exit code of the process.
///
/// # Errors
/// When it can't even start; a controller that can't be reached is waited for.
pub async fn run(environment: Environment, paths: Paths) -> Result<i32, RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let mut children = Children::default();
    let sidecar = Arc::new(Sidecar::new(environment));
    let listener = server::bind(sidecar.environment.pod_ip).await.map_err(RunError::Listen)?;
    tokio::spawn(server::serve(listener, Arc::clone(&sidecar)));

    let Some(identity) = first_certificate(&sidecar, &paths, &mut signals, &mut children).await else {
        tracing::info!("asked to end before there was a certificate");
        return Ok(0);
    };
    let held = sidecar.install(&identity, &identity.trust(), &paths).map_err(RunError::Secrets)?;
    let envoy = envoy::start(&paths.envoy, &sidecar.environment, &paths.run).map_err(RunError::Envoy)?;
    tracing::info!(pid = envoy.id(), program = %paths.envoy.display(), "Envoy started");
    children.adopt(&envoy);
    let keeper = Arc::clone(&sidecar);
    tokio::spawn(async move { Upkeep::new(&keeper, &paths, held).run().await });
    Ok(supervise(&sidecar, signals, children).await)
}

async fn first_certificate(
    sidecar: &Sidecar,
    paths: &Paths,
    signals: &mut Signals,
    children: &mut Children,
) -> Option<Identity> {
    // A restarted container finds the roots that it had before.
    let told = sds::read_trust(&paths.run).unwrap_or_default();
    let mut certificate = Box::pin(sidecar.certificate(&paths.files, &told));
    loop {
        tokio::select! {
            identity = &mut certificate => return Some(identity),
            event = signals.next() => match event {
                Event::Terminate => return None,
                Event::Child => { children.reap(); }
                Event::Reopen => {}
            },
        }
    }
}

async fn supervise(sidecar: &Arc<Sidecar>, mut signals: Signals, mut children: Children) -> i32 {
    loop {
        match signals.next().await {
            Event::Reopen => children.signal(Signal::USR1),
            Event::Terminate => return terminate(sidecar, signals, children).await,
            Event::Child => {
                if let Some(exit) = children.reap() {
                    tracing::error!(%exit, "Envoy ended by itself; this container ends with it");
                    return exit.code();
                }
            }
        }
    }
}

/// Drains (a drain that preStop has finished costs nothing), then stops Envoy. A second signal skips the waiting.
async fn terminate(sidecar: &Sidecar, mut signals: Signals, mut children: Children) -> i32 {
    let mut drain = Box::pin(sidecar.drain());
    loop {
        tokio::select! {
            _ = &mut drain => break,
            event = signals.next() => match event {
                Event::Terminate => break,
                Event::Reopen => children.signal(Signal::USR1),
                Event::Child => if let Some(exit) = children.reap() {
                    tracing::info!(%exit, "Envoy ended during the drain");
                    return 0;
                },
            },
        }
    }
    children.signal(Signal::TERM);
    let stopped = async {
        loop {
            if signals.next().await == Event::Child
                && let Some(exit) = children.reap()
            {
                return exit;
            }
        }
    };
    match tokio::time::timeout(STOP_TIME, stopped).await {
        Ok(exit) => tracing::info!(%exit, "Envoy stopped"),
        Err(_) => {
            tracing::warn!("Envoy did not stop in time; killing it");
            children.signal(Signal::KILL);
        }
    }
    0
}
