//! Who may open a stream, how often, and how much of this replica the streams of one service account may take.
//!
//! ```text
//!  certificate ──▶ a place to open a stream (few per service account; more wait) ──▶ first request ──▶ pod
//!                                                                                                    │
//!       too often, or the replica is full ──▶ end: Envoy tries again later, or another replica  ◀────┤
//!                                                                                 a place to stay ◀──┘
//! ```
//! One service account never waits for another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::pace::Pace;

/// Streams of one service account that may be opened at the same time: from the request of the client to the word of the
/// mesh that it knows the pod. More wait.
const OPENING: usize = 64;
/// How often streams may be opened for pods of a service account that the mesh does not know (yet).
const OFTEN_UNKNOWN: (u32, Duration) = (256, Duration::from_millis(100));
/// Bytes that the streams of one service account may make this replica remember, beyond what it serves.
const REMEMBERED: usize = 64 * 1024 * 1024;

/// Why a stream may not be opened now. Envoy tries again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The same pod has opened too many.
    #[error("this pod opens streams too often; try again in {} s", .0.as_secs() + 1)]
    TooOften(Duration),
    /// Enough others are here.
    #[error("this replica has its {0} streams; another one may have room")]
    Full(usize),
}

/// What the streams of one service account share.
#[derive(Debug)]
pub struct Account {
    manners: Manners,
    opening: Arc<Semaphore>,
    remembered: AtomicUsize,
    paces: Mutex<BTreeMap<String, Pace>>,
    /// What streams that have ended spent on requests, by pod.
    spent: Mutex<BTreeMap<String, Pace>>,
}

impl Account {
    fn new(manners: Manners) -> Self {
        Self {
            manners,
            opening: Arc::new(Semaphore::new(OPENING)),
            remembered: AtomicUsize::new(0),
            paces: Mutex::default(),
            spent: Mutex::default(),
        }
    }
}

/// What is asked of those who come.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// Streams that the replica takes.
    pub most: usize,
    /// How many streams a pod may open at once: a sidecar that is swapped, replicas that are replaced.
    pub burst: u32,
    /// After that it may open one in so long.
    pub each: Duration,
    /// One that comes too often waits for its turn, but no longer than this; then it is turned away.
    pub patience: Duration,
}

impl Default for Manners {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { most: MOST_STREAMS, burst: 8, each: seconds(5), patience: seconds(15) }
    }
}

/// The door of a replica.
#[derive(Debug)]
pub struct Door {
    manners: Manners,
    inside: Arc<AtomicUsize>,
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    /// With when each was last asked for.
    all: BTreeMap<Arc<str>, (Instant, Arc<Account>)>,
    /// When those that are gone were last forgotten.
    swept: Option<Instant>,
}

/// How long a service account without a stream is remembered.
const LATELY: Duration = Duration::from_secs(60);
/// Streams that a replica takes when nobody says otherwise: five times what it is measured with.
pub const MOST_STREAMS: usize = 50_000;

impl Default for Door {
    fn default() -> Self {
        Self::new(Manners::default())
    }
}

/// A place in the replica; its end frees it.
#[derive(Debug)]
pub struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Door {
    /// A door.
    #[must_use]
    pub fn new(manners: Manners) -> Self {
        Self { manners, inside: Arc::default(), accounts: Mutex::default() }
    }

    /// The service account with this SPIFFE id.
    pub fn account(&self, id: &str, now: Instant) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        let old = |then: Instant| now.saturating_duration_since(then) > LATELY;
        if accounts.swept.is_none_or(old) {
            accounts.swept = Some(now);
            accounts.all.retain(|_, (seen, account)| !old(*seen) || Arc::strong_count(account) > 1);
        }
        match accounts.all.get_mut(id) {
            Some((seen, account)) => {
                *seen = now;
                account.clone()
            }
            None => {
                let account = Arc::new(Account::new(self.manners));
                accounts.all.insert(id.into(), (now, account.clone()));
                account
            }
        }
    }

    /// A place for a stream of a pod that is known.
    ///
    /// # Errors
    /// [`Closed::Full`].
    pub fn enter(&self) -> Result<Inside, Closed> {
        let most = self.manners.most;
        let entered = self.inside.fetch_update(Ordering::AcqRel, Ordering::Acquire, |inside| {
            (inside < most).then_some(inside + 1)
        });
        entered.map(|_| Inside(self.inside.clone())).map_err(|_| Closed::Full(most))
    }
}

impl Account {
    /// Waits for a place to open a stream.
    pub async fn open(&self) -> Option<OwnedSemaphorePermit> {
        self.opening.clone().acquire_owned().await.ok()
    }

