//! Two slots of one sidecar, with everything real but kubelet: the tests start and stop the slots as it would.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_filter;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use prost::Message;
use proxy::constants::PROXY_GID;
use proxy::swap::Slot;
use proxy::swap::shared::Shared;
use serde_json::Value;

use crate::certificate::Life;
use crate::controller::{Behaviour, Configuration, Controller};
use crate::end_of_a_pod::{any, configuration};
use crate::load::{self, HELD, HOLD, Load, ping};
use crate::redirect_network::{POD, address, envoy_for_sidecar, init, pod_and_outside};
use crate::support::{
    ENVOYS, Network, PROGRAM, Running, USER, ask_admin, get, isolated, shell, until, variables,
};

#[path = "swap/routes.rs"]
mod routes;

const HTTP: u16 = 8080;
const TCP: u16 = 9000;
/// The shortest that there is.
const DRAIN_SECONDS: &str = "11";

/// As for the end of a pod, and with bytes on one port.
fn serving() -> Configuration {
    let mut configuration = configuration();
    let resource: &mut Resource = &mut configuration[1].1[0];
    let inner = resource.resource.as_mut().unwrap();
    let mut inbound = listener::Listener::decode(inner.value.as_slice()).unwrap();
    let proxy = tcp_filter::TcpProxy {
        stat_prefix: "inbound_9000".into(),
        cluster_specifier: Some(tcp_filter::tcp_proxy::ClusterSpecifier::Cluster("inbound".into())),
        ..Default::default()
    };
    inbound.filter_chains.push(listener::FilterChain {
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: Some(envoy_types::pb::google::protobuf::UInt32Value { value: TCP.into() }),
            ..Default::default()
        }),
        filters: vec![listener::Filter {
            name: "envoy.filters.network.tcp_proxy".into(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(any(&proxy))),
        }],
        ..Default::default()
    });
    inner.value = inbound.encode_to_vec();
    configuration
}

/// What every Envoy rejects: a listener without an address.
fn rejected() -> Configuration {
    let mut configuration = serving();
    let inner = configuration[1].1[0].resource.as_mut().unwrap();
    let mut inbound = listener::Listener::decode(inner.value.as_slice()).unwrap();
    inbound.address = Some(core::Address::default());
    inner.value = inbound.encode_to_vec();
    configuration
}

/// A pod with two slots and its directory.
struct Pod {
    directory: tempfile::TempDir,
    controller: Arc<Controller>,
    outside: Arc<Network>,
    shared: Shared,
    slots: [Option<Running>; 2],
    /// The image of each slot is of the release `0.2.<number>`.
    releases: [u32; 2],
}

impl Pod {
    fn start(version: &str) -> Self {
        shell("mount -t tmpfs -o mode=1777 tmpfs /dev/shm");
        let outside = Arc::new(pod_and_outside());
        init();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let controller = Controller::start(Behaviour::Sign(Life::default()), Some(serving()));
        std::fs::write(at("token"), "header.claims.signature").unwrap();
        std::fs::write(at("ca.crt"), controller.authority.root()).unwrap();
        std::fs::create_dir(at("pod")).unwrap();
        std::fs::write(at("pod/live-slot"), "a").unwrap();
        std::fs::write(at("pod/release"), "0.2.0").unwrap();
        for version in ENVOYS {
            std::fs::create_dir(at(version)).unwrap();
            envoy_for_sidecar(version, &at(version));
        }
        let shared = Shared::new(directory.path()).unwrap();
        shell(&format!("cd {}; chmod 777 . pod slots", directory.path().display()));
        load::app(address(POD, HTTP), address(POD, TCP));
        let mut pod = Self { directory, controller, outside, shared, slots: [None, None], releases: [0, 0] };
        pod.start_slot(Slot::A, &pod.envoy(version));
        pod.start_slot(Slot::B, &pod.envoy(version));
        pod.until_ready();
        // Its launcher sees that a moment later, and takes an end before that for a start that failed.
        pod.until_live(Slot::A);
        pod
    }

    fn envoy(&self, version: &str) -> PathBuf {
        self.directory.path().join(version).join("envoy")
    }

