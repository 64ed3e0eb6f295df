//! `POST /v1/holdings`: holders of certificates tell which roots they trust and which root their certificate is of,
//! and hear what they should (docs/ARCHITECTURE.md, "Root rotation"). A step of a rotation waits for these words.
//!
//! Nothing is stored: whoever holds a certificate tells again and again, so another replica knows soon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::fleet::HoldingReport;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::token::Bearer;

/// Longest request that is read.
pub const MAX_BODY: usize = 16 * 1024;
/// Roots that one holder may name; there are never more than a few.
const MOST_ROOTS: usize = 16;
/// Pauses between the reports of one holder, in seconds: while nothing happens, and while a rotation waits for them.
const CALM: (u64, u64) = (30, 300);
const ROTATING: (u64, u64) = (3, 60);
/// Reports per second of all holders together that the pauses aim at.
const CALM_RATE: u64 = 30;
const ROTATING_RATE: u64 = 200;
/// Words older than this are forgotten: a holder tells at least every five minutes, and many of a replica's holders
/// may have moved to another one.
const FORGOTTEN: Duration = Duration::from_secs(1800);

/// What a holder says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holding {
    /// SHA-256 of every root that it trusts.
    pub roots: BTreeSet<String>,
    /// SHA-256 of the root of its certificate.
    pub issuer: String,
    /// Goes up with every report of this holder, across its restarts.
    pub sequence: i64,
    /// The last word of the operator that it has heard of.
    #[serde(default)]
    pub serial: i64,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// The roots to trust, PEM.
    pub trust_bundle: String,
    /// Their SHA-256.
    pub trusted_roots: Vec<String>,
    /// SHA-256 of the root that its certificate should be of.
    pub issuer: String,
    /// Which word of the operator this is; a holder that has heard a higher one stays with that.
    pub serial: i64,
    /// When to tell again.
    pub report_after_seconds: u64,
}

impl Holding {
    /// Reads and bounds a report.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let holding: Self = serde_json::from_slice(body).ok()?;
        let name = |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let fine = holding.roots.len() <= MOST_ROOTS && holding.roots.iter().all(name);
        // A certificate of a controller that did not say so has no known issuer.
        (fine && (holding.issuer.is_empty() || name(&holding.issuer))).then_some(holding)
    }
}

struct Said {
    holding: Holding,
    uid: String,
    at: Instant,
}

/// What holders have told this replica, by namespace and pod.
#[derive(Clone, Default)]
pub struct Holdings(Arc<Mutex<BTreeMap<(String, String), Said>>>);

impl Holdings {
    /// Notes what a pod says. Says how many holders are known.
    pub fn note(&self, bearer: &Bearer, holding: Holding, at: Instant) -> usize {
        let key = (bearer.namespace.clone(), bearer.pod.clone());
        let mut all = self.0.lock();
        let newer = all
            .get(&key)
            .is_none_or(|said| said.uid != bearer.pod_uid || said.holding.sequence <= holding.sequence);
        if newer {
            all.insert(key, Said { holding, uid: bearer.pod_uid.clone(), at });
        }
        all.len()
    }

    /// Everything, for the operator; what is too old is forgotten.
    #[must_use]
    pub fn report(&self, now: Instant) -> Vec<HoldingReport> {
        let mut all = self.0.lock();
        all.retain(|_, said| now.saturating_duration_since(said.at) < FORGOTTEN);
        let report = |((namespace, pod), said): (&(String, String), &Said)| HoldingReport {
            namespace: namespace.clone(),
            pod: pod.clone(),
            uid: said.uid.clone(),
            sequence: said.holding.sequence,
            serial: said.holding.serial,
            roots: said.holding.roots.iter().cloned().collect(),
            issuer: said.holding.issuer.clone(),
        };
        all.iter().map(report).collect()
    }
}

/// When each of so many holders should tell again, in seconds: soon while a rotation waits for them, and never so
/// often that all of them together are a load.
#[must_use]
pub fn pause(holders: usize, rotating: bool) -> u64 {
    let holders = u64::try_from(holders).unwrap_or(u64::MAX);
    let ((least, most), rate) = if rotating { (ROTATING, ROTATING_RATE) } else { (CALM, CALM_RATE) };
    (holders / rate).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(uid: &str) -> Bearer {
        Bearer {
            namespace: "shop".to_owned(),
            service_account: "buyer".to_owned(),
            pod: "buyer-1".to_owned(),
            pod_uid: uid.to_owned(),
        }
    }

    fn holding(sequence: i64) -> Holding {
        Holding { roots: ["a".repeat(64)].into(), issuer: "a".repeat(64), sequence, serial: 1 }
    }

    #[test]
    fn the_newest_word_of_a_pod_counts_and_old_ones_are_forgotten() {
        let (all, now) = (Holdings::default(), Instant::now());
        assert_eq!(all.note(&bearer("1"), holding(7), now), 1);
        all.note(&bearer("1"), holding(6), now);
        assert_eq!(all.report(now)[0].sequence, 7);
        all.note(&bearer("2"), holding(3), now);
        assert_eq!((all.report(now)[0].uid.as_str(), all.report(now)[0].sequence), ("2", 3));
        assert!(all.report(now + FORGOTTEN).is_empty());
    }

    #[test]
    fn pauses_grow_with_the_fleet_and_shrink_during_a_rotation() {
        assert_eq!((pause(10, false), pause(10, true)), (30, 3));
        assert_eq!((pause(3_000, false), pause(3_000, true)), (100, 15));
        assert_eq!((pause(100_000, false), pause(100_000, true)), (300, 60));
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let text = |roots: &[String], issuer: &str| {
            serde_json::json!({"roots": roots, "issuer": issuer, "sequence": 1}).to_string()
        };
        let name = "0f".repeat(32);
        assert!(Holding::parse(text(std::slice::from_ref(&name), &name).as_bytes()).is_some());
        assert!(Holding::parse(text(&["x".repeat(64)], &name).as_bytes()).is_none());
        assert!(Holding::parse(text(&[], "0f").as_bytes()).is_none());
        let many: Vec<_> = (0..17).map(|number| format!("{number:064x}")).collect();
        assert!(Holding::parse(text(&many, &name).as_bytes()).is_none());
        assert!(Holding::parse(b"{}").is_none() && Holding::parse(b"\xff").is_none());
    }
}
