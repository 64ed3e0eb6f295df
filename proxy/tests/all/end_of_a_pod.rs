//! A pod's life with everything real but the controller's decisions: redirect, certificate, configuration over ADS,
//! traffic, and an end in which no request is lost.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http_filter;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_filter;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use envoy_types::pb::google::protobuf::Any;
use prost::Name;
use serde_json::{Value, json};

use crate::certificate::Life;
use crate::controller::{Behaviour, Configuration, Controller};
use crate::redirect_network::{OUTSIDE, POD, address, envoy_for_sidecar, init, pod_and_outside};
use crate::support::{ENVOYS, Network, PROGRAM, Sidecar, ask, get, isolated, read_message, shell, until};

pub fn any<M: Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn resource<M: Name>(name: &str, message: &M) -> Resource {
    Resource { name: name.into(), version: "1".into(), resource: Some(any(message)), ..Resource::default() }
}

fn socket(ip: &str, port: u32) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..core::SocketAddress::default()
        })),
    }
}

pub fn original_dst(name: &str, source: Option<&str>) -> Resource {
    let bind = source.map(|source| core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: source.into(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..core::SocketAddress::default()
        }),
        ..core::BindConfig::default()
    });
    let cluster = cluster::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::OriginalDst.into(),
        )),
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided.into(),
        upstream_bind_config: bind,
        ..cluster::Cluster::default()
    };
    resource(name, &cluster)
}

pub fn listening(
    name: &str,
    port: u32,
    direction: core::TrafficDirection,
    filter_name: &str,
    filter: Any,
) -> Resource {
    let network = listener::Filter {
        name: filter_name.into(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(filter)),
    };
    let original = listener::ListenerFilter {
        name: "envoy.filters.listener.original_dst".into(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(&OriginalDst {}))),
        ..listener::ListenerFilter::default()
    };
    let listener = listener::Listener {
        name: name.into(),
        address: Some(socket("0.0.0.0", port)),
        traffic_direction: direction.into(),
        listener_filters: vec![original],
        filter_chains: vec![listener::FilterChain {
            filters: vec![network],
            ..listener::FilterChain::default()
        }],
        ..listener::Listener::default()
    };
    resource(name, &listener)
}

pub fn http_to_app() -> Any {
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster("inbound".into())),
        ..route::RouteAction::default()
    };
    let everything = route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
        ..route::RouteMatch::default()
    };
    let host = route::VirtualHost {
        name: "app".into(),
        domains: vec!["*".into()],
        routes: vec![route::Route {
            r#match: Some(everything),
            action: Some(route::route::Action::Route(action)),
            ..route::Route::default()
        }],
        ..route::VirtualHost::default()
    };
    let router = http_filter::HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(http_filter::http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..http_filter::HttpFilter::default()
    };
    any(&http_filter::HttpConnectionManager {
        stat_prefix: "inbound_8080".into(),
        route_specifier: Some(http_filter::http_connection_manager::RouteSpecifier::RouteConfig(
            route::RouteConfiguration { virtual_hosts: vec![host], ..route::RouteConfiguration::default() },
        )),
        http_filters: vec![router],
        upgrade_configs: vec![http_filter::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..Default::default()
        }],
        ..http_filter::HttpConnectionManager::default()
    })
}

pub fn configuration() -> Configuration {
    let passthrough = any(&tcp_filter::TcpProxy {
        stat_prefix: "passthrough".into(),
        cluster_specifier: Some(tcp_filter::tcp_proxy::ClusterSpecifier::Cluster("passthrough".into())),
        ..tcp_filter::TcpProxy::default()
    });
    let http = "envoy.filters.network.http_connection_manager";
    vec![
        (
            "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            vec![original_dst("inbound", Some("127.0.0.6")), original_dst("passthrough", None)],
        ),
        (
            "type.googleapis.com/envoy.config.listener.v3.Listener",
            vec![
                listening("inbound", 15003, core::TrafficDirection::Inbound, http, http_to_app()),
                listening(
                    "outbound",
                    15001,
                    core::TrafficDirection::Outbound,
                    "envoy.filters.network.tcp_proxy",
                    passthrough,
                ),
            ],
        ),
    ]
}

/// Answers at once, but `/slow` only when told.
fn app(slow: mpsc::Receiver<()>) {
    let listener = TcpListener::bind((POD, 8080)).expect("a free port");
    let slow = Arc::new(Mutex::new(slow));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let slow = Arc::clone(&slow);
            thread::spawn(move || {
                let (first, _, _) = read_message(&mut BufReader::new(stream.try_clone().expect("a socket")));
                if first.starts_with("GET /slow") {
                    // Nobody tells any more when the test is over; the request is then nobody's either.
                    if slow.lock().is_ok_and(|told| told.recv().is_err()) {
                        return;
                    }
                }
                let peer = stream.peer_addr().expect("connected").ip().to_string();
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{peer}",
                    peer.len()
                );
            });
        }
    });
}

fn stats() -> Value {
    let (_, body) = get("/stats").expect("the sidecar answers");
    serde_json::from_str(&body).expect("JSON")
}

