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
    let old: Say<'_> = &[
        (Cluster, "out|a", "1"),
        (Listener, "out|a", "1 out|a"),
        (Route, "out|a", "1 out|a"),
        (Route, "in|80", "1"),
    ];
    let mut script = Script::new(old);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Listener, &[])));
    responses.extend(script.ask(&request(Route, &["out|a", "in|80"])));
    script.settle(responses);
    let new: Say<'_> = &[
        (Cluster, "out|a", "1"),
        (Cluster, "out|b", "1"),
        (Listener, "out|a", "2 out|b"),
        (Route, "out|a", "2 out|b"),
        (Route, "in|80", "2"),
    ];
    let sent = script.serve(new);
    assert_eq!(shown(&sent), ["Cluster +out|b=1", "Route +in|80=2"]);
    assert_eq!(shown(&script.ack(&sent[0])), ["Listener +out|a=2 out|b"]);
    assert_eq!(shown(&script.ack(&sent[1])), ["Route +out|a=2 out|b"]);
    // A changed cluster is no reason to wait.
    let changed: Say<'_> = &[
        (Cluster, "out|a", "2"),
        (Cluster, "out|b", "1"),
        (Listener, "out|a", "2 out|b"),
        (Route, "out|a", "3 out|b"),
        (Route, "in|80", "2"),
    ];
    let mut script = Script::new(new);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Listener, &[])));
    responses.extend(script.ask(&request(Route, &["out|a", "in|80"])));
    script.settle(responses);
    assert_eq!(shown(&script.serve(changed)), ["Cluster +out|a=2", "Route +out|a=3 out|b"]);
}

#[test]
fn the_first_listeners_come_together() {
    let mut script =
        Script::new(&[(Cluster, "out|a", "1"), (Listener, "inbound", "1"), (Listener, "out|a", "1 out|a")]);
    let clusters = script.ask(&request(Cluster, &[]));
    assert!(script.ask(&request(Listener, &[])).is_empty());
    assert_eq!(shown(&script.ack(&clusters[0])), ["Listener +inbound=1 +out|a=1 out|a"]);
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

/// A client that holds everything.
fn settled(resources: Say<'_>, routes: &[&str]) -> Script {
    let mut script = Script::new(resources);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Listener, &[])));
    responses.extend(script.ask(&request(Route, routes)));
    script.settle(responses);
    script
}

/// X1: a cluster that is not acknowledged yet holds up what names it, and nothing else.
#[test]
fn only_what_names_a_new_cluster_waits_for_it() {
    let a = "out|shop|a|80";
    let b = "out|shop|b|80";
    let mut script = settled(&[(Cluster, a, "1"), (Listener, a, "1 c"), (Route, a, "1 c")], &[a, b]);
    let sent = script.serve(&[
        (Cluster, a, "1"),
        (Cluster, b, "1"),
        (Listener, a, "2 c"),
        (Listener, b, "1 out|shop|b|80"),
        (Route, a, "2 out|shop|a|80"),
        (Route, b, "1 out|shop|b|80"),
    ]);
    assert_eq!(
        shown(&sent),
        ["Cluster +out|shop|b|80=1", "Listener +out|shop|a|80=2 c", "Route +out|shop|a|80=2 out|shop|a|80"]
    );
    assert!(script.ack(&sent[0]).is_empty(), "their types have yet to be acknowledged");
    assert_eq!(shown(&script.ack(&sent[1])), ["Listener +out|shop|b|80=1 out|shop|b|80"]);
    assert_eq!(shown(&script.ack(&sent[2])), ["Route +out|shop|b|80=1 out|shop|b|80"]);
}

/// X2: what leaves the mesh waits for its clusters like everything else; only the application's are never waited for.
#[test]
fn what_leaves_the_mesh_waits_for_its_clusters_and_what_is_inbound_for_none() {
    let host = "egress|example.com|443";
    let mut script = settled(&[(Listener, "inbound", "1"), (Route, "in|80", "1")], &["in|80", "egress|443"]);
    let sent = script.serve(&[
        (Cluster, "inbound-h2", "1"),
        (Cluster, host, "1"),
        (Listener, "egress|443", "1 egress|example.com|443"),
        (Listener, "inbound", "2 inbound-h2"),
        (Route, "egress|443", "1 egress|example.com|443"),
        (Route, "in|80", "2 inbound-h2"),
    ]);
    assert_eq!(
        shown(&sent),
        [
            "Cluster +egress|example.com|443=1 +inbound-h2=1",
            "Listener +inbound=2 inbound-h2",
            "Route +in|80=2 inbound-h2"
        ]
    );
    script.ack(&sent[0]);
    assert_eq!(shown(&script.ack(&sent[1])), ["Listener +egress|443=1 egress|example.com|443"]);
    assert_eq!(shown(&script.ack(&sent[2])), ["Route +egress|443=1 egress|example.com|443"]);
}
