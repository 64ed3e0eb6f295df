//! Service accounts that others do not wait for, for a while. Pure: time is given.
//!
//! Who was silent, left while it tried something, or refused what then became good for everybody is marked by what it did
//! itself. Who was only late is marked by how fast others were, so that those are never more than half of all: nobody can
//! be quick enough to leave no canaries.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Account;

/// How long a mark lasts.
const LASTS: Duration = Duration::from_secs(600);

/// What a mark is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// What it did itself: it was silent, left, or refused what is good.
    Itself,
    /// It was slower than others, and nothing else.
    BeingLate,
}

#[derive(Debug)]
struct Mark {
    until: Instant,
    why: For,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Streams of each service account.
    here: BTreeMap<Account, usize>,
    marked: BTreeMap<Account, Mark>,
}

impl Marks {
    /// A stream of it comes.
    pub fn comes(&mut self, account: &Account) {
        *self.here.entry(account.clone()).or_default() += 1;
    }

    /// A stream of it goes. A mark stays: who comes back is known.
    pub fn goes(&mut self, account: &Account) {
        if let Some(streams) = self.here.get_mut(account) {
            *streams -= 1;
            if *streams == 0 {
                self.here.remove(account);
            }
        }
    }

    /// Whether nobody waits for it.
    pub fn has(&self, account: &Account, now: Instant) -> bool {
        self.marked.get(account).is_some_and(|mark| mark.until > now)
    }

    /// They were silent, left, or refused what is good.
    pub fn mark(&mut self, accounts: Vec<Account>, now: Instant) {
        if accounts.is_empty() {
            return;
        }
        self.marked.retain(|_, mark| mark.until > now);
        let mark = |account| (account, Mark { until: now + LASTS, why: For::Itself });
        self.marked.extend(accounts.into_iter().map(mark));
    }

    /// It was late. When half of all are marked, the one that was late longest ago is waited for again instead.
    pub fn late(&mut self, account: &Account, now: Instant) {
        self.marked.retain(|_, mark| mark.until > now);
        if self.marked.contains_key(account) {
            return;
        }
        let marked = self.marked.keys().filter(|account| self.here.contains_key(*account)).count();
        if (marked + 1) * 2 > self.here.len() {
            let late = self.marked.iter().filter(|(_, mark)| mark.why == For::BeingLate);
            let Some(first) = late.min_by_key(|(_, mark)| mark.until).map(|(account, _)| account.clone())
            else {
                return;
            };
            self.marked.remove(&first);
        }
        self.marked.insert(account.clone(), Mark { until: now + LASTS, why: For::BeingLate });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_were_only_late_are_never_more_than_half() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        let accounts: Vec<Account> = (0..6).map(|number| number.to_string().into()).collect();
        accounts.iter().for_each(|account| marks.comes(account));
        let marked = |marks: &Marks, now| accounts.iter().filter(|account| marks.has(account, now)).count();
        for (account, second) in accounts.iter().zip(0..) {
            marks.late(account, now + Duration::from_secs(second));
        }
        assert_eq!(marked(&marks, now), 3);
        assert!(marks.has(&accounts[5], now) && !marks.has(&accounts[0], now), "the last ones");
        // What one does itself always counts, and takes the place of none of these.
        marks.mark(accounts[..2].to_vec(), now);
        assert_eq!(marked(&marks, now), 5);
        let later = now + LASTS + Duration::from_secs(6);
        assert_eq!(marked(&marks, later), 0);
        accounts[1..].iter().for_each(|account| marks.goes(account));
        marks.late(&accounts[0], later);
        assert!(!marks.has(&accounts[0], later), "the only one");
    }
}
