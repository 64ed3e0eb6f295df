//! What records of upgrades decide.

use super::*;

fn upgrade(status: serde_json::Value) -> MeshUpgrade {
    let spec = json!({"mesh": "m", "from": "0.1.0", "to": "0.2.0"});
    let mut upgrade = MeshUpgrade::new("m-0-1-0-to-0-2-0", serde_json::from_value(spec).unwrap());
    upgrade.metadata.uid = Some("u".into());
    upgrade.status = Some(serde_json::from_value(status).unwrap());
    upgrade
}

#[test]
fn what_was_approved_or_aborted_before_says_nothing_of_the_next_upgrade() {
    let mut mesh = mesh("m", "0.2.0", "0.1.0");
    mesh.spec.upgrade.approval = Approval::Manual;
    let mut over = upgrade(json!({"phase": "Complete"}));
    over.spec.approved = true;
    let verdict = |records: Vec<MeshUpgrade>| {
        decide(&mesh, Facts { upgrades: records, ..Default::default() }).revisions.verdict
    };
    let next = Verdict::AwaitingApproval("m-0-1-0-to-0-2-0-2".into());
    assert_eq!(verdict(vec![over.clone()]), next);
    let closed = json!({"phase": "Aborted", "conditions": [{"type": "Ready", "status": "True", "reason": "Closed",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let mut aborted = upgrade(closed);
    aborted.spec.abort = true;
    assert_eq!(verdict(vec![aborted]), next);
    let mut running = upgrade(json!({"phase": "Moving"}));
    running.metadata.name = Some("m-0-1-0-to-0-2-0-2".into());
    running.spec.approved = true;
    assert_eq!(verdict(vec![over, running]), Verdict::Accepted);
}

#[test]
fn a_control_plane_goes_when_the_record_says_so_and_nobody_is_connected_to_it() {
    let build = |retire: &str, fleet: Option<crate::fleet::FleetView>| {
        let record = upgrade(json!({"phase": "Retiring", "retire": retire}));
        let mut facts =
            Facts { upgrades: vec![record], pods: vec![pod("p", "0.2.0")], fleet, ..Default::default() };
        ready(&mut facts, "0.1.0");
        ready(&mut facts, "0.2.0");
        decide(&mesh("m", "0.2.0", "0.2.0"), facts).revisions.build
    };
    let (both, new) = (set(&["0.1.0", "0.2.0"]), set(&["0.2.0"]));
    let asked = crate::fleet::FleetView::default();
    assert_eq!(build("0.1.0", Some(asked.clone())), new);
    assert_eq!(build("", Some(asked.clone())), both, "the upgrade has not said so");
    assert_eq!(build("0.1.0", None), both, "nobody was asked");
    let mut connected = asked.clone();
    connected.streams = [("0.1.0".to_owned(), [("shop".to_owned(), "ending".to_owned())].into())].into();
    assert_eq!(build("0.1.0", Some(connected)), both);
    let mut silent = asked;
    silent.missing.insert("c".to_owned(), "no answer".to_owned());
    silent.releases.insert("c".to_owned(), "0.1.0".to_owned());
    assert_eq!(build("0.1.0", Some(silent)), both, "who is connected to it is unknown");
}

#[test]
fn the_leg_that_was_seen_is_that_of_the_upgrade_that_runs() {
    let mut over = upgrade(json!({"phase": "Complete", "legs": [{"to": "0.2.0", "since": "t"}]}));
    over.metadata.uid = Some("old".into());
    over.metadata.creation_timestamp = Some(Time(k8s_openapi::jiff::Timestamp::from_second(900).unwrap()));
    let turned =
        json!({"phase": "Aborting", "legs": [{"to": "0.2.0", "since": "t"}, {"to": "0.1.0", "since": "t"}]});
    let seen = |upgrades: Vec<MeshUpgrade>| {
        crate::control_plane::revisions::seen(&Facts { upgrades, ..Default::default() })
            .map(|seen| (seen.uid, seen.leg))
    };
    assert_eq!(seen(vec![over.clone(), upgrade(turned)]), Some(("u".to_owned(), 2)));
    assert_eq!(seen(vec![over, upgrade(json!({}))]), Some(("u".to_owned(), 0)), "one that has not begun");
    assert_eq!(seen(Vec::new()), None);
}
