//! Which pods are called while pods come, go and move under load.
//!
//! ```text
//!  load ──▶ buyer's Envoy ══mTLS══▶ store-0's or store-1's Envoy ──▶ app (counts)
//!               ▲ endpoints, as rendered after each change
//! ```

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use envoys::{Block, Config, Envoy, Identities, VERSIONS, free_port, write_endpoints};
use mesh::{Mesh, Object};
use serde_json::json;
use tempfile::TempDir;

use super::apps::{answer, ask};
use crate::world::*;

pub const STORE: &str = "out|shop|store|80";

/// An application that counts its calls.
fn counting_app() -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let calls = Arc::new(AtomicU32::new(0));
    let counter = calls.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            counter.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || answer(stream));
        }
    });
    (port, calls)
}

fn member(name: &str) -> Object {
    pod(name, "store", "store")
}

/// Pod 10.1.0.n is at the nth address here.
fn place(block: Block) -> impl Fn(SocketAddr) -> SocketAddr {
    move |endpoint| match endpoint.ip() {
        std::net::IpAddr::V4(ip) => block.at(ip.octets()[3], endpoint.port()),
        std::net::IpAddr::V6(_) => panic!("{endpoint}"),
    }
}

/// The mesh, and the buyer's Envoy that follows it.
pub struct Stage {
    version: &'static str,
    block: Block,
    mesh: Mesh,
    identities: Identities,
    folder: TempDir,
    secrets: TempDir,
}

/// A pod of the store that runs.
struct Running {
    calls: Arc<AtomicU32>,
    _envoy: Envoy,
    _secrets: TempDir,
}

impl Running {
    fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Stage {
    pub fn new(version: &'static str) -> (Self, Envoy, u16) {
        let mesh = mesh(vec![
            namespace(NS, "demo"),
            pod("buyer-1", "buyer", "buyer"),
            member("store-0"),
            service("store", "10.0.0.10", json!({"app": "store"}), &[("http", 80, json!(8080))]),
            slice("store", &[("http", 8080)], &[("store-0", "10.1.0.1", true)]),
            policy("HTTPRouteGroup", "all", json!({"matches": [{"name": "all"}]})),
            target("open", "store", &["buyer"], http("all")),
        ]);
        let identities = Identities::new();
        let secrets = identities.issue(NS, "buyer");
        let folder = TempDir::new().unwrap();
        let stage = Self { version, block: Block::reserve(), mesh, identities, folder, secrets };
        let (envoy, port) = stage.buyer();
        (stage, envoy, port)
    }

    /// A sidecar of the buyer, as the mesh is now, and where it listens for calls to the store. It follows the
    /// endpoints.
    pub fn buyer(&self) -> (Envoy, u16) {
        self.publish();
        let snapshot = self.snapshot("buyer-1", self.secrets.path());
        let mut config = Config::of(&snapshot).inlined_at(&snapshot, place(self.block));
        let clusters = Config::of(&snapshot).clusters;
        *config.clusters.iter_mut().find(|one| one.name == STORE).unwrap() =
            clusters.into_iter().find(|one| one.name == STORE).unwrap();
        config.endpoints_from(STORE, self.folder.path());
        let port = free_port();
        config.listen(STORE, &[port]);
        (Envoy::start(self.version, &config, port), port)
    }

    /// Takes an object into the mesh.
    pub fn apply(&mut self, object: Object) {
        self.mesh.apply(object);
        assert_eq!(self.mesh.problems(), vec![]);
    }

    fn snapshot(&self, pod: &str, secrets: &Path) -> mesh::Snapshot {
        let view = mesh::view(&self.mesh, &self.mesh.audience(NS, pod).unwrap());
        mesh::render::render_with(&view, secrets.to_str().unwrap())
    }

    fn publish(&self) {
        write_endpoints(
            &self.snapshot("buyer-1", self.folder.path()),
            STORE,
            self.folder.path(),
            place(self.block),
        );
    }

    /// Endpoints as the API server has them now: pod, last part of its address, ready.
    pub fn endpoints(&mut self, endpoints: &[(&str, u8, bool)]) {
        let all: Vec<_> =
            endpoints.iter().map(|(pod, last, ready)| (*pod, format!("10.1.0.{last}"), *ready)).collect();
        let all: Vec<_> = all.iter().map(|(pod, address, ready)| (*pod, address.as_str(), *ready)).collect();
        for (pod, last, _) in endpoints {
            let mut value = pod_value(pod, "store", "store");
            value["status"]["podIP"] = json!(format!("10.1.0.{last}"));
            self.mesh.apply(pod_of(value));
        }
        self.mesh.apply(slice("store", &[("http", 8080)], &all));
        self.publish();
    }

    fn run(&self, pod: &str, last: u8) -> Running {
        let (app, calls) = counting_app();
        let (envoy, secrets) = self.run_before(pod, last, app);
        Running { calls, _envoy: envoy, _secrets: secrets }
    }

    /// The sidecar of a pod whose application is at a port of this machine.
    pub fn run_before(&self, pod: &str, last: u8, app: u16) -> (Envoy, TempDir) {
        let secrets = self.identities.issue(NS, "store");
        let snapshot = self.snapshot(pod, secrets.path());
        let mut config = Config::of(&snapshot).inlined(&snapshot);
        let at = self.block.at(last, 8080);
        config.place_at(&[("inbound".to_owned(), vec![at])].into());
        config.lead("inbound", app);
        let mut envoy = Envoy::spawn(self.version, &config);
        envoy.until_listening(self.version, at);
        (envoy, secrets)
    }
}

/// Calls without a pause until it is stopped.
struct Load {
    answered: Arc<AtomicU32>,
    failed: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    const CALLERS: u32 = 2;

