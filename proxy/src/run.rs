//! Verb `run`, pid 1 of the sidecar: certificate, secrets, Envoy, server, and the end of it all.
//!
//! ```text
//!  environment ─▶ server up ─▶ certificate (retried for ever) ─▶ secrets ─▶ Envoy ─▶ renewals …
//!  SIGTERM ─▶ drain (unless preStop did it) ─▶ SIGTERM to Envoy ─▶ exit 0
//!  Envoy ends by itself ─▶ exit with its code: kubelet restarts the container
//!  the application has ended for good (Jobs) ─▶ SIGTERM to Envoy ─▶ exit 0: the pod completes
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use identity::Identity;
use rustix::process::Signal;

use crate::certificate::Files;
use crate::environment::Environment;
use crate::envoy::{self, StartError};
use crate::pod;
use crate::sds::{self, WriteError};
use crate::server::Server;
use crate::sidecar::Sidecar;
use crate::supervise::{Children, Event, Signals};
use crate::swap;
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
    /// Annotations of the pod.
    pub pod: PathBuf,
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
    /// The slots cannot work together.
    #[error("cannot use what the slots of the sidecar share")]
    Slots(#[source] std::io::Error),
}

/// Runs the sidecar. Returns the exit code of the process.
///
/// # Errors
/// When it can't even start; a controller that can't be reached is waited for.
pub async fn run(environment: Environment, paths: Paths) -> Result<i32, RunError> {
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let mut children = Children::default();
    let sidecar = Arc::new(Sidecar::new(environment, &paths.run));
    if let Some(slot) = sidecar.environment().slot {
        return Box::pin(swap::run::run(sidecar, paths, slot, signals)).await;
    }
    let _server = Server::start(Arc::clone(&sidecar)).await.map_err(RunError::Listen)?;

    let Some(identity) = first_certificate(&sidecar, &paths, &mut signals, &mut children).await else {
        tracing::info!("asked to end, or the application has ended, before there was a certificate");
        return Ok(0);
    };
    let held = sidecar.install_first(&identity, &paths).map_err(RunError::Secrets)?;
    let envoy =
        envoy::start(&paths.envoy, sidecar.environment(), &paths.run, None).map_err(RunError::Envoy)?;
    tracing::info!(pid = envoy.id(), program = %paths.envoy.display(), "Envoy started");
    let pid = children.adopt(&envoy);
    children.lead(pid);
    let keeper = Arc::clone(&sidecar);
    let annotations = paths.pod.clone();
    tokio::spawn(async move { Upkeep::new(&keeper, &paths, held).run().await });
    Ok(supervise(&sidecar, &annotations, signals, children).await)
}

async fn first_certificate(
    sidecar: &Sidecar,
    paths: &Paths,
    signals: &mut Signals,
    children: &mut Children,
) -> Option<Identity> {
    // A restarted container finds the roots that it had before.
    let told = sds::read_trust(&paths.run).map(|trust| trust.bundle).unwrap_or_default();
    let mut certificate = Box::pin(sidecar.certificate(&paths.files, &told));
    let mut apps_ended = Box::pin(pod::apps_ended(&paths.pod));
    loop {
        tokio::select! {
            () = &mut apps_ended => return None,
            identity = &mut certificate => return Some(identity),
            event = signals.next() => match event {
                Event::Terminate => return None,
                Event::Child => { children.reap(); }
                Event::Reopen => {}
            },
        }
    }
}

async fn supervise(
    sidecar: &Arc<Sidecar>,
    annotations: &Path,
    mut signals: Signals,
    mut children: Children,
) -> i32 {
    let mut apps_ended = Box::pin(pod::apps_ended(annotations));
    loop {
        let event = tokio::select! {
            () = &mut apps_ended => {
                tracing::info!("the application has ended for good; the sidecar ends too");
                return stop(&mut signals, &mut children).await;
            }
            event = signals.next() => event,
        };
        match event {
            Event::Reopen => children.signal(Signal::USR1),
            Event::Terminate => return terminate(sidecar, &mut signals, &mut children).await,
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
pub(crate) async fn terminate(sidecar: &Sidecar, signals: &mut Signals, children: &mut Children) -> i32 {
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
    drop(drain);
    stop(signals, children).await
}

/// Stops Envoy.
pub(crate) async fn stop(signals: &mut Signals, children: &mut Children) -> i32 {
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
