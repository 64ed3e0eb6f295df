//! Canaries: new content goes to one proxy of each Envoy version first, and to the others when that one has taken it.
//!
//! ```text
//!  nobody has it ──first stream──▶ on trial ──ACK──▶ good: for everybody with this Envoy
//!                                     │ └─ no answer within the patience: twice as many try
//!                                     └─NACK─▶ poisoned: nobody else with this Envoy gets it; the last good one
//!                                              is served instead, to new streams too
//! ```
//! Load assignments are exempt: they hold nothing but addresses that were parsed, and must be fast. A replica keeps
//! its own trials: each has its own proxies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh::ResourceType;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::served::{Entry, Name, Version};

/// How long one proxy alone may take to answer before others try too.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// Envoy versions told apart; a fleet has two or three. Those beyond share the last place.
const ENVOYS: usize = 64;
/// Poisoned contents that are remembered; the oldest is forgotten first.
const POISONED: usize = 4096;

/// Who tries one content, of which Envoy versions, and with which of them it is good.
#[derive(Debug, Default)]
pub struct Trial {
    /// A bit per Envoy version.
    good: AtomicU64,
    open: Mutex<BTreeMap<usize, Open>>,
}

/// A trial that is not decided.
#[derive(Debug)]
struct Open {
    by: Vec<u64>,
    /// Streams that may try before the patience is over again.
    limit: usize,
    since: Instant,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// A content that an Envoy refused.
#[derive(Debug, Clone)]
pub struct Poison {
    /// Envoy's own words.
    pub error: String,
    /// Which proxy said so, as in `namespace/pod`.
    pub proxy: Arc<str>,
    /// What is served instead.
    pub instead: Option<Entry>,
    order: u64,
}

type Key = (usize, ResourceType, Name, Version);

/// All that is known of refusals, for one replica.
#[derive(Debug)]
pub struct Canaries {
    patience: Duration,
    envoys: RwLock<Vec<Arc<str>>>,
    poisoned: RwLock<BTreeMap<Key, Poison>>,
    count: AtomicUsize,
    order: AtomicU64,
    streams: AtomicU64,
}

impl Default for Canaries {
    fn default() -> Self {
        Self::new(PATIENCE)
    }
}

impl Canaries {
    /// Canaries that are waited for so long.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            envoys: RwLock::default(),
            poisoned: RwLock::default(),
            count: AtomicUsize::new(0),
            order: AtomicU64::new(0),
            streams: AtomicU64::new(0),
        }
    }

    /// The gate of a new stream. `proxy` is how people call it.
    #[must_use]
    pub fn gate(self: &Arc<Self>, envoy: &str, proxy: &str) -> Gate {
        Gate {
            canaries: self.clone(),
            envoy: self.place_of(envoy),
            proxy: proxy.into(),
            stream: self.streams.fetch_add(1, Ordering::Relaxed),
            wake: Arc::default(),
            trying: Vec::new(),
        }
    }

    fn place_of(&self, envoy: &str) -> usize {
        let mut envoys = self.envoys.write();
        match envoys.iter().position(|other| **other == *envoy) {
            Some(place) => place,
            None if envoys.len() < ENVOYS => {
                envoys.push(envoy.into());
                envoys.len() - 1
            }
            None => ENVOYS - 1,
        }
    }

    /// Number of contents that are remembered as refused.
    #[must_use]
    pub fn poisoned(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }
}

/// What a stream may do with a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Send it.
    Send,
    /// Wait: another stream tries it. [`Gate::wake`] tells when to ask again.
    Wait,
}

/// One stream's way to the canaries. Its end frees what it was trying.
#[derive(Debug)]
pub struct Gate {
    canaries: Arc<Canaries>,
    envoy: usize,
    proxy: Arc<str>,
    stream: u64,
    wake: Arc<Notify>,
    trying: Vec<Arc<Trial>>,
}

