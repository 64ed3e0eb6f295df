//! What tests of egress and ingress share: a listener that is told where a call was meant to go, and an ingress
//! controller.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoys::{Config, Envoy, any, free_port, local};
use tempfile::TempDir;

/// An application that answers whatever it hears with the address at which it was reached. It is at every address of
/// this machine.
pub fn reached_app() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || tell(stream));
        }
    });
    port
}

fn tell(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    if matches!(stream.read(&mut buffer), Ok(read) if read > 0) {
        let body = stream.local_addr().unwrap().ip().to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
    }
}

/// Sends bytes and gives back status and body of the answer; `None` when there is none.
pub fn exchange(port: u16, bytes: &[u8]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes).ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !super::apps::is_whole(&answer) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// What stands before a connection's bytes and says where it was meant to go (PROXY protocol, version 1), in place of
/// the redirect that says so in a pod.
pub fn meant_for(to: SocketAddr) -> Vec<u8> {
    let from = if to.is_ipv4() { "TCP4 127.0.0.1" } else { "TCP6 ::1" };
    format!("PROXY {from} {} 4444 {}\r\n", to.ip(), to.port()).into_bytes()
}

/// The first message of a TLS client (RFC 8446, 4.1.2), as far as a proxy looks.
pub fn client_hello(server_name: &str) -> Vec<u8> {
    let name = server_name.as_bytes();
    let short = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let mut sni = vec![0];
    sni.extend(short(name.len()));
    sni.extend(name);
    let mut extension = vec![0, 0];
    extension.extend(short(sni.len() + 2));
    extension.extend(short(sni.len()));
    extension.extend(sni);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    body.extend(short(extension.len()));
    body.extend(extension);
    let mut message = vec![22, 3, 1];
    message.extend(short(body.len() + 4));
    message.extend([1, 0]);
    message.extend(short(body.len()));
    message.extend(body);
    message
}

/// Keeps the virtual outbound listener and those behind it, and lets it be told where a call was meant to go.
pub fn virtual_outbound(config: &mut Config) -> u16 {
    let port = free_port();
    config.listeners.retain(|one| one.name != "inbound");
    let outer = config.listeners.iter_mut().find(|one| one.name == "outbound").unwrap();
    outer.address = Some(local(port));
    outer.additional_addresses.clear();
    outer.listener_filters = vec![listener::ListenerFilter {
        name: "envoy.filters.listener.proxy_protocol".to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(&ProxyProtocol::default()))),
        ..Default::default()
    }];
    port
}

/// How an ingress controller calls.
#[derive(Clone, Copy)]
pub struct Leg<'a> {
    /// Where it calls from.
    pub from: IpAddr,
    /// The port that it calls.
    pub to: u16,
    /// With TLS: its certificate, and the name that it asks for.
    pub tls: Option<(Option<&'a TempDir>, &'a str)>,
}

/// An ingress controller: an Envoy that is no sidecar. It calls as each leg says, from a port of its own each.
pub fn gateway(version: &str, legs: &[Leg<'_>]) -> (Envoy, Vec<u16>) {
    let mut config = Config::default();
    let mut ports = Vec::new();
    for leg in legs {
        let port = free_port();
        let name = format!("leg-{port}");
        config.clusters.push(leg_cluster(&name, leg));
        let proxy = tcp::TcpProxy {
            stat_prefix: "leg".to_owned(),
            cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(name.clone())),
            ..Default::default()
        };
        let filter = listener::Filter {
            name: "envoy.filters.network.tcp_proxy".to_owned(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(any(&proxy))),
        };
        config.listeners.push(listener::Listener {
            name,
            address: Some(local(port)),
            filter_chains: vec![listener::FilterChain { filters: vec![filter], ..Default::default() }],
            ..Default::default()
        });
        ports.push(port);
    }
    let envoy = Envoy::start(version, &config, ports[0]);
    (envoy, ports)
}

fn leg_cluster(name: &str, leg: &Leg<'_>) -> cluster::Cluster {
    let host = endpoint::Endpoint { address: Some(local(leg.to)), ..Default::default() };
    let host = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
        ..Default::default()
    };
    let source = core::SocketAddress {
        address: leg.from.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
        ..Default::default()
    };
    cluster::Cluster {
        name: name.to_owned(),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints: vec![host], ..Default::default() }],
            ..Default::default()
        }),
        upstream_bind_config: Some(core::BindConfig { source_address: Some(source), ..Default::default() }),
        transport_socket: leg.tls.map(|(secrets, sni)| leg_tls(secrets, sni)),
        ..Default::default()
    }
}

/// It does not look at the server's certificate and, without one of its own, knows TLS 1.2 only.
fn leg_tls(secrets: Option<&TempDir>, sni: &str) -> core::TransportSocket {
    let secret = |folder: &TempDir| {
        let path = folder.path().join("identity.json").to_str().unwrap().to_owned();
        let path = core::PathConfigSource { path, ..Default::default() };
        tls::SdsSecretConfig {
            name: "identity".to_owned(),
            sds_config: Some(core::ConfigSource {
                resource_api_version: core::ApiVersion::V3.into(),
                config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::PathConfigSource(
                    path,
                )),
                ..Default::default()
            }),
        }
    };
    let common = tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: secrets.map(secret).into_iter().collect(),
        tls_params: Some(tls::TlsParameters {
            tls_maximum_protocol_version: if secrets.is_some() {
                tls::tls_parameters::TlsProtocol::TlSv13.into()
            } else {
                tls::tls_parameters::TlsProtocol::TlSv12.into()
            },
            ..Default::default()
        }),
        ..Default::default()
    };
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: sni.to_owned(),
        ..Default::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any(&context))),
    }
}
