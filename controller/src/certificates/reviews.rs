//! Which tokens the API server may be asked about: so many of one caller, so many of all, and none twice that it refused.
//!
//! Anybody who can reach the port can invent tokens with key ids that nobody knows. Without limits each would be a call
//! of the API server.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};

/// Questions of one caller: at once, and one more in so many seconds.
const OF_ONE: Rate = Rate { burst: 5, per_second: 0.5 };
/// Of all callers together.
const OF_ALL: Rate = Rate { burst: 100, per_second: 20.0 };
/// Callers that are remembered. Beyond, those that asked for longest ago are forgotten.
const CALLERS: usize = 4096;
/// Refused tokens that are remembered, and for how many seconds.
const REFUSED: usize = 1024;
const REFUSED_SECONDS: i64 = 60;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    per_second: f64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: i64,
}

impl Bucket {
    fn full(rate: Rate, now: i64) -> Self {
        Self { left: f64::from(rate.burst), at: now }
    }

    fn take(&mut self, rate: Rate, now: i64) -> bool {
        // A clock that was set back gives nothing and takes nothing.
        let seconds = u32::try_from(now.saturating_sub(self.at)).unwrap_or(0);
        self.left = (self.left + f64::from(seconds) * rate.per_second).min(f64::from(rate.burst));
        self.at = now;
        let some = self.left >= 1.0;
        if some {
            self.left -= 1.0;
        }
        some
    }
}

type Digest = [u8; 32];

/// What has been asked lately; every time in seconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Reviews {
    all: Option<Bucket>,
    callers: BTreeMap<IpAddr, Bucket>,
    /// When each was refused, and in which order.
    refused: BTreeMap<Digest, i64>,
    order: VecDeque<Digest>,
}

/// Whether to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Yes.
    Now,
    /// The API server refused this token a moment ago.
    Refused,
    /// The caller, or all together, have asked too much: later.
    TooMany,
}

impl Reviews {
    pub(super) fn ask(&mut self, token: &str, caller: IpAddr, now: i64) -> Ask {
        let refused = self.refused.get(&name(token));
        if refused.is_some_and(|at| (0..REFUSED_SECONDS).contains(&now.saturating_sub(*at))) {
            return Ask::Refused;
        }
        if !self.callers.contains_key(&caller) && self.callers.len() == CALLERS {
            let oldest = self.callers.iter().min_by_key(|(_, bucket)| bucket.at).map(|(address, _)| *address);
            oldest.and_then(|address| self.callers.remove(&address));
        }
        // First one's own: whoever has none left takes none from the others.
        let own = self.callers.entry(caller).or_insert_with(|| Bucket::full(OF_ONE, now));
        let all = self.all.get_or_insert_with(|| Bucket::full(OF_ALL, now));
        if own.take(OF_ONE, now) && all.take(OF_ALL, now) { Ask::Now } else { Ask::TooMany }
    }

    /// Notes that the API server refused a token.
    pub(super) fn refused(&mut self, token: &str, now: i64) {
        let name = name(token);
        if self.refused.insert(name, now).is_none() {
            self.order.push_back(name);
        }
        if self.order.len() > REFUSED
            && let Some(oldest) = self.order.pop_front()
        {
            self.refused.remove(&oldest);
        }
    }
}

fn name(token: &str) -> Digest {
    let mut name = Digest::default();
    name.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn one_caller_has_its_share_and_the_others_have_theirs() {
        let mut reviews = Reviews::default();
        let asked = (0..1000).filter(|one| reviews.ask(&format!("t{one}"), address(1), 1000) == Ask::Now);
        assert_eq!(asked.count(), 5);
        assert_eq!(reviews.ask("honest", address(2), 1000), Ask::Now);
        assert_eq!(reviews.ask("later", address(1), 1001), Ask::TooMany);
        assert_eq!(reviews.ask("later", address(1), 1003), Ask::Now);
    }

    #[test]
    fn many_callers_together_have_a_limit_and_leave_no_trace_without_end() {
        let mut reviews = Reviews::default();
        let asked = (0..10_000)
            .filter(|one| reviews.ask(&format!("t{one}"), address(*one), 1000) == Ask::Now)
            .count();
        assert_eq!(asked, 100);
        assert_eq!(reviews.callers.len(), CALLERS);
        assert_eq!(reviews.ask("later", address(1), 1001), Ask::Now);
    }

    #[test]
    fn what_was_refused_is_not_asked_again_for_a_while() {
        let mut reviews = Reviews::default();
        reviews.refused("bad", 1000);
        assert_eq!(reviews.ask("bad", address(1), 1059), Ask::Refused);
        assert_eq!(reviews.ask("bad", address(1), 1060), Ask::Now);
        for number in 0..10_000 {
            reviews.refused(&format!("t{number}"), 1000);
        }
        assert_eq!((reviews.refused.len(), reviews.order.len()), (REFUSED, REFUSED));
    }
}
