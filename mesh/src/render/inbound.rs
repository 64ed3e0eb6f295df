//! The inbound listener, its routes and the clusters that lead to the application.
//!
//! A change of HTTP rules changes a route configuration only, and binds the next request on open connections. A change
//! of TCP rules changes one filter chain, whose connections Envoy then drains.

use std::collections::{BTreeMap, HashMap};

use crds::labels::INBOUND_PORT;
use crds::mesh_config::Mtls;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3::{self as core, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::listener as listener_filters;
use envoy_types::pb::google::protobuf::Any;

use super::http::{guard, manager, manager_filter, network_filter, route_match, routes};
use super::ingress::{connection_limit, limit_requests, limited};
use super::outbound::{closed, original_dst};
use super::wire::{Resources, any, no, number, seconds, socket_address};
use super::{Context, http, rbac, tcp, tls};
use crate::ingest::Protocol;
use crate::snapshot::ResourceType;
use crate::view::InboundPort;

/// The application, as HTTP/1.1 or bytes.
const APP: &str = "inbound";
/// The application, as HTTP/2.
const APP_HTTP2: &str = "inbound-h2";

pub(super) fn inbound(context: Context<'_>, resources: &mut Resources) {
    let ports = &context.view.inbound.ports;
    resources.add(ResourceType::Cluster, APP, &app(APP, None));
    if ports.values().any(|port| port.protocol == Protocol::Http2) {
        resources.add(ResourceType::Cluster, APP_HTTP2, &app(APP_HTTP2, Some(Protocol::Http2)));
    }
    for (number, port) in ports.iter().filter(|(_, port)| port.protocol.is_http()) {
        for hears in [Hears::OnlyTls, Hears::Plaintext] {
            let name = requests_name(*number, port, hears);
            resources.add(ResourceType::Route, &name, &port_routes(context, &name, port, hears));
        }
    }
    resources.add(ResourceType::Listener, "inbound", &inbound_listener(context));
}

/// The application. The redirect tells by the source address (ARCHITECTURE) the delivery to it from a call of the
/// pod to its own service, which must come in through the inbound listener.
fn app(name: &str, http: Option<Protocol>) -> cluster::Cluster {
    let source = |address: &str| core::SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
        ..Default::default()
    };
    let bind = core::BindConfig {
        source_address: Some(source("127.0.0.6")),
        extra_source_addresses: vec![core::ExtraSourceAddress {
            address: Some(source("::1")),
            ..Default::default()
        }],
        ..Default::default()
    };
    cluster::Cluster { upstream_bind_config: Some(bind), ..original_dst(name, None, http) }
}

fn route_name(port: u16) -> String {
    format!("in|{port}")
}

/// Callers without TLS have their own routes where an IngressBackend speaks of them.
fn requests_name(number: u16, port: &InboundPort, hears: Hears) -> String {
    match hears {
        Hears::Plaintext if !port.ingress.plaintext.is_empty() => format!("{}|plaintext", route_name(number)),
        _ => route_name(number),
    }
}

/// `proxy` tells inbound requests from others by this beginning of a statistic's name.
fn stat_prefix(port: u16) -> String {
    format!("inbound_{port}")
}

fn inbound_listener(context: Context<'_>) -> listener::Listener {
    let permissive = context.view.inbound.mtls == Mtls::Permissive;
    let original_dst = listener_filter(
        "envoy.filters.listener.original_dst",
        any(&listener_filters::original_dst::v3::OriginalDst::default()),
    );
    let inspector = listener_filter(
        "envoy.filters.listener.tls_inspector",
        any(&listener_filters::tls_inspector::v3::TlsInspector::default()),
    );
    let mut filters = vec![original_dst];
    let mut chains = Vec::new();
    let mut inspected = false;
    for (number, port) in &context.view.inbound.ports {
        let plaintext = permissive || !port.ingress.plaintext.is_empty();
        inspected |= plaintext || port.ingress.by_server_name();
        chains.push(chain(context, *number, port, if plaintext { Hears::Tls } else { Hears::OnlyTls }));
        if plaintext {
            chains.push(chain(context, *number, port, Hears::Plaintext));
        }
    }
    if inspected {
        filters.push(inspector);
    }
    if chains.is_empty() {
        // Envoy wants a chain; this one is for a port that nobody can connect to.
        chains.push(closed(1));
    }
    listener::Listener {
        name: "inbound".to_owned(),
        address: Some(socket_address("0.0.0.0", INBOUND_PORT)),
        filter_chains: chains,
        listener_filters: filters,
        // A plaintext caller that waits for the server to speak first is let in after this long.
        listener_filters_timeout: seconds(1).filter(|_| inspected),
        continue_on_listener_filters_timeout: inspected,
        traffic_direction: TrafficDirection::Inbound.into(),
        enable_reuse_port: no(),
        ..Default::default()
    }
}

