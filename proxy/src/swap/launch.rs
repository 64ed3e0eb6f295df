//! One attempt to start an Envoy that takes over, watched until it serves or is given up.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::gate::Gate;
use super::region::{Region, RegionError};
use crate::envoy::{self, Admin, HotRestart, StartError};
use crate::http_client::chain;
use crate::readiness::EnvoyFact;
use crate::run::Paths;
use crate::sidecar::Sidecar;
use crate::stats::Stats;
use crate::supervise::{Children, Event, Exit, Signals};

const POLL: Duration = Duration::from_millis(100);
/// How long an Envoy may take to get and accept its configuration while another one serves. A controller that goes
/// away in this time costs the attempt, not the traffic.
const LIMIT: Duration = Duration::from_secs(60);

/// Why a slot could not take over.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No certificate in time.
    #[error("no certificate within {LIMIT:?}: {0}")]
    Certificate(String),
    /// The memory that Envoys share.
    #[error("{}", chain(.0))]
    Region(#[from] RegionError),
    /// Envoy can't be started.
    #[error("{}", chain(.0))]
    Start(#[from] StartError),
    /// It ended while it was starting.
    #[error("the new Envoy ended with {0} while it was starting")]
    Ended(Exit),
    /// It rejects what the controller sends.
    #[error(
        "the new Envoy rejects its configuration ({clusters} of clusters, {listeners} of listeners); the controller names the resources and Envoy's words"
    )]
    Rejects {
        /// Updates of clusters that it rejected.
        clusters: u64,
        /// Updates of listeners that it rejected.
        listeners: u64,
    },
    /// It took too long.
    #[error("the new Envoy had not accepted its configuration after {LIMIT:?}; its last state was {0}")]
    Late(String),
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Launched {
    /// The new Envoy serves.
    Live {
        /// Its process.
        pid: Pid,
        /// Whether this program was asked to end when the old Envoy might have stopped listening already.
        asked_to_end: bool,
    },
    /// It doesn't, and has been stopped.
    Failed(Failure),
    /// This program was asked to end; the new Envoy has been stopped.
    AskedToEnd,
}

/// What an attempt needs.
pub struct Attempt<'a> {
    /// The sidecar.
    pub sidecar: &'a Sidecar,
    /// Where things are.
    pub paths: &'a Paths,
    /// Memory of the Envoys.
    pub region: &'a Region,
    /// Holds the new Envoy back.
    pub gate: &'a Gate,
    /// How it is started.
    pub restart: HotRestart,
    /// Whether another Envoy serves meanwhile: then the new one has to prove itself.
    pub contested: bool,
}

impl Attempt<'_> {
    /// Starts the new Envoy and watches it.
    pub async fn run(self, signals: &mut Signals, children: &mut Children) -> Launched {
        if let Err(error) = self.region.prepare() {
            return Launched::Failed(error.into());
        }
        if self.contested {
            self.gate.close();
        } else {
            self.gate.open();
        }
        let environment = self.sidecar.environment();
        let started = envoy::start(&self.paths.envoy, environment, &self.paths.run, Some(self.restart));
        let pid = match started {
            Ok(child) => children.adopt(&child),
            Err(error) => return Launched::Failed(error.into()),
        };
        tracing::info!(%pid, epoch = self.restart.epoch, contested = self.contested, "Envoy started");
        let launched = self.watch(pid, signals, children).await;
        if !matches!(launched, Launched::Live { .. }) {
            stop(pid, signals, children).await;
        }
        launched
    }

    async fn watch(&self, pid: Pid, signals: &mut Signals, children: &mut Children) -> Launched {
        let began = Instant::now();
        let admin = Admin::default();
        // Behind the open gate the new Envoy takes the listening sockets; ended then, nobody would listen.
        let (mut opened, mut asked_to_end) = (!self.contested, false);
        loop {
            tokio::select! {
                event = signals.next() => match event {
                    Event::Terminate if opened && self.contested => asked_to_end = true,
                    Event::Terminate => return Launched::AskedToEnd,
                    Event::Reopen => {}
                    Event::Child => if let Some(exit) = children.exit_of(pid) {
                        return Launched::Failed(Failure::Ended(exit));
                    },
                },
                () = tokio::time::sleep(POLL) => {
                    let fact = admin.fact().await;
                    match self.judge(&fact) {
                        Verdict::Wait => {}
                        Verdict::OpenGate => {
                            self.gate.open();
                            opened = true;
                        }
                        Verdict::Live => return Launched::Live { pid, asked_to_end },
                        Verdict::Failed(failure) => return Launched::Failed(failure),
                    }
                    if self.contested && began.elapsed() > LIMIT {
                        return Launched::Failed(Failure::Late(state(fact)));
                    }
                }
            }
        }
    }

    fn judge(&self, fact: &EnvoyFact) -> Verdict {
        let EnvoyFact::Answers { state, stats } = fact else { return Verdict::Wait };
        // Until the new Envoy has taken the admin interface over, the old one answers there.
        if stats.epoch != Some(u64::from(self.restart.epoch)) {
            return Verdict::Wait;
        }
        judge(state, stats, self.contested)
    }
}

#[derive(Debug)]
enum Verdict {
    Wait,
    OpenGate,
    Live,
    Failed(Failure),
}

fn judge(state: &str, stats: &Stats, contested: bool) -> Verdict {
    if !contested {
        return Verdict::Live;
    }
    let (clusters, listeners) = (stats.clusters_rejected, stats.listeners_rejected);
    if clusters + listeners > 0 {
        return Verdict::Failed(Failure::Rejects { clusters, listeners });
    }
    match (state, stats.workers_started, stats.holds_configuration()) {
        ("LIVE", true, true) => Verdict::Live,
        (_, _, true) => Verdict::OpenGate,
        (_, _, false) => Verdict::Wait,
    }
}

fn state(fact: EnvoyFact) -> String {
    match fact {
        EnvoyFact::Answers { state, stats } if stats.controller_connected => state,
        EnvoyFact::Answers { state, .. } => format!("{state}, not connected to a controller"),
        EnvoyFact::Unreachable(why) => why,
    }
}

/// Kills an Envoy that serves nobody, and waits until it is gone: its sockets must be free for the next attempt.
async fn stop(pid: Pid, signals: &mut Signals, children: &mut Children) {
    while children.exit_of(pid).is_none() {
        children.kill(pid, Signal::KILL);
        let _ = tokio::time::timeout(POLL, signals.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(listeners: u64, rejected: u64, workers: bool) -> Stats {
        Stats {
            listeners,
            clusters: 6,
            listeners_rejected: rejected,
            workers_started: workers,
            epoch: Some(1),
            ..Stats::default()
        }
    }

    #[test]
    fn the_gate_opens_for_an_envoy_that_has_accepted_and_only_then() {
        assert!(matches!(judge("INITIALIZING", &stats(2, 0, false), true), Verdict::Wait));
        assert!(matches!(judge("INITIALIZING", &stats(4, 0, false), true), Verdict::OpenGate));
        assert!(matches!(judge("LIVE", &stats(4, 0, true), true), Verdict::Live));
        assert!(matches!(judge("LIVE", &stats(2, 0, true), true), Verdict::Wait), "it holds nothing");
        assert!(matches!(
            judge("INITIALIZING", &stats(3, 1, false), true),
            Verdict::Failed(Failure::Rejects { clusters: 0, listeners: 1 })
        ));
        assert!(
            matches!(judge("INITIALIZING", &stats(2, 1, false), false), Verdict::Live),
            "it is all there is"
        );
    }
}
