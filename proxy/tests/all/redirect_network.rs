//! The redirect in real networks, with the real iptables and a real Envoy.
//!
//! ```text
//!  network "outside" 10.9.0.1, fd09::1 ──veth── this network, the pod: 10.9.0.2, fd09::2
//! ```

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use proxy::constants::PROXY_GID;
use serde_json::{Value, json};

use crate::support::{
    ENVOYS, Network, PROGRAM, Running, Seen, USER, envoy, isolated, look, mirror, shell, until,
};

pub const POD: &str = "10.9.0.2";
pub const OUTSIDE: &str = "10.9.0.1";
const POD_V6: &str = "fd09::2";
/// Address of a service whose only endpoint is the pod itself.
const OWN_SERVICE: &str = "10.96.0.10";

pub fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), port)
}

pub fn pod_and_outside() -> Network {
    let outside = Network::new();
    shell(&format!("ip link add eth0 type veth peer name veth0 netns {}", outside.pid()));
    shell("ip addr add 10.9.0.2/24 dev eth0; ip addr add fd09::2/64 dev eth0 nodad; ip link set eth0 up");
    outside.shell(
        "ip addr add 10.9.0.1/24 dev veth0; ip addr add fd09::1/64 dev veth0 nodad; ip link set veth0 up",
    );
    shell("ip route add default via 10.9.0.1");
    outside
}

/// Redirects as an injector does that says which user the sidecar has.
pub fn init() {
    init_with(&[("MESHWRIGHT_PROXY_USER", &USER.to_string())]);
}

fn init_with(variables: &[(&str, &str)]) {
    let output = Command::new(PROGRAM)
        .envs(variables.iter().copied())
        .args(["init", "--exclude-outbound-ports", "9001,9002", "--exclude-outbound-cidrs", "10.20.0.0/16"])
        .args(["--exclude-inbound-ports", "9090"])
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Envoy as the mesh configures it in essence: inbound delivers with the source address that the redirect knows.
fn configuration() -> Value {
    let sources = json!({
        "source_address": { "address": "127.0.0.6", "port_value": 0 },
        "extra_source_addresses": [{ "address": { "address": "::1", "port_value": 0 } }],
    });
    json!({ "static_resources": {
        "listeners": [
            listener("inbound", 15003, "inbound", true),
            listener("outbound", 15001, "passthrough", false),
        ],
        "clusters": [
            { "name": "inbound", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "upstream_bind_config": sources },
            { "name": "passthrough", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED" },
            { "name": "own", "type": "STATIC", "load_assignment": { "cluster_name": "own", "endpoints": [{
                "lb_endpoints": [{ "endpoint": { "address": { "socket_address": { "address": POD, "port_value": 8080 } } } }],
            }] } },
        ],
    } })
}

fn listener(name: &str, port: u16, cluster: &str, v6: bool) -> Value {
    let any = |address| json!({ "socket_address": { "address": address, "port_value": port } });
    let extra = if v6 {
        json!([{ "address": { "socket_address": { "address": "::", "port_value": port } } }])
    } else {
        json!([])
    };
    json!({
        "name": name,
        "address": any("0.0.0.0"),
        "additional_addresses": extra,
        "listener_filters": [{ "name": "envoy.filters.listener.original_dst", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst" } }],
        "filter_chains": [
            chain(name, "own", &json!({ "prefix_ranges": [{ "address_prefix": OWN_SERVICE, "prefix_len": 32 }] })),
            chain(name, cluster, &json!({})),
        ],
    })
}

fn chain(hop: &str, cluster: &str, matches: &Value) -> Value {
    json!({ "filter_chain_match": matches, "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": hop,
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [{
                "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "5s" },
                "request_headers_to_add": [{ "header": { "key": "x-hop", "value": hop }, "append_action": "APPEND_IF_EXISTS_OR_ADD" }],
            }] }] },
            "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }],
        },
    }] })
}

/// Starts Envoy with the user id of the sidecar, which can't look into root's home: hence the bind mount.
pub fn envoy_for_sidecar(version: &str, directory: &Path) -> PathBuf {
    shell(&format!("chmod 755 {}", directory.display()));
    let program = directory.join("envoy");
    std::fs::write(&program, "").expect("a mount point");
    shell(&format!("mount --bind {} {}", envoy(version).display(), program.display()));
    program
}