fn listener_filter(name: &str, config: Any) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// What a filter chain is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hears {
    /// TLS, and nothing else comes here.
    OnlyTls,
    /// TLS, beside a chain for plaintext.
    Tls,
    /// Plaintext.
    Plaintext,
}

fn chain(context: Context<'_>, port: u16, inbound: &InboundPort, hears: Hears) -> listener::FilterChain {
    let (suffix, transport) = match hears {
        Hears::OnlyTls => ("", ""),
        Hears::Tls => ("", "tls"),
        Hears::Plaintext => ("|plaintext", "raw_buffer"),
    };
    let alpn: &[&str] = if inbound.protocol.is_http() { &["h2", "http/1.1"] } else { &[] };
    listener::FilterChain {
        name: format!("{}{suffix}", route_name(port)),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: number(u32::from(port)),
            transport_protocol: transport.to_owned(),
            ..Default::default()
        }),
        filters: filters(context, port, inbound, hears),
        transport_socket: (hears != Hears::Plaintext).then(|| tls::server(context, alpn, &inbound.ingress)),
        ..Default::default()
    }
}

fn verdicts(context: Context<'_>, inbound: &InboundPort, hears: Hears) -> rbac::Verdicts {
    let permissive = context.view.inbound.mtls == Mtls::Permissive;
    match hears {
        Hears::Plaintext if !inbound.ingress.plaintext.is_empty() => {
            rbac::over_plaintext(context, &inbound.access, &inbound.ingress, permissive)
        }
        _ => rbac::over_tls(context, &inbound.access, &inbound.ingress),
    }
}

fn filters(context: Context<'_>, port: u16, inbound: &InboundPort, hears: Hears) -> Vec<listener::Filter> {
    let prefix = stat_prefix(port);
    let limits = inbound.limits.as_ref();
    let limit = connection_limit(limits, &format!("tcp.{prefix}")).into_iter();
    if inbound.protocol.is_http() {
        let routes = requests_name(port, inbound, hears);
        let mut manager = manager(context, &prefix, &routes, Some(rbac::deny_all()));
        guard(&mut manager);
        limit_requests(&mut manager, limits);
        return limit.chain([manager_filter(&manager)]).collect();
    }
    let authorization = rbac::network(verdicts(context, inbound, hears), &format!("tcp.{prefix}"));
    let authorization = authorization.map(|config| network_filter("envoy.filters.network.rbac", config));
    let app = BTreeMap::from([(APP.to_owned(), 1)]);
    authorization.into_iter().chain(limit).chain([tcp::proxy(context, &prefix, &app, 1)]).collect()
}

/// Every request that is allowed goes to the application, for as long as it takes.
fn port_routes(
    context: Context<'_>,
    name: &str,
    port: &InboundPort,
    hears: Hears,
) -> route::RouteConfiguration {
    let app = if port.protocol == Protocol::Http2 { APP_HTTP2 } else { APP };
    let action = route::RouteAction {
        timeout: seconds(0),
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(app.to_owned())),
        ..Default::default()
    };
    let to_app = route::Route {
        r#match: Some(route_match(None)),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    };
    let mut config = routes(name, limited(&to_app, port.limits.as_ref()));
    let access = rbac::per_route(verdicts(context, port, hears));
    for host in &mut config.virtual_hosts {
        host.typed_per_filter_config = HashMap::from([(http::RBAC.to_owned(), access.clone())]);
    }
    config
}
