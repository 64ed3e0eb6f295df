use rcgen::{BasicConstraints, IsCa};
use serde_json::Value;

use super::*;
use crate::request::key_and_request;
use crate::testing::{Authority, ID, Wish, believed};

#[test]
fn a_certificate_for_our_key_and_id_is_accepted() {
    let (key, csr) = key_and_request(Some(ID)).unwrap();
    let (authority, now) = (Authority::new("root"), OffsetDateTime::now_utc());
    let identity = believed(&authority.sign(&csr, &authority.wish()), &key).unwrap();
    assert!((identity.not_after - now - Duration::hours(24)).abs() < Duration::minutes(1));
    assert!((identity.renew_at - now - Duration::hours(16)).abs() < Duration::minutes(1));
    assert_eq!(identity.trust().version(), "7-aa-bb");
    assert_eq!(end_of(&identity.chain), Some(identity.not_after));
    assert!(identity.key.pem().contains("PRIVATE KEY"));
    assert!(!format!("{identity:?}").contains("PRIVATE KEY"), "a key must not reach a log");
}

#[test]
fn renewal_falls_back_to_two_thirds_of_life() {
    let (key, csr) = key_and_request(Some(ID)).unwrap();
    let (authority, now) = (Authority::new("root"), OffsetDateTime::now_utc());
    let renewed = |wish: Wish<'_>| believed(&authority.sign(&csr, &wish), &key).unwrap().renew_at - now;
    let centuries = Duration::days(200 * 365);
    for renew in [None, Some(Duration::hours(25))] {
        // The last ones are of a controller that says nonsense about its clock.
        for issued in [None, Some(Duration::ZERO), Some(-centuries), Some(centuries)] {
            let after = renewed(Wish { renew, issued, ..authority.wish() });
            assert!((after - Duration::hours(16)).abs() < Duration::minutes(5), "{after}");
        }
    }
    for issued in [None, Some(-centuries), Some(centuries)] {
        let after = renewed(Wish { issued, ..authority.wish() });
        assert!((after - Duration::hours(16)).abs() < Duration::minutes(1), "{after}");
    }
    let past = Wish { renew: Some(-Duration::hours(1)), ..authority.wish() };
    assert!(renewed(past) > Duration::ZERO, "never in a tight loop");
}

#[test]
fn a_clock_that_is_wrong_by_minutes_renews_neither_early_nor_late() {
    let (key, csr) = key_and_request(Some(ID)).unwrap();
    let authority = Authority::new("root");
    for wrong in [Duration::minutes(-7), Duration::minutes(7)] {
        let own_clock = OffsetDateTime::now_utc() + wrong;
        let life =
            Wish { end: Duration::minutes(30), renew: Some(Duration::minutes(20)), ..authority.wish() };
        let answer = authority.sign(&csr, &life).to_string();
        let expected = Expected::Id(ID.to_owned());
        let identity = accept(StatusCode::OK, answer.as_bytes(), &expected, &key, own_clock).unwrap();
        let after = identity.renew_at - own_clock;
        assert!((after - Duration::minutes(20)).abs() < Duration::minutes(1), "{wrong}: after {after}");
    }
}

fn refused(answer: &Value, key: &KeyPair) -> String {
    believed(answer, key).expect_err("refused").to_string()
}

#[test]
fn another_key_identity_or_time_is_refused() {
    let authority = Authority::new("root");
    let (key, csr) = key_and_request(Some(ID)).unwrap();
    let (other_key, other_csr) = key_and_request(Some(ID)).unwrap();
    assert!(refused(&authority.sign(&csr, &authority.wish()), &other_key).contains("another key"));
    assert!(refused(&authority.sign(&other_csr, &authority.wish()), &key).contains("another key"));
    let another = "spiffe://cluster.local/ns/shop/sa/thief";
    for uris in [vec![], vec![another], vec![ID, another], vec![another, ID]] {
        let foreign = authority.sign(&csr, &Wish { uris, ..authority.wish() });
        assert!(refused(&foreign, &key).contains("another identity"), "{foreign}");
    }
    let ended = Wish { end: -Duration::minutes(1), renew: None, ..authority.wish() };
    assert!(refused(&authority.sign(&csr, &ended), &key).contains("expired"));
}

