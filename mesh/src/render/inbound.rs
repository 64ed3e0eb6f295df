//! The inbound listener, its routes and the clusters that lead to the application.
//!
//! A change of HTTP rules changes a route configuration only, and binds the next request on open connections. A change
//! of TCP rules changes one filter chain, whose connections Envoy then drains.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crds::labels::INBOUND_PORT;
use crds::mesh_config::Mtls;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3::{self as core, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;

use super::admit::{self, Holder};
use super::http::{guard, manager, manager_filter, network_filter, route_match, routes};
use super::ingress::{connection_limit, limit_requests, limited};
use super::listen::{self, BYTES, closed, everywhere, for_requests};
use super::log::{Of, would_be_denied};
use super::outbound::original_dst;
use super::wire::{Resources, no, number, seconds};
use super::{Context, http, rbac, tcp, tls};
use crate::ingest::{Carried, Protocol};
use crate::resource_name::ResourceName;
use crate::snapshot::ResourceType;
use crate::view::{Access, InboundPort, Ingress};

/// The application, as HTTP/1.1 or bytes.
const APP: ResourceName = ResourceName::Inbound;
/// The application, as HTTP/2.
const APP_HTTP2: ResourceName = ResourceName::InboundHttp2;

pub(super) fn inbound(context: Context<'_>, resources: &mut Resources) {
    let ports = &context.view.inbound.ports;
    resources.add(ResourceType::Cluster, &APP, &app(&APP, None));
    if ports.values().any(|port| matches!(port.protocol, Protocol::Http2 | Protocol::Undeclared)) {
        resources.add(ResourceType::Cluster, &APP_HTTP2, &app(&APP_HTTP2, Some(Protocol::Http2)));
    }
    for (number, port) in ports.iter().filter(|(_, port)| port.protocol.carries(Carried::Requests)) {
        for hears in [Hears::Tls, Hears::Plaintext] {
            let name = requests_name(*number, port, hears);
            let routes = port_routes(context, &name.to_string(), port, hears);
            resources.add(ResourceType::Route, &name, &routes);
        }
    }
    resources.add(ResourceType::Listener, &ResourceName::Inbound, &inbound_listener(context));
}

/// The application. The redirect tells by the source address (ARCHITECTURE) the delivery to it from a call of the
/// pod to its own service, which must come in through the inbound listener.
fn app(name: &ResourceName, http: Option<Protocol>) -> cluster::Cluster {
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
    cluster::Cluster { upstream_bind_config: Some(bind), ..original_dst(&name.to_string(), None, http) }
}

/// Callers without TLS have their own routes where an IngressBackend speaks of the port: what is true of those with TLS
/// is not of them.
fn requests_name(number: u16, port: &InboundPort, hears: Hears) -> ResourceName {
    match hears {
        Hears::Plaintext if !port.ingress.is_empty() => ResourceName::PortPlaintext(number),
        Hears::Plaintext | Hears::Tls => ResourceName::Port(number),
    }
}

/// `proxy` tells inbound requests from others by this beginning of a statistic's name.
fn stat_prefix(port: u16) -> String {
    format!("inbound_{port}")
}

fn inbound_listener(context: Context<'_>) -> listener::Listener {
    let ports = &context.view.inbound.ports;
    let permissive = context.view.inbound.mtls == Mtls::Permissive;
    let plaintext = ports.values().any(|port| hears_plaintext(port, permissive));
    let mut chains: Vec<_> =
        ports.iter().flat_map(|(number, port)| port_chains(context, *number, port, permissive)).collect();
    if chains.is_empty() {
        // Envoy wants a chain; this one is for a port that nobody can connect to.
        chains.push(closed(1));
    }
    let (address, additional_addresses) = everywhere(context.view.families, INBOUND_PORT);
    listener::Listener {
        name: ResourceName::Inbound.to_string(),
        address,
        additional_addresses,
        filter_chains: chains,
        listener_filters: listener_filters(context, permissive),
        // A plaintext caller that waits for the server to speak first is let in after this long.
        listener_filters_timeout: seconds(1).filter(|_| plaintext),
        continue_on_listener_filters_timeout: plaintext,
        traffic_direction: TrafficDirection::Inbound.into(),
        enable_reuse_port: no(),
        ..Default::default()
    }
}

fn hears_plaintext(port: &InboundPort, permissive: bool) -> bool {
    permissive || !port.ingress.plaintext.is_empty()
}

/// Nothing is looked at where there is nothing to tell apart.
fn listener_filters(context: Context<'_>, permissive: bool) -> Vec<listener::ListenerFilter> {
    let ports = &context.view.inbound.ports;
    let undeclared = || ports.iter().filter(|(_, port)| port.connections.is_some()).map(|(port, _)| *port);
    let inspected =
        ports.values().any(|port| hears_plaintext(port, permissive) || port.ingress.by_server_name());
    let mut filters = vec![listen::original_dst()];
    if inspected {
        filters.push(listen::tls_inspector());
    } else if undeclared().next().is_some() {
        filters.push(listen::only_at(listen::tls_inspector(), undeclared()));
    }
    if permissive && undeclared().next().is_some() {
        filters.push(listen::only_at(listen::http_inspector(), undeclared()));
    }
    filters
}

/// The chains of a port: for what comes from a sidecar, and for plaintext where that is accepted; each for requests
/// (or for all there is), and for bytes where the port's protocol is not declared.
fn port_chains(
    context: Context<'_>,
    port: u16,
    inbound: &InboundPort,
    permissive: bool,
) -> Vec<listener::FilterChain> {
    let plaintext = hears_plaintext(inbound, permissive);
    let mut chains = tls_chains(context, port, inbound, if plaintext { "tls" } else { "" });
    if plaintext {
        chains.extend(plaintext_chains(context, port, inbound, permissive));
    }
    chains
}

fn chain(port: u16, suffix: &str, transport: &str, filters: Vec<listener::Filter>) -> listener::FilterChain {
    listener::FilterChain {
        name: format!("{}{suffix}", ResourceName::Port(port)),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: number(u32::from(port)),
            transport_protocol: transport.to_owned(),
            ..Default::default()
        }),
        filters,
        ..Default::default()
    }
}

