//! Expiry, clock skew, takeover and release, as tables over the pure part.

use super::*;
use k8s_openapi::api::coordination::v1::LeaseSpec;

fn lease(holder: Option<&str>, renewed: &str, seconds: i32, version: &str) -> Lease {
    Lease {
        metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..Default::default() },
        spec: Some(LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            renew_time: Some(MicroTime(renewed.parse().unwrap())),
            lease_duration_seconds: Some(seconds),
            ..Default::default()
        }),
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

const NOW: &str = "2030-01-01T00:00:00Z";

#[test]
fn without_a_lease_it_is_created() {
    assert_eq!(decide(None, "a", Instant::now()), Decision::Create);
}

#[test]
fn a_holder_renews_however_late_it_is() {
    let start = Instant::now();
    let seen = Sighting::next(None, Record::of(&lease(Some("a"), NOW, 15, "1")), start);
    assert_eq!(decide(Some(&seen), "a", start + seconds(600)), Decision::Renew);
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let start = Instant::now();
    for holder in [None, Some("")] {
        let seen = Sighting::next(None, Record::of(&lease(holder, NOW, 15, "1")), start);
        assert_eq!(decide(Some(&seen), "a", start), Decision::TakeOver(Vacancy::Released));
    }
}

#[test]
fn an_unrenewed_lease_expires_by_the_observers_clock() {
    let start = Instant::now();
    let record = Record::of(&lease(Some("b"), NOW, 15, "1"));
    let first = Sighting::next(None, record.clone(), start);
    assert_eq!(
        decide(Some(&first), "a", start + seconds(14)),
        Decision::Wait { holder: "b".to_owned(), wait: seconds(1) }
    );
    let again = Sighting::next(Some(first), record, start + seconds(15));
    assert_eq!(decide(Some(&again), "a", start + seconds(15)), Decision::TakeOver(Vacancy::Expired));
}

#[test]
fn each_renewal_starts_the_wait_anew() {
    let start = Instant::now();
    let first = Sighting::next(None, Record::of(&lease(Some("b"), NOW, 15, "1")), start);
    let renewed = Record::of(&lease(Some("b"), NOW, 15, "2"));
    let second = Sighting::next(Some(first), renewed, start + seconds(14));
    assert_eq!(
        decide(Some(&second), "a", start + seconds(28)),
        Decision::Wait { holder: "b".to_owned(), wait: seconds(1) }
    );
}

#[test]
fn the_holders_clock_does_not_matter() {
    let start = Instant::now();
    for renewed in ["1999-01-01T00:00:00Z", "2199-01-01T00:00:00Z"] {
        let seen = Sighting::next(None, Record::of(&lease(Some("b"), renewed, 15, "1")), start);
        assert_eq!(
            decide(Some(&seen), "a", start),
            Decision::Wait { holder: "b".to_owned(), wait: seconds(15) },
            "a first sight never takes over, whatever the renew time {renewed} says"
        );
        assert_eq!(decide(Some(&seen), "a", start + seconds(15)), Decision::TakeOver(Vacancy::Expired));
    }
}

#[test]
fn senseless_durations_are_bounded() {
    assert_eq!(Record::of(&lease(Some("b"), NOW, -5, "1")).duration, seconds(1));
    assert_eq!(Record::of(&lease(Some("b"), NOW, i32::MAX, "1")).duration, seconds(300));
    assert_eq!(Record::of(&Lease::default()).holder, None);
}

#[test]
fn a_mandate_is_over_by_our_own_clock() {
    let mandate = Mandate::default();
    assert_eq!(mandate.check(), Err(Deposed), "nothing is granted yet");
    mandate.grant(3, Instant::now() + seconds(600));
    assert_eq!(mandate.check(), Ok(3));
    // Whoever was stopped for longer than that finds it over, before anybody tells.
    mandate.grant(3, Instant::now());
    assert_eq!(mandate.check(), Err(Deposed));
    mandate.grant(4, Instant::now() + seconds(600));
    mandate.end();
    assert_eq!(mandate.check(), Err(Deposed));
    assert_eq!(Mandate::unlimited(9).check(), Ok(9));
}

#[test]
fn the_highest_term_that_was_seen_is_outranked() {
    let mandate = Mandate::default();
    mandate.outrank(5);
    mandate.outrank(3);
    assert_eq!(mandate.outranked_by(), Some(5));
}