fn start_envoy(version: &str, directory: &Path) -> Running {
    let program = envoy_for_sidecar(version, directory);
    let path = directory.join("envoy.json");
    std::fs::write(&path, configuration().to_string()).expect("a file");
    let child = Command::new(program)
        .args(["-c".as_ref(), path.as_os_str()])
        .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"])
        .uid(USER)
        .gid(PROXY_GID)
        .stdin(Stdio::null())
        .spawn()
        .expect("Envoy starts");
    let running = Running(child);
    // Not by connecting: a connection without an original destination would confuse the inbound cluster.
    until("Envoy listens", || shell("ss -Htln").contains(":15003").then_some(()));
    running
}

fn seen(peer: &str, hops: &[&str]) -> Seen {
    Seen { peer: peer.parse().expect("an address"), hops: hops.iter().map(|hop| (*hop).to_owned()).collect() }
}

#[test]
fn traffic_goes_through_envoy_exactly_once_each_way() {
    isolated("redirect_network::traffic_goes_through_envoy_exactly_once_each_way", || {
        for version in ENVOYS {
            let directory = tempfile::tempdir().unwrap();
            let outside = pod_and_outside();
            init();
            let envoy = start_envoy(version, directory.path());
            serve(&outside);
            check_inbound(&outside);
            check_outbound();
            check_datagrams(&outside);
            drop(envoy);
            shell(&format!("umount {}/envoy; ip link del eth0", directory.path().display()));
        }
    });
}

fn serve(outside: &Network) {
    for ip in ["0.0.0.0", "::1", POD_V6] {
        for port in [8080, 9090] {
            // Already there in the second round.
            if let Ok(listener) = TcpListener::bind(address(ip, port)) {
                mirror(listener);
            }
        }
    }
    outside.inside(|| {
        for port in [80, 9001, 9002] {
            mirror(TcpListener::bind(address(OUTSIDE, port)).expect("a free port"));
        }
    });
}

fn check_inbound(outside: &Network) {
    let from_outside = |ip, port| outside.inside(move || look(address(ip, port)));
    assert_eq!(from_outside(POD, 8080).unwrap(), seen("127.0.0.6", &["inbound"]));
    assert_eq!(from_outside(POD, 9090).unwrap(), seen(OUTSIDE, &[]), "an excluded inbound port");
    assert_eq!(from_outside(POD_V6, 8080).unwrap(), seen("::1", &["inbound"]));
    assert_eq!(from_outside(POD_V6, 9090).unwrap(), seen("fd09::1", &[]));
    let own = [15020, 15090].map(|port| from_outside(POD, port).expect_err("nobody listens there").kind());
    assert_eq!(own, [std::io::ErrorKind::ConnectionRefused; 2], "our own ports are not redirected");
}

fn check_outbound() {
    assert_eq!(look(address(OUTSIDE, 80)).unwrap(), seen(POD, &["outbound"]));
    for port in [9001, 9002] {
        assert_eq!(look(address(OUTSIDE, port)).unwrap(), seen(POD, &[]), "an excluded outbound port");
    }
    assert_eq!(look(address("127.0.0.1", 8080)).unwrap(), seen("127.0.0.1", &[]), "loopback");
    assert_eq!(look(address(POD, 8080)).unwrap(), seen(POD, &[]), "another container of the pod");
    assert_eq!(seen_from(USER, PROXY_GID), format!("{POD} "), "the sidecar");
    // An image can say `USER 25000:1337`, and nobody outside of it sees that.
    let others = [(25_000, PROXY_GID), (PROXY_GID, PROXY_GID), (USER, 1)];
    for (user, group) in others {
        assert_eq!(seen_from(user, group), format!("{POD} outbound"), "user {user} of group {group}");
    }
    // The call to oneself leaves through the sidecar and comes back in through it, like a call to any other pod.
    assert_eq!(look(address(OWN_SERVICE, 80)).unwrap(), seen("127.0.0.6", &["outbound", "inbound"]));
}

/// What a server outside sees of a call by this user.
fn seen_from(user: u32, group: u32) -> String {
    let call = format!(
        "exec 3<>/dev/tcp/{OUTSIDE}/80; printf 'GET / HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\n\\r\\n' >&3; cat <&3"
    );
    let output = Command::new("bash").args(["-c", &call]).uid(user).gid(group).output().expect("bash starts");
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or(answer)
}