    fn start_slot(&mut self, slot: Slot, program: &Path) {
        let at = |name: &str| self.directory.path().join(name);
        let mut variables = variables();
        variables.extend([
            ("MESHWRIGHT_CONTROLLER", format!("localhost:{}", self.controller.port)),
            ("POD_IP", POD.to_owned()),
            ("MESHWRIGHT_SLOT", slot.name().to_owned()),
            ("MESHWRIGHT_VERSION", format!("0.2.{}", self.releases[slot as usize])),
            ("MESHWRIGHT_SWAP_DRAIN_SECONDS", DRAIN_SECONDS.to_owned()),
            ("MESHWRIGHT_CONCURRENCY", "1".to_owned()),
        ]);
        let log =
            std::fs::File::options().create(true).append(true).open(at(&format!("log-{slot}"))).unwrap();
        let child = Command::new(PROGRAM)
            .uid(USER)
            .gid(PROXY_GID)
            .arg("run")
            .args(["--run-dir".as_ref(), self.directory.path().as_os_str()])
            .args(["--token-file".as_ref(), at("token").as_os_str()])
            .args(["--trust-file".as_ref(), at("ca.crt").as_os_str()])
            .args(["--pod-dir".as_ref(), at("pod").as_os_str()])
            .args(["--envoy".as_ref(), program.as_os_str()])
            .envs(variables)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.slots[slot as usize] = Some(Running(child));
    }

    fn process(&mut self, slot: Slot) -> &mut Child {
        &mut self.slots[slot as usize].as_mut().expect("it was started").0
    }

    fn exit_code(&mut self, slot: Slot) -> Option<i32> {
        let log = self.log(slot);
        until(&format!("slot {slot} ends; it logged: {log}"), || self.process(slot).try_wait().unwrap())
            .code()
    }

    fn log(&self, slot: Slot) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("log-{slot}"))).unwrap_or_default()
    }

    /// What a change of the idle slot's image and of the annotation makes kubelet do.
    fn replace(&mut self, slot: Slot, program: &Path) {
        self.releases[slot as usize] = 1 + self.releases[slot.other() as usize];
        self.want(slot);
        // The container with the old image sees this too, and is killed only later: it must not begin.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        assert!(!self.shared.is_attempted() && !self.shared.is_alive(slot), "{}", self.log(slot));
        let pid = self.process(slot).id();
        shell(&format!("kill -TERM {pid}"));
        assert_eq!(self.exit_code(slot), Some(0), "a parked slot ends at once: {}", self.log(slot));
        self.start_slot(slot, program);
    }

    /// What kubelet does with a container that has ended.
    fn restart(&mut self, slot: Slot, program: &Path) {
        self.exit_code(slot);
        self.start_slot(slot, program);
    }

    fn want(&self, slot: Slot) {
        let at = |name: &str| self.directory.path().join("pod").join(name);
        std::fs::write(at("release"), format!("0.2.{}", self.releases[slot as usize])).unwrap();
        std::fs::write(at("live-slot"), slot.name()).unwrap();
    }

    fn is_live(&self, slot: Slot) -> Option<()> {
        self.shared.live().filter(|live| live.slot == slot).map(drop)
    }

    fn until_live(&self, slot: Slot) {
        for _ in 0..2 {
            if try_until(|| self.is_live(slot)).is_some() {
                return;
            }
        }
        panic!("slot {slot} is not live; a: {}\nb: {}", self.log(Slot::A), self.log(Slot::B));
    }

    fn until_ready(&self) {
        let ready = try_until(|| get("/readyz").filter(|(status, _)| *status == 200));
        assert!(ready.is_some(), "{:?}; a: {}\nb: {}", get("/readyz"), self.log(Slot::A), self.log(Slot::B));
    }

    /// Slot a serves, and has its admin interface back. Nobody asks it for readiness meanwhile: it finds out by itself.
    fn until_healed(&self) {
        let healed = try_until(|| self.shared.live().filter(|live| live.slot == Slot::A && live.epoch > 0));
        assert!(healed.is_some(), "a: {}\nb: {}", self.log(Slot::A), self.log(Slot::B));
    }

    fn load(&self) -> Load {
        Load::start(&self.outside, address(POD, HTTP), address(POD, TCP))
    }
}

