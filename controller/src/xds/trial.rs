//! Canaries: how a service is called goes to two sidecars first, and to the others when those have taken it.
//!
//! ```text
//!  new content ──▶ one stream of each of two service accounts ──both ACK──▶ for everybody with this Envoy
//!                     │                                       └─one ACKs──▶ for its own service account
//!                     ├─ no answer within the patience: one stream of every other account, then all of them
//!                     └─ NACK ─▶ withheld from its own service account; two accounts: from all with this Envoy
//! ```
//! Nobody speaks for another: what one service account takes, refuses or is silent about changes nothing for others but
//! that they wait for as long as the patience, once: who was silent or late, or refused what others then took, is not
//! waited for again for a while (`marks.rs`). It is the verified certificate that counts; the Envoy version is what a
//! sidecar says of itself, and is used only to tell apart what one service account says.
//!
//! Who is withheld from keeps what it holds. Who holds nothing gets what sidecars of its own service account keep, or
//! nothing. Addresses, and everything that a policy is enforced by (`inbound`, `in|…`, `outbound`, `egress|…`), are sent
//! to everybody at once and never replaced by anything older: there a sidecar's refusal is its own affair.
//!
//! A replica keeps its own trials: each has its own proxies.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::served::{Content, Entry, Way};
use super::wire::SemanticVersion;
use marks::Marks;
use standing::{Asker, Standing, Taken};

mod marks;
mod standing;

/// How long the canaries may take to answer before others try too.
pub const PATIENCE: Duration = Duration::from_millis(200);
/// Envoy versions that one content is told apart for; a fleet has two or three. The one that fewest service accounts say
/// they have is forgotten first: what one invents takes no place from what a fleet has.
const ENVOYS: usize = 16;
/// Contents that one stream waits for by name; it hears of others when it asks again.
const WAITS: usize = 8;

/// A service account, as the verified certificate of a stream says.
pub type Account = Arc<str>;

/// Who tries one content, and with whom it is good.
#[derive(Debug, Default)]
pub struct Trial {
    envoys: Mutex<Vec<(SemanticVersion, Standing)>>,
    /// Refusals of all Envoy versions, so that most need not look.
    refusals: AtomicUsize,
    /// An Envoy version with which it is good for everybody, as [`packed`], or 0: that is never taken back, and it is what
    /// nearly every stream asks, so that they share it without a lock.
    settled: AtomicU64,
}

/// A version in one word that is not 0, if it is one that can be in one.
fn packed(SemanticVersion { major, minor, patch }: SemanticVersion) -> Option<u64> {
    let fits = |part: u32| u64::from(part) < 1 << 21;
    let word = || 1 << 63 | u64::from(major) << 42 | u64::from(minor) << 21 | u64::from(patch);
    (fits(major) && fits(minor) && fits(patch)).then(word)
}

impl Trial {
    fn with<T>(&self, envoy: SemanticVersion, act: impl FnOnce(&mut Standing) -> T) -> T {
        let mut envoys = self.envoys.lock();
        let at = match envoys.iter().position(|(other, _)| *other == envoy) {
            Some(at) => at,
            None => {
                if envoys.len() >= ENVOYS {
                    let least = envoys.iter().enumerate().min_by_key(|(_, (_, standing))| standing.weight());
                    let least = least.map_or(0, |(at, _)| at);
                    envoys.remove(least).1.wake();
                }
                envoys.push((envoy, Standing::default()));
                envoys.len() - 1
            }
        };
        let outcome = act(&mut envoys[at].1);
        if let (true, Some(word)) = (envoys[at].1.is_settled(), packed(envoy)) {
            self.settled.store(word, Ordering::Release);
        }
        self.refusals.store(envoys.iter().map(|(_, standing)| standing.refusals()).sum(), Ordering::Release);
        outcome
    }

