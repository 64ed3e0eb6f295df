//! How long a wave was watched: time that passed while somebody looked, by a clock that nobody sets.
//!
//! A wall clock may be set back (and a soak would go on for ever) or jump (and it would end without anybody having
//! looked). So the operator counts what passes between its looks, and at most so much of each; the record keeps the
//! count, and what the wall clock says serves only once, at the first look of a new process.

use std::time::Duration;

use crds::mesh_upgrade::SoakStatus;

use crate::facts::{Desired, WaveId, wave_ids};

/// Of the time between two looks at most this counts: an operator that was stuck has not watched.
pub const LONGEST_LOOK: Duration = Duration::from_secs(30);
/// Of the time since the last look of another process at most this counts.
pub const LONGEST_GAP: Duration = Duration::from_secs(5);
/// The record is written again when so much has been added, so that a soak does not write at every look.
pub const WRITTEN_EVERY: u64 = 5;

/// Counts for how long a wave is watched, in one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    watched: Duration,
}

impl Counter {
    /// Goes on where the record ends, `now` being seconds since 1970. A record of a release that goes by the clock
    /// has no count: what the clock says is believed once.
    #[must_use]
    pub fn resume(record: &SoakStatus, now: u64) -> Self {
        let since = |text: &str| now.saturating_sub(crate::display::seconds(text).unwrap_or(now));
        let watched = match (record.watched_seconds, record.seen_at.as_deref()) {
            (None, _) => Duration::from_secs(since(&record.since)),
            (Some(seconds), seen) => {
                let gap = Duration::from_secs(seen.map_or(0, since)).min(LONGEST_GAP);
                Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) + gap
            }
        };
        Self { watched }
    }

    /// A look, `passed` after the one before by a clock that is never set.
    pub fn look(&mut self, passed: Duration) {
        self.watched = self.watched.saturating_add(passed.min(LONGEST_LOOK));
    }

    /// Whole seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.watched.as_secs()
    }

    /// The record with the count in it, when it is time to write that: at every so many seconds, and at the end.
    #[must_use]
    pub fn written(&self, record: &SoakStatus, length: Duration, now: u64) -> SoakStatus {
        let before = record.watched_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let is = self.seconds();
        let due = before.is_none_or(|before| is >= before.saturating_add(WRITTEN_EVERY));
        let ends = is >= length.as_secs() && before.is_none_or(|before| before < length.as_secs());
        if !due && !ends || before.is_some_and(|before| before >= length.as_secs()) {
            return record.clone();
        }
        SoakStatus {
            watched_seconds: Some(i64::try_from(is).unwrap_or(i64::MAX)),
            seen_at: Some(crate::display::time(now)),
            ..record.clone()
        }
    }
}

/// The wave that a soak of the record is about, if it is of this leg of the upgrade.
#[must_use]
pub fn wave(record: &SoakStatus, leg: i64, desired: &Desired) -> Option<WaveId> {
    let known = wave_ids(&desired.waves);
    let nth = |nth: i64| WaveId::Named { name: record.wave.clone(), nth: usize::try_from(nth).unwrap_or(0) };
    match (record.leg, record.nth) {
        // Of a release that knew waves by their names alone.
        (None, None) if leg == 1 && known.contains(&nth(0)) => Some(nth(0)),
        (None, None) if leg == 1 && record.wave == OTHERS => Some(WaveId::Others),
        (Some(of), None) if of == leg => Some(WaveId::Others),
        (of, Some(number)) if of.unwrap_or(1) == leg => Some(nth(number)),
        _ => None,
    }
}

/// A soak that begins.
#[must_use]
pub fn begin(wave: &WaveId, leg: i64, since: u64) -> SoakStatus {
    let (name, nth) = match wave {
        WaveId::Named { name, nth } => (name.clone(), i64::try_from(*nth).ok()),
        WaveId::Others => (OTHERS.to_owned(), None),
    };
    SoakStatus {
        wave: name,
        since: crate::display::time(since),
        leg: Some(leg),
        nth,
        watched_seconds: Some(0),
        seen_at: Some(crate::display::time(since)),
        unknown: Default::default(),
    }
}