/// UDP is left alone, also on the ports whose TCP goes through Envoy: who receives sees who sent.
fn check_datagrams(outside: &Network) {
    for (pod, there) in [(POD, OUTSIDE), (POD_V6, "fd09::1")] {
        let inside = datagrams(pod, 8080);
        let beyond = outside.inside(move || datagrams(there, 80));
        for (from, to) in [(&inside, &beyond), (&beyond, &inside)] {
            from.send_to(b"datagram", to.local_addr().unwrap()).expect("sent");
            let mut buffer = [0; 16];
            let (length, sender) = to.recv_from(&mut buffer).expect("it arrives");
            assert_eq!((&buffer[..length], sender), (&b"datagram"[..], from.local_addr().unwrap()));
        }
    }
}

fn datagrams(ip: &str, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(address(ip, port)).expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    socket
}

/// The injector of the release before this one says nothing about the user; this one says it in a way that an init
/// container of that release does not read.
#[test]
fn with_an_injector_of_the_release_before_the_sidecar_still_reaches_the_network() {
    isolated(
        "redirect_network::with_an_injector_of_the_release_before_the_sidecar_still_reaches_the_network",
        || {
            let directory = tempfile::tempdir().unwrap();
            let outside = pod_and_outside();
            init_with(&[]);
            let _envoy = start_envoy(ENVOYS[1], directory.path());
            serve(&outside);
            assert_eq!(seen_from(25_000, PROXY_GID), format!("{POD} "), "whichever user its sidecar has");
            assert_eq!(seen_from(25_000, 1), format!("{POD} outbound"));
            // As after a restart of the pod's sandbox with the newer injector's pod.
            init();
            assert_eq!(seen_from(25_000, PROXY_GID), format!("{POD} outbound"));
            assert_eq!(seen_from(USER, PROXY_GID), format!("{POD} "));
        },
    );
}

#[test]
fn running_init_again_changes_nothing() {
    isolated("redirect_network::running_init_again_changes_nothing", || {
        let _outside = pod_and_outside();
        let rules = || {
            let mut text = String::new();
            for program in ["iptables-save -t nat", "ip6tables-save -t nat"] {
                let saved = shell(program);
                saved
                    .lines()
                    .filter(|line| line.starts_with("-A"))
                    .for_each(|line| writeln!(text, "{line}").unwrap());
            }
            text
        };
        shell("iptables -t nat -A OUTPUT -p tcp -d 192.0.2.1 -j ACCEPT");
        init();
        let first = rules();
        init();
        assert_eq!(rules(), first);
        assert!(first.contains("-d 192.0.2.1/32 -p tcp -j ACCEPT"), "rules of others stay: {first}");
        assert_eq!(first.matches("-A PREROUTING").count(), 2, "one jump for each family: {first}");
    });
}

#[test]
fn without_the_capability_the_error_says_so() {
    isolated("redirect_network::without_the_capability_the_error_says_so", || {
        let output = Command::new("setpriv")
            .args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", PROGRAM, "init"])
            .output()
            .expect("setpriv (util-linux) can be started");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(printed.contains("NET_ADMIN"), "{printed}");
    });
}

#[test]
fn net_admin_and_net_raw_are_enough() {
    isolated("redirect_network::net_admin_and_net_raw_are_enough", || {
        let _outside = pod_and_outside();
        // The whole file system read-only, as in the pod. The program may lie on a file system of its own.
        shell("mount --bind / /mnt && mount -o remount,bind,ro /mnt && mount --rbind /proc /mnt/proc");
        shell(&format!(
            "mount -t tmpfs tmpfs /mnt/mnt && touch /mnt/mnt/program && mount --bind {PROGRAM} /mnt/mnt/program \
             && mount -o remount,ro /mnt/mnt"
        ));
        let few = "setpriv --no-new-privs --bounding-set -all,+net_admin,+net_raw --inh-caps -all";
        shell(&format!("chroot /mnt {few} /mnt/program init"));
        assert!(shell("iptables-save -t nat").contains("-A OUTPUT -p tcp -j MESHWRIGHT_OUTBOUND"));
    });
}

#[test]
fn exclusions_that_are_none_are_refused() {
    for wrong in [
        ["--exclude-outbound-ports", "70000"],
        ["--exclude-outbound-cidrs", "10.0.0.0/33; rm"],
        ["--proxy-user", "0"],
        ["--proxy-user", "root"],
    ] {
        let output = Command::new(PROGRAM).arg("init").args(wrong).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
