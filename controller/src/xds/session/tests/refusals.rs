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
    let rejections = script.session.rejections().first;
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
    assert_eq!(script.session.rejections(), Rejections::default());
}

#[test]
fn going_back_to_the_last_good_version_ends_a_rejection() {
    let mut script = Script::new(&[(Route, "r", "1")]);
    let responses = script.ask(&request(Route, &["r"]));
    script.settle(responses);
    let bad = script.serve(&[(Route, "r", "2")]);
    assert!(script.nack(&bad[0]).is_empty());
    assert_eq!(script.session.rejections().first.len(), 1);
    assert!(script.serve(&[(Route, "r", "1")]).is_empty(), "the client still holds it");
    assert_eq!(script.session.rejections(), Rejections::default());
}

#[test]
fn clusters_of_the_last_good_route_stay_while_the_new_one_is_refused() {
    let mut script = Script::new(&[(Cluster, "old", "1"), (Route, "r", "1 old")]);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Route, &["r"])));
    script.settle(responses);
    let sent = script.serve(&[(Cluster, "new", "1"), (Route, "r", "2 new")]);
    assert_eq!(shown(&sent), ["Cluster +new=1"]);
    let sent = script.ack(&sent[0]);
    assert_eq!(shown(&sent), ["Route +r=2 new"]);
    assert!(script.nack(&sent[0]).is_empty(), "the old cluster is not taken away");
    let good = script.serve(&[(Cluster, "new", "1"), (Route, "r", "3 new")]);
    assert_eq!(script.settle(good), ["Route +r=3 new", "Cluster -old"]);
}

/// X3: what a client keeps because it refused the new one holds back only what that names.
#[test]
fn a_refused_listener_keeps_only_the_clusters_that_it_names() {
    let before: Say<'_> =
        &[(Cluster, "named", "1"), (Cluster, "other", "1"), (Listener, "out|shop|a|80", "1 named")];
    let mut script = Script::new(before);
    let mut responses = script.ask(&request(Cluster, &[]));
    responses.extend(script.ask(&request(Listener, &[])));
    script.settle(responses);
    let sent = script.serve(&[(Listener, "out|shop|a|80", "2")]);
    assert_eq!(shown(&sent), ["Listener +out|shop|a|80=2"]);
    let sent = script.nack(&sent[0]);
    assert_eq!(script.settle(sent), ["Cluster -other"]);
    let sent = script.serve(&[(Listener, "out|shop|a|80", "3")]);
    assert_eq!(script.settle(sent), ["Listener +out|shop|a|80=3", "Cluster -named"]);
}

/// S13: what a sidecar says is told in part.
#[test]
fn a_client_that_refuses_everything_at_length_is_told_of_in_short() {
    let names: Vec<String> = (0..100).map(|number| format!("in|{number}")).collect();
    let all: Vec<_> = names.iter().map(|name| (Route, name.as_str(), "1")).collect();
    let mut script = Script::new(&all);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut queue = std::collections::VecDeque::from(script.ask(&request(Route, &names)));
    let words = "no\n".repeat(100_000);
    while let Some(response) = queue.pop_front() {
        queue.extend(script.session.on_request(&answer(&response, Some(words.as_str()))).unwrap().responses);
    }
    let told = script.session.rejections();
    assert_eq!(
        (told.first.len(), told.more, told.older_rules),
        (MOST_REJECTIONS, 100 - MOST_REJECTIONS, 100)
    );
    assert!(told.first.iter().all(|one| one.error.chars().count() <= MOST_ERROR + 1 && one.older_rules));
    assert!(told.first.iter().all(|one| !one.error.contains('\n')));
}
