//! What hostile streams cost others: no waiting but once, and no work that they do not pay for. Time is virtual, and work
//! is counted.

use futures::FutureExt;

use super::canary::*;
use super::*;

const THREE: Say<'static> = &[(Cluster, STORE, "3")];
const FOUR: Say<'static> = &[(Cluster, STORE, "4")];

/// Whether a stream has been told to ask again.
fn is_told(script: &Script) -> bool {
    script.session.wake().notified().now_or_never().is_some()
}

fn settle_all<const N: usize>(scripts: [&mut Script; N], resources: Say<'_>) {
    for script in scripts {
        let sent = script.serve(resources);
        assert_eq!(sent.len(), 1, "nobody waits");
        script.settle(sent);
    }
}

#[test]
fn one_that_refused_what_others_took_takes_nobodys_place_for_a_while() {
    let fleet = Fleet::new();
    let [mut refuser, mut b, mut c, mut d] = fleet.settled(["refuser", "b", "c", "d"], ONE);
    let tried = refuser.serve(TWO);
    refuser.nack(&tried[0]);
    settle_all([&mut b, &mut c, &mut d], TWO);
    // It is asked again, and first; but others do not count on it.
    let again = refuser.serve(THREE);
    assert_eq!(again.len(), 1);
    let tried = [b.serve(THREE), c.serve(THREE)];
    assert!(tried.iter().all(|sent| sent.len() == 1), "a place for each of two others");
    b.ack(&tried[0][0]);
    c.ack(&tried[1][0]);
    settle_all([&mut d], THREE);
    refuser.nack(&again[0]);
    fleet.pass(Duration::from_secs(600));
    assert_eq!(refuser.serve(FOUR).len() + b.serve(FOUR).len(), 2);
    assert!(c.serve(FOUR).is_empty(), "then it has its place again");
}

/// A refusal is believed as long as nobody says otherwise: one account's word is no more than another's.
#[test]
fn one_that_refuses_what_only_one_other_takes_keeps_its_place() {
    let fleet = Fleet::new();
    let [mut a, mut b, mut c, mut d] = fleet.settled(["a", "b", "c", "d"], ONE);
    let tried = a.serve(TWO);
    a.nack(&tried[0]);
    settle_all([&mut b], TWO);
    assert_eq!(a.serve(THREE).len() + b.serve(THREE).len(), 2);
    assert!(c.serve(THREE).is_empty() && d.serve(THREE).is_empty());
}

#[test]
fn one_that_answers_late_each_time_is_waited_for_once() {
    let fleet = Fleet::new();
    let [mut late, mut b, mut c, mut d] = fleet.settled(["late", "b", "c", "d"], ONE);
    let tried = [late.serve(TWO), b.serve(TWO)];
    fleet.pass(PATIENCE / 40);
    b.ack(&tried[1][0]);
    fleet.pass(PATIENCE / 5);
    assert!(c.serve(TWO).is_empty());
    late.ack(&tried[0][0]);
    let sent = c.session.on_answer();
    c.settle(sent);
    settle_all([&mut d], TWO);
    assert_eq!(late.serve(THREE).len(), 1);
    settle_all([&mut b, &mut c, &mut d], THREE);
}

#[test]
fn two_that_are_late_together_are_waited_for_once() {
    let fleet = Fleet::new();
    let [mut late, mut too, mut b, mut c, mut d] = fleet.settled(["late", "too", "b", "c", "d"], ONE);
    let tried = [late.serve(TWO), too.serve(TWO)];
    fleet.pass(PATIENCE / 2);
    late.ack(&tried[0][0]);
    too.ack(&tried[1][0]);
    settle_all([&mut b, &mut c, &mut d], TWO);
    assert_eq!(late.serve(THREE).len() + too.serve(THREE).len(), 2);
    settle_all([&mut b, &mut c, &mut d], THREE);
}

/// Whoever answers before it can know makes all others late.
#[test]
fn one_that_answers_at_once_leaves_canaries_enough() {
    let fleet = Fleet::new();
    let mut scripts = fleet.settled(["quick", "b", "c", "d", "e", "f"], ONE);
    let versions: Vec<String> = (2..12).map(|version| version.to_string()).collect();
    for (at, version) in versions.iter().enumerate() {
        let next = [(Cluster, STORE, version.as_str())];
        let sent = scripts[0].serve(&next);
        scripts[0].settle(sent);
        // Who is slower than one that does not look.
        let slow = 1 + at % 5;
        let sent = scripts[slow].serve(&next);
        fleet.pass(PATIENCE / 8);
        scripts[slow].settle(sent);
        for (_, script) in scripts.iter_mut().enumerate().filter(|(other, _)| ![0, slow].contains(other)) {
            let sent = script.serve(&next);
            script.settle(sent);
        }
    }
    let sent: Vec<_> =
        scripts.iter_mut().map(|script| script.serve(&[(Cluster, STORE, "12")]).len()).collect();
    assert!(sent.iter().sum::<usize>() < sent.len(), "some still wait for others: {sent:?}");
}

