//! What a proxy refuses.

use super::*;

#[test]
fn a_refused_resource_is_found_reported_and_not_sent_again() {
    let mut script = Script::new(&[(Cluster, "a", "1"), (Cluster, "bad", "1"), (Cluster, "c", "1")]);
    let first = script.ask(&request(Cluster, &[]));
    let apart = script.nack(&first[0]);
    assert_eq!(shown(&apart), ["Cluster +a=1", "Cluster +bad=1", "Cluster +c=1"]);
    assert!(script.ack(&apart[0]).is_empty());
    assert!(script.nack(&apart[1]).is_empty());
    assert!(script.ack(&apart[2]).is_empty());
    let rejections = script.session.rejections();
    assert_eq!((rejections.len(), rejections[0].names.as_slice()), (1, &["bad".to_owned()][..]));
    assert_eq!(
        (rejections[0].resource_type.as_str(), rejections[0].error.as_str()),
        ("Cluster", "Envoy says no")
    );
    assert_eq!(script.session.held()[0], 2);
    // Something else changes: the refused one stays unsent. It changes: it is tried again, and good.
    let other: Say<'_> = &[(Cluster, "a", "2"), (Cluster, "bad", "1"), (Cluster, "c", "1")];
    let sent = script.serve(other);
    assert_eq!(script.settle(sent), ["Cluster +a=2"]);
    let sent = script.serve(&[(Cluster, "a", "2"), (Cluster, "bad", "2"), (Cluster, "c", "1")]);
    assert_eq!(script.settle(sent), ["Cluster +bad=2"]);
    assert!(script.session.rejections().is_empty());
}

#[test]
fn going_back_to_the_last_good_version_ends_a_rejection() {
    let mut script = Script::new(&[(Route, "r", "1")]);
    let responses = script.ask(&request(Route, &["r"]));
    script.settle(responses);
    let bad = script.serve(&[(Route, "r", "2")]);
    assert!(script.nack(&bad[0]).is_empty());
    assert_eq!(script.session.rejections().len(), 1);
    assert!(script.serve(&[(Route, "r", "1")]).is_empty(), "the client still holds it");
    assert!(script.session.rejections().is_empty());
}

#[test]
fn clusters_of_the_last_good_route_stay_while_the_new_one_is_refused() {
    let mut script = Script::new(&[(Cluster, "old", "1"), (Route, "r", "1")]);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Route, &["r"])));
    script.settle(responses);
    let sent = script.serve(&[(Cluster, "new", "1"), (Route, "r", "2")]);
    assert_eq!(shown(&sent), ["Cluster +new=1", "Route +r=2"]);
    assert!(script.nack(&sent[1]).is_empty());
    assert!(script.ack(&sent[0]).is_empty(), "the old cluster is not taken away");
    let good = script.serve(&[(Cluster, "new", "1"), (Route, "r", "3")]);
    assert_eq!(script.settle(good), ["Route +r=3", "Cluster -old"]);
}
