//! What one identity says changes nothing for another.

use super::canary::*;
use super::*;

/// S1: the attack of one tenant on all others. It makes its own ports open, then closes them, and refuses that.
#[test]
fn a_nack_gives_nobody_the_older_rules_of_somebody_else() {
    let fleet = Fleet::new();
    let rules = |version: &'static str| [(Listener, "inbound", version), (Route, "in|9898", version)];
    let mut thief = fleet.stream(of("thief"), &rules("open"));
    let mut responses = thief.ask(&request(Listener, &[]));
    responses.extend(thief.ask(&request(Route, &["in|9898"])));
    thief.settle(responses);
    for refused in thief.serve(&rules("closed")) {
        thief.nack(&refused);
    }
    // Whose last TrafficTarget goes away then, and a pod that was not there before.
    let mut victim = fleet.stream(of("victim"), &rules("for-buyers"));
    let mut responses = victim.ask(&request(Listener, &[]));
    responses.extend(victim.ask(&request(Route, &["in|9898"])));
    victim.settle(responses);
    let closed = ["Listener +inbound=closed", "Route +in|9898=closed"];
    let sent = victim.serve(&rules("closed"));
    assert_eq!(victim.settle(sent), closed);
    assert!(victim.session.idle() && victim.session.rejections() == Rejections::default());
    for account in ["victim", "thief"] {
        let mut new = fleet.stream(of(account), &rules("closed"));
        let mut responses = new.ask(&request(Listener, &[]));
        responses.extend(new.ask(&request(Route, &["in|9898"])));
        assert_eq!(new.settle(responses), closed, "{account}: also of its own service account");
    }
    // The thief itself keeps what it has, and that is said loudly.
    let told = thief.session.rejections();
    assert_eq!((told.older_rules, told.first.len()), (2, 2));
    assert!(told.first.iter().all(|one| one.older_rules), "{told:?}");
}

/// S1, with rules that a caller is under: what leaves the mesh.
#[test]
fn a_nack_holds_back_no_rule_for_callers_either() {
    let fleet = Fleet::new();
    let open = [(Listener, "egress|443", "open"), (Listener, "outbound", "allow")];
    let closed = [(Listener, "egress|443", "closed"), (Listener, "outbound", "deny")];
    for account in ["thief", "other-thief"] {
        let mut thief = fleet.stream(of(account), &open);
        let sent = thief.ask(&request(Listener, &[]));
        thief.settle(sent);
        let mut queue = std::collections::VecDeque::from(thief.serve(&closed));
        while let Some(response) = queue.pop_front() {
            queue.extend(thief.nack(&response));
        }
    }
    let mut victim = fleet.stream(of("victim"), &open);
    let sent = victim.ask(&request(Listener, &[]));
    victim.settle(sent);
    let sent = victim.serve(&closed);
    assert_eq!(victim.settle(sent), ["Listener +egress|443=closed +outbound=deny"]);
}

#[test]
fn a_nack_of_one_account_withholds_nothing_from_others() {
    let fleet = Fleet::new();
    let [mut thief, mut b, mut c, mut d] = fleet.settled(["thief", "b", "c", "d"], ONE);
    let tried = thief.serve(TWO);
    thief.nack(&tried[0]);
    for other in [&mut b, &mut c, &mut d] {
        let sent = other.serve(TWO);
        assert_eq!(other.settle(sent), SENT_TWO);
        assert!(other.session.idle() && other.session.rejections() == Rejections::default());
    }
    assert_eq!(fleet.join(of("new"), TWO).1.len(), 1);
}