    /// How long a pod must wait until it may open a stream; `uid` is `None` for those that the mesh does not know.
    ///
    /// # Errors
    /// [`Closed::TooOften`] when that is too long to wait here: to be said after the patience.
    pub fn come(&self, uid: Option<&str>, now: Instant) -> Result<Duration, Closed> {
        let Manners { burst, each, patience, .. } = self.manners;
        let (burst, each) = if uid.is_some() { (burst, each) } else { OFTEN_UNKNOWN };
        let mut paces = self.paces.lock();
        paces.retain(|_, pace| !pace.is_even(now));
        let pace =
            paces.entry(uid.unwrap_or_default().to_owned()).or_insert_with(|| Pace::one_in(each, burst));
        pace.take(now, patience).map_err(Closed::TooOften)
    }

    /// A stream of a pod has ended that spent so much.
    pub fn spent(&self, uid: &str, pace: Pace, now: Instant) {
        let mut spent = self.spent.lock();
        spent.retain(|_, pace| !pace.is_even(now));
        if !pace.is_even(now) {
            spent.insert(uid.to_owned(), pace);
        }
    }

    /// The pace of a new stream of a pod, less what those before it spent.
    pub fn paid(&self, uid: &str, pace: Pace) -> Pace {
        match self.spent.lock().get(uid) {
            Some(spent) => pace.after_all_of(spent),
            None => pace,
        }
    }

    /// How long one waits that is turned away: whoever comes in a loop is slowed by that.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.manners.patience
    }

    /// Counts what a stream makes this replica remember, `before` and now, in bytes.
    ///
    /// # Errors
    /// With what all streams of the service account would come to, and the most that they may.
    pub fn remember(&self, before: usize, now: usize) -> Result<(), (usize, usize)> {
        let add = |all: usize| all.saturating_sub(before) + now;
        let most = |all: &usize| now <= before || *all <= REMEMBERED;
        let update = self
            .remembered
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |all| Some(add(all)).filter(most));
        update.map(|_| ()).map_err(|all| (add(all), REMEMBERED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_comes_again_and_again_is_turned_away_and_others_are_not() {
        let (door, now) = (Door::default(), Instant::now());
        let (a, b) = (door.account("a", now), door.account("b", now));
        let seconds = Duration::from_secs;
        let came: Vec<_> = (0..1000).filter_map(|_| a.come(Some("pod"), now).ok()).collect();
        assert_eq!(came, [0, 0, 0, 0, 0, 0, 0, 0, 5, 10, 15].map(seconds));
        let at_once = Ok(Duration::ZERO);
        assert_eq!((a.come(Some("another pod"), now), b.come(Some("pod"), now)), (at_once, at_once));
        let soon = now + seconds(5);
        assert_eq!((a.come(Some("pod"), soon), a.come(Some("pod"), soon).is_err()), (Ok(seconds(15)), true));
        // Names that it invents share one pace.
        assert!((0..1000).filter(|_| a.come(None, now).is_ok()).count() < 500);
        drop(a);
        assert!(door.account("a", soon).come(Some("pod"), soon).is_err(), "it is not forgotten at once");
        let later = now + LATELY * 2;
        door.account("b", later);
        assert_eq!(door.accounts.lock().all.len(), 1, "but in the end");
    }

    #[test]
    fn what_a_pod_has_spent_is_spent_when_it_comes_back() {
        let (door, now) = (Door::default(), Instant::now());
        let account = door.account("a", now);
        let new = || Pace::new(10, 1);
        let mut pace = account.paid("pod", new());
        assert_eq!(pace.spend(10, now), Duration::ZERO);
        account.spent("pod", pace, now);
        assert_eq!(account.paid("pod", new()).spend(5, now), Duration::from_secs(5));
        assert_eq!(account.paid("another pod", new()).spend(5, now), Duration::ZERO);
        let later = now + Duration::from_secs(10);
        account.spent("another pod", new(), later);
        assert!(account.spent.lock().is_empty(), "nothing is remembered that is made up for");
    }

    #[test]
    fn a_full_replica_says_so() {
        let door = Door::new(Manners { most: 2, ..Manners::default() });
        let (one, _two) = (door.enter().unwrap(), door.enter().unwrap());
        assert_eq!(door.enter().unwrap_err(), Closed::Full(2));
        drop(one);
        assert!(door.enter().is_ok());
    }

    #[test]
    fn what_streams_make_us_remember_is_bounded_for_each_account() {
        let (door, now) = (Door::default(), Instant::now());
        let (a, b) = (door.account("a", now), door.account("b", now));
        assert!(a.remember(0, REMEMBERED).is_ok());
        assert_eq!(a.remember(0, 1), Err((REMEMBERED + 1, REMEMBERED)));
        assert!(b.remember(0, 1).is_ok());
        assert!(a.remember(REMEMBERED, 10).is_ok() && a.remember(0, 1).is_ok());
    }
}