fn tls_chains(
    context: Context<'_>,
    port: u16,
    inbound: &InboundPort,
    transport: &str,
) -> Vec<listener::FilterChain> {
    let secured = |mut chain: listener::FilterChain, ingress: &Ingress, alpn: &[&str], holders| {
        let holders: BTreeSet<Holder> = holders;
        chain.transport_socket = Some(tls::server(context, alpn, ingress, &holders));
        if holders.is_empty() {
            // Envoy closes what has no filters.
            chain.filters.clear();
        }
        chain
    };
    let (alpn, holders): (&[&str], _) = match inbound.protocol.carries(Carried::Requests) {
        true => (&["h2", "http/1.1"], admit::for_requests(context, &inbound.ingress)),
        false => (&[], admit::for_bytes(context, &inbound.access, &inbound.ingress)),
    };
    let main = chain(port, "", transport, main_filters(context, port, inbound, Hears::Tls));
    let mut chains = vec![secured(main, &inbound.ingress, alpn, holders)];
    if let Some(access) = &inbound.connections {
        // Whoever needs no certificate for requests needs one here.
        let nobody = Ingress::default();
        let filters = undeclared_bytes(context, port, inbound, access);
        let holders = admit::for_bytes(context, access, &nobody);
        let mut bytes = secured(chain(port, "|bytes", transport, filters), &nobody, &[BYTES], holders);
        let matching = bytes.filter_chain_match.get_or_insert_default();
        matching.application_protocols = vec![BYTES.to_owned()];
        chains.push(bytes);
    }
    chains
}

fn plaintext_chains(
    context: Context<'_>,
    port: u16,
    inbound: &InboundPort,
    permissive: bool,
) -> Vec<listener::FilterChain> {
    let filters = main_filters(context, port, inbound, Hears::Plaintext);
    let main = chain(port, "|plaintext", "raw_buffer", filters);
    match inbound.connections.as_ref().filter(|_| permissive) {
        None if inbound.protocol.carries(Carried::Requests) => vec![main],
        None => {
            let admitted = admit::over_plaintext(&inbound.access, &inbound.ingress, permissive);
            admit::only(main, &admitted).into_iter().collect()
        }
        Some(access) => {
            let filters = undeclared_bytes(context, port, inbound, access);
            let bytes = chain(port, "|plaintext|bytes", "raw_buffer", filters);
            let admitted = admit::over_plaintext(access, &Ingress::default(), permissive);
            [for_requests(main)].into_iter().chain(admit::only(bytes, &admitted)).collect()
        }
    }
}

/// Requests, or all there is.
fn main_filters(
    context: Context<'_>,
    port: u16,
    inbound: &InboundPort,
    hears: Hears,
) -> Vec<listener::Filter> {
    match inbound.protocol.carries(Carried::Requests) {
        true => requests_to_app(context, port, inbound, hears),
        false => bytes_to_app(context, port, inbound, verdicts(context, inbound, hears)),
    }
}

/// Whatever is granted to callers from outside the mesh is granted to their requests.
fn undeclared_bytes(
    context: Context<'_>,
    port: u16,
    inbound: &InboundPort,
    access: &Access,
) -> Vec<listener::Filter> {
    bytes_to_app(context, port, inbound, rbac::over_tls(context, access, &Ingress::default()))
}