/// Each stream that is told asks, and that costs the threads that serve all: only those are told for whom it changes
/// something.
#[test]
fn an_answer_wakes_few_until_it_is_decided() {
    const ACCOUNTS: [&str; 20] =
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let fleet = Fleet::new();
    let mut all: Vec<Script> =
        ACCOUNTS.iter().flat_map(|account| fleet.settled([*account; 3], ONE)).collect();
    let sent: Vec<_> = all.iter_mut().map(|script| script.serve(TWO)).collect();
    assert_eq!(sent.iter().map(Vec::len).sum::<usize>(), 2, "0 and 1 try it");
    let told = |all: &[Script]| all.iter().filter(|script| is_told(script)).count();
    all[0].nack(&sent[0][0]);
    let woken = told(&all);
    assert!((1..=2 + 8).contains(&woken), "its own, and some that may take its place: {woken}");
    let next = all.iter_mut().map(|script| script.session.on_answer()).collect::<Vec<_>>();
    let at = next.iter().position(|sent| !sent.is_empty()).unwrap();
    assert_eq!(next.iter().map(Vec::len).sum::<usize>(), 1, "one takes it");
    all[at].ack(&next[at][0]);
    assert_eq!(told(&all), 2, "its own");
    all[3].ack(&sent[3][0]);
    assert!(told(&all) >= 60 - 3 - 3 - 1, "it is decided");
}

/// A canary that comes and goes in a loop.
#[test]
fn one_that_leaves_wakes_few() {
    let fleet = Fleet::new();
    let [gone, b] = fleet.settled(["gone", "b"], ONE);
    let mut others: Vec<Script> =
        ["c", "d", "e"].iter().flat_map(|account| fleet.settled([*account; 20], ONE)).collect();
    let [mut gone, mut b] = [gone, b];
    assert_eq!(gone.serve(TWO).len() + b.serve(TWO).len(), 2);
    assert!(others.iter_mut().all(|script| script.serve(TWO).is_empty()));
    drop(gone);
    assert_eq!(others.iter().filter(|script| is_told(script)).count(), 3, "one of each");
}

/// What an Envoy says of its version is its own word.
#[test]
fn invented_envoys_do_not_make_others_try_again_what_is_good() {
    let fleet = Fleet::new();
    let [mut b, mut c] = fleet.settled(["b", "c"], ONE);
    settle_all([&mut b, &mut c], TWO);
    let liars: Vec<_> = (0..100)
        .map(|major| fleet.join(Who { envoy: SemanticVersion { major, ..POD.envoy }, ..of("liar") }, TWO))
        .collect();
    let others = ["d", "e", "f", "g"].map(|account| fleet.join(of(account), TWO));
    assert!(others.iter().all(|(_, sent)| shown(sent) == SENT_TWO), "nobody waits");
    drop(liars);
}

/// What a request makes us look at, it pays for, whatever it names.
#[test]
fn a_request_is_told_what_it_made_us_look_at() {
    let clusters: Vec<String> = (0..300).map(|number| format!("out|shop|s{number:03}|80")).collect();
    let versions: Vec<String> = clusters.iter().map(|name| format!("1 {name}")).collect();
    let mut all: Vec<_> = clusters.iter().map(|name| (Cluster, name.as_str(), "1")).collect();
    all.extend(
        clusters.iter().zip(&versions).map(|(name, version)| (Listener, name.as_str(), version.as_str())),
    );
    let mut script = Script::new(&all);
    let mut looked = |request: &DeltaRequest| script.session.on_request(request).unwrap().looked;
    // It never acknowledges its clusters, so that all its listeners wait; then it asks for next to nothing.
    looked(&request(Cluster, &[]));
    looked(&request(Listener, &[]));
    let (one, two) = (looked(&request(Endpoint, &["x"])), looked(&request(Endpoint, &["y"])));
    assert!(one >= 600 && two >= 600, "{one} {two}");
    // The word for all, as often as it fits, is looked at once.
    let stars = vec!["*"; 10_000];
    let many = looked(&request(Cluster, &stars));
    let leaves = DeltaRequest {
        resource_names_unsubscribe: request(Cluster, &stars).resource_names_subscribe,
        ..request(Cluster, &[])
    };
    let leaving = looked(&leaves);
    assert!((300..5_000).contains(&many) && (300..5_000).contains(&leaving), "{many} {leaving}");
}
