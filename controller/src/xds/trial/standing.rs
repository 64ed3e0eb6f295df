//! How one content stands with one Envoy version: who tries it, who has taken it, who refused it. Pure: time is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Account, Answer, Refusal};
use crate::xds::served::Entry;

/// Service accounts that must say the same before it is true for the others: what one says, one thief of a key can say.
pub(super) const WITNESSES: usize = 2;
/// Service accounts that are told when a place is free: more than one, since who is told may be busy or not read; not
/// all, since each that asks costs time.
const NEXT: usize = 8;

/// With whom a content is good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Good {
    /// Nobody has taken it.
    #[default]
    Nobody,
    /// Sidecars of this service account have; the first one after this time.
    With(Account, Duration),
    /// Sidecars of two service accounts have: it is for everybody.
    Everybody,
}

/// What the sidecars of one service account do with a content.
#[derive(Debug)]
struct Place {
    /// Streams that were sent it and have not answered.
    trying: Vec<u64>,
    /// When the first of them was sent it. A stream that comes back does not begin anew.
    since: Instant,
    /// Why one of them refused it.
    refusal: Option<Arc<Refusal>>,
    /// What those that hold something keep, for those that come and hold nothing.
    instead: Option<Entry>,
}

/// What follows from a sidecar's having taken it.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Service accounts that refused what is good for everybody.
    pub refused: Vec<Account>,
    /// The one that has taken it let others wait for longer than it should have.
    pub late: bool,
}

/// A stream that is to be woken.
#[derive(Debug)]
struct Waiter {
    account: Account,
    wake: Arc<Notify>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    good: Good,
    /// When a second service account joined.
    joined: Option<Instant>,
    places: BTreeMap<Account, Place>,
    waiting: BTreeMap<u64, Waiter>,
}

/// A stream that asks.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub account: &'a Account,
    pub stream: u64,
    pub wake: &'a Arc<Notify>,
    /// Whether it may be put on the list of those that are woken.
    pub registers: bool,
    /// Service accounts that are not waited for.
    pub silent: &'a dyn Fn(&Account) -> bool,
}

impl Standing {
    pub fn ask(&mut self, asker: Asker<'_>, now: Instant, patience: Duration) -> Answer {
        if self.good_for(asker.account) {
            return Answer::Send;
        }
        let over = |since: Instant| now.saturating_duration_since(since) >= patience;
        let may = match self.places.get(asker.account) {
            Some(place) if place.trying.contains(&asker.stream) => return Answer::Send,
            Some(place) => place.trying.is_empty() || over(place.since),
            None => self.witnesses(asker) < WITNESSES || self.joined.is_some_and(over),
        };
        if may {
            self.waiting.remove(&asker.stream);
            self.try_it(asker.account, asker.stream, now);
            return Answer::Send;
        }
        if asker.registers {
            let waiter = Waiter { account: asker.account.clone(), wake: asker.wake.clone() };
            self.waiting.insert(asker.stream, waiter);
        }
        Answer::Wait
    }

    /// Other service accounts that try it or have taken it.
    fn witnesses(&self, asker: Asker<'_>) -> usize {
        let good = match &self.good {
            Good::Nobody => 0,
            Good::With(account, _) => usize::from(account != asker.account),
            Good::Everybody => WITNESSES,
        };
        let trying = self.places.iter().filter(|(other, place)| {
            *other != asker.account && !place.trying.is_empty() && !(asker.silent)(other)
        });
        good + trying.take(WITNESSES).count()
    }

    /// Service accounts that have been trying it for longer than the patience.
    pub fn overdue(&self, now: Instant, patience: Duration) -> Vec<Account> {
        let late = |place: &Place| {
            !place.trying.is_empty() && now.saturating_duration_since(place.since) >= patience
        };
        self.places.iter().filter(|(_, place)| late(place)).map(|(account, _)| account.clone()).collect()
    }

    fn try_it(&mut self, account: &Account, stream: u64, now: Instant) {
        let others = matches!(&self.good, Good::With(other, _) if other != account)
            || self.places.keys().any(|other| other != account);
        if others {
            self.joined.get_or_insert(now);
        }
        self.place(account, now).trying.push(stream);
    }

    fn place(&mut self, account: &Account, now: Instant) -> &mut Place {
        self.places.entry(account.clone()).or_insert_with(|| Place {
            trying: Vec::new(),
            since: now,
            refusal: None,
            instead: None,
        })
    }

    pub fn good_for(&self, account: &Account) -> bool {
        match &self.good {
            Good::Nobody => false,
            Good::With(other, _) => other == account,
            Good::Everybody => true,
        }
    }

    /// Whether it is good for everybody, which it then stays.
    pub fn is_settled(&self) -> bool {
        self.good == Good::Everybody
    }

