//! How often somebody may do something: a burst, and so many a second after that. Pure: time is given.

use std::time::{Duration, Instant};

/// A pace, and where somebody stands who is held to it.
#[derive(Debug, Clone)]
pub struct Pace {
    /// What one unit takes.
    each: Duration,
    /// What may be spent at once.
    burst: Duration,
    /// When all that was spent is made up for.
    even: Option<Instant>,
}

impl Pace {
    /// `burst` units at once, then `per_second`.
    #[must_use]
    pub fn new(burst: u32, per_second: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self { each, burst: each.saturating_mul(burst), even: None }
    }

    /// One unit in `each`, after a burst of so many.
    #[must_use]
    pub fn one_in(each: Duration, burst: u32) -> Self {
        Self { each, burst: each.saturating_mul(burst), even: None }
    }

    fn after(&self, units: u32, now: Instant) -> (Instant, Duration) {
        let even = self.even.map_or(now, |even| even.max(now)) + self.each.saturating_mul(units);
        (even, even.saturating_duration_since(now).saturating_sub(self.burst))
    }

    /// Spends units, as many as they are; says how long to pause because of it.
    pub fn spend(&mut self, units: u32, now: Instant) -> Duration {
        let (even, pause) = self.after(units, now);
        self.even = Some(even);
        pause
    }

    /// Spends one unit if that needs no longer pause than `patience`; says how long to pause.
    ///
    /// # Errors
    /// With the pause that it would need.
    pub fn take(&mut self, now: Instant, patience: Duration) -> Result<Duration, Duration> {
        let (even, pause) = self.after(1, now);
        if pause > patience {
            return Err(pause);
        }
        self.even = Some(even);
        Ok(pause)
    }

    /// The same pace for somebody who has spent what another was spent of.
    #[must_use]
    pub fn after_all_of(self, spent: &Self) -> Self {
        Self { even: self.even.max(spent.even), ..self }
    }

    /// Whether it need not be remembered.
    #[must_use]
    pub fn is_even(&self, now: Instant) -> bool {
        self.even.is_none_or(|even| even <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_what_comes_after_has_its_time() {
        let (mut pace, now) = (Pace::new(10, 2), Instant::now());
        assert_eq!(pace.spend(10, now), Duration::ZERO);
        assert_eq!(pace.spend(4, now), Duration::from_secs(2));
        assert_eq!(pace.spend(0, now + Duration::from_secs(2)), Duration::ZERO);
        assert!(!pace.is_even(now + Duration::from_secs(6)) && pace.is_even(now + Duration::from_secs(7)));
        assert!(pace.spend(u32::MAX, now) > Duration::from_secs(1_000_000));
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let (mut pace, now) = (Pace::one_in(Duration::from_secs(5), 2), Instant::now());
        let mut take = |now| pace.take(now, Duration::ZERO);
        assert_eq!((take(now), take(now)), (Ok(Duration::ZERO), Ok(Duration::ZERO)));
        for _ in 0..100 {
            assert_eq!(take(now), Err(Duration::from_secs(5)));
        }
        assert_eq!(take(now + Duration::from_secs(5)), Ok(Duration::ZERO));
    }
}
