//! Statistics to facts, facts to decisions: readiness, hold and drain.

use std::time::Duration;

use proxy::drain::{Ended, Hold, Idle, drain_limit};
use proxy::readiness::{CertificateFact, EnvoyFact, EnvoyState, NotReady, check};
use proxy::stats::{Inbound, Stats};

const READING: &str = "cluster_manager.cds.update_rejected: 1
cluster_manager.cds.update_success: 3
control_plane.connected_state: 1
http.inbound_8080.downstream_cx_active: 2
http.inbound_8080.downstream_rq_active: 1
http.inbound_8080.downstream_rq_total: 40
http.inbound_9090.downstream_rq_total: 2
http.outbound.downstream_rq_active: 9
listener.0.0.0.0_15003.downstream_cx_active: 5
listener.0.0.0.0_15003.downstream_cx_total: 17
listener.0.0.0.0_15003.worker_0.downstream_cx_active: 5
listener.0.0.0.0_15001.downstream_cx_active: 1
listener.10.96.0.7_15003.downstream_cx_active: 2
listener.10.96.0.7_15090.downstream_cx_active: 4
listener.0.0.0.0_15090.downstream_cx_active: 3
listener.admin.downstream_cx_active: 1
listener_manager.lds.update_success: 2
listener_manager.workers_started: 1
listener_manager.total_listeners_active: 4
listener_manager.total_listeners_warming: 1
cluster_manager.active_clusters: 7
server.hot_restart_epoch: 2
server.uptime: 65
server.version: No recorded values
";

fn serving() -> Stats {
    Stats::parse(READING)
}

