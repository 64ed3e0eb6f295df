//! Decisions for single situations; whole rotations are in `simulation`.

use super::*;
use crds::fleet::SecretReport;

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn root(name: &str, generation: i64, secret: Option<&str>) -> RootReport {
    RootReport {
        fingerprint: name.to_owned(),
        generation,
        secret: secret.map(|name| SecretReport { name: name.to_owned(), uid: format!("uid of {name}") }),
        not_before: "2026-01-01T00:00:00Z".to_owned(),
        not_after: "2036-01-01T00:00:00Z".to_owned(),
    }
}

fn report(roots: &[RootReport], serial: i64, trusted: &[&str]) -> AuthorityReport {
    AuthorityReport {
        roots: roots.to_vec(),
        serial,
        signing: trusted[0].to_owned(),
        trusted: trusted.iter().map(|name| (*name).to_owned()).collect(),
        serving: trusted[0].to_owned(),
        problem: None,
    }
}

fn status(serial: i64, trusted: &[&str]) -> CertificateAuthorityStatus {
    CertificateAuthorityStatus {
        serial,
        signing: trusted[0].to_owned(),
        trusted: trusted.iter().map(|name| (*name).to_owned()).collect(),
        since: "2026-11-23T11:00:00Z".to_owned(),
        generation: 1,
        secret: labels::ROOT_SECRET.to_owned(),
        ..Default::default()
    }
}

fn seen(
    provider: CaProvider,
    before: Option<CertificateAuthorityStatus>,
    report: AuthorityReport,
) -> Observed {
    Observed {
        provider,
        wanted: 1,
        before,
        controllers: Ok([("c-1".to_owned(), report)].into()),
        holders: Some(Vec::new()),
        published: true,
        now: now(),
    }
}

const A: &str = labels::ROOT_SECRET;
const B: &str = labels::OTHER_ROOT_SECRET;

#[test]
fn the_first_root_is_made_once() {
    let mut seen = seen(CaProvider::BuiltIn, None, report(&[], 0, &["x"]));
    seen.controllers = Ok(BTreeMap::new());
    seen.published = false;
    let decision = Decision::make(&seen);
    assert_eq!(
        decision.action,
        Some(SecretAction::Create { secret: A, generation: 1, beside: Beside::Nothing })
    );
    assert_eq!(decision.status(None), None);
    seen.published = true;
    assert_eq!(Decision::make(&seen).action, None, "there is one, whoever has it");
    seen.published = false;
    seen.provider = CaProvider::Secret;
    assert_eq!(Decision::make(&seen).action, None, "a person provides it");
}

#[test]
fn while_a_controller_is_silent_nothing_moves() {
    let mut seen = seen(CaProvider::BuiltIn, Some(status(4, &["a", "b"])), report(&[], 0, &["x"]));
    seen.before.as_mut().unwrap().step = RotationStep::TrustingBoth;
    seen.controllers = Err("controller c-2: it does not answer".to_owned());
    let decision = Decision::make(&seen);
    let after = decision.status(seen.before.as_ref()).unwrap();
    assert_eq!((after.serial, after.step), (4, RotationStep::TrustingBoth));
    assert!(after.message.contains("c-2"), "{}", after.message);
    // The Secret is put back if somebody has deleted it; if it is there, creating it does nothing.
    assert_eq!(
        decision.action,
        Some(SecretAction::Create { secret: A, generation: 2, beside: Beside::TheOther })
    );
}

