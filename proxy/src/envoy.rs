//! Envoy as this program sees it: how it is started and what its admin interface answers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;

use crate::bootstrap;
use crate::drain::Reading;
use crate::environment::Environment;
use crate::http_client::{self, Address, Limits, Transport, chain};
use crate::readiness::{EnvoyFact, EnvoyState};
use crate::sds;
use crate::stats::{self, Secrets, Stats};
use crate::swap::{Slot, awaited};

const LIMITS: Limits = Limits { time: Duration::from_secs(2), body: 4 * 1024 * 1024 };
/// Listeners that are replaced, and TCP connections whose authorization was revoked, live on for this long.
const DRAIN_SECONDS: u32 = 10;

/// Envoy could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it reads could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The program could not be executed.
    #[error("cannot start {}", program.display())]
    Execute {
        /// The program.
        program: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// Writes the bootstrap and starts Envoy.
///
/// # Errors
/// When the bootstrap can't be written or the program not be executed.
pub fn start(
    program: &Path,
    environment: &Environment,
    run: &Path,
    restart: Option<HotRestart>,
) -> Result<Child, StartError> {
    let path = match restart {
        None => run.join("envoy.json"),
        Some(restart) => run.join(format!("envoy-{}.json", restart.slot)),
    };
    sds::replace(&path, &bootstrap::render(environment, run, restart))
        .map_err(|source| StartError::Write { path: path.clone(), source })?;
    Command::new(program)
        .args(arguments(environment, &path, restart))
        .env_clear()
        .spawn()
        .map_err(|source| StartError::Execute { program: program.to_owned(), source })
}

/// Envoy's command line.
#[must_use]
pub fn arguments(environment: &Environment, bootstrap: &Path, restart: Option<HotRestart>) -> Vec<OsString> {
    let settings = environment.envoy;
    let mut arguments: Vec<OsString> = vec!["--config-path".into(), bootstrap.into()];
    arguments.extend(
        [
            "--concurrency",
            &settings.concurrency.to_string(),
            "--log-level",
            settings.log_level.as_str(),
            "--drain-time-s",
            &DRAIN_SECONDS.to_string(),
            // Each answer says goodbye. With `gradual` only some would at first, and a connection without luck would be
            // cut at the end of the time.
            "--drain-strategy",
            "immediate",
        ]
        .map(OsString::from),
    );
    match restart {
        None => arguments.push("--disable-hot-restart".into()),
        Some(restart) => arguments.extend(
            [
                "--base-id",
                &restart.base_id.to_string(),
                "--restart-epoch",
                &restart.epoch.to_string(),
                // Where the one before is dead there is nobody to take over from, and that is fine.
                "--skip-hot-restart-on-no-parent",
                "--parent-shutdown-time-s",
                &environment.swap_drain.as_secs().to_string(),
            ]
            .map(OsString::from),
        ),
    }
    arguments
}

/// How an Envoy takes over from the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HotRestart {
    /// Slot that starts it.
    pub slot: Slot,
    /// What the Envoys of one pod have in common.
    pub base_id: u32,
    /// One more than that of the one before it.
    pub epoch: u32,
}

/// The socket of Envoy's admin interface.
#[must_use]
pub fn admin_path(run: &Path) -> PathBuf {
    run.join("admin.sock")
}

/// Envoy's admin interface.
#[derive(Debug, Clone)]
pub struct Admin(Address);

impl Admin {
    /// Of the Envoy whose files lie below `run`.
    #[must_use]
    pub fn new(run: &Path) -> Self {
        Self(Address::Socket(admin_path(run)))
    }

    /// Envoy's version, such as `1.40.0`.
    pub async fn version(&self) -> Option<String> {
        let info: serde_json::Value =
            serde_json::from_str(&self.ask(Method::GET, "/server_info").await.ok()?).ok()?;
        // "<commit>/1.40.0/Clean/RELEASE/BoringSSL"
        info["version"].as_str()?.split('/').nth(1).map(str::to_owned)
    }

    /// Everything that readiness wants to know.
    pub async fn fact(&self) -> EnvoyFact {
        let state = match self.ask(Method::GET, "/ready").await {
            Ok(body) => EnvoyState::parse(&body),
            Err(failure) => return EnvoyFact::Unreachable(failure),
        };
        match self.stats().await {
            Ok(stats) => EnvoyFact::Answers { state, stats },
            Err(failure) => EnvoyFact::Unreachable(failure),
        }
    }

    /// A reading for the drain: nothing when Envoy doesn't answer.
    pub async fn reading(&self) -> Reading {
        self.stats().await.ok()
    }

    /// Asks Envoy to tell clients to open no further requests on their connections into the pod. It
    /// goes on accepting connections, for not every client has heard yet that this pod ends.
    ///
    /// # Errors
    /// When Envoy doesn't answer.
    pub async fn drain_inbound(&self) -> Result<(), String> {
        self.ask(Method::POST, "/drain_listeners?graceful&skip_exit&inboundonly").await.map(drop)
    }

    /// Which secrets Envoy uses.
    ///
    /// # Errors
    /// When Envoy doesn't answer; the text says why.
    pub async fn secrets(&self) -> Result<Secrets, String> {
        let body = self.ask(Method::GET, &format!("/stats?filter={}", stats::SECRETS)).await?;
        Ok(Secrets::parse(&body))
    }

    /// What its listeners wait for: a text for [`awaited`].
    ///
    /// # Errors
    /// When Envoy doesn't answer; the text says why.
    pub async fn awaited(&self) -> Result<String, String> {
        self.ask(Method::GET, awaited::TARGETS).await
    }

    /// The routes that it has: a text for [`awaited`].
    ///
    /// # Errors
    /// When Envoy doesn't answer; the text says why.
    pub async fn routes(&self) -> Result<String, String> {
        self.ask(Method::GET, awaited::ROUTES).await
    }

    /// # Errors
    /// When Envoy doesn't answer; the text says why.
    async fn stats(&self) -> Result<Stats, String> {
        let body = self.ask(Method::GET, &format!("/stats?filter={}", stats::FILTER)).await?;
        Ok(Stats::parse(&body))
    }

    async fn ask(&self, method: Method, path: &str) -> Result<String, String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1")
            .header("connection", "close")
            .body(Full::<Bytes>::default())
            .map_err(|error| chain(&error))?;
        http_client::send(&self.0, &Transport::Plain, request, LIMITS)
            .await
            .map(|answer| String::from_utf8_lossy(answer.body()).into_owned())
            .map_err(|error| chain(&error))
    }
}
