//! Is this sidecar ready, and if not, why? Pure.
//!
//! Ready means: certificate in hand, Envoy live, first configuration acknowledged, workers started. A controller
//! that goes away later changes nothing: the last good configuration counts.

use std::fmt;

use serde::Serialize;

use crate::stats::Stats;

/// What is known about the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateFact {
    /// There was none yet; why, if an attempt failed.
    Awaited {
        /// The last failure.
        last_failure: Option<String>,
    },
    /// There is one.
    Held {
        /// Whether its end of life has passed.
        expired: bool,
        /// The last failure to renew it.
        last_failure: Option<String>,
    },
}

/// What Envoy says of itself at `/ready` (`envoy.admin.v3.ServerInfo.State`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvoyState {
    /// It serves.
    Live,
    /// It has not asked for its clusters yet.
    PreInitializing,
    /// It waits for its configuration.
    Initializing,
    /// It fails health checks.
    Draining,
    /// What no Envoy that we know says.
    Other(String),
}

impl EnvoyState {
    /// Reads the body of the answer.
    #[must_use]
    pub fn parse(body: &str) -> Self {
        match body.trim() {
            "LIVE" => Self::Live,
            "PRE_INITIALIZING" => Self::PreInitializing,
            "INITIALIZING" => Self::Initializing,
            "DRAINING" => Self::Draining,
            other => Self::Other(other.chars().take(MOST_LETTERS).collect()),
        }
    }
}

/// Letters of an unknown state that are repeated.
const MOST_LETTERS: usize = 64;

impl fmt::Display for EnvoyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "LIVE",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
            Self::Draining => "DRAINING",
            Self::Other(said) => said,
        })
    }
}

/// What is known about Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvoyFact {
    /// Its admin interface doesn't answer.
    Unreachable(String),
    /// It answers.
    Answers {
        /// What `/ready` said.
        state: EnvoyState,
        /// Its statistics.
        stats: Stats,
    },
}

/// Why a sidecar isn't ready; `reason` and `message` in the answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "reason", rename_all_fields = "camelCase")]
pub enum NotReady {
    /// No certificate yet.
    #[error("waiting for a certificate from {controller}{}", because(.failure.as_deref()))]
    AwaitingCertificate {
        /// Address of the controller.
        controller: String,
        /// The last failure.
        failure: Option<String>,
    },
    /// The certificate could not be renewed in time.
    #[error("the certificate has expired and could not be renewed{}", because(.failure.as_deref()))]
    CertificateExpired {
        /// The last failure.
        failure: Option<String>,
    },
    /// Envoy doesn't answer.
    #[error("Envoy's admin interface does not answer: {failure}")]
    EnvoyUnreachable {
        /// What went wrong.
        failure: String,
    },
    /// The configuration stream isn't up.
    #[error("Envoy has no connection to {controller} and no configuration yet")]
    AwaitingController {
        /// Address of the controller.
        controller: String,
    },
    /// The stream is up but the configuration isn't complete.
    #[error("waiting for the first {} ({rejected} rejected)", missing.join(" and "))]
    AwaitingConfiguration {
        /// What Envoy hasn't accepted yet: `clusters`, `listeners`.
        missing: Vec<&'static str>,
        /// How many configurations Envoy rejected.
        rejected: u64,
    },
    /// Envoy is up but doesn't say LIVE.
    #[error("Envoy is {state}")]
    EnvoyNotLive {
        /// What it says.
        state: String,
    },
    /// Another slot of the pod is trying to take over, and this one was not ready before.
    #[error("another slot of the sidecar is trying to take over from one that was not ready")]
    AnotherSlotTries,
    /// No worker serves yet.
    #[error("Envoy's workers have not started")]
    AwaitingWorkers,
}

fn because(failure: Option<&str>) -> String {
    failure.map(|failure| format!(": {failure}")).unwrap_or_default()
}

/// Decides. The first thing missing is named, in the order in which things come.
///
/// # Errors
/// With the reason when the sidecar isn't ready.
pub fn check(controller: &str, certificate: CertificateFact, envoy: EnvoyFact) -> Result<(), NotReady> {
    match certificate {
        CertificateFact::Awaited { last_failure } => {
            return Err(NotReady::AwaitingCertificate {
                controller: controller.to_owned(),
                failure: last_failure,
            });
        }
        CertificateFact::Held { expired: true, last_failure } => {
            return Err(NotReady::CertificateExpired { failure: last_failure });
        }
        CertificateFact::Held { expired: false, last_failure: _ } => {}
    }
    match envoy {
        EnvoyFact::Unreachable(failure) => Err(NotReady::EnvoyUnreachable { failure }),
        EnvoyFact::Answers { state, stats } => check_envoy(controller, &state, &stats),
    }
}

fn check_envoy(controller: &str, state: &EnvoyState, stats: &Stats) -> Result<(), NotReady> {
    let missing: Vec<_> = [("clusters", stats.clusters_accepted), ("listeners", stats.listeners_accepted)]
        .into_iter()
        .filter(|(_, accepted)| *accepted == 0)
        .map(|(what, _)| what)
        .collect();
    if !missing.is_empty() && !stats.controller_connected {
        return Err(NotReady::AwaitingController { controller: controller.to_owned() });
    }
    if !missing.is_empty() {
        let rejected = stats.clusters_rejected + stats.listeners_rejected;
        return Err(NotReady::AwaitingConfiguration { missing, rejected });
    }
    if *state != EnvoyState::Live {
        return Err(NotReady::EnvoyNotLive { state: state.to_string() });
    }
    if stats.workers_started { Ok(()) } else { Err(NotReady::AwaitingWorkers) }
}
