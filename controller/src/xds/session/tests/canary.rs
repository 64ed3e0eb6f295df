//! Several streams of one replica: two service accounts try how a service is called, the others wait.

use super::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Streams that share what a replica shares.
pub(super) struct Fleet {
    canaries: Arc<Canaries>,
    pool: Arc<parking_lot::Mutex<Pool>>,
    /// Milliseconds since the start.
    time: Arc<AtomicU64>,
}

pub(super) const PATIENCE: Duration = Duration::from_millis(200);
pub(super) const STORE: &str = "out|shop|store|80";
pub(super) const ONE: Say<'static> = &[(Cluster, STORE, "1")];
pub(super) const TWO: Say<'static> = &[(Cluster, STORE, "2")];
pub(super) const SENT_ONE: [&str; 1] = ["Cluster +out|shop|store|80=1"];
pub(super) const SENT_TWO: [&str; 1] = ["Cluster +out|shop|store|80=2"];

/// A sidecar of a service account.
pub(super) fn of(account: &'static str) -> Who<'static> {
    Who { account, proxy: account, ..POD }
}

impl Fleet {
    pub(super) fn new() -> Self {
        let (time, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let now = time.clone();
        let clock = Box::new(move || start + Duration::from_millis(now.load(Ordering::Relaxed)));
        Self { canaries: Arc::new(Canaries::with_clock(PATIENCE, clock)), pool: Arc::default(), time }
    }

    /// Time goes by.
    pub(super) fn pass(&self, time: Duration) {
        self.time.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(super) fn stream(&self, who: Who<'_>, resources: Say<'_>) -> Script {
        Script::with(&self.canaries, who, &self.pool, resources)
    }

    /// A stream that asks for all clusters, and what it gets.
    pub(super) fn join(&self, who: Who<'_>, resources: Say<'_>) -> (Script, Vec<DeltaResponse>) {
        let mut script = self.stream(who, resources);
        let responses = script.ask(&request(Cluster, &[]));
        (script, responses)
    }

    /// Streams that hold everything.
    pub(super) fn settled<const N: usize>(
        &self,
        accounts: [&'static str; N],
        resources: Say<'_>,
    ) -> [Script; N] {
        accounts.map(|account| {
            let (mut script, responses) = self.join(of(account), resources);
            script.settle(responses);
            script
        })
    }
}

#[test]
fn two_accounts_try_and_the_others_get_it_when_those_have_taken_it() {
    let fleet = Fleet::new();
    let [mut a, mut b, mut c, mut d] = fleet.settled(["a", "b", "c", "d"], ONE);
    let tried = [a.serve(TWO), b.serve(TWO)];
    assert!(tried.iter().all(|sent| shown(sent) == SENT_TWO));
    assert!(c.serve(TWO).is_empty() && d.serve(TWO).is_empty());
    assert!(c.session.gated() && !c.session.idle());
    assert!(c.session.on_answer().is_empty(), "asking again changes nothing");
    a.ack(&tried[0][0]);
    assert!(c.session.on_answer().is_empty(), "one alone could lie");
    b.ack(&tried[1][0]);
    for other in [&mut c, &mut d] {
        let sent = other.session.on_answer();
        assert_eq!(shown(&sent), SENT_TWO);
        other.ack(&sent[0]);
        assert!(!other.session.gated());
    }
}

/// A fleet of one service account has nobody else to ask.
#[test]
fn within_one_account_one_tries_and_the_others_get_what_it_took() {
    let fleet = Fleet::new();
    let [mut one, mut two, mut three] = fleet.settled(["a"; 3], ONE);
    let tried = one.serve(TWO);
    assert_eq!(shown(&tried), SENT_TWO);
    assert!(two.serve(TWO).is_empty() && three.serve(TWO).is_empty());
    one.ack(&tried[0]);
    assert_eq!(shown(&two.session.on_answer()), SENT_TWO);
    assert_eq!(shown(&three.session.on_answer()), SENT_TWO);
}

#[test]
fn within_one_account_what_one_refuses_no_other_gets_and_new_ones_get_what_it_keeps() {
    let fleet = Fleet::new();
    let [mut one, mut two] = fleet.settled(["a"; 2], ONE);
    let tried = one.serve(TWO);
    assert!(two.serve(TWO).is_empty());
    one.nack(&tried[0]);
    assert!(two.session.on_answer().is_empty());
    assert!(two.session.idle() && !two.session.gated() && !two.session.in_sync());
    let told = two.session.rejections();
    assert_eq!((told.withheld, told.older_rules), (1, 0));
    assert!(told.first[0].error.starts_with("Envoy says no (refused by a"), "{told:?}");
    let (mut new, sent) = fleet.join(of("a"), TWO);
    assert_eq!(new.settle(sent), SENT_ONE);
    // Something else changes, and then the content itself.
    let sent = two.serve(&[(Cluster, STORE, "2"), (Cluster, "egress|80", "1")]);
    assert_eq!(two.settle(sent), ["Cluster +egress|80=1"]);
    let sent = two.serve(&[(Cluster, STORE, "3"), (Cluster, "egress|80", "1")]);
    assert_eq!(two.settle(sent), ["Cluster +out|shop|store|80=3"]);
    assert_eq!(two.session.rejections(), Rejections::default());
}

#[test]
fn endpoints_and_what_policy_is_enforced_by_are_never_tried() {
    let fleet = Fleet::new();
    let all: Say<'_> = &[
        (Cluster, "egress|example.com|443", "1"),
        (Endpoint, STORE, "1"),
        (Listener, "inbound", "1"),
        (Listener, "outbound", "1"),
        (Listener, "egress|443", "1"),
        (Route, "in|80", "1"),
        (Route, "egress|443", "1"),
    ];
    for _ in 0..3 {
        let mut script = fleet.stream(of("a"), all);
        let mut got = Vec::new();
        for (kind, names) in [
            (Cluster, &[][..]),
            (Endpoint, &[STORE][..]),
            (Listener, &[][..]),
            (Route, &["in|80", "egress|443"][..]),
        ] {
            got.extend(script.ask(&request(kind, names)));
        }
        assert_eq!(got.iter().map(|one| one.resources.len()).sum::<usize>(), all.len());
        assert!(!script.session.gated());
    }
}

#[test]
fn the_bad_one_of_several_is_found_by_the_canary_alone() {
    let fleet = Fleet::new();
    let [mut one, mut two] = fleet.settled(["a"; 2], ONE);
    let next: Say<'_> =
        &[(Cluster, STORE, "1"), (Cluster, "out|shop|bad|80", "1"), (Cluster, "out|shop|good|80", "1")];
    let tried = one.serve(next);
    assert!(two.serve(next).is_empty());
    let apart = one.nack(&tried[0]);
    assert_eq!(shown(&apart), ["Cluster +out|shop|bad|80=1", "Cluster +out|shop|good|80=1"]);
    assert!(two.session.on_answer().is_empty(), "still on trial");
    one.nack(&apart[0]);
    one.ack(&apart[1]);
    assert_eq!(shown(&two.session.on_answer()), ["Cluster +out|shop|good|80=1"]);
}

#[test]
fn a_canary_that_dies_or_says_nothing_is_replaced() {
    let fleet = Fleet::new();
    let [mut one, mut two, mut three] = fleet.settled(["a"; 3], ONE);
    one.serve(TWO);
    assert!(two.serve(TWO).is_empty() && three.serve(TWO).is_empty());
    drop(one);
    assert_eq!(shown(&two.session.on_answer()), SENT_TWO, "the first that asks takes over");
    assert!(three.session.on_answer().is_empty());
    fleet.pass(PATIENCE);
    assert_eq!(shown(&three.session.on_answer()), SENT_TWO, "it was waited for long enough");
}

/// X4: the lists of who is to be woken do not grow with what a stream waits for.
#[test]
fn a_waiting_stream_is_on_few_lists_and_hears_of_all() {
    let fleet = Fleet::new();
    let names: Vec<String> = (0..100).map(|number| format!("out|shop|s{number:03}|80")).collect();
    let all: Vec<_> = names.iter().map(|name| (Cluster, name.as_str(), "1")).collect();
    let (mut one, tried) = fleet.join(of("a"), &all);
    let (mut two, waits) = fleet.join(of("a"), &all);
    assert!(waits.is_empty());
    let lists = two.served.of(Cluster).values().map(|entry| entry.content.trial.waiting()).sum::<usize>();
    assert!((1..=8).contains(&lists), "{lists}");
    one.ack(&tried[0]);
    let sent = two.session.on_answer();
    assert_eq!(sent.iter().map(|one| one.resources.len()).sum::<usize>(), 100);
    let lists = two.served.of(Cluster).values().map(|entry| entry.content.trial.waiting()).sum::<usize>();
    assert_eq!(lists, 0);
}

#[test]
fn the_first_listeners_come_together_even_when_one_is_on_trial() {
    let fleet = Fleet::new();
    let shared = [(Listener, STORE, "1")];
    let both = [(Listener, "inbound", "1"), (Listener, STORE, "1")];
    let mut a = fleet.stream(of("a"), &shared);
    let mut b = fleet.stream(of("a"), &both);
    let tried = a.ask(&request(Listener, &[]));
    assert!(b.ask(&request(Listener, &[])).is_empty());
    a.ack(&tried[0]);
    assert_eq!(shown(&b.session.on_answer()), ["Listener +inbound=1 +out|shop|store|80=1"]);
}

/// One that comes back has workers that listen: what closes something does not wait for what somebody else tries.
#[test]
fn one_that_comes_back_gets_what_closes_something_at_once() {
    let fleet = Fleet::new();
    let mut one = fleet.stream(of("a"), &[(Cluster, STORE, "1")]);
    let tried = one.ask(&request(Cluster, &[]));
    assert_eq!(tried[0].resources.len(), 1, "the cluster is on trial");
    let all: Say<'_> = &[
        (Cluster, STORE, "1"),
        (Listener, STORE, "1 out|shop|store|80"),
        (Listener, "egress|443", "closed"),
        (Listener, "inbound", "1"),
    ];
    let mut back = fleet.stream(of("a"), all);
    assert!(back.ask(&request(Cluster, &[])).is_empty(), "waits for the other");
    let held = holding(Listener, &[], &[("egress|443", "open"), ("inbound", "1")]);
    assert_eq!(shown(&back.ask(&held)), ["Listener +egress|443=closed"]);
    // The same of a listener that is itself on trial.
    let all: Say<'_> = &[(Listener, "out|shop|cart|80", "1"), (Listener, "inbound", "closed")];
    let mut one = fleet.stream(of("b"), all);
    assert_eq!(one.ask(&request(Listener, &[]))[0].resources.len(), 2);
    let mut back = fleet.stream(of("b"), all);
    let held = holding(Listener, &[], &[("inbound", "open")]);
    assert_eq!(shown(&back.ask(&held)), ["Listener +inbound=closed"]);
}

#[test]
fn clusters_of_the_last_good_route_stay_for_the_others_too() {
    let fleet = Fleet::new();
    let before: Say<'_> = &[(Cluster, "out|shop|old|80", "1"), (Route, STORE, "1 out|shop|old|80")];
    let mut both = [(); 2].map(|()| {
        let mut script = fleet.stream(of("a"), before);
        let mut responses = script.ask(&request(Cluster, &[]));
        responses.extend(script.ask(&request(Route, &[STORE])));
        script.settle(responses);
        script
    });
    let after: Say<'_> = &[(Cluster, "out|shop|new|80", "1"), (Route, STORE, "2 out|shop|new|80")];
    let [a, b] = &mut both;
    let tried = a.serve(after);
    assert!(b.serve(after).is_empty());
    let tried = a.ack(&tried[0]);
    a.nack(&tried[0]);
    let sent = b.session.on_answer();
    assert_eq!(b.settle(sent), ["Cluster +out|shop|new|80=1"], "and the old one is not taken away");
}

#[test]
fn clusters_of_the_last_good_route_stay_after_a_reconnect() {
    let fleet = Fleet::new();
    let before: Say<'_> = &[(Cluster, "out|shop|old|80", "1"), (Route, STORE, "1 out|shop|old|80")];
    let mut away = fleet.stream(of("a"), before);
    let mut responses = away.ask(&request(Cluster, &[]));
    responses.extend(away.ask(&request(Route, &[STORE])));
    away.settle(responses);
    let after: Say<'_> = &[(Cluster, "out|shop|new|80", "1"), (Route, STORE, "2 out|shop|new|80")];
    let tried = away.serve(after);
    let tried = away.ack(&tried[0]);
    away.nack(&tried[0]);
    drop(away);
    let mut back = fleet.stream(of("a"), after);
    let clusters = [("out|shop|old|80", "1"), ("out|shop|new|80", "1")];
    assert!(back.ask(&holding(Cluster, &["*"], &clusters)).is_empty());
    assert!(back.ask(&holding(Route, &[STORE], &[(STORE, "1 out|shop|old|80")])).is_empty());
    let sent = back.serve(&[(Cluster, "out|shop|new|80", "1"), (Route, STORE, "3 out|shop|new|80")]);
    assert_eq!(back.settle(sent), ["Route +out|shop|store|80=3 out|shop|new|80", "Cluster -out|shop|old|80"]);
}
