//! What crosses releases, and what a crash leaves.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::facts::{Approval, Kind, Namespace, Pod, Proxy, Rollout, Strategy, WorkloadId};

fn desired() -> Desired {
    Desired {
        mesh: "m".to_owned(),
        from: "0.1.0".to_owned(),
        to: "0.2.0".to_owned(),
        wanted: "0.2.0".to_owned(),
        waves: Vec::new(),
        soak: Duration::ZERO,
        approval: Approval::NotNeeded,
        paused: false,
        abort: false,
        workloads_at_once: 1,
    }
}

fn status(value: Value) -> MeshUpgradeStatus {
    serde_json::from_value(value).unwrap()
}

fn step(value: Value) -> StepStatus {
    serde_json::from_value(value).unwrap()
}

/// A workload with one pod, which is of this release.
fn observed(uid: &str, revision: &str, terminating: bool) -> Observed {
    let pod = Pod {
        uid: uid.to_owned(),
        revision: Some(revision.to_owned()),
        ready: true,
        terminating,
        proxy: Proxy::InSync,
        slots: None,
    };
    let workload = Workload {
        replicas: 1,
        rollout: Rollout::Settled,
        strategy: Strategy::None,
        moved_to: None,
        pods: [("web-0".to_owned(), pod)].into(),
    };
    let id = WorkloadId { name: "web".to_owned(), kind: Kind::StatefulSet };
    let namespace = Namespace {
        revision: Some("0.2.0".to_owned()),
        workloads: [(id, workload)].into(),
        ..Namespace::default()
    };
    Observed {
        now: 1_800_000_000,
        catalogue: crate::Catalogue::embedded(),
        effective: "0.1.0".to_owned(),
        namespaces: [("shop".to_owned(), namespace)].into(),
        ..Observed::default()
    }
}

fn passed(before: &[StepStatus], observed: &Observed) -> Vec<StepStatus> {
    let plan = crate::plan(observed, &desired());
    let legs = legs(&MeshUpgradeStatus::default(), &desired(), observed.now);
    intend(before, &Pass { plan: &plan, observed, legs: &legs, actions: &[] })
}

fn about_to_evict(uid: &str) -> StepStatus {
    step(json!({
        "id": "workload/shop/StatefulSet/web", "leg": 1, "step": "move", "state": "Running",
        "startedAt": "2026-01-01T00:00:00Z",
        "doing": {"how": "by eviction", "what": "web-0", "uid": uid, "pods": 1, "at": "2026-01-01T00:00:01Z"},
    }))
}

#[test]
fn whether_a_deed_was_done_before_a_crash_is_observed() {
    let done = |observed: &Observed| {
        let steps = passed(&[about_to_evict("u")], observed);
        assert!(steps[0].doing.is_none());
        steps[0]
            .done
            .iter()
            .map(|done| (done.pods, done.names.clone(), done.first.clone()))
            .collect::<Vec<_>>()
    };
    let deed = vec![(1, vec!["web-0".to_owned()], "2026-01-01T00:00:01Z".to_owned())];
    assert_eq!(done(&observed("u", "0.1.0", false)), [], "the pod is there as before");
    assert_eq!(done(&observed("u", "0.1.0", true)), deed, "it ends");
    assert_eq!(done(&observed("another", "0.2.0", false)), deed, "it is gone");
    assert_eq!(done(&observed("u", "0.2.0", false)), deed, "it was swapped");
}

#[test]
fn what_is_refused_or_has_changed_was_not_done_and_what_is_unknown_stays_open() {
    let action = Action::Evict {
        namespace: "shop".to_owned(),
        workload: WorkloadId { name: "web".to_owned(), kind: Kind::StatefulSet },
        pod: "web-0".to_owned(),
        uid: "u".to_owned(),
        cost: crate::plan::Cost::Replica,
    };
    let after = |did: Did| settle(&[about_to_evict("u")], &[(action.clone(), did)]).remove(0);
    let yes = after(Did::Yes);
    assert_eq!((yes.doing, yes.done[0].how.as_str()), (None, "by eviction"));
    let refused = after(Did::Refused("no".to_owned()));
    assert_eq!((refused.doing, refused.done.len(), refused.reason.as_str()), (None, 0, "no"));
    assert!(after(Did::Changed).doing.is_none());
    let unknown = after(Did::Unknown("no answer".to_owned()));
    assert!(unknown.doing.is_some() && unknown.reason == "no answer");
}