#[test]
fn what_two_accounts_refuse_is_withheld_from_all_and_nobody_gets_what_those_keep() {
    let fleet = Fleet::new();
    let [mut a, mut b, mut c] = fleet.settled(["a", "b", "c"], ONE);
    for one in [&mut a, &mut b] {
        let tried = one.serve(TWO);
        one.nack(&tried[0]);
    }
    assert!(c.serve(TWO).is_empty());
    assert!(c.session.idle() && !c.session.in_sync());
    assert_eq!(c.session.rejections().withheld, 1);
    assert_eq!(c.session.held()[0], 1, "it keeps what it holds");
    // One that comes and holds nothing: of an account that has a last good one, and of one that has not.
    assert_eq!(shown(&fleet.join(of("c"), TWO).1), SENT_ONE);
    assert_eq!(shown(&fleet.join(of("new"), TWO).1), ["Cluster"]);
}

#[test]
fn one_that_lies_with_its_acks_makes_nothing_good_for_others() {
    let fleet = Fleet::new();
    let [mut liar, mut liar_too, mut b, mut c, mut d] = fleet.settled(["liar", "liar", "b", "c", "d"], ONE);
    let tried = liar.serve(TWO);
    liar.ack(&tried[0]);
    let tried = liar_too.serve(TWO);
    liar_too.ack(&tried[0]);
    // It is broken: two honest ones find out, and nobody else gets it.
    let tried = b.serve(TWO);
    assert_eq!(shown(&tried), SENT_TWO);
    assert!(c.serve(TWO).is_empty() && d.serve(TWO).is_empty(), "it does not fan out on one account's word");
    b.nack(&tried[0]);
    let tried = c.session.on_answer();
    assert_eq!(shown(&tried), SENT_TWO);
    c.nack(&tried[0]);
    assert!(d.session.on_answer().is_empty());
    assert_eq!(d.session.rejections().withheld, 1);
}

#[test]
fn invented_versions_make_nothing_good_for_others() {
    let fleet = Fleet::new();
    let [mut b, mut c, mut d] = fleet.settled(["b", "c", "d"], ONE);
    for account in ["liar", "liar-too"] {
        let mut liar = fleet.stream(of(account), TWO);
        liar.ask(&holding(Cluster, &["*"], &[(STORE, "2")]));
        assert_eq!(liar.session.held()[0], 1, "it is believed as far as it is concerned");
    }
    let tried = [b.serve(TWO), c.serve(TWO)];
    assert!(tried.iter().all(|sent| shown(sent) == SENT_TWO));
    assert!(d.serve(TWO).is_empty());
    b.nack(&tried[0][0]);
    c.nack(&tried[1][0]);
    assert!(d.session.on_answer().is_empty());
}

#[test]
fn a_silent_canary_delays_others_for_no_longer_than_the_patience() {
    let fleet = Fleet::new();
    let [mut silent, mut b, mut c, mut d, mut e] = fleet.settled(["silent", "b", "c", "d", "e"], ONE);
    silent.serve(TWO);
    let tried = b.serve(TWO);
    b.ack(&tried[0]);
    assert!(c.serve(TWO).is_empty() && d.serve(TWO).is_empty());
    fleet.pass(PATIENCE);
    let sent = c.session.on_answer();
    assert_eq!(shown(&sent), SENT_TWO);
    c.ack(&sent[0]);
    for other in [&mut d, &mut e] {
        let sent = if other.session.gated() { other.session.on_answer() } else { other.serve(TWO) };
        assert_eq!(shown(&sent), SENT_TWO);
    }
}

#[test]
fn one_that_was_silent_is_not_waited_for_again() {
    let fleet = Fleet::new();
    let [mut silent, mut b, mut c] = fleet.settled(["silent", "b", "c"], ONE);
    silent.serve(TWO);
    let tried = b.serve(TWO);
    b.ack(&tried[0]);
    assert!(c.serve(TWO).is_empty());
    fleet.pass(PATIENCE);
    let sent = c.session.on_answer();
    c.settle(sent);
    // It answers in the end, and is silent again.
    let [mut again] = fleet.settled(["silent"], TWO);
    let three: Say<'_> = &[(Cluster, STORE, "3")];
    assert_eq!(again.serve(three).len(), 1);
    let tried = b.serve(three);
    assert_eq!(tried.len(), 1);
    let also = c.serve(three);
    assert_eq!(also.len(), 1, "the silent one takes nobody's place");
    b.ack(&tried[0]);
    c.ack(&also[0]);
    let [_d] = fleet.settled(["d"], three);
}