/// What the record calls the namespaces that no wave names.
const OTHERS: &str = "others";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Approval, Wave};

    const SOAK: Duration = Duration::from_secs(600);
    const SECOND: Duration = Duration::from_secs(1);

    fn desired(waves: &[&str]) -> Desired {
        let wave = |name: &&str| Wave { name: (*name).to_owned(), namespaces: Vec::new() };
        Desired {
            mesh: "m".to_owned(),
            from: "0.1.0".to_owned(),
            to: "0.2.0".to_owned(),
            wanted: "0.2.0".to_owned(),
            waves: waves.iter().map(wave).collect(),
            soak: SOAK,
            approval: Approval::NotNeeded,
            paused: false,
            abort: false,
            workloads_at_once: 4,
        }
    }

    fn begun() -> SoakStatus {
        begin(&WaveId::Named { name: "canary".to_owned(), nth: 0 }, 1, 1_000_000)
    }

    /// An operator that looks every second, with a wall clock that `clock` sets; says after how many looks it is over.
    fn looks(clock: impl Fn(u64) -> u64, restarts_every: u64) -> u64 {
        let mut record = begun();
        let mut counter = Counter::resume(&record, 1_000_000);
        for look in 1..100_000 {
            let now = clock(look);
            if look % restarts_every == 0 {
                counter = Counter::resume(&record, now);
            }
            counter.look(SECOND);
            record = counter.written(&record, SOAK, now);
            if counter.seconds() >= SOAK.as_secs() {
                return look;
            }
        }
        panic!("it never ends: {record:?}");
    }

    #[test]
    fn a_clock_that_is_set_changes_nothing() {
        let right = |look: u64| 1_000_000 + look;
        assert_eq!(looks(right, u64::MAX), 600);
        assert_eq!(looks(|look| right(look) + if look > 10 { 86_400 } else { 0 }, u64::MAX), 600, "forward");
        assert_eq!(looks(|look| right(look) - if look > 10 { 86_400 } else { 0 }, u64::MAX), 600, "back");
        assert_eq!(looks(|look| if look % 2 == 0 { 0 } else { u64::from(u32::MAX) }, u64::MAX), 600, "mad");
    }

    #[test]
    fn restarts_neither_shorten_nor_stretch_it_much_whatever_the_clock_says() {
        let right = |look: u64| 1_000_000 + look;
        let day = 86_400;
        for (name, looks) in [
            ("right", looks(right, 10)),
            ("forward", looks(|look| right(look) + if look > 95 { day } else { 0 }, 10)),
            ("back", looks(|look| right(look) - if look > 95 { day } else { 0 }, 10)),
        ] {
            // Each restart adds at most the gap, and forgets at most what was not written yet.
            assert!((300..=1_200).contains(&looks), "{name}: {looks}");
        }
        let ever_later = looks(|look| right(look) + look / 10 * day, 10);
        assert!(ever_later >= 300, "a clock that runs away at each restart: {ever_later}");
    }

    #[test]
    fn an_operator_that_was_stuck_has_not_watched() {
        let mut counter = Counter::resume(&begun(), 1_000_000);
        counter.look(Duration::from_secs(3_600));
        assert_eq!(counter.seconds(), LONGEST_LOOK.as_secs());
    }

    #[test]
    fn a_record_of_a_release_that_goes_by_the_clock_is_believed_once() {
        let old: SoakStatus = serde_json::from_value(serde_json::json!({
            "wave": "canary", "since": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let begun = crate::display::seconds(&old.since).unwrap();
        let counter = Counter::resume(&old, begun + 123);
        assert_eq!(counter.seconds(), 123);
        let written = counter.written(&old, SOAK, begun + 123);
        assert_eq!((written.since.as_str(), written.watched_seconds), (old.since.as_str(), Some(123)));
    }

    #[test]
    fn each_wave_has_its_own_soak_on_each_leg() {
        let desired = desired(&["others", "canary", "canary"]);
        let named = |name: &str, nth| WaveId::Named { name: name.to_owned(), nth };
        let all = [named("others", 0), named("canary", 0), named("canary", 1), WaveId::Others];
        for id in &all {
            let record = begin(id, 3, 5);
            assert_eq!(wave(&record, 3, &desired).as_ref(), Some(id));
            assert_eq!(wave(&record, 5, &desired), None, "a second way there is watched again");
        }
        let old = |wave: &str| SoakStatus { leg: None, nth: None, wave: wave.to_owned(), ..begun() };
        assert_eq!(wave(&old("canary"), 1, &desired), Some(named("canary", 0)));
        assert_eq!(wave(&old("others"), 1, &desired), Some(named("others", 0)));
        assert_eq!(wave(&old("others"), 1, &self::desired(&[])), Some(WaveId::Others));
        assert_eq!(wave(&old("gone"), 1, &desired), None);
        assert_eq!(wave(&old("canary"), 3, &desired), None);
    }
}
