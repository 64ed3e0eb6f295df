//! How streams leave a replica that stops: one after another, so that the replica that they go to is not asked by all of
//! them in one moment.
//!
//! ```text
//!  stopping ──▶ each stream takes a turn ──0──1──2── … ──▶ ends; until then it is served as ever
//!               turns are `APART` from each other, or as much less as lets all leave within `SPREAD`
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Between two streams that leave: a replica with two cores takes about a thousand sidecars a second.
pub const APART: Duration = Duration::from_millis(2);
/// All have left by then; a pod is killed after 30 s.
pub const SPREAD: Duration = Duration::from_secs(5);

/// The turns of one replica's streams.
#[derive(Debug)]
pub struct Leaving {
    apart: Duration,
    spread: Duration,
    /// How many streams there were when the first one asked.
    count: OnceLock<u32>,
    next: AtomicU32,
}

impl Default for Leaving {
    fn default() -> Self {
        Self::new(APART, SPREAD)
    }
}

impl Leaving {
    /// Turns with at most `apart` between two of them, all within `spread`.
    #[must_use]
    pub fn new(apart: Duration, spread: Duration) -> Self {
        Self { apart, spread, count: OnceLock::new(), next: AtomicU32::new(0) }
    }

    /// How long a stream stays, from the moment that the replica begins to stop. `streams`: how many there are.
    #[must_use]
    pub fn turn(&self, streams: i64) -> Duration {
        let streams = u32::try_from(streams).unwrap_or(u32::MAX).max(1);
        let count = *self.count.get_or_init(|| streams);
        // One that comes while the others leave shares a turn.
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % count;
        self.apart.min(self.spread / count) * turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_leave_at_once_and_many_within_the_spread() {
        for streams in [1, 2, 100, 2_500, 10_000, 1_000_000] {
            let leaving = Leaving::default();
            let turns: Vec<_> = (0..streams).map(|_| leaving.turn(streams)).collect();
            assert_eq!(turns[0], Duration::ZERO);
            assert!(turns.windows(2).all(|pair| pair[0] < pair[1]), "{streams}: no two at once");
            assert!(turns.windows(2).all(|pair| pair[1] - pair[0] <= APART), "{streams}: no pause");
            assert!(*turns.last().unwrap() < SPREAD, "{streams}");
            assert!(leaving.turn(streams) < SPREAD, "one that came late");
        }
    }
}