    /// As [`Trial::with`], but only if the Envoy version is known here.
    fn look<T>(&self, envoy: SemanticVersion, act: impl FnOnce(&mut Standing) -> T) -> Option<T> {
        let mut envoys = self.envoys.lock();
        envoys.iter_mut().find(|(other, _)| *other == envoy).map(|(_, standing)| act(standing))
    }

    /// Whether it is known without a lock that it is good for everybody with this Envoy version.
    fn is_settled(&self, envoy: SemanticVersion) -> bool {
        packed(envoy).is_some_and(|word| self.settled.load(Ordering::Acquire) == word)
    }
}

#[cfg(test)]
impl Trial {
    /// Streams that are woken by what is decided here.
    pub fn waiting(&self) -> usize {
        self.envoys.lock().iter().map(|(_, standing)| standing.waiting()).sum()
    }

    /// Envoy versions that are told apart.
    pub fn envoys(&self) -> usize {
        self.envoys.lock().len()
    }
}

/// Why a content is withheld.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Envoy's own words.
    pub error: String,
    /// Which proxy said so, as in `namespace/pod`.
    pub proxy: Arc<str>,
}

type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

/// What the streams of one replica share.
pub struct Canaries {
    patience: Duration,
    streams: AtomicU64,
    /// Who is here, and who of them is not waited for.
    marks: Mutex<Marks>,
    clock: Clock,
}

impl fmt::Debug for Canaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canaries").field("patience", &self.patience).finish_non_exhaustive()
    }
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
        Self::with_clock(patience, Box::new(Instant::now))
    }

    /// As [`Canaries::new`], with a clock of the caller's.
    #[must_use]
    pub fn with_clock(patience: Duration, clock: Clock) -> Self {
        Self { patience, streams: AtomicU64::new(0), marks: Mutex::default(), clock }
    }

    /// The gate of a new stream.
    #[must_use]
    pub fn gate(self: &Arc<Self>, who: Who<'_>) -> Gate {
        let account = Account::from(who.account);
        self.marks.lock().comes(&account);
        Gate {
            canaries: self.clone(),
            envoy: who.envoy,
            account,
            proxy: who.proxy.into(),
            stream: self.streams.fetch_add(1, Ordering::Relaxed),
            wake: Arc::default(),
            trying: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }
}

/// Who is at the other end of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// Its service account, by the verified certificate.
    pub account: &'a str,
    /// How people call it, as in `namespace/pod`.
    pub proxy: &'a str,
    /// What it says that its Envoy is.
    pub envoy: SemanticVersion,
}

/// What a stream may do with a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Send it.
    Send,
    /// Wait: others try it. [`Gate::wake`] tells when to ask again.
    Wait,
}

/// One stream's way to the canaries. Its end frees what it was trying.
#[derive(Debug)]
pub struct Gate {
    canaries: Arc<Canaries>,
    envoy: SemanticVersion,
    account: Account,
    proxy: Arc<str>,
    stream: u64,
    wake: Arc<Notify>,
    /// By where it is in memory.
    trying: BTreeMap<usize, Arc<Content>>,
    /// What it is on the list of.
    waiting: Vec<Arc<Content>>,
}

