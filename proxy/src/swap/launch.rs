//! An Envoy that is starting, and what its statistics say about it.

use rustix::process::Pid;

use super::awaited::{Awaited, Progress};
use super::state::{Purpose, Sight};
use crate::environment::Environment;
use crate::envoy::{self, Admin, HotRestart, StartError};
use crate::readiness::{EnvoyFact, EnvoyState};
use crate::run::Paths;
use crate::sidecar::Sidecar;
use crate::stats::Stats;
use crate::supervise::Children;

/// An Envoy that is starting.
#[derive(Debug)]
pub struct Newcomer {
    /// Its process.
    pub pid: Pid,
    restart: HotRestart,
    purpose: Purpose,
    rejected: Rejected,
    awaited: Awaited,
}

impl Newcomer {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start(
        environment: &Environment,
        paths: &Paths,
        restart: HotRestart,
        purpose: Purpose,
        children: &mut Children,
    ) -> Result<Self, StartError> {
        let child = envoy::start(&paths.envoy, environment, &paths.run, Some(restart))?;
        let pid = children.adopt(&child);
        tracing::info!(%pid, epoch = restart.epoch, ?purpose, "Envoy started");
        Ok(Self { pid, restart, purpose, rejected: Rejected::default(), awaited: Awaited::default() })
    }

    /// Looks at it.
    pub async fn look(&mut self, sidecar: &Sidecar) -> Sight {
        match self.judge(sidecar.fact_now().await) {
            Sight::Accepted if !self.awaited.is_complete() => {
                self.missing(sidecar.admin()).await.unwrap_or_else(Sight::Waits)
            }
            sight => sight,
        }
    }

    /// Whether an Envoy that has accepted its configuration also has what that refers to.
    async fn missing(&mut self, admin: &Admin) -> Result<Sight, String> {
        if let Progress::Waits(awaited) = self.awaited.learn(&admin.awaited().await?)? {
            return Ok(Sight::Waits(format!("that it waits for {awaited}")));
        }
        let without = self.awaited.without(&admin.routes().await?)?;
        Ok(without.map_or(Sight::Accepted, |routes| {
            Sight::Rejects(format!(
                "the new Envoy goes on without routes that the controller did not send: {routes}"
            ))
        }))
    }

    fn judge(&mut self, fact: EnvoyFact) -> Sight {
        let (state, stats) = match fact {
            EnvoyFact::Answers { state, stats } => (state, stats),
            EnvoyFact::Unreachable(why) => return Sight::Waits(why),
        };
        // Until the new Envoy has taken the admin interface over, the old one answers there.
        if stats.epoch != Some(u64::from(self.restart.epoch)) {
            return Sight::Waits(format!("{state}, of the Envoy before it"));
        }
        self.rejected.observe(&stats);
        judge(&state, &stats, self.rejected, self.purpose)
    }
}

/// How often an Envoy that starts has rejected something itself.
///
/// Every time an Envoy flushes its statistics (every five seconds) it adds to its counters what the one before it has
/// counted since the last time, so that totals survive a restart. What is new in a reading without a flush in between is
/// its own; what comes with a flush is the other one's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rejected {
    clusters: u64,
    listeners: u64,
    /// Both counters, and the time of the last flush: none yet is 0.
    last: (u64, u64, u64),
}

impl Rejected {
    fn observe(&mut self, stats: &Stats) {
        let (clusters, listeners, flushed) = self.last;
        let uptime = stats.uptime.unwrap_or_default();
        if flushed == uptime {
            self.clusters += stats.clusters_rejected.saturating_sub(clusters);
            self.listeners += stats.listeners_rejected.saturating_sub(listeners);
        }
        self.last = (stats.clusters_rejected, stats.listeners_rejected, uptime);
    }
}

fn judge(state: &EnvoyState, stats: &Stats, rejected: Rejected, purpose: Purpose) -> Sight {
    if purpose == Purpose::Alone {
        return Sight::Serves;
    }
    let Rejected { clusters, listeners, .. } = rejected;
    if clusters + listeners > 0 {
        return Sight::Rejects(format!(
            "the new Envoy rejects its configuration ({clusters} of clusters, {listeners} of listeners); the controller \
             names the resources and Envoy's words"
        ));
    }
    match (state, stats.workers_started, stats.holds_configuration()) {
        (EnvoyState::Live, true, true) => Sight::Serves,
        (_, _, true) => Sight::Accepted,
        (_, _, false) if stats.controller_connected => Sight::Waits(state.to_string()),
        (_, _, false) => Sight::Waits(format!("{state}, not connected to a controller")),
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
            controller_connected: true,
            epoch: Some(1),
            ..Stats::default()
        }
    }

    fn seen(state: &str, stats: &Stats, purpose: Purpose) -> Sight {
        let mut rejected = Rejected::default();
        rejected.observe(stats);
        judge(&EnvoyState::parse(state), stats, rejected, purpose)
    }

    #[test]
    fn the_gate_opens_for_an_envoy_that_has_accepted_and_only_then() {
        for purpose in [Purpose::TakeOver, Purpose::Heal] {
            let waits = Sight::Waits("INITIALIZING".to_owned());
            assert_eq!(seen("INITIALIZING", &stats(2, 0, false), purpose), waits);
            assert_eq!(seen("INITIALIZING", &stats(4, 0, false), purpose), Sight::Accepted);
            assert_eq!(seen("LIVE", &stats(4, 0, true), purpose), Sight::Serves);
            assert_eq!(seen("LIVE", &stats(2, 0, true), purpose), Sight::Waits("LIVE".to_owned()));
            let rejects = seen("INITIALIZING", &stats(3, 1, false), purpose);
            assert!(matches!(&rejects, Sight::Rejects(why) if why.contains("0 of clusters, 1 of listeners")));
        }
        assert_eq!(seen("INITIALIZING", &stats(2, 1, false), Purpose::Alone), Sight::Serves, "all there is");
    }

    /// What the old Envoy rejected comes into the new one's counters with a flush.
    #[test]
    fn rejections_of_the_envoy_before_are_not_the_new_ones() {
        let at = |rejected, uptime| Stats { uptime, ..stats(4, rejected, false) };
        let own = |readings: &[Stats]| {
            let mut rejected = Rejected::default();
            readings.iter().for_each(|stats| rejected.observe(stats));
            rejected.listeners
        };
        assert_eq!(own(&[at(0, Some(0)), at(2, Some(60)), at(2, Some(60)), at(3, Some(65))]), 0);
        assert_eq!(own(&[at(0, None), at(2, Some(60)), at(3, Some(60))]), 1);
        assert_eq!(own(&[at(1, None), at(1, None)]), 1);
        assert_eq!(own(&[at(5, Some(60)), at(0, Some(60))]), 0, "never below nothing");
    }
}