/// A daemon knows its service account and not the trust domain.
#[test]
fn a_service_account_is_one_in_every_trust_domain_and_no_other() {
    let expected = Expected::Account { namespace: "mesh".to_owned(), name: "injector".to_owned() };
    for id in ["spiffe://cluster.local/ns/mesh/sa/injector", "spiffe://a.example/ns/mesh/sa/injector"] {
        assert!(expected.is(id), "{id}");
    }
    for id in [
        "spiffe:///ns/mesh/sa/injector",
        "spiffe://cluster.local/ns/mesh/sa/injector-2",
        "spiffe://cluster.local/ns/mesh2/sa/injector",
        "spiffe://cluster.local/x/ns/mesh/sa/injector",
        "https://cluster.local/ns/mesh/sa/injector",
        "injector",
        "",
    ] {
        assert!(!expected.is(id), "{id}");
    }
}

/// What no peer would believe is not installed: the one that is held is better.
#[test]
fn roots_that_do_not_vouch_for_the_certificate_are_refused() {
    let (root, other) = (Authority::new("root"), Authority::new("root"));
    let (key, csr) = key_and_request(Some(ID)).unwrap();
    let with = |bundle: String| Wish { bundle, ..root.wish() };
    let both = with(other.root() + &root.root());
    assert!(believed(&root.sign(&csr, &both), &key).is_ok(), "one of several");
    let foreign = believed(&root.sign(&csr, &with(other.root())), &key);
    assert!(matches!(&foreign, Err(AnswerError::Untrusted(_))), "{foreign:?}");

    let intermediate = root.below("between", IsCa::Ca(BasicConstraints::Constrained(0)));
    let missing = intermediate.sign(&csr, &root.wish());
    assert!(matches!(believed(&missing, &key), Err(AnswerError::Untrusted(_))), "a chain with a gap");
    let complete = |signer: &Authority| {
        let mut answer = signer.sign(&csr, &root.wish());
        let chain = answer["certificateChain"].as_str().unwrap().to_owned() + &signer.root();
        answer["certificateChain"] = chain.into();
        believed(&answer, &key)
    };
    assert!(complete(&intermediate).is_ok());
    let nobody = root.below("a leaf that signs", IsCa::ExplicitNoCa);
    assert!(matches!(complete(&nobody), Err(AnswerError::Untrusted(_))));
}

#[test]
fn what_is_no_answer_is_refused_and_a_refusal_is_short() {
    let (key, _) = key_and_request(None).unwrap();
    let expected = Expected::Id(ID.to_owned());
    let ask = |status, body: &[u8]| {
        accept(status, body, &expected, &key, OffsetDateTime::now_utc()).expect_err("refused")
    };
    for body in ["", "{}", "[]", r#"{"certificateChain": "", "trustBundle": ""}"#, "\u{0}"] {
        let error = ask(StatusCode::OK, body.as_bytes());
        assert!(matches!(error, AnswerError::Unusable(_)), "{body:?}: {error}");
    }
    let words = |status, body: &[u8]| match ask(status, body) {
        AnswerError::Refused { reason, message, .. } => (reason, message),
        error => panic!("{error}"),
    };
    let pair = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
    let said = words(StatusCode::UNAUTHORIZED, br#"{"reason": "TokenExpired", "message": "since\nnoon"}"#);
    assert_eq!(said, pair("TokenExpired", "sincenoon"));
    assert_eq!(words(StatusCode::BAD_GATEWAY, b"<html>"), pair("Unknown", "no reason was given"));
    assert_eq!(words(StatusCode::FORBIDDEN, b"{}"), pair("Unknown", "no reason was given"));
    assert_eq!(words(StatusCode::FORBIDDEN, br#"{"reason": "PodGone"}"#), pair("PodGone", ""));
    assert_eq!(words(StatusCode::ACCEPTED, b"<html>"), pair("Unknown", "no reason was given"));
    let long = serde_json::json!({ "reason": "é".repeat(9_000), "message": "x".repeat(9_000) }).to_string();
    let (reason, message) = words(StatusCode::FORBIDDEN, long.as_bytes());
    assert_eq!((reason.chars().count(), message.chars().count()), (MAX_WORDS, MAX_WORDS));
}