/// As `until`, but longer and without giving up the test.
fn try_until<T>(mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let began = std::time::Instant::now();
    loop {
        match condition() {
            Some(value) => return Some(value),
            None if began.elapsed().as_secs() >= 90 => return None,
            None => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
}

/// Lets some more of every kind of traffic pass.
fn traffic(load: &Load) {
    let before = load.done();
    until("traffic passes", || (load.done() > before + 200).then_some(()));
}

fn no_failure(load: Load) -> u64 {
    let (done, failures) = load.stop();
    assert_eq!(failures, [""; 0], "of {done}");
    done
}

fn envoy_version(pod: &Pod) -> String {
    let (_, body) = ask_admin(pod.directory.path(), "/server_info").unwrap();
    let info: Value = serde_json::from_str(&body).unwrap();
    info["version"].as_str().unwrap().split('/').nth(1).unwrap().to_owned()
}

#[test]
fn swaps_back_and_forth_lose_nothing() {
    isolated("swap::swaps_back_and_forth_lose_nothing", || {
        // Two for the suite; more by hand.
        let swaps = std::env::var("MESHWRIGHT_SWAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
        let mut pod = Pod::start(ENVOYS[0]);
        let load = pod.load();
        traffic(&load);
        let mut slot = Slot::A;
        for swap in 1..=swaps {
            let (http, tcp) = (address(POD, HTTP), address(POD, TCP));
            let mut long = pod.outside.inside(move || [load::long_tcp(tcp), load::long_upgraded(http)]);
            slot = slot.other();
            let version = ENVOYS[swap % 2];
            pod.replace(slot, &pod.envoy(version));
            pod.until_live(slot);
            assert_eq!(envoy_version(&pod), version);
            assert_eq!(get("/readyz").map(|(status, _)| status), Some(200));
            assert!(pod.shared.is_alive(slot.other()), "the old one drains");
            for stream in &mut long {
                ping(stream).expect("a connection of the old Envoy goes on");
            }
            traffic(&load);
            until("the old one has drained and parks", || (!pod.shared.is_alive(slot.other())).then_some(()));
            assert!(pod.process(slot.other()).try_wait().unwrap().is_none(), "its container did not end");
        }
        println!("{swaps} swaps, {} requests, none failed", no_failure(load));
    });
}

/// Connections that were idle leave the old Envoy too: a stream that begins on one of them just before the old Envoy ends
/// would end with it.
#[test]
fn an_idle_connection_is_not_used_again() {
    isolated("swap::an_idle_connection_is_not_used_again", || {
        let mut pod = Pod::start(ENVOYS[1]);
        let (outside, http) = (Arc::clone(&pod.outside), address(POD, HTTP));
        let (idle, is_idle) = std::sync::mpsc::channel();
        let (go_on, told) = std::sync::mpsc::channel();
        let client = std::thread::spawn(move || {
            outside.inside(move || {
                let client = load::Http2::new(http);
                load::here(async {
                    client.ask("/").await.expect("an answer before the swap");
                    idle.send(()).expect("the test waits");
                    // Not blocking: the connection is to hear what the server says meanwhile.
                    while told.try_recv().is_err() {
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                    client.ask(HELD).await
                })
            })
        });
        is_idle.recv().unwrap();
        let program = pod.envoy(ENVOYS[0]);
        pod.replace(Slot::B, &program);
        pod.until_live(Slot::B);
        let drain: u64 = DRAIN_SECONDS.parse().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(drain) - HOLD / 2);
        go_on.send(()).unwrap();
        let answer = client.join().unwrap();
        until("the old one has drained and parks", || (!pod.shared.is_alive(Slot::A)).then_some(()));
        answer.unwrap();
    });
}

#[test]
fn a_new_envoy_that_ends_at_its_start_changes_nothing() {
    isolated("swap::a_new_envoy_that_ends_at_its_start_changes_nothing", || {
        let mut pod = Pod::start(ENVOYS[0]);
        let load = pod.load();
        let broken = pod.directory.path().join("broken");
        std::fs::write(&broken, "#!/bin/sh\nexit 3\n").unwrap();
        shell(&format!("chmod 755 {}", broken.display()));
        pod.replace(Slot::B, &broken);
        assert_eq!(pod.exit_code(Slot::B), Some(proxy::swap::FAILED));
        let log = pod.log(Slot::B);
        assert!(log.contains("the new Envoy ended with exit code 3 while it was starting"), "{log}");
        pod.restart(Slot::B, &broken);
        traffic(&load);
        assert_eq!(get("/readyz").map(|(status, _)| status), Some(200));
        assert!(pod.process(Slot::B).try_wait().unwrap().is_none(), "it waits before it tries again");
        // The way back is the annotation alone.
        pod.want(Slot::A);
        traffic(&load);
        assert!(pod.is_live(Slot::A).is_some());
        no_failure(load);
    });
}

#[test]
fn a_new_envoy_that_rejects_its_configuration_changes_nothing() {
    isolated("swap::a_new_envoy_that_rejects_its_configuration_changes_nothing", || {
        let mut pod = Pod::start(ENVOYS[0]);
        let load = pod.load();
        pod.controller.configure(rejected());
        let program = pod.envoy(ENVOYS[1]);
        pod.replace(Slot::B, &program);
        assert_eq!(pod.exit_code(Slot::B), Some(proxy::swap::FAILED));
        let log = pod.log(Slot::B);
        assert!(log.contains("rejects its configuration (0 of clusters, 1 of listeners)"), "{log}");
        assert_eq!(get("/readyz").map(|(status, _)| status), Some(200));
        traffic(&load);
        // The old one lost its admin interface by this, and gets it back when the configuration is good again.
        pod.controller.configure(serving());
        pod.until_healed();
        pod.until_ready();
        assert_eq!(envoy_version(&pod), ENVOYS[0]);
        traffic(&load);
        no_failure(load);
    });
}

/// What the live slot says that it holds is what a rotation of the root waits for.
#[test]
fn a_failed_swap_leaves_the_live_slots_certificate_and_upkeep_as_they_were() {
    isolated("swap::a_failed_swap_leaves_the_live_slots_certificate_and_upkeep_as_they_were", || {
        let mut pod = Pod::start(ENVOYS[0]);
        let identity = pod.directory.path().join("sds/identity.json");
        let before = std::fs::read(&identity).unwrap();
        pod.controller.configure(rejected());
        let program = pod.envoy(ENVOYS[1]);
        // The whole attempt comes and goes between two looks of the live slot's launcher, as on a quick machine it may.
        let launcher = pod.process(Slot::A).id();
        shell(&format!("kill -STOP {launcher}"));
        pod.replace(Slot::B, &program);
        assert_eq!(pod.exit_code(Slot::B), Some(proxy::swap::FAILED));
        shell(&format!("kill -CONT {launcher}"));
        assert!(before == std::fs::read(&identity).unwrap(), "the one that failed has left its certificate");
        pod.controller.configure(serving());
        pod.until_healed();
        rotates(&pod);
    });
}

/// A new root is trusted, and signs, when the live slot says so.
fn rotates(pod: &Pod) {
    let (first, second) =
        (Arc::clone(&pod.controller.authority), Arc::new(crate::certificate::Authority::new()));
    for trusted in [[&first, &second], [&second, &first]] {
        pod.controller.order(&trusted);
        let told = try_until(|| {
            let told = pod.controller.told.lock().unwrap();
            let right = |report: &Value| {
                report["issuer"] == trusted[0].name() && report["roots"].as_array().map(Vec::len) == Some(2)
            };
            told.values().any(right).then_some(())
        });
        assert!(told.is_some(), "a rotation waits for the live slot for ever: {}", pod.log(Slot::A));
    }
}

/// As a launcher of 0.2.0 leaves the files when it fails: with a certificate that nobody holds.
#[test]
fn the_live_slot_takes_its_files_back_from_a_launcher_of_the_release_before() {
    isolated("swap::the_live_slot_takes_its_files_back_from_a_launcher_of_the_release_before", || {
        let pod = Pod::start(ENVOYS[1]);
        let path = pod.directory.path().join("sds/identity.json");
        let mut secret: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        secret["version_info"] = "of another slot".into();
        proxy::sds::replace(&path, &secret).unwrap();
        shell(&format!("chown {USER}:{PROXY_GID} {}", path.display()));
        rotates(&pod);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("of another slot"));
    });
}

/// Counters of the old Envoy come into the new one's, so that totals survive.
#[test]
fn what_the_old_envoy_rejected_is_not_the_new_ones_fault() {
    isolated("swap::what_the_old_envoy_rejected_is_not_the_new_ones_fault", || {
        let mut pod = Pod::start(ENVOYS[0]);
        let run = pod.directory.path().to_owned();
        let says = |expected: [&str; 2]| {
            let filter = "/stats?filter=lds.update_rejected%7Crestart_epoch%7Cserver.uptime";
            let (_, body) = ask_admin(&run, filter).ok()?;
            expected.iter().all(|line| body.contains(line)).then_some(body)
        };
        // The new one gets nothing at first, and waits long enough to hear, with a flush of its statistics, of what the old
        // one rejects meanwhile; then it gets what it accepts.
        pod.controller.push(&rejected());
        until("the old Envoy has rejected something", || says(["restart_epoch: 0", "update_rejected: 1"]));
        pod.controller.configure(Vec::new());
        let program = pod.envoy(ENVOYS[1]);
        pod.replace(Slot::B, &program);
        until("the new Envoy has flushed its statistics", || {
            says(["restart_epoch: 1", "server.uptime: "]).filter(|body| !body.contains("server.uptime: 0"))
        });
        pod.controller.push(&serving());
        pod.until_live(Slot::B);
        assert_eq!(envoy_version(&pod), ENVOYS[1]);
    });
}

/// Whatever another container of the pod leaves in /dev/shm: the live slot goes on, the other one says why it cannot take
/// over, and after a crash the sidecar starts anew.
#[test]
fn garbage_in_the_shared_memory_is_named_and_ends_with_the_next_start() {
    isolated("swap::garbage_in_the_shared_memory_is_named_and_ends_with_the_next_start", || {
        let mut pod = Pod::start(ENVOYS[1]);
        shell("for file in /dev/shm/envoy_shared_memory_*; do echo garbage > $file; done");
        let program = pod.envoy(ENVOYS[1]);
        pod.replace(Slot::B, &program);
        assert_eq!(pod.exit_code(Slot::B), Some(proxy::swap::FAILED));
        let log = pod.log(Slot::B);
        assert!(log.contains("is not what an Envoy of the catalogue writes"), "{log}");
        assert_eq!(get("/readyz").map(|(status, _)| status), Some(200), "the live slot goes on");
        pod.want(Slot::A);
        let launcher = pod.process(Slot::A).id();
        shell(&format!("pkill -KILL -P {launcher}"));
        assert_eq!(pod.exit_code(Slot::A), Some(137));
        pod.start_slot(Slot::A, &program);
        pod.until_ready();
        until("slot a is live again", || pod.is_live(Slot::A));
    });
}

#[test]
fn a_new_envoy_that_dies_while_it_waits_changes_nothing() {
    isolated("swap::a_new_envoy_that_dies_while_it_waits_changes_nothing", || {
        let mut pod = Pod::start(ENVOYS[0]);
        let load = pod.load();
        // A controller that was killed after it had signed the certificate: it never sends a configuration.
        pod.controller.configure(Vec::new());
        let program = pod.envoy(ENVOYS[1]);
        pod.replace(Slot::B, &program);
        let launcher = pod.process(Slot::B).id();
        until("the new Envoy has taken the admin interface", || {
            let (_, body) = ask_admin(pod.directory.path(), "/ready").ok()?;
            body.contains("INITIALIZING").then_some(())
        });
        assert_eq!(get("/readyz").map(|(status, _)| status), Some(200), "the old one serves");
        traffic(&load);
        shell(&format!("pkill -KILL -P {launcher}"));
        assert_eq!(pod.exit_code(Slot::B), Some(proxy::swap::FAILED));
        pod.controller.configure(serving());
        pod.until_healed();
        pod.until_ready();
        traffic(&load);
        no_failure(load);
    });
}

#[test]
fn a_live_slot_that_crashes_comes_back_itself() {
    isolated("swap::a_live_slot_that_crashes_comes_back_itself", || {
        let mut pod = Pod::start(ENVOYS[1]);
        let launcher = pod.process(Slot::A).id();
        shell(&format!("pkill -KILL -P {launcher}"));
        let program = pod.envoy(ENVOYS[1]);
        assert_eq!(pod.exit_code(Slot::A), Some(137));
        pod.start_slot(Slot::A, &program);
        pod.until_ready();
        // Noted a moment after the new Envoy first answers.
        let again = || pod.shared.live().filter(|live| live.slot == Slot::A && live.epoch == 1);
        until("slot a is noted as live again", again);
        assert!(!pod.shared.is_alive(Slot::B), "the idle one stays idle");
        let load = pod.load();
        traffic(&load);
        no_failure(load);
    });
}

#[test]
fn a_full_shared_memory_is_named() {
    isolated("swap::a_full_shared_memory_is_named", || {
        let mut pod = Pod::start(ENVOYS[1]);
        let load = pod.load();
        shell("mount -o remount,size=1m /dev/shm; cat /dev/zero > /dev/shm/filler 2>/dev/null || true");
        let program = pod.envoy(ENVOYS[1]);
        pod.replace(Slot::B, &program);
        assert_eq!(pod.exit_code(Slot::B), Some(proxy::swap::FAILED));
        let log = pod.log(Slot::B);
        assert!(log.contains("/dev/shm is full"), "{log}");
        traffic(&load);
        no_failure(load);
    });
}

#[test]
fn the_hook_of_a_parked_slot_does_not_drain_the_pod() {
    let directory = tempfile::tempdir().unwrap();
    let shared = Shared::new(directory.path()).unwrap();
    shared.set_live(proxy::swap::shared::Live { slot: Slot::A, epoch: 0, drains_until: 0 }).unwrap();
    let drain = |slot: &str| {
        let output = Command::new(PROGRAM)
            .args(["drain", "--slot", slot, "--run-dir"])
            .arg(directory.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert_eq!(drain("b"), "slot b is parked\n");
    assert!(drain("a").contains("does not answer"), "the live one asks the sidecar, which is not there");
}