impl Gate {
    /// Told when something that was waited for is decided.
    #[must_use]
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// How long to wait before asking again without being told.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.canaries.patience
    }

    fn exempt(kind: ResourceType) -> bool {
        matches!(kind, ResourceType::Endpoint)
    }

    fn is_good(&self, trial: &Trial) -> bool {
        trial.good.load(Ordering::Acquire) & (1 << self.envoy) != 0
    }

    /// Asks before sending. `Send` may make this stream the canary, so it must send then, or soon.
    pub fn ask(&mut self, kind: ResourceType, entry: &Entry) -> Answer {
        if Self::exempt(kind) || self.is_good(&entry.trial) {
            return Answer::Send;
        }
        let mut all = entry.trial.open.lock();
        if self.is_good(&entry.trial) {
            return Answer::Send;
        }
        let now = Instant::now();
        let open = all.entry(self.envoy).or_insert_with(|| Open {
            by: Vec::new(),
            limit: 1,
            since: now,
            waiting: BTreeMap::new(),
        });
        if open.by.contains(&self.stream) {
            return Answer::Send;
        }
        if open.by.len() >= open.limit && now.duration_since(open.since) >= self.canaries.patience {
            open.limit = open.limit.saturating_mul(2);
            open.since = now;
        }
        if open.by.len() < open.limit {
            open.by.push(self.stream);
            open.waiting.remove(&self.stream);
            self.trying.push(entry.trial.clone());
            return Answer::Send;
        }
        open.waiting.insert(self.stream, self.wake.clone());
        Answer::Wait
    }

    /// The client holds it.
    pub fn accepted(&mut self, kind: ResourceType, entry: &Entry) {
        if Self::exempt(kind) || self.is_good(&entry.trial) {
            return;
        }
        let open = {
            let mut all = entry.trial.open.lock();
            entry.trial.good.fetch_or(1 << self.envoy, Ordering::AcqRel);
            all.remove(&self.envoy)
        };
        self.trying.retain(|trial| !Arc::ptr_eq(trial, &entry.trial));
        wake_all(open);
    }

    /// The client refused it, alone; `held` is what it keeps.
    pub fn rejected(
        &mut self,
        kind: ResourceType,
        name: &Name,
        entry: &Entry,
        error: &str,
        held: Option<Entry>,
    ) {
        let known = self.poison(kind, name, &entry.version);
        // What others with this Envoy have taken is not the content's fault.
        if Self::exempt(kind) || self.is_good(&entry.trial) || known.is_some() {
            return;
        }
        let canaries = &self.canaries;
        let order = canaries.order.fetch_add(1, Ordering::Relaxed);
        let poison = Poison { error: error.to_owned(), proxy: self.proxy.clone(), instead: held, order };
        {
            let mut all = canaries.poisoned.write();
            all.insert((self.envoy, kind, name.clone(), entry.version.clone()), poison);
            if all.len() > POISONED {
                let oldest = all.iter().min_by_key(|(_, poison)| poison.order).map(|(key, _)| key.clone());
                oldest.and_then(|key| all.remove(&key));
            }
            canaries.count.store(all.len(), Ordering::Release);
        }
        let open = entry.trial.open.lock().remove(&self.envoy);
        self.trying.retain(|trial| !Arc::ptr_eq(trial, &entry.trial));
        wake_all(open);
    }

    /// Whether nothing at all is poisoned, which is the rule.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.canaries.poisoned() == 0
    }

    /// Why a content is not for this stream's Envoy.
    #[must_use]
    pub fn poison(&self, kind: ResourceType, name: &Name, version: &Version) -> Option<Poison> {
        if self.clean() {
            return None;
        }
        let key = (self.envoy, kind, name.clone(), version.clone());
        self.canaries.poisoned.read().get(&key).cloned()
    }

    /// Tells what this stream's client holds instead of a poisoned content, if whoever refused that held nothing.
    pub fn offer(&self, kind: ResourceType, name: &Name, version: &Version, held: Option<&Entry>) {
        let Some(held) = held.filter(|held| held.version != *version) else { return };
        let key = (self.envoy, kind, name.clone(), version.clone());
        if let Some(poison) = self.canaries.poisoned.write().get_mut(&key) {
            poison.instead.get_or_insert_with(|| held.clone());
        }
    }

    /// Everything that this stream's Envoy version has refused.
    #[must_use]
    pub fn poisons(&self) -> Vec<(ResourceType, Name, Version, Poison)> {
        if self.clean() {
            return Vec::new();
        }
        let all = self.canaries.poisoned.read();
        let mine = all.iter().filter(|((envoy, ..), _)| *envoy == self.envoy);
        mine.map(|((_, kind, name, version), poison)| (*kind, name.clone(), version.clone(), poison.clone()))
            .collect()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        for trial in &self.trying {
            let mut all = trial.open.lock();
            let Some(open) = all.get_mut(&self.envoy) else { continue };
            open.by.retain(|stream| *stream != self.stream);
            if open.by.is_empty() {
                let open = all.remove(&self.envoy);
                drop(all);
                // The first that asks takes over.
                wake_all(open);
            }
        }
    }
}

fn wake_all(open: Option<Open>) {
    for wake in open.into_iter().flat_map(|open| open.waiting.into_values()) {
        wake.notify_one();
    }
}