fn verb(name: &str) -> (bool, String) {
    let output = Command::new(PROGRAM).arg(name).output().expect("the program starts");
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

/// A pod that serves; one slow request from outside and one call of the application to outside are under way.
struct Pod {
    outside: Arc<Network>,
    sidecar: Sidecar,
    finish: mpsc::Sender<()>,
    slow: JoinHandle<std::io::Result<(u16, String)>>,
    call: (TcpStream, TcpStream),
}

impl Pod {
    fn start(version: &str) -> Self {
        let outside = Arc::new(pod_and_outside());
        init();
        let directory = tempfile::tempdir().unwrap();
        let program = envoy_for_sidecar(version, directory.path());
        let (finish, told) = mpsc::channel();
        app(told);
        let controller = Controller::start(Behaviour::Sign(Life::default()), Some(configuration()));
        let probes = json!({ "app/liveness": { "scheme": "HTTP", "port": 8080, "path": "/" } }).to_string();
        let change = [("POD_IP", POD), ("MESHWRIGHT_PROBES", &probes)];
        let sidecar = Sidecar::start_as_sidecar(&controller, &program, &change);
        let (fine, printed) = verb("wait");
        assert!(fine, "Envoy {version}: {printed}{}", sidecar.log());

        let listener = outside.inside(|| TcpListener::bind((OUTSIDE, 9100)).unwrap());
        let call_out = TcpStream::connect((OUTSIDE, 9100)).unwrap();
        let (call_in, _) = listener.accept().unwrap();
        let network = Arc::clone(&outside);
        let slow = thread::spawn(move || network.inside(|| ask(address(POD, 8080), "GET", "/slow")));
        until("both are under way", || {
            let stats = &stats()["envoy"]["stats"];
            (stats["inbound"]["openRequests"] == 1 && stats["outboundConnections"] == 1).then_some(())
        });
        Self { outside, sidecar, finish, slow, call: (call_out, call_in) }
    }

    fn ask(&self, path: &'static str) -> (u16, String) {
        self.outside.inside(move || ask(address(POD, 8080), "GET", path)).unwrap()
    }

    /// Lets everything under way come to its end, while the pod ends. `ended` says whether it has already.
    fn finish(self, ended: impl Fn() -> bool) -> Sidecar {
        let (status, body) = get("/hold").unwrap();
        assert_eq!((status, body.trim()), (200, r#"{"ended":"Quiet"}"#));
        assert!(!ended(), "a request and a call are in flight");
        assert_eq!(self.ask("/").0, 200, "not every client has heard yet: new requests are still served");
        self.finish.send(()).unwrap();
        assert_eq!(self.slow.join().unwrap().unwrap().0, 200);
        assert!(!ended(), "the application still calls somebody");
        // The other side closes when it is told so, as servers do.
        drop(self.call);
        self.sidecar
    }
}

#[test]
fn what_is_under_way_ends_before_a_pod_with_pre_stop() {
    isolated("end_of_a_pod::what_is_under_way_ends_before_a_pod_with_pre_stop", || {
        let pod = Pod::start(ENVOYS[0]);
        let drain = thread::spawn(|| verb("drain"));
        let sidecar = pod.finish(|| drain.is_finished());
        let (fine, printed) = drain.join().unwrap();
        assert!(fine, "{printed}");
        assert_eq!(printed.trim(), r#"{"drained":"Idle","held":"Quiet"}"#);
        shell(&format!("kill -TERM {}", sidecar.pid()));
        assert_eq!(sidecar.exit_code(), Some(0));
    });
}

#[test]
fn what_is_under_way_ends_before_a_pod_with_a_signal_only() {
    isolated("end_of_a_pod::what_is_under_way_ends_before_a_pod_with_a_signal_only", || {
        let pod = Pod::start(ENVOYS[1]);
        let process = format!("/proc/{}/stat", pod.sidecar.pid());
        shell(&format!("kill -TERM {}", pod.sidecar.pid()));
        let ended = || std::fs::read_to_string(&process).is_ok_and(|stat| stat.contains(" Z "));
        assert_eq!(pod.finish(ended).exit_code(), Some(0));
    });
}

#[test]
fn a_ready_sidecar_serves() {
    isolated("end_of_a_pod::a_ready_sidecar_serves", || {
        let pod = Pod::start(ENVOYS[1]);
        assert_eq!(get("/readyz").unwrap().0, 200);
        assert_eq!(pod.ask("/"), (200, "127.0.0.6".to_owned()));
        assert_eq!(get("/probe/app/liveness").unwrap(), (200, "127.0.0.6".to_owned()), "past the redirect");
        metrics_and_nothing_else(&pod.outside);
    });
}

fn metrics_and_nothing_else(outside: &Network) {
    let asked = |method: &'static str, port, path: &'static str| {
        outside.inside(move || ask(address(POD, port), method, path)).map(|(status, _)| status)
    };
    assert_eq!(asked("GET", 15090, "/stats/prometheus").unwrap(), 200);
    assert_eq!(asked("GET", 15090, "/config_dump").unwrap(), 404);
    assert_eq!(asked("POST", 15090, "/stats/prometheus").unwrap(), 404);
    assert_eq!(asked("POST", 15020, "/drain").unwrap(), 403, "only the pod itself may start its drain");
}