    fn start(port: u16) -> Self {
        let (answered, failed, stop) =
            (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let one = |_| {
            let (answered, failed, stop) = (answered.clone(), failed.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let status = ask(port, "POST", "/x", &[]).map(|(status, _)| status);
                    if status != Some(200) {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let threads = (0..Self::CALLERS).map(one).collect();
        Self { answered, failed, stop, threads }
    }

    /// Waits for so many more answers.
    fn more(&self, calls: u32) {
        let goal = self.answered.load(Ordering::SeqCst) + calls;
        until("calls are answered", || self.answered.load(Ordering::SeqCst) >= goal);
    }

    fn failed(&self) -> u32 {
        self.failed.load(Ordering::SeqCst)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a pod is called no more, while the others are.
fn until_left_alone(load: &Load, pod: &Running) {
    until("it is called no more", || {
        let before = pod.calls();
        load.more(30);
        pod.calls() == before
    });
}

#[test]
fn no_call_is_lost_when_pods_come_go_and_move() {
    for version in VERSIONS {
        let (mut stage, _buyer, port) = Stage::new(version);
        let first = stage.run("store-0", 1);
        until("the first call is answered", || {
            ask(port, "GET", "/", &[]).is_some_and(|(status, _)| status == 200)
        });
        let load = Load::start(port);
        load.more(50);
        // A second pod comes.
        stage.mesh.apply(member("store-1"));
        let second = stage.run("store-1", 2);
        stage.endpoints(&[("store-0", 1, true), ("store-1", 2, true)]);
        until("the second pod is called", || second.calls() > 10);
        // The first one is told to go: it takes no new calls, then it is gone.
        stage.endpoints(&[("store-0", 1, false), ("store-1", 2, true)]);
        until_left_alone(&load, &first);
        drop(first);
        load.more(50);
        // It is back with another address.
        let moved = stage.run("store-0", 3);
        stage.endpoints(&[("store-0", 3, true), ("store-1", 2, true)]);
        until("it is called where it is now", || moved.calls() > 10);
        assert_eq!(load.failed(), 0, "{version}: of {}", load.answered.load(Ordering::SeqCst));
        // A pod vanishes without a word: only what it was busy with is lost.
        drop(second);
        load.more(100);
        let lost = load.failed();
        assert!(lost <= Load::CALLERS, "{version}: {lost} calls lost");
        stage.endpoints(&[("store-0", 3, true)]);
        load.more(50);
        assert_eq!(load.failed(), lost, "{version}");
    }
}

#[test]
fn scaled_to_zero_and_back() {
    for version in VERSIONS {
        let (mut stage, _buyer, port) = Stage::new(version);
        let _first = stage.run("store-0", 1);
        let status = || ask(port, "GET", "/", &[]).map(|(status, _)| status);
        until("it answers", || status() == Some(200));
        stage.endpoints(&[]);
        until("nobody is left", || status() == Some(503));
        let _second = stage.run("store-0", 2);
        stage.endpoints(&[("store-0", 2, true)]);
        until("it is back", || status() == Some(200));
        for _ in 0..20 {
            assert_eq!(status(), Some(200), "{version}");
        }
    }
}