#[test]
fn a_root_is_rotated_by_itself_when_most_of_its_life_is_over() {
    let mut old = root("a", 1, Some(A));
    old.not_before = "2016-01-01T00:00:00Z".to_owned();
    old.not_after = "2028-01-01T00:00:00Z".to_owned();
    let one =
        seen(CaProvider::BuiltIn, Some(status(1, &["a"])), report(std::slice::from_ref(&old), 1, &["a"]));
    let decision = Decision::make(&one);
    assert_eq!(decision.step, RotationStep::Preparing);
    assert_eq!(
        decision.action,
        Some(SecretAction::Create { secret: B, generation: 2, beside: Beside::TheOther })
    );
    // With the new root there, it is gone for although the spec still says 1.
    let roots = [old, root("b", 2, Some(B))];
    let two = seen(CaProvider::BuiltIn, Some(status(1, &["a"])), report(&roots, 1, &["a"]));
    let decision = Decision::make(&two);
    assert_eq!(decision.directive.unwrap().trusted, ["a", "b"]);
    // And when it is done, the lower number in the spec is no wish to go back.
    let mut after = status(4, &["b"]);
    after.generation = 2;
    let done = seen(CaProvider::BuiltIn, Some(after), report(&roots[1..], 4, &["b"]));
    let decision = Decision::make(&done);
    assert_eq!((decision.step, &decision.action), (RotationStep::Stable, &None));
    assert!(decision.words().contains("a rootGeneration above 2 rotates"), "{}", decision.words());
}

#[test]
fn a_secret_that_was_deleted_by_hand_leads_to_a_rotation() {
    let remembered = [root("a", 1, None)];
    let one = seen(CaProvider::BuiltIn, Some(status(1, &["a"])), report(&remembered, 1, &["a"]));
    let decision = Decision::make(&one);
    assert_eq!(
        decision.action,
        Some(SecretAction::Create { secret: B, generation: 2, beside: Beside::TheOther })
    );
    assert_eq!(decision.directive.unwrap().trusted, ["a"], "what is trusted stays trusted meanwhile");
}

#[test]
fn replacing_the_provided_secret_rotates_and_a_bad_one_does_not() {
    let before = Some(status(1, &["a"]));
    let replaced = [root("a", 1, None), root("n", 1, Some(A))];
    let one = seen(CaProvider::Secret, before.clone(), report(&replaced, 1, &["a"]));
    let decision = Decision::make(&one);
    assert_eq!(decision.step, RotationStep::TrustingBoth);
    assert_eq!(decision.directive.unwrap().trusted, ["a", "n"]);
    assert_eq!(decision.action, None, "the operator makes and deletes no Secret of yours");

    let mut bad = report(&[root("a", 1, None)], 1, &["a"]);
    bad.problem = Some("Expired: Secret m/meshwright-root-ca: it has expired".to_owned());
    let decision = Decision::make(&seen(CaProvider::Secret, before.clone(), bad));
    assert_eq!((decision.reason(), decision.step), ("Expired", RotationStep::Stable));
    assert_eq!(decision.directive.as_ref().unwrap().trusted, ["a"]);
    assert!(decision.words().contains("stays in force"), "{}", decision.words());

    let gone = Decision::make(&seen(CaProvider::Secret, before, report(&[root("a", 1, None)], 1, &["a"])));
    assert_eq!(gone.reason(), "SecretGone");
}

#[test]
fn an_intermediate_under_the_same_root_is_no_rotation() {
    let same = [root("a", 1, Some(A))];
    let decision =
        Decision::make(&seen(CaProvider::Secret, Some(status(1, &["a"])), report(&same, 1, &["a"])));
    assert_eq!((decision.step, decision.directive.unwrap().serial), (RotationStep::Stable, 1));
}

#[test]
fn a_step_lasts_until_pods_that_have_just_started_are_seen() {
    let roots = [root("a", 1, Some(A)), root("b", 2, Some(B))];
    let mut one = seen(CaProvider::BuiltIn, Some(status(2, &["a", "b"])), report(&roots, 2, &["a", "b"]));
    one.wanted = 2;
    one.before.as_mut().unwrap().since = "2026-11-23T11:59:55Z".to_owned();
    let decision = Decision::make(&one);
    assert_eq!((decision.step, decision.directive.as_ref().unwrap().serial), (RotationStep::TrustingBoth, 2));
    assert!(decision.words().contains("just started"), "{}", decision.words());
    one.now = "2026-11-23T12:00:05Z".parse().unwrap();
    let decision = Decision::make(&one);
    assert_eq!((decision.step, decision.directive.unwrap().signing.as_str()), (RotationStep::Issuing, "b"));
}