#[test]
fn one_that_comes_back_again_and_again_delays_others_for_no_longer_than_the_patience() {
    let fleet = Fleet::new();
    let [mut b, mut c] = fleet.settled(["b", "c"], ONE);
    let mut now = fleet.join(of("loop"), TWO).0;
    assert_eq!(shown(&b.serve(TWO)), SENT_TWO);
    assert!(c.serve(TWO).is_empty());
    for _ in 0..4 {
        fleet.pass(PATIENCE / 4);
        // The new one is there before the old one is gone.
        let next = fleet.join(of("loop"), TWO).0;
        now = next;
    }
    assert_eq!(shown(&c.session.on_answer()), SENT_TWO);
    drop(now);
}

/// The Envoy version is what a sidecar says of itself.
#[test]
fn invented_envoys_speak_for_nobody_and_are_not_remembered_without_end() {
    let fleet = Fleet::new();
    let [mut b, mut c] = fleet.settled(["b", "c"], ONE);
    for major in 0..100 {
        let envoy = SemanticVersion { major, minor: 0, patch: 0 };
        let (mut liar, tried) = fleet.join(Who { envoy, ..of("liar") }, TWO);
        if let Some(response) = tried.first() {
            liar.nack(response);
        }
    }
    for other in [&mut b, &mut c] {
        let sent = other.serve(TWO);
        assert_eq!(other.settle(sent), SENT_TWO);
    }
    let trial = &b.served.of(Cluster)[STORE].content.trial;
    assert!(trial.envoys() <= 16, "{}", trial.envoys());
}

/// S6 (b): what is withheld from one stream is remembered for that resource alone.
#[test]
fn one_refusal_does_not_end_sharing() {
    let fleet = Fleet::new();
    let names: Vec<String> = (0..50).map(|number| format!("out|shop|s{number}|80")).collect();
    let with = |store: &'static str| {
        let all = names.iter().map(|name| (Cluster, name.as_str(), "1"));
        all.chain([(Cluster, STORE, store)]).collect::<Vec<_>>()
    };
    let [mut one, mut two] = fleet.settled(["a"; 2], &with("1"));
    let tried = one.serve(&with("2"));
    assert!(two.serve(&with("2")).is_empty());
    one.nack(&tried[0]);
    assert!(two.session.on_answer().is_empty());
    for script in [&one, &two] {
        assert_eq!(script.session.own_memory(), 1, "all but one are the audience's");
        assert_eq!(script.session.held()[0], 51);
    }
    let [other] = fleet.settled(["b"], &with("1"));
    assert_eq!(other.session.own_memory(), 0);
}

/// A removal takes something away from whoever could use it: it never waits for what others try.
#[test]
fn what_is_taken_away_does_not_wait_for_canaries() {
    let fleet = Fleet::new();
    let gone = "out|shop|gone|80";
    let before: Say<'_> = &[(Listener, STORE, "1"), (Listener, gone, "1"), (Listener, "egress|443", "1")];
    let mut both = [(); 2].map(|()| {
        let mut script = fleet.stream(of("a"), before);
        let mut responses = script.ask(&request(Cluster, &[]));
        responses.extend(script.ask(&request(Listener, &[])));
        script.settle(responses);
        script
    });
    let [silent, other] = &mut both;
    let after: Say<'_> = &[(Listener, STORE, "2")];
    silent.serve(after);
    let sent = other.serve(after);
    assert_eq!(shown(&sent), ["Listener -egress|443 -out|shop|gone|80"]);
    assert!(other.session.gated());
}