/// What a filter chain is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hears {
    /// TLS.
    Tls,
    /// Plaintext.
    Plaintext,
}

fn verdicts(context: Context<'_>, inbound: &InboundPort, hears: Hears) -> rbac::Verdicts {
    let permissive = context.view.inbound.mtls == Mtls::Permissive;
    match hears {
        Hears::Plaintext if !inbound.ingress.is_empty() => {
            rbac::over_plaintext(context, &inbound.access, &inbound.ingress, permissive)
        }
        _ => rbac::over_tls(context, &inbound.access, &inbound.ingress),
    }
}

fn requests_to_app(
    context: Context<'_>,
    port: u16,
    inbound: &InboundPort,
    hears: Hears,
) -> Vec<listener::Filter> {
    let prefix = stat_prefix(port);
    let limits = inbound.limits.as_ref();
    let routes = requests_name(port, inbound, hears).to_string();
    let audited = verdicts(context, inbound, hears).audited();
    let mut manager = manager(context, &prefix, &routes, Some(rbac::deny_all(audited)));
    manager.access_log.extend(audited.then(|| would_be_denied(Of::Requests)));
    guard(&mut manager);
    limit_requests(&mut manager, limits);
    let limit = connection_limit(limits, &format!("tcp.{prefix}"));
    limit.into_iter().chain([manager_filter(&manager)]).collect()
}

fn bytes_to_app(
    context: Context<'_>,
    port: u16,
    inbound: &InboundPort,
    verdicts: rbac::Verdicts,
) -> Vec<listener::Filter> {
    let prefix = stat_prefix(port);
    let limit = connection_limit(inbound.limits.as_ref(), &format!("tcp.{prefix}")).into_iter();
    let proxy = if verdicts.audited() { tcp::audited_proxy } else { tcp::proxy };
    let authorization = rbac::network(verdicts, &format!("tcp.{prefix}"));
    let authorization = authorization.map(|config| network_filter("envoy.filters.network.rbac", config));
    let app = BTreeMap::from([(APP.to_string(), 1)]);
    authorization.into_iter().chain(limit).chain([proxy(context, &prefix, &app, 1)]).collect()
}

/// Every request that is allowed goes to the application, for as long as it takes.
fn port_routes(
    context: Context<'_>,
    name: &str,
    port: &InboundPort,
    hears: Hears,
) -> route::RouteConfiguration {
    let all = route_match(None);
    let to_app = match port.protocol {
        Protocol::Http2 => vec![to(&APP_HTTP2, all)],
        // Between sidecars everything is HTTP/2, so that does not tell what the application speaks. A gRPC server
        // speaks nothing else.
        Protocol::Undeclared => vec![to(&APP_HTTP2, grpc()), to(&APP, all)],
        Protocol::Http | Protocol::Tcp => vec![to(&APP, all)],
    };
    let to_app = to_app.iter().flat_map(|route| limited(route, port.limits.as_ref())).collect();
    let mut config = routes(name, to_app);
    config.request_headers_to_remove = http::LIKE_CALLER.map(str::to_owned).to_vec();
    let access = rbac::per_route(verdicts(context, port, hears));
    for host in &mut config.virtual_hosts {
        host.typed_per_filter_config = HashMap::from([(http::RBAC.to_owned(), access.clone())]);
    }
    config
}

fn to(app: &ResourceName, matching: route::RouteMatch) -> route::Route {
    let action = route::RouteAction {
        timeout: seconds(0),
        retry_policy: Some(again()),
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(app.to_string())),
        ..Default::default()
    };
    route::Route {
        r#match: Some(matching),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

/// A request whose method changes nothing (RFC 9110, 9.2.1) is tried once more when the application closes its
/// connection instead of answering: it may have been about to close one that it kept, as an application that ends
/// does, and then never saw the request.
fn again() -> route::RetryPolicy {
    route::RetryPolicy {
        retry_on: "reset".to_owned(),
        num_retries: number(1),
        retriable_request_headers: vec![http::header_matcher(":method", "GET|HEAD|OPTIONS")],
        ..Default::default()
    }
}

/// A gRPC request (gRPC over HTTP/2: content-type `application/grpc` with or without `+` or `;` and more).
/// `application/grpc-web` is HTTP/1.1.
fn grpc() -> route::RouteMatch {
    let content_type = matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(http::regex(
            "application/grpc([+;].*)?",
        ))),
        ..Default::default()
    };
    let header = route::HeaderMatcher {
        name: "content-type".to_owned(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(content_type)),
        ..Default::default()
    };
    route::RouteMatch { headers: vec![header], ..route_match(None) }
}
