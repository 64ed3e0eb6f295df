//! What is sent before what: make before break.

use super::*;

#[test]
fn endpoints_follow_every_cluster_that_is_sent() {
    let one: Say<'_> =
        &[(Cluster, "a", "1"), (Cluster, "b", "1"), (Endpoint, "a", "1"), (Endpoint, "b", "1")];
    let mut script = Script::new(one);
    let mut responses = script.ask(&request(Cluster, &["*"]));
    responses.extend(script.ask(&request(Endpoint, &["a", "b"])));
    script.settle(responses);
    let two: Say<'_> =
        &[(Cluster, "a", "2"), (Cluster, "b", "1"), (Endpoint, "a", "1"), (Endpoint, "b", "1")];
    assert_eq!(shown(&script.serve(two)), ["Cluster +a=2", "Endpoint +a=1"]);
}

#[test]
fn endpoints_follow_also_after_a_reconnect_that_changes_a_cluster() {
    let mut script = Script::new(&[(Cluster, "a", "2"), (Endpoint, "a", "1")]);
    assert_eq!(shown(&script.ask(&holding(Cluster, &["*"], &[("a", "1")]))), ["Cluster +a=2"]);
    // Envoy asks with what it holds, but its changed cluster waits for endpoints.
    assert_eq!(shown(&script.ask(&holding(Endpoint, &["a"], &[("a", "1")]))), ["Endpoint +a=1"]);
}

#[test]
fn listeners_and_routes_wait_for_new_clusters() {
    let old: Say<'_> =
        &[(Cluster, "out|a", "1"), (Listener, "out|a", "1"), (Route, "out|a", "1"), (Route, "in|80", "1")];
    let mut script = Script::new(old);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Listener, &[])));
    responses.extend(script.ask(&request(Route, &["out|a", "in|80"])));
    script.settle(responses);
    let new: Say<'_> = &[
        (Cluster, "out|a", "1"),
        (Cluster, "out|b", "1"),
        (Listener, "out|a", "2"),
        (Route, "out|a", "2"),
        (Route, "in|80", "2"),
    ];
    let sent = script.serve(new);
    // Nothing inbound waits: taking a permission away must not.
    assert_eq!(shown(&sent), ["Cluster +out|b=1", "Route +in|80=2"]);
    assert_eq!(shown(&script.ack(&sent[0])), ["Listener +out|a=2"]);
    assert_eq!(shown(&script.ack(&sent[1])), ["Route +out|a=2"]);
    // A changed cluster is no reason to wait.
    let changed: Say<'_> = &[
        (Cluster, "out|a", "2"),
        (Cluster, "out|b", "1"),
        (Listener, "out|a", "2"),
        (Route, "out|a", "3"),
        (Route, "in|80", "2"),
    ];
    let mut script = Script::new(new);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Listener, &[])));
    responses.extend(script.ask(&request(Route, &["out|a", "in|80"])));
    script.settle(responses);
    assert_eq!(shown(&script.serve(changed)), ["Cluster +out|a=2", "Route +out|a=3"]);
}

#[test]
fn the_first_listeners_come_together() {
    let mut script =
        Script::new(&[(Cluster, "out|a", "1"), (Listener, "inbound", "1"), (Listener, "out|a", "1")]);
    let clusters = script.ask(&request(Cluster, &[]));
    assert!(script.ask(&request(Listener, &[])).is_empty());
    assert_eq!(shown(&script.ack(&clusters[0])), ["Listener +inbound=1 +out|a=1"]);
}

#[test]
fn removals_come_last_and_in_reverse_order() {
    let old: Say<'_> = &[
        (Cluster, "out|a", "1"),
        (Cluster, "out|b", "1"),
        (Endpoint, "out|a", "1"),
        (Listener, "out|a", "1"),
        (Listener, "out|b", "1"),
        (Route, "out|a", "1"),
        (Route, "in|80", "1"),
    ];
    let mut script = Script::new(old);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Endpoint, &["out|a"])));
    responses.extend(script.ask(&request(Listener, &[])));
    responses.extend(script.ask(&request(Route, &["out|a", "in|80"])));
    script.settle(responses);
    let new: Say<'_> = &[(Cluster, "out|b", "1"), (Listener, "out|b", "1"), (Route, "in|80", "2")];
    let sent = script.serve(new);
    let order = script.settle(sent);
    assert_eq!(
        order,
        ["Route +in|80=2", "Listener -out|a", "Route -out|a", "Cluster -out|a", "Endpoint -out|a"]
    );
    assert!(script.session.in_sync());
}
