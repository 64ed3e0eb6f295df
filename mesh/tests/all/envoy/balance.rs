//! Which pod answers: the balancers that an UpstreamTrafficSetting chooses, and pods that fail.
//!
//! ```text
//!  ask ──▶ buyer's Envoy ══mTLS══▶ Envoy of store-0, store-1 or store-2 ──▶ its application, which says its name
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use envoys::{Envoy, VERSIONS};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::apps::{ask, connect, read_line};
use super::endpoints::{STORE, Stage, until};
use crate::world::*;

const PODS: [&str; 3] = ["store-0", "store-1", "store-2"];

/// An application that says its name. It fails while it is ill, and answers `/hold` never while it is slow.
#[derive(Clone, Default)]
struct App {
    name: String,
    asked: Arc<AtomicU32>,
    held: Arc<AtomicU32>,
    ill: Arc<AtomicBool>,
    slow: Arc<AtomicBool>,
}

impl App {
    /// Starts it; returns its port.
    fn start(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let app = app.clone();
                std::thread::spawn(move || app.serve(stream));
            }
        });
        port
    }

    /// One request: Envoy opens another connection when this one ends.
    fn serve(&self, mut stream: TcpStream) {
        let first = read_line(&mut stream);
        if first.is_empty() {
            return;
        }
        while !read_line(&mut stream).is_empty() {}
        self.asked.fetch_add(1, Ordering::SeqCst);
        if first.contains("/hold") && self.slow.load(Ordering::SeqCst) {
            self.held.fetch_add(1, Ordering::SeqCst);
            while matches!(stream.read(&mut [0; 64]), Ok(read) if read > 0) {}
            return;
        }
        let status = if self.ill.load(Ordering::SeqCst) { "500 Ill" } else { "200 OK" };
        let name = &self.name;
        let text =
            format!("HTTP/1.1 {status}\r\nx-pod: {name}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(text.as_bytes());
    }
}

/// A store of three pods, and no caller yet.
struct Store {
    stage: Stage,
    apps: Vec<App>,
    _envoys: Vec<(Envoy, TempDir)>,
}

fn all_ready() -> Vec<(&'static str, u8, bool)> {
    PODS.into_iter().zip(1..).map(|(pod, last)| (pod, last, true)).collect()
}

impl Store {
    fn new(version: &'static str) -> Self {
        let (mut stage, first, _) = Stage::new(version);
        drop(first);
        stage.endpoints(&all_ready());
        let apps: Vec<_> = PODS.map(|name| App { name: name.to_owned(), ..App::default() }).into();
        let run = |(app, last): (&App, u8)| stage.run_before(&app.name, last, app.start());
        let envoys = apps.iter().zip(1..).map(run).collect();
        Self { stage, apps, _envoys: envoys }
    }

