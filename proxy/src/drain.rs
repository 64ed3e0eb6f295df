//! When may a pod that ends stop? Two small state machines over readings of Envoy's statistics; pure, time is an
//! input. `server` and `run` feed them.
//!
//! ```text
//!  pod deleted ─▶ Hold: clients still send here until they have heard of it ─▶ application gets SIGTERM
//!              └▶ Drain: Hold, then wait until nothing is in flight ─────────▶ Envoy stops
//! ```

use std::time::Duration;

use serde::Serialize;

use crate::stats::Stats;

/// How often Envoy is asked.
pub const POLL: Duration = Duration::from_millis(250);
const HOLD_AT_LEAST: Duration = Duration::from_secs(3);
const HOLD_AT_MOST: Duration = Duration::from_secs(20);
const HOLD_QUIET: Duration = Duration::from_secs(1);
const DRAIN_IDLE: Duration = Duration::from_secs(2);
/// An Envoy that has not answered for this long is gone. One that is only busy must not look like it: the application
/// would be stopped while clients still send.
const SILENCE: Duration = Duration::from_secs(5);
/// Left of the grace period for Envoy itself to stop.
const RESERVE: Duration = Duration::from_secs(5);

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Ended {
    /// No new request or connection came any more.
    Quiet,
    /// Nothing was in flight any more.
    Idle,
    /// The time was up.
    Deadline,
    /// Envoy hasn't answered for 5 s or was never configured, so nothing can be in flight.
    NothingServed,
}

/// A reading of Envoy: `None` when it doesn't answer.
pub type Reading = Option<Stats>;

/// What a reading says about whether Envoy serves.
enum Serves {
    Yes(Stats),
    /// It did not answer; it may a moment later.
    Unknown,
    No,
}

/// Since when Envoy has not answered.
#[derive(Debug, Clone, Default)]
struct Silence(Option<Duration>);

impl Silence {
    fn observe(&mut self, elapsed: Duration, reading: Reading) -> Serves {
        let Some(stats) = reading else {
            let since = *self.0.get_or_insert(elapsed);
            return if elapsed.saturating_sub(since) >= SILENCE { Serves::No } else { Serves::Unknown };
        };
        self.0 = None;
        if stats.workers_started && stats.listeners_accepted > 0 { Serves::Yes(stats) } else { Serves::No }
    }
}

/// Waits until clients have stopped sending new work: at least 3 s, then until 1 s passes without a new inbound
/// connection or request, at most 20 s or half the grace period.
#[derive(Debug, Clone)]
pub struct Hold {
    limit: Duration,
    silence: Silence,
    seen: Option<(u64, u64)>,
    changed: Duration,
}

impl Hold {
    /// A hold that begins now, in a pod with this grace period.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self {
            limit: HOLD_AT_MOST.min(grace / 2),
            silence: Silence::default(),
            seen: None,
            changed: Duration::ZERO,
        }
    }

    /// A new reading, `elapsed` after the hold began. Says when the hold is over.
    pub fn observe(&mut self, elapsed: Duration, reading: Reading) -> Option<Ended> {
        match self.silence.observe(elapsed, reading) {
            Serves::No => return Some(Ended::NothingServed),
            Serves::Unknown => self.changed = elapsed,
            Serves::Yes(stats) => {
                let now = (stats.inbound.connections, stats.inbound.requests);
                if self.seen != Some(now) {
                    self.seen = Some(now);
                    self.changed = elapsed;
                }
            }
        }
        if elapsed >= HOLD_AT_LEAST && elapsed.saturating_sub(self.changed) >= HOLD_QUIET {
            Some(Ended::Quiet)
        } else if elapsed >= self.limit {
            Some(Ended::Deadline)
        } else {
            None
        }
    }
}

/// Waits until nothing has been in flight for 2 s, in either direction, or until 5 s before the end of the grace
/// period. The application's process can't be seen from here: its open connections stand for it.
#[derive(Debug, Clone)]
pub struct Idle {
    limit: Duration,
    silence: Silence,
    idle_since: Option<Duration>,
}

impl Idle {
    /// A wait in a pod with this grace period; `elapsed` counts from the beginning of the termination.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self { limit: drain_limit(grace), silence: Silence::default(), idle_since: None }
    }

    /// A new reading, `elapsed` after the termination began. Says when the wait is over.
    pub fn observe(&mut self, elapsed: Duration, reading: Reading) -> Option<Ended> {
        match self.silence.observe(elapsed, reading) {
            Serves::No => return Some(Ended::NothingServed),
            Serves::Yes(stats) if stats.inbound.busy() + stats.outbound_connections == 0 => {
                if elapsed.saturating_sub(*self.idle_since.get_or_insert(elapsed)) >= DRAIN_IDLE {
                    return Some(Ended::Idle);
                }
            }
            Serves::Yes(_) | Serves::Unknown => self.idle_since = None,
        }
        (elapsed >= self.limit).then_some(Ended::Deadline)
    }
}

/// How long a drain may take at most.
#[must_use]
pub fn drain_limit(grace: Duration) -> Duration {
    // A grace period too short for the reserve is halved instead: some drain is better than none.
    grace.saturating_sub(RESERVE).max(grace / 2)
}
