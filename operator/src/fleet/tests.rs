//! How reports of several replicas become one view.

use super::*;

fn proxy(pod: &str, since: &str, in_sync: bool) -> ProxyReport {
    ProxyReport {
        namespace: "shop".into(),
        pod: pod.into(),
        uid: "u".into(),
        version: "0.1.0".into(),
        envoy: "1.36.2".into(),
        connected_since: since.into(),
        in_sync,
        rejected: Vec::new(),
        rejected_more: 0,
    }
}

fn report(synced: bool, proxies: Vec<ProxyReport>) -> FleetReport {
    let problem = ProblemReport {
        kind: "TrafficTarget".into(),
        namespace: "shop".into(),
        name: "t".into(),
        reason: "RouteMissing".into(),
        message: "m".into(),
    };
    FleetReport { version: "0.1.0".into(), synced, proxies, problems: vec![problem], ..Default::default() }
}

#[test]
fn the_newest_connection_counts_and_problems_are_told_once() {
    let view = FleetView::merge(vec![
        ("c-1".into(), Ok(report(true, vec![proxy("a", "2030-01-01T00:00:05Z", true)]))),
        ("c-2".into(), Ok(report(true, vec![proxy("a", "2030-01-01T00:00:01Z", false)]))),
    ]);
    assert!(view.complete());
    assert!(view.proxies[&("shop".to_owned(), "a".to_owned())].in_sync);
    assert_eq!(view.problems.len(), 1);
}

#[test]
fn a_silent_or_unsynced_replica_makes_the_view_incomplete() {
    for answer in
        [Err("refused".to_owned()), Ok(report(false, vec![proxy("b", "2030-01-01T00:00:00Z", true)]))]
    {
        let view =
            FleetView::merge(vec![("c-1".into(), Ok(report(true, Vec::new()))), ("c-2".into(), answer)]);
        assert!(!view.complete());
        assert!(view.proxies.is_empty(), "an unsynced replica's list means nothing");
    }
    assert!(!FleetView::merge(Vec::new()).complete(), "nobody asked is not nobody there");
}

#[test]
fn streams_are_told_by_the_release_of_the_controller_also_where_another_connection_is_newer() {
    let at = |version: &str, since: &str| {
        let report = FleetReport { version: version.into(), ..report(true, vec![proxy("a", since, true)]) };
        (format!("c-{version}"), Ok(report))
    };
    let view = FleetView::merge(vec![
        at("0.1.0", "2030-01-01T00:00:01Z"),
        at("0.2.0", "2030-01-01T00:00:05Z"),
        ("c-x".into(), Err("no answer".into())),
    ]);
    let a: BTreeSet<_> = [("shop".to_owned(), "a".to_owned())].into();
    assert_eq!(view.streams, [("0.1.0".to_owned(), a.clone()), ("0.2.0".to_owned(), a)].into());
}

fn controller(status: &serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "c-1", "namespace": "system", "labels": {labels::VERSION: "0.1.0"}},
        "status": status,
    }))
    .unwrap()
}

#[test]
fn a_replica_that_runs_is_asked_whether_or_not_it_is_ready() {
    let running = serde_json::json!([{
        "name": "controller", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"running": {}},
    }]);
    let crashed = serde_json::json!([{
        "name": "controller", "image": "", "imageID": "", "ready": false, "restartCount": 9,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }]);
    let ready = serde_json::json!([{"type": "Ready", "status": "True"}]);
    let with = |containers: &serde_json::Value, ip: &str, conditions: &serde_json::Value| {
        let status = serde_json::json!({
            "podIP": ip, "containerStatuses": containers, "conditions": conditions,
        });
        replica(&controller(&status)).map(|replica| (replica.ready, replica.peer.is_ok()))
    };
    let none = serde_json::json!([]);
    assert_eq!(with(&running, "10.0.0.1", &ready), Some((true, true)));
    assert_eq!(with(&running, "10.0.0.1", &none), Some((false, true)), "it may hold streams");
    assert_eq!(with(&running, "", &none), Some((false, false)), "it is named as missing");
    assert_eq!(with(&crashed, "10.0.0.1", &none), None, "no process holds no streams");
    let mut ending = controller(&serde_json::json!({
        "podIP": "10.0.0.1", "containerStatuses": running, "conditions": ready,
    }));
    ending.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    assert!(replica(&ending).is_some_and(|replica| !replica.ready));
}