    /// A caller for which the store's setting says this.
    fn caller(&mut self, more: Value) -> Caller {
        let mut spec = json!({"host": "store"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.stage.apply(policy("UpstreamTrafficSetting", "store", spec));
        let (envoy, port) = self.stage.buyer();
        let caller = Caller { port, envoy };
        until("every pod answers", || caller.called(12, |_| Vec::new()).len() == 3);
        caller
    }
}

struct Caller {
    port: u16,
    envoy: Envoy,
}

impl Caller {
    /// Who answered, with what.
    fn ask(&self, headers: Headers<'_>) -> (String, u16, String) {
        let (status, head) = ask(self.port, "GET", "/", headers).unwrap();
        let pod = head.lines().find_map(|line| line.strip_prefix("x-pod: "));
        (pod.unwrap_or_else(|| panic!("nobody: {head}")).to_owned(), status, head.clone())
    }

    /// How many of so many calls each pod got.
    fn called(
        &self,
        calls: usize,
        headers: impl Fn(usize) -> Vec<(&'static str, String)>,
    ) -> BTreeMap<String, usize> {
        let mut called = BTreeMap::new();
        for call in 0..calls {
            let headers = headers(call);
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            *called.entry(self.ask(&headers).0).or_default() += 1;
        }
        called
    }

    /// Who answers each of some users.
    fn of_users(&self, users: u32) -> Vec<String> {
        (0..users).map(|user| self.ask(&[("x-user", &user.to_string())]).0).collect()
    }
}

fn balance(policy: &str) -> Value {
    json!({"loadBalancing": {"policy": policy}})
}

#[test]
fn calls_are_spread_as_the_setting_says() {
    for version in VERSIONS {
        let mut store = Store::new(version);
        let robin = store.caller(balance("RoundRobin"));
        let counts: BTreeSet<_> = robin.called(30, |_| Vec::new()).into_values().collect();
        assert_eq!(counts, BTreeSet::from([10]), "{version}: to each in turn");
        let random = store.caller(balance("Random"));
        let order: Vec<_> = (0..60).map(|_| random.ask(&[]).0).collect();
        assert!(order.windows(2).any(|two| two[0] == two[1]), "{version}: {order:?}");
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 3, "{version}: {order:?}");
    }
}

/// Of two pods taken at random the less busy one is called, so the one that is busy gets a ninth instead of a third.
#[test]
fn the_least_busy_is_called() {
    for version in VERSIONS {
        let mut store = Store::new(version);
        // Without a setting too: it is what we choose.
        for setting in [balance("LeastRequest"), json!({})] {
            let caller = store.caller(setting);
            let busy = &store.apps[0];
            busy.slow.store(true, Ordering::SeqCst);
            let already = busy.held.load(Ordering::SeqCst);
            let mut held = Vec::new();
            until("the slow one is busy", || {
                let mut stream = connect(("127.0.0.1", caller.port));
                stream.write_all(b"GET /hold HTTP/1.1\r\nhost: store\r\n\r\n").unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                if stream.read(&mut [0]).is_err() {
                    held.push(stream);
                }
                busy.held.load(Ordering::SeqCst) > already
            });
            let called = caller.called(300, |_| Vec::new());
            assert!(called["store-0"] < 65, "{version}: {called:?}");
            assert!(called["store-1"] > 65 && called["store-2"] > 65, "{version}: {called:?}");
            busy.slow.store(false, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_hashed_header_or_cookie_leads_to_the_same_pod() {
    for version in VERSIONS {
        let mut store = Store::new(version);
        let hashed = json!({"loadBalancing": {"policy": "ConsistentHash", "hashHeader": "X-User"}});
        let caller = store.caller(hashed);
        let homes = caller.of_users(30);
        assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 3, "{version}: {homes:?}");
        for _ in 0..3 {
            assert_eq!(caller.of_users(30), homes, "{version}: everybody stays");
        }
        // A pod goes: its users move, and stay where they are then.
        let ready = all_ready().into_iter().map(|(pod, last, _)| (pod, last, last != 3));
        store.stage.endpoints(&ready.collect::<Vec<_>>());
        let mut moved = Vec::new();
        until("its users move", || {
            moved = caller.of_users(30);
            moved.iter().all(|pod| pod != "store-2")
        });
        assert_eq!(caller.of_users(30), moved, "{version}: everybody stays");
        store.stage.endpoints(&all_ready());

        let cookie = json!({"loadBalancing": {"policy": "ConsistentHash", "hashCookie": "session"}});
        let caller = store.caller(cookie);
        let (home, _, head) = caller.ask(&[]);
        let given = head.lines().find_map(|line| line.strip_prefix("set-cookie: session="));
        let given = given.unwrap_or_else(|| panic!("{version}: no session: {head}"));
        let value = given.split(';').next().unwrap().trim_matches('"');
        let cookie = format!("session={value}");
        for _ in 0..20 {
            assert_eq!(caller.ask(&[("cookie", &cookie)]).0, home, "{version}");
        }
    }
}

#[test]
fn a_pod_that_fails_is_left_out_and_comes_back() {
    for version in VERSIONS {
        let mut store = Store::new(version);
        let caller = store.caller(json!({
            "loadBalancing": {"policy": "RoundRobin"},
            "outlierDetection": {"consecutiveErrors": 3, "interval": "200ms", "baseEjectionTime": "5s"},
        }));
        let sick = &store.apps[1];
        sick.ill.store(true, Ordering::SeqCst);
        let mut failed = 0;
        until("it is left out", || {
            let before = sick.asked.load(Ordering::SeqCst);
            failed += (0..12).filter(|_| caller.ask(&[]).1 == 500).count();
            sick.asked.load(Ordering::SeqCst) == before
        });
        assert!(failed >= 3, "{version}: {failed} calls told that it is ill");
        let enforced = format!("cluster.{STORE}.outlier_detection.ejections_enforced_consecutive_5xx");
        assert!(caller.envoy.stat(&enforced) >= 1, "{version}");
        sick.ill.store(false, Ordering::SeqCst);
        let before = sick.asked.load(Ordering::SeqCst);
        until("it is back", || {
            caller.ask(&[]);
            sick.asked.load(Ordering::SeqCst) > before
        });
        for _ in 0..12 {
            assert_eq!(caller.ask(&[]).1, 200, "{version}");
        }
    }
}
