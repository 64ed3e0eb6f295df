//! Several streams of one replica: one tries, the others wait; what one refuses no other with its Envoy gets.

use super::*;

/// Streams that share what a replica shares.
struct Fleet {
    canaries: Arc<Canaries>,
    pool: Arc<parking_lot::Mutex<Pool>>,
}

const ONE: Say<'static> = &[(Cluster, "a", "1")];
const TWO: Say<'static> = &[(Cluster, "a", "2")];

impl Fleet {
    fn new(patience: Duration) -> Self {
        Self { canaries: Arc::new(Canaries::new(patience)), pool: Arc::default() }
    }

    /// A stream that asks for all clusters, and what it gets.
    fn join(&self, envoy: &str, resources: Say<'_>) -> (Script, Vec<DeltaResponse>) {
        let mut script = Script::with(&self.canaries, envoy, &self.pool, resources);
        let responses = script.ask(&request(Cluster, &[]));
        (script, responses)
    }

    /// Streams that hold everything.
    fn settled<const N: usize>(&self, envoys: [&str; N], resources: Say<'_>) -> [Script; N] {
        envoys.map(|envoy| {
            let (mut script, responses) = self.join(envoy, resources);
            script.settle(responses);
            script
        })
    }
}

fn got(responses: &[DeltaResponse]) -> Vec<String> {
    shown(responses)
}

#[test]
fn one_tries_and_the_others_get_it_when_that_one_has_taken_it() {
    let fleet = Fleet::new(Duration::MAX);
    let [mut a, mut b, mut c] = fleet.settled(["1.0.0"; 3], ONE);
    let tried = a.serve(TWO);
    assert_eq!(got(&tried), ["Cluster +a=2"]);
    assert!(b.serve(TWO).is_empty() && c.serve(TWO).is_empty());
    assert!(b.session.gated() && !b.session.idle());
    assert!(b.session.on_answer().is_empty(), "asking again changes nothing");
    a.ack(&tried[0]);
    for other in [&mut b, &mut c] {
        let sent = other.session.on_answer();
        assert_eq!(got(&sent), ["Cluster +a=2"]);
        other.ack(&sent[0]);
        assert!(!other.session.gated());
    }
}

#[test]
fn each_envoy_version_has_a_canary_of_its_own_and_endpoints_need_none() {
    let fleet = Fleet::new(Duration::MAX);
    let [mut old, mut new] = fleet.settled(["1.0.0", "2.0.0"], ONE);
    assert_eq!((got(&old.serve(TWO)).len(), got(&new.serve(TWO)).len()), (1, 1));
    let [mut a, mut b] =
        [(); 2].map(|()| Script::with(&fleet.canaries, "1.0.0", &fleet.pool, &[(Endpoint, "e", "1")]));
    let ask = request(Endpoint, &["e"]);
    assert_eq!((a.ask(&ask).len(), b.ask(&ask).len()), (1, 1));
}

#[test]
fn what_one_refuses_no_other_gets_and_new_ones_get_the_last_good() {
    let fleet = Fleet::new(Duration::MAX);
    let [mut a, mut b, mut other] = fleet.settled(["1.0.0", "1.0.0", "2.0.0"], ONE);
    let tried = a.serve(TWO);
    assert!(b.serve(TWO).is_empty());
    a.nack(&tried[0]);
    assert!(b.session.on_answer().is_empty());
    assert!(b.session.idle() && !b.session.gated());
    let told = b.session.rejections();
    assert!(told[0].error.starts_with("Envoy says no (refused by shop/pod"), "{told:?}");
    // A proxy that was not there before, of an audience that nobody listened for; and one with another Envoy.
    assert_eq!(got(&fleet.join("1.0.0", TWO).1), ["Cluster +a=1"]);
    let sent = other.serve(TWO);
    assert_eq!(other.settle(sent), ["Cluster +a=2"]);
    // Something else changes, and then the content itself.
    let more: Say<'_> = &[(Cluster, "a", "2"), (Cluster, "b", "1")];
    let sent = b.serve(more);
    assert_eq!(b.settle(sent), ["Cluster +b=1"]);
    let sent = b.serve(&[(Cluster, "a", "3"), (Cluster, "b", "1")]);
    assert_eq!(b.settle(sent), ["Cluster +a=3"]);
    assert!(b.session.rejections().is_empty());
}