fn idle() -> Stats {
    Stats {
        inbound: Inbound { connections: 7, requests: 9, ..Inbound::default() },
        outbound_connections: 0,
        ..serving()
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn statistics_are_read() {
    let expected = Stats {
        clusters_accepted: 3,
        clusters_rejected: 1,
        listeners_accepted: 2,
        listeners_rejected: 0,
        controller_connected: true,
        clusters: 7,
        listeners: 5,
        epoch: Some(2),
        uptime: Some(65),
        workers_started: true,
        inbound: Inbound {
            connections: 17,
            requests: 42,
            open_connections: 5,
            open_http_connections: 2,
            open_requests: 1,
        },
        outbound_connections: 7,
    };
    assert_eq!(serving(), expected);
    assert_eq!(serving().inbound.busy(), 4, "one request and three connections that are not HTTP");
    assert_eq!(Stats::parse("\u{0}: \nlistener.: 1\nx: 99999999999999999999999"), Stats::default());
}

#[test]
fn readiness_names_the_first_thing_missing() {
    let held = CertificateFact::Held { expired: false, last_failure: None };
    let live = |stats: Stats| EnvoyFact::Answers { state: EnvoyState::Live, stats };
    let reason = |certificate: &CertificateFact, envoy| {
        check("c:1", certificate.clone(), envoy)
            .map_err(|reason| serde_json::to_value(reason).unwrap()["reason"].clone())
    };
    assert_eq!(reason(&held, live(serving())), Ok(()));
    let awaited = CertificateFact::Awaited { last_failure: Some("refused".into()) };
    assert_eq!(reason(&awaited, live(serving())), Err("AwaitingCertificate".into()));
    let expired = CertificateFact::Held { expired: true, last_failure: None };
    assert_eq!(reason(&expired, live(serving())), Err("CertificateExpired".into()));
    assert_eq!(reason(&held, EnvoyFact::Unreachable("x".into())), Err("EnvoyUnreachable".into()));
    assert_eq!(reason(&held, live(Stats::default())), Err("AwaitingController".into()));
    let connected = Stats { controller_connected: true, clusters_accepted: 1, ..Stats::default() };
    assert_eq!(
        check("c:1", held.clone(), live(connected)),
        Err(NotReady::AwaitingConfiguration { missing: vec!["listeners"], rejected: 0 })
    );
    let starting = EnvoyFact::Answers { state: EnvoyState::Initializing, stats: serving() };
    assert_eq!(reason(&held, starting), Err("EnvoyNotLive".into()));
    assert_eq!(
        reason(&held, live(Stats { workers_started: false, ..serving() })),
        Err("AwaitingWorkers".into())
    );
}

#[test]
fn a_controller_that_goes_away_later_leaves_the_sidecar_ready() {
    let held = CertificateFact::Held { expired: false, last_failure: Some("no answer".into()) };
    let stats = Stats { controller_connected: false, ..serving() };
    assert_eq!(check("c:1", held, EnvoyFact::Answers { state: EnvoyState::Live, stats }), Ok(()));
}

#[test]
fn a_hold_lasts_three_seconds_even_when_nothing_comes() {
    let mut hold = Hold::new(seconds(30.0));
    assert_eq!(hold.observe(seconds(0.0), Some(idle())), None);
    assert_eq!(hold.observe(seconds(2.9), Some(idle())), None);
    assert_eq!(hold.observe(seconds(3.0), Some(idle())), Some(Ended::Quiet));
}

#[test]
fn a_hold_goes_on_while_new_requests_come() {
    let mut hold = Hold::new(seconds(60.0));
    let mut stats = idle();
    for step in 0..40 {
        stats.inbound.requests += 1;
        assert_eq!(hold.observe(seconds(f64::from(step) / 4.0), Some(stats)), None);
    }
    assert_eq!(hold.observe(seconds(10.25), Some(stats)), None, "quiet for half a second only");
    assert_eq!(hold.observe(seconds(10.75), Some(stats)), Some(Ended::Quiet));
}

#[test]
fn a_hold_ends_at_its_limit() {
    for (grace, limit) in [(30.0, 15.0), (600.0, 20.0), (2.0, 1.0)] {
        let mut hold = Hold::new(seconds(grace));
        let mut stats = idle();
        hold.observe(seconds(0.0), Some(stats));
        stats.inbound.connections += 1;
        assert_eq!(hold.observe(seconds(limit - 0.01), Some(stats)), None);
        stats.inbound.connections += 1;
        assert_eq!(hold.observe(seconds(limit), Some(stats)), Some(Ended::Deadline));
    }
}

#[test]
fn nothing_is_waited_for_where_nothing_was_served() {
    let unconfigured = Stats { listeners_accepted: 0, ..serving() };
    assert_eq!(
        Hold::new(seconds(30.0)).observe(seconds(0.0), Some(unconfigured)),
        Some(Ended::NothingServed)
    );
    let (mut hold, mut wait) = (Hold::new(seconds(30.0)), Idle::new(seconds(30.0)));
    for at in [0.0, 4.9] {
        assert_eq!(hold.observe(seconds(at), None), None, "{at} s: it may only be busy");
        assert_eq!(wait.observe(seconds(at), None), None, "{at} s: it may only be busy");
    }
    assert_eq!(hold.observe(seconds(5.0), None), Some(Ended::NothingServed));
    assert_eq!(wait.observe(seconds(5.0), None), Some(Ended::NothingServed));
}

/// An Envoy that does not answer once, on a busy machine, still has clients.
#[test]
fn a_silent_envoy_is_waited_for() {
    let mut hold = Hold::new(seconds(30.0));
    for (at, reading) in [(0.0, Some(idle())), (2.0, None), (3.5, None), (4.0, Some(idle()))] {
        let ended = hold.observe(seconds(at), reading);
        assert_eq!(ended, None, "{at} s");
    }
    assert_eq!(hold.observe(seconds(4.5), Some(idle())), Some(Ended::Quiet));
}

#[test]
fn a_drain_waits_for_requests_and_for_the_applications_own_calls() {
    let mut wait = Idle::new(seconds(30.0));
    let request = Stats { inbound: Inbound { open_requests: 1, ..idle().inbound }, ..idle() };
    let call = Stats { outbound_connections: 1, ..idle() };
    assert_eq!(wait.observe(seconds(4.0), Some(request)), None);
    assert_eq!(wait.observe(seconds(6.0), Some(idle())), None);
    assert_eq!(wait.observe(seconds(7.5), Some(call)), None, "a new call begins the two seconds anew");
    assert_eq!(wait.observe(seconds(8.0), Some(idle())), None);
    assert_eq!(wait.observe(seconds(9.9), Some(idle())), None);
    assert_eq!(wait.observe(seconds(10.0), Some(idle())), Some(Ended::Idle));
}

#[test]
fn an_idle_keep_alive_connection_into_the_pod_is_no_work() {
    let mut wait = Idle::new(seconds(30.0));
    let kept = Inbound { open_connections: 3, open_http_connections: 3, ..idle().inbound };
    let stats = Stats { inbound: kept, ..idle() };
    assert_eq!(wait.observe(seconds(4.0), Some(stats)), None);
    assert_eq!(wait.observe(seconds(6.0), Some(stats)), Some(Ended::Idle));
}

#[test]
fn a_drain_leaves_five_seconds_of_the_grace_period() {
    let busy = Stats { outbound_connections: 1, ..idle() };
    let mut wait = Idle::new(seconds(30.0));
    assert_eq!(wait.observe(seconds(24.9), Some(busy)), None);
    assert_eq!(wait.observe(seconds(25.0), Some(busy)), Some(Ended::Deadline));
    assert_eq!(drain_limit(seconds(6.0)), seconds(3.0));
    assert_eq!(drain_limit(seconds(0.0)), seconds(0.0));
}
