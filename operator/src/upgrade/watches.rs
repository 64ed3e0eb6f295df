//! For how long this process has watched the waves that soak, by a clock that nobody sets.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use crds::mesh_upgrade::SoakStatus;
use upgrades::Desired;
use upgrades::facts::WaveId;
use upgrades::soak::{self, Counter};

/// A wave of a record on one of its legs, and when its soak began.
type Key = (String, i64, WaveId, String);

/// The counters of this process. Losing them costs a soak a few seconds: the record has the counts.
#[derive(Debug, Default)]
pub struct Watches(Mutex<BTreeMap<Key, (Counter, Instant)>>);

/// What a look at the soaks of a record gave.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// For how many seconds each wave was watched.
    pub seconds: BTreeMap<WaveId, u64>,
    /// What the record says from now on.
    pub record: Vec<SoakStatus>,
}

impl Watches {
    /// Looks: counts what passed since the look before. `now` is the wall clock's seconds since 1970.
    pub fn look(&self, uid: &str, leg: i64, soaks: &[SoakStatus], desired: &Desired, now: u64) -> Watched {
        let mut counters = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut watched = Watched::default();
        let mut seen = Vec::new();
        for soak in soaks {
            let Some(wave) = soak::wave(soak, leg, desired) else {
                watched.record.push(soak.clone());
                continue;
            };
            let key = (uid.to_owned(), leg, wave.clone(), soak.since.clone());
            let (counter, at) =
                counters.entry(key.clone()).or_insert_with(|| (Counter::resume(soak, now), Instant::now()));
            counter.look(at.elapsed());
            *at = Instant::now();
            watched.record.push(counter.written(soak, desired.soak, now));
            watched.seconds.insert(wave, counter.seconds());
            seen.push(key);
        }
        counters.retain(|key, _| key.0 != uid || seen.contains(key));
        watched
    }
}