#[test]
fn a_finished_step_keeps_every_byte_and_what_a_newer_release_wrote_stays() {
    let text = json!({
        "phase": "Dancing", "verdict": {"by": "0.9.0"}, "steps": [
            {"id": "workload/shop/StatefulSet/web", "leg": 1, "step": "as it was", "state": "Done", "colour": "red",
             "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:09Z",
             "done": [{"how": "by magic", "pods": 3, "first": "a", "last": "b", "spell": 7}]},
            {"id": "preflight/quota", "leg": 1, "step": "of a newer release", "state": "Skipped",
             "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z"},
        ],
        "soaks": [{"wave": "w", "since": "2026-01-01T00:00:00Z", "verdict": "fine"}],
    });
    let mut before = status(text);
    assert_eq!(before.phase, None, "a phase that is not known is observed anew");
    before.steps = passed(&before.steps, &observed("another", "0.1.0", false));
    let after = serde_json::to_value(&before).unwrap();
    assert_eq!(after["verdict"], json!({"by": "0.9.0"}));
    assert_eq!(after["soaks"][0]["verdict"], "fine");
    assert_eq!(
        (&after["steps"][0]["step"], &after["steps"][0]["colour"], &after["steps"][0]["done"][0]["spell"]),
        (&json!("as it was"), &json!("red"), &json!(7))
    );
    assert_eq!(after["steps"][1]["step"], "of a newer release");
}

#[test]
fn a_record_of_a_release_that_computed_its_steps_anew_goes_on() {
    let old = status(json!({
        "phase": "Moving", "progress": "1/2 pods", "started": "2026-01-01T00:00:00Z", "steps": [
            {"step": "label namespace shop for 0.2.0", "state": "Done"},
            {"step": "move StatefulSet web in shop (0/1) by eviction", "state": "Running"},
        ],
        "soaks": [{"wave": "canary", "since": "2026-01-01T00:00:00Z"}],
    }));
    let steps = passed(&old.steps, &observed("u", "0.1.0", false));
    assert!(steps.iter().all(|step| !step.id.is_empty()), "{steps:#?}");
    let legs = legs(&old, &desired(), 1_800_000_000);
    assert_eq!((number(&legs), legs[0].since.as_str()), (1, "2026-01-01T00:00:00Z"));
    let aborting = status(json!({"phase": "Aborting"}));
    let back = super::legs(&aborting, &Desired { abort: true, ..desired() }, 5);
    assert_eq!(back.iter().map(|leg| leg.to.as_str()).collect::<Vec<_>>(), ["0.2.0", "0.1.0"]);
}

#[test]
fn each_turn_is_a_leg() {
    let mut record = MeshUpgradeStatus::default();
    let there = desired();
    let back = Desired { abort: true, ..desired() };
    for (desired, number) in [(&there, 1), (&there, 1), (&back, 2), (&back, 2), (&there, 3)] {
        record.legs = legs(&record, desired, 5);
        assert_eq!(super::number(&record.legs), number);
    }
}

#[test]
fn a_record_stays_small_however_many_workloads_there_are() {
    let finished = |number: usize| {
        step(json!({
            "id": format!("workload/shop/Job/{number}"), "leg": 1, "step": "moved", "state": "Done",
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": format!("2026-01-01T00:00:{:02}Z", number % 60),
        }))
    };
    let many: Vec<_> = (0..10_000).map(finished).collect();
    let short = shorten(many);
    assert_eq!(short.len(), MOST_FINISHED + 1);
    assert_eq!(short[0].step, format!("{} earlier steps", 10_000 - MOST_FINISHED));
    assert_eq!(shorten(short.clone()), short, "and it stays as it is");
    let announced = (0..10_000).map(|n| empty(&n.to_string(), StepState::Pending)).collect();
    assert_eq!(cut(announced).last().unwrap().step, "9800 more");
}