fn place(entry: &Entry) -> usize {
    Arc::as_ptr(&entry.content) as usize
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

    fn now(&self) -> Instant {
        (self.canaries.clock)()
    }

    /// Asks before sending. `Send` may make this stream a canary, so it must send then, or soon.
    pub fn ask(&mut self, entry: &Entry) -> Answer {
        if entry.content.way == Way::AtOnce || self.has_passed(entry) {
            return Answer::Send;
        }
        let now = self.now();
        let registers = self.waiting.len() < WAITS;
        let silent = |account: &Account| self.canaries.marks.lock().has(account, now);
        let asker = Asker {
            account: &self.account,
            stream: self.stream,
            wake: &self.wake,
            registers,
            silent: &silent,
        };
        let patience = self.canaries.patience;
        let (answer, good, overdue) = entry.content.trial.with(self.envoy, |standing| {
            let answer = standing.ask(asker, now, patience);
            let good = standing.good_for(&self.account);
            let overdue = if good { Vec::new() } else { standing.overdue(now, patience) };
            (answer, good, overdue)
        });
        if !overdue.is_empty() {
            self.canaries.marks.lock().mark(overdue, now);
        }
        match answer {
            Answer::Send if !good => {
                self.trying.insert(place(entry), entry.content.clone());
            }
            Answer::Wait if registers => self.waiting.push(entry.content.clone()),
            Answer::Send | Answer::Wait => {}
        }
        answer
    }

    /// Whether it is good for this stream's service account already, as nearly everything is that one that connects is
    /// sent.
    fn has_passed(&self, entry: &Entry) -> bool {
        let trial = &entry.content.trial;
        trial.is_settled(self.envoy)
            || trial.look(self.envoy, |standing| standing.good_for(&self.account)) == Some(true)
    }

    /// Takes the stream off every list: to be followed by asking again.
    pub fn waits_no_more(&mut self) {
        for content in std::mem::take(&mut self.waiting) {
            content.trial.look(self.envoy, |standing| standing.waits_no_more(self.stream));
        }
    }

    /// The client was sent it, and holds it.
    pub fn accepted(&mut self, entry: &Entry) {
        if self.trying.remove(&place(entry)).is_none() {
            return;
        }
        let (now, patience) = (self.now(), self.canaries.patience);
        let trial = &entry.content.trial;
        let taken = trial.with(self.envoy, |standing| standing.accepted(&self.account, now, patience));
        let Taken { refused, late } = taken;
        let mut marks = self.canaries.marks.lock();
        marks.mark(refused, now);
        if late {
            marks.late(&self.account, now);
        }
    }

    /// The client was sent it, and refused it, alone; `held` is what it keeps.
    pub fn rejected(&mut self, entry: &Entry, error: &str, held: Option<&Entry>) {
        // What others of its service account have taken is not the content's fault.
        if self.trying.remove(&place(entry)).is_none() {
            return;
        }
        let now = self.now();
        let refusal = Refusal { error: error.to_owned(), proxy: self.proxy.clone() };
        let keeps = held.map(Entry::settled);
        let marked = |account: &Account| self.canaries.marks.lock().has(account, now);
        entry
            .content
            .trial
            .with(self.envoy, |standing| standing.rejected(&self.account, now, refusal, keeps, &marked));
    }

    /// Why a content is withheld from this stream.
    #[must_use]
    pub fn refusal(&self, entry: &Entry) -> Option<Arc<Refusal>> {
        let trial = &entry.content.trial;
        if trial.refusals.load(Ordering::Acquire) == 0 || trial.is_settled(self.envoy) {
            return None;
        }
        trial.look(self.envoy, |standing| standing.refusal(&self.account)).flatten()
    }

    /// What to send instead of a content that is withheld, when the client holds nothing: what sidecars of its own
    /// service account keep.
    #[must_use]
    pub fn instead(&self, entry: &Entry) -> Option<Entry> {
        entry.content.trial.look(self.envoy, |standing| standing.instead(&self.account)).flatten()
    }

    /// Tells what this stream's client keeps instead of a content that is withheld.
    pub fn keeps(&self, entry: &Entry, held: &Entry) {
        if held.version != entry.version {
            let now = self.now();
            entry.content.trial.look(self.envoy, |standing| {
                standing.keeps(&self.account, now, || held.settled());
            });
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.waits_no_more();
        let now = self.now();
        let mut left = false;
        let marked = |account: &Account| self.canaries.marks.lock().has(account, now);
        for content in std::mem::take(&mut self.trying).into_values() {
            let trial = &content.trial;
            let leaves = |standing: &mut Standing| standing.leaves(&self.account, self.stream, &marked);
            left |= trial.look(self.envoy, leaves) == Some(true);
        }
        let mut marks = self.canaries.marks.lock();
        marks.goes(&self.account);
        if left {
            marks.mark(vec![self.account.clone()], now);
        }
    }
}