    /// A sidecar that was sent it has taken it.
    pub fn accepted(&mut self, account: &Account, now: Instant, patience: Duration) -> Taken {
        // What one of them has taken is not the content's fault when another refuses it.
        let place = self.places.remove(account);
        let took = place.map(|place| now.saturating_duration_since(place.since)).unwrap_or_default();
        let mut taken = Taken { late: took > patience / 4, refused: Vec::new() };
        match std::mem::take(&mut self.good) {
            Good::Nobody => self.good = Good::With(account.clone(), took),
            Good::With(other, first) if other != *account => {
                taken.late |= took > first.saturating_mul(4).saturating_add(patience / 16);
                self.good = Good::Everybody;
            }
            good => self.good = good,
        }
        if self.good == Good::Everybody {
            let refused = std::mem::take(&mut self.places).into_iter();
            taken.refused =
                refused.filter(|(_, place)| place.refusal.is_some()).map(|(account, _)| account).collect();
            self.wake();
        } else {
            // For all others it stands as before.
            self.wake_those(|waiter| waiter.account == *account);
        }
        taken
    }

    /// A sidecar that was sent it has refused it, alone.
    pub fn rejected(
        &mut self,
        account: &Account,
        now: Instant,
        refusal: Refusal,
        keeps: Option<Entry>,
        marked: &dyn Fn(&Account) -> bool,
    ) {
        if self.good_for(account) {
            return;
        }
        let place = self.place(account, now);
        place.trying.clear();
        place.refusal.get_or_insert(Arc::new(refusal));
        if let Some(keeps) = keeps {
            place.instead.get_or_insert(keeps);
        }
        if self.refusals() >= WITNESSES {
            self.wake();
        } else {
            self.wake_those(|waiter| waiter.account == *account);
            self.wake_next(account, marked);
        }
    }

    /// Why it is not for the sidecars of a service account.
    pub fn refusal(&self, account: &Account) -> Option<Arc<Refusal>> {
        if self.good_for(account) {
            return None;
        }
        let own = self.places.get(account).and_then(|place| place.refusal.clone());
        let mut all = self.places.values().filter_map(|place| place.refusal.as_ref());
        let both = (all.next(), all.nth(WITNESSES - 2));
        own.or_else(|| both.1.and(both.0).cloned())
    }

    /// What sidecars of a service account that hold nothing get instead.
    pub fn instead(&self, account: &Account) -> Option<Entry> {
        self.places.get(account)?.instead.clone()
    }

    /// A sidecar of the service account keeps what it holds.
    pub fn keeps(&mut self, account: &Account, now: Instant, held: impl FnOnce() -> Entry) {
        self.place(account, now).instead.get_or_insert_with(held);
    }

    /// The end of a stream: if it was trying, the first that asks takes over.
    /// Says whether it was trying, and nobody else of its service account is.
    pub fn leaves(&mut self, account: &Account, stream: u64, marked: &dyn Fn(&Account) -> bool) -> bool {
        self.waiting.remove(&stream);
        let Some(place) = self.places.get_mut(account) else { return false };
        let before = place.trying.len();
        place.trying.retain(|other| *other != stream);
        let left = place.trying.is_empty() && before > 0;
        if left {
            self.wake_next(account, marked);
        }
        left
    }

    /// It waits no longer.
    pub fn waits_no_more(&mut self, stream: u64) {
        self.waiting.remove(&stream);
    }

    /// Service accounts that refused it.
    pub fn refusals(&self) -> usize {
        self.places.values().filter(|place| place.refusal.is_some()).count()
    }

    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Wakes all: it is decided.
    pub fn wake(&mut self) {
        self.wake_those(|_| true);
    }

    fn wake_those(&mut self, mut whom: impl FnMut(&Waiter) -> bool) {
        self.waiting.retain(|_, waiter| {
            let wakes = whom(waiter);
            if wakes {
                waiter.wake.notify_one();
            }
            !wakes
        });
    }

    /// A place of a service account is free: wakes a few of its own streams, and one of each of some others. Should none
    /// of them take it, the rest ask again after the patience.
    fn wake_next(&mut self, left: &Account, marked: &dyn Fn(&Account) -> bool) {
        let has_tried = |place: &Place| !place.trying.is_empty() || place.refusal.is_some();
        let tried = self.places.iter().filter(|(_, place)| has_tried(place));
        let mut told: BTreeSet<_> = tried.map(|(account, _)| account.clone()).collect();
        let (mut own, mut others) = (0, 0);
        self.wake_those(|Waiter { account, .. }| {
            if account == left {
                own += 1;
                return own <= NEXT;
            }
            if told.contains(account) {
                return false;
            }
            // One that nobody waits for is nobody's replacement.
            let counts = !marked(account);
            if counts && others >= NEXT {
                return false;
            }
            others += usize::from(counts);
            told.insert(account.clone())
        });
    }

    /// How many service accounts it would be forgotten for.
    pub fn weight(&self) -> usize {
        match &self.good {
            Good::Nobody => self.places.len(),
            Good::With(..) => self.places.len() + 1,
            Good::Everybody => usize::MAX,
        }
    }
}
