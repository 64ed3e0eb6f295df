//! No reconciler runs hot: what it writes wakes it again, and so does everything that anybody does to its objects.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The shortest time between two looks at one object. The first look is at once, and one that comes too early is put off
/// until it is time, so that no stream of changes, however fast, keeps a look from ever happening.
#[derive(Debug)]
pub struct Pace {
    pause: Duration,
    looks: Mutex<BTreeMap<String, Instant>>,
}

impl Pace {
    /// With this time between looks.
    #[must_use]
    pub fn new(pause: Duration) -> Self {
        Self { pause, looks: Mutex::default() }
    }

    /// Nothing when it is time to look now, which then counts as a look; else how long it is too early.
    pub fn wait(&self, name: &str) -> Option<Duration> {
        self.wait_at(name, Instant::now())
    }

    fn wait_at(&self, name: &str, now: Instant) -> Option<Duration> {
        let mut looks = self.looks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        looks.retain(|_, last| now.duration_since(*last) < self.pause);
        match looks.get(name) {
            Some(last) => Some(self.pause.saturating_sub(now.duration_since(*last))),
            None => {
                looks.insert(name.to_owned(), now);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_changes_is_looked_at_in_steps_and_never_kept_waiting() {
        let pace = Pace::new(Duration::from_millis(200));
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        // Something changes every millisecond for two seconds.
        let looks = (0..2_000).filter(|millis| pace.wait_at("m", at(*millis)).is_none()).count();
        assert_eq!(looks, 10);
        assert_eq!(pace.wait_at("other", at(0)), None, "each object has its own pace");
        assert_eq!(pace.wait_at("m", at(1_950)), Some(Duration::from_millis(50)));
    }
}
