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
