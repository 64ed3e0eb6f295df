use super::*;
use crate::policy_source::settings;
use crds::PolicySourceSpec;
use gitops::{Namespaces, RepoPath, What};
use std::collections::BTreeMap;

fn source() -> PolicySource {
    let spec: PolicySourceSpec =
        serde_json::from_value(serde_json::json!({"git": {"url": "/srv/repo"}})).unwrap();
    let mut source = PolicySource::new("policies", spec);
    source.metadata.namespace = Some("system".into());
    source.metadata.generation = Some(3);
    source
}

fn commit(letter: &str) -> Commit {
    Commit { id: letter.repeat(40), subject: "subject".into(), time: String::new() }
}

fn bundle(letter: &str) -> Bundle {
    let text = "apiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {name: a, namespace: b}\n\
                spec: {service: s, backends: [{service: t, weight: 1}]}";
    let files = BTreeMap::from([(RepoPath::new("a.yaml").unwrap(), text.to_owned())]);
    let (bundle, problems) = gitops::parse(commit(letter), &files, &Namespaces::Any);
    assert_eq!(problems, []);
    bundle
}

fn after(source: &PolicySource, verdict: &Verdict<'_>, second: i64) -> PolicySource {
    let status = status(source, verdict, Timestamp::from_second(second).unwrap());
    PolicySource { status: Some(status), ..source.clone() }
}

fn ready(source: &PolicySource) -> (String, String, String) {
    let conditions = &source.status.as_ref().unwrap().conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    (ready.status.clone(), ready.reason.clone(), ready.message.clone())
}

#[test]
fn a_seal_is_kept_through_everything_that_goes_wrong() {
    let good = bundle("a");
    let sealed = after(&source(), &Verdict::InForce { bundle: &good }, 10);
    let seal = |source: &PolicySource| {
        let status = source.status.clone().unwrap();
        (status.applied, status.inventory)
    };
    assert_eq!(seal(&sealed).0.unwrap().commit, "a".repeat(40));
    assert_eq!(seal(&sealed).1, good.inventory());
    let place = RepoPath::new("bad.yaml").unwrap();
    let problems = vec![Problem::at(&place, 7, What::Syntax("nonsense".into())); 30];
    for verdict in [
        Verdict::Suspended,
        Verdict::Invalid(Invalid { reason: "InvalidInterval", message: "x".into() }),
        Verdict::FetchFailed(FetchError::EmptyRepository),
        Verdict::FetchFailed(FetchError::Timeout),
        Verdict::Attempting { commit: &commit("b") },
        Verdict::InvalidCommit { commit: commit("b"), problems },
        Verdict::Failed { message: "x".into() },
    ] {
        let next = after(&sealed, &verdict, 20);
        assert_eq!(seal(&next), seal(&sealed), "{verdict:?}");
        assert!(ready(&next).2.contains("aaaaaaaaaaaa stays in force"), "{verdict:?}");
    }
}

#[test]
fn a_bad_commit_names_file_line_and_reason() {
    let place = RepoPath::new("bad.yaml").unwrap();
    let problems = vec![Problem::at(&place, 7, What::Syntax("nonsense".into())); 30];
    let found = after(&source(), &Verdict::InvalidCommit { commit: commit("b"), problems }, 5);
    let (status, reason, message) = ready(&found);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "InvalidCommit"));
    assert!(message.contains("bad.yaml:7: cannot be read: nonsense"), "{message}");
    assert!(message.contains("27 more"), "{message}");
    let status = found.status.unwrap();
    assert_eq!(status.problems.len(), LISTED);
    assert_eq!((status.problems[0].file.as_str(), status.problems[0].line), ("bad.yaml", 7));
    assert_eq!(status.attempted.unwrap().commit, "b".repeat(40));
    assert_eq!(status.applied, None);
}

#[test]
fn nothing_new_changes_nothing() {
    let good = bundle("a");
    let once = after(&source(), &Verdict::InForce { bundle: &good }, 10);
    let twice = after(&once, &Verdict::InForce { bundle: &good }, 20);
    assert_eq!(once.status, twice.status);
    assert!(event(&source(), &Verdict::InForce { bundle: &good }).is_some());
    assert!(event(&once, &Verdict::InForce { bundle: &good }).is_none());
}

#[test]
fn specs_that_cannot_work_are_named() {
    let check = |change: &dyn Fn(&mut PolicySource), scope: Namespaces| {
        let mut source = source();
        change(&mut source);
        settings::check(&source, scope).map_err(|invalid| invalid.reason)
    };
    let mesh = || Namespaces::Mesh(gitops::Reach::default());
    assert!(check(&|_| (), mesh()).is_ok());
    assert_eq!(check(&|source| source.spec.interval = "soon".into(), mesh()), Err("InvalidInterval"));
    assert_eq!(check(&|source| source.spec.interval = "0s".into(), mesh()), Err("InvalidInterval"));
    assert_eq!(check(&|source| source.spec.git.url = "https://u:p@h/a".into(), mesh()), Err("InvalidUrl"));
    assert_eq!(check(&|source| source.spec.git.path = "../x".into(), mesh()), Err("InvalidPath"));
    assert_eq!(check(&|source| source.metadata.name = Some("a".repeat(60)), mesh()), Err("NameTooLong"));
    assert_eq!(check(&|_| (), Namespaces::Own("system".into())), Err("LocalPathForbidden"));
}

#[test]
fn what_is_left_out_is_named_while_the_rest_is_in_force() {
    let whole = bundle("a");
    let absent =
        Bundle { absent: vec![whole.policies[0].key.clone()], policies: Vec::new(), ..whole.clone() };
    let missing = |source: &PolicySource| {
        let conditions = source.status.clone().unwrap().conditions;
        conditions.into_iter().find(|condition| condition.type_ == NAMESPACES_MISSING).map(|c| c.message)
    };
    let partial = after(&source(), &Verdict::InForce { bundle: &absent }, 10);
    assert!(missing(&partial).unwrap().contains("TrafficSplit b/a"));
    let words =
        "commit aaaaaaaaaaaa is in force, 0 objects; 1 are left out because their namespaces do not exist";
    assert_eq!((ready(&partial).0.as_str(), ready(&partial).2.as_str()), ("True", words));
    assert_eq!(missing(&after(&partial, &Verdict::InForce { bundle: &whole }, 20)), None);
    // What is sealed can be put back also while a namespace of it is gone.
    assert!(is_of(&absent, &whole.inventory()) && is_of(&whole, &whole.inventory()));
    assert!(!is_of(&whole, &[]));
}
