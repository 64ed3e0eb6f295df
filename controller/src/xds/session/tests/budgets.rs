//! What a stream may make a replica remember.

use super::*;

#[test]
fn types_that_are_not_served_are_ignored_and_too_much_ends_the_stream() {
    let mut script = Script::new(&[]);
    let odd =
        DeltaRequest { type_url: "type.googleapis.com/what.ever".to_owned(), ..DeltaRequest::default() };
    assert_eq!(script.session.on_request(&odd).unwrap().said, Said::Foreign);
    let long = "x".repeat(5000);
    assert_eq!(
        script.session.on_request(&request(Route, &[&long])).unwrap_err(),
        Violation::NameTooLong { resource_type: "Route", bytes: 5000 }
    );
    let names: Vec<String> = (0..60_000).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let violation = script.session.on_request(&request(Route, &names)).unwrap_err();
    assert!(matches!(violation, Violation::Foreign { whom: "stream", most: FOREIGN, .. }), "{violation}");
}

/// X6: a mesh may be as large as it likes.
#[test]
fn names_of_what_is_served_cost_nothing_however_many() {
    let names: Vec<String> = (0..60_000).map(|n| format!("out|shop|s{n}|80")).collect();
    let all: Vec<_> = names.iter().map(|name| (Endpoint, name.as_str(), "1")).collect();
    let mut script = Script::new(&all);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut queue = std::collections::VecDeque::from(script.ask(&request(Endpoint, &names)));
    while let Some(response) = queue.pop_front() {
        queue.extend(script.ack(&response));
    }
    assert_eq!((script.session.held()[1], script.session.foreign()), (60_000, 0));
}

/// S5: what a client says of names that it never asked for leaves nothing behind.
#[test]
fn unsubscribing_unknown_names_inserts_nothing() {
    for wildcard in [&[][..], &["known"][..]] {
        let mut script = Script::new(&[(Cluster, "known", "1")]);
        // It never answers, so that nothing is ever sent and forgotten.
        script.ask(&request(Cluster, wildcard));
        let before = format!("{:?}", script.session);
        for round in 0..10 {
            let mut leave = request(Cluster, &[]);
            leave.resource_names_unsubscribe = (0..1000).map(|n| format!("unknown-{round}-{n}")).collect();
            assert!(script.ask(&leave).is_empty());
        }
        assert!(format!("{:?}", script.session) == before, "nothing is remembered");
    }
}

/// S5: names that are asked for and given up again are forgotten.
#[test]
fn names_that_come_and_go_are_forgotten() {
    let mut script = Script::new(&[(Route, "in|80", "1")]);
    script.ask(&request(Route, &["in|80"]));
    for round in 0..100 {
        let names: Vec<String> = (0..100).map(|n| format!("unknown-{round}-{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        script.ask(&request(Route, &names));
        assert!(script.session.foreign() > 0);
        let mut leave = request(Route, &[]);
        leave.resource_names_unsubscribe = names.iter().map(|name| (*name).to_owned()).collect();
        script.ask(&leave);
        assert_eq!(script.session.foreign(), 0);
    }
    assert!(format!("{:?}", script.session).len() < 10_000);
}