#[test]
fn the_bad_one_of_several_is_found_by_the_canary_alone() {
    let fleet = Fleet::new(Duration::MAX);
    let [mut a, mut b] = fleet.settled(["1.0.0"; 2], ONE);
    let next: Say<'_> = &[(Cluster, "a", "1"), (Cluster, "bad", "1"), (Cluster, "good", "1")];
    let tried = a.serve(next);
    assert!(b.serve(next).is_empty());
    let apart = a.nack(&tried[0]);
    assert_eq!(got(&apart), ["Cluster +bad=1", "Cluster +good=1"]);
    assert!(b.session.on_answer().is_empty(), "still on trial");
    a.nack(&apart[0]);
    a.ack(&apart[1]);
    assert_eq!(got(&b.session.on_answer()), ["Cluster +good=1"]);
}

#[test]
fn a_canary_that_dies_or_says_nothing_is_replaced() {
    let fleet = Fleet::new(Duration::MAX);
    let [mut a, mut b, mut c] = fleet.settled(["1.0.0"; 3], ONE);
    a.serve(TWO);
    assert!(b.serve(TWO).is_empty() && c.serve(TWO).is_empty());
    drop(a);
    assert_eq!(got(&b.session.on_answer()), ["Cluster +a=2"], "the first that asks takes over");
    assert!(c.session.on_answer().is_empty());

    let hasty = Fleet::new(Duration::ZERO);
    let [mut a, mut b] = hasty.settled(["1.0.0"; 2], ONE);
    assert_eq!((got(&a.serve(TWO)).len(), got(&b.serve(TWO)).len()), (1, 1));
}

#[test]
fn a_proxy_that_comes_back_with_it_has_taken_it() {
    let fleet = Fleet::new(Duration::MAX);
    let mut back = Script::with(&fleet.canaries, "1.0.0", &fleet.pool, ONE);
    back.ask(&holding(Cluster, &["*"], &[("a", "1")]));
    let [one, two] = [(); 2].map(|()| fleet.join("1.0.0", ONE).1);
    assert_eq!((got(&one), got(&two)), (vec!["Cluster +a=1".to_owned()], vec!["Cluster +a=1".to_owned()]));
}

#[test]
fn the_first_listeners_come_together_even_when_one_is_on_trial() {
    let fleet = Fleet::new(Duration::MAX);
    let shared = [(Listener, "outbound", "1")];
    let both = [(Listener, "inbound", "1"), (Listener, "outbound", "1")];
    let mut a = Script::with(&fleet.canaries, "1.0.0", &fleet.pool, &shared);
    let mut b = Script::with(&fleet.canaries, "1.0.0", &fleet.pool, &both);
    let tried = a.ask(&request(Listener, &[]));
    assert!(b.ask(&request(Listener, &[])).is_empty());
    a.ack(&tried[0]);
    assert_eq!(got(&b.session.on_answer()), ["Listener +inbound=1 +outbound=1"]);
}

#[test]
fn clusters_of_the_last_good_route_stay_for_the_others_too() {
    let fleet = Fleet::new(Duration::MAX);
    let before: Say<'_> = &[(Cluster, "old", "1"), (Route, "r", "1")];
    let mut both = [(); 2].map(|()| {
        let mut script = Script::with(&fleet.canaries, "1.0.0", &fleet.pool, before);
        let mut responses = script.ask(&request(Cluster, &[]));
        responses.extend(script.ask(&request(Route, &["r"])));
        script.settle(responses);
        script
    });
    let after: Say<'_> = &[(Cluster, "new", "1"), (Route, "r", "2")];
    let [a, b] = &mut both;
    let tried = a.serve(after);
    assert!(b.serve(after).is_empty());
    a.ack(&tried[0]);
    a.nack(&tried[1]);
    let sent = b.session.on_answer();
    assert_eq!(b.settle(sent), ["Cluster +new=1"], "and the old one is not taken away");
}

#[test]
fn clusters_of_the_last_good_route_stay_after_a_reconnect() {
    let fleet = Fleet::new(Duration::MAX);
    let mut away =
        Script::with(&fleet.canaries, "1.0.0", &fleet.pool, &[(Cluster, "old", "1"), (Route, "r", "1")]);
    let mut responses = away.ask(&request(Cluster, &[]));
    responses.extend(away.ask(&request(Route, &["r"])));
    away.settle(responses);
    let after: Say<'_> = &[(Cluster, "new", "1"), (Route, "r", "2")];
    let tried = away.serve(after);
    away.ack(&tried[0]);
    away.nack(&tried[1]);
    drop(away);
    let mut back = Script::with(&fleet.canaries, "1.0.0", &fleet.pool, after);
    assert!(back.ask(&holding(Cluster, &["*"], &[("old", "1"), ("new", "1")])).is_empty());
    assert!(back.ask(&holding(Route, &["r"], &[("r", "1")])).is_empty());
    let sent = back.serve(&[(Cluster, "new", "1"), (Route, "r", "3")]);
    assert_eq!(back.settle(sent), ["Route +r=3", "Cluster -old"]);
}
