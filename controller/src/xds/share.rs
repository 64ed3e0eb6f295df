//! No replica keeps much more than its share of the sidecars: after an upgrade or a crash most streams are where the others
//! were not, and Envoy stays where it is.
//!
//! ```text
//!  pods of the mesh ÷ ready replicas of the own Service = share     (both are watched anyway: no right is needed for it)
//!  more than 1.2 × share ──▶ the oldest streams end without an error, a few at a time ──▶ down to about the share
//! ```
//! The share is never taken for less than it is: pods that are not connected yet or are of another release count. Where
//! an ended stream comes back is chance, perhaps here; one that is younger than [`FLOOR`] stays, so that nobody is moved
//! again and again by numbers that are wrong, as when a replica is called ready that cannot be reached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::fleet::Proxies;
use crate::metrics::Metrics;
use crate::snapshots::Snapshots;
use crate::watch::monitor::{Monitor, Replica};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// Streams younger than this stay.
const FLOOR: Duration = Duration::from_secs(600);
/// Streams that are too few to move anybody for: chance puts as many here or there.
const SLACK: usize = 10;
/// One of so many leaves at a time.
const PART: usize = 50;

/// What is known when it is looked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Pods of the mesh with a stream to this replica.
    pub held: usize,
    /// Pods of the mesh.
    pub pods: usize,
    /// Replicas that are ready, this one among them; 0: not known.
    pub replicas: usize,
}

impl Seen {
    /// What this replica should hold; `None` where there is nobody to share with.
    #[must_use]
    pub fn share(self) -> Option<usize> {
        (self.replicas > 1).then(|| self.pods.div_ceil(self.replicas))
    }
}

/// Whether this replica is giving streams away.
#[derive(Debug, Default)]
pub struct Giving(bool);

impl Giving {
    /// How many streams are to leave now. It begins when there are much more than the share, and goes on until there
    /// are hardly more.
    pub fn leave(&mut self, seen: Seen) -> usize {
        let Some(share) = seen.share() else {
            self.0 = false;
            return 0;
        };
        let most = if self.0 { share + share / 20 } else { share + share / 5 + SLACK };
        self.0 = seen.held > most;
        if self.0 { (seen.held - share).min(share.div_ceil(PART)) } else { 0 }
    }
}

/// Ends the oldest streams, of those that are not younger than `floor`; tells how many.
pub fn end_oldest(proxies: &Proxies, count: usize, floor: Duration, now: Instant) -> usize {
    let mut old: Vec<_> = proxies.newest();
    old.retain(|one| now.saturating_duration_since(one.began) >= floor && !one.spare.is_cancelled());
    old.sort_by_key(|one| one.began);
    old.iter().take(count).map(|one| one.spare.cancel()).count()
}

/// Looks until `stop` is cancelled.
pub async fn run(
    replica: Replica,
    snapshots: Snapshots,
    proxies: Arc<Proxies>,
    monitor: Monitor,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut giving = Giving::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let seen = look(&replica, &snapshots, &proxies, &monitor);
        metrics.share.set(seen.share().map_or(0, |share| i64::try_from(share).unwrap_or(i64::MAX)));
        let leave = giving.leave(seen);
        let left = end_oldest(&proxies, leave, FLOOR, Instant::now());
        if left > 0 {
            tracing::info!(
                left,
                ?seen,
                "streams leave for other replicas: there are more than this one's share"
            );
        }
    }
}

/// Nothing is known of others while the watches are silent, or before the slices name this replica as ready.
fn look(replica: &Replica, snapshots: &Snapshots, proxies: &Proxies, monitor: &Monitor) -> Seen {
    let all = snapshots.replicas(&replica.namespace, &replica.service);
    if !snapshots.synced() || !monitor.hears_all() || all.get(&replica.pod) != Some(&true) {
        return Seen::default();
    }
    let ours = |namespace: &str, name: &str| {
        snapshots.pod(namespace, name).is_some_and(|facts| facts.not_ours.is_none())
    };
    let held = proxies.newest().iter().filter(|one| ours(&one.pod.namespace, &one.pod.name)).count();
    Seen { held, pods: snapshots.pods(), replicas: all.values().filter(|ready| **ready).count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(held: usize, pods: usize, replicas: usize) -> Seen {
        Seen { held, pods, replicas }
    }

    #[test]
    fn nobody_leaves_where_there_is_nobody_to_go_to_or_little_to_gain() {
        for same in
            [seen(1000, 1000, 1), seen(1000, 1000, 0), seen(5, 5, 2), seen(600, 1000, 2), seen(0, 0, 3)]
        {
            assert_eq!(Giving::default().leave(same), 0, "{same:?}");
        }
    }

    #[test]
    fn it_begins_above_a_fifth_more_and_ends_near_the_share() {
        let mut giving = Giving::default();
        assert_eq!(giving.leave(seen(610, 1000, 2)), 0);
        assert_eq!(giving.leave(seen(611, 1000, 2)), 10);
        assert_eq!(giving.leave(seen(540, 1000, 2)), 10, "it goes on below where it began");
        assert_eq!(giving.leave(seen(525, 1000, 2)), 0);
        assert_eq!(giving.leave(seen(540, 1000, 2)), 0, "and does not begin again at once");
        // Others have gone: what was too much is its share.
        assert_eq!((giving.leave(seen(1000, 1000, 2)), giving.leave(seen(1000, 1000, 1))), (10, 0));
    }

    /// Everything is where the first replica is; each that leaves comes back to one after the other.
    #[test]
    fn a_fleet_levels_and_then_rests() {
        let (mut held, mut next, mut moves) = ([3000, 0, 0], 0, 0);
        let mut giving: [Giving; 3] = Default::default();
        let mut pass = |held: &mut [usize; 3]| {
            let mut moved = 0;
            for (at, giving) in giving.iter_mut().enumerate() {
                let leave = giving.leave(seen(held[at], 3000, 3));
                for _ in 0..leave {
                    held[at] -= 1;
                    held[next % 3] += 1;
                    next += 1;
                }
                moved += leave;
            }
            moved
        };
        for _ in 0..200 {
            moves += pass(&mut held);
        }
        assert!(held.iter().all(|held| (900..=1050).contains(held)), "{held:?}");
        assert!((1950..=3300).contains(&moves), "hardly more than must: {moves}");
        assert_eq!(pass(&mut held), 0, "it rests");
    }
}
