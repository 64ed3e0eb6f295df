//! Services that are called: a cluster and load assignment per destination, a listener (and routes) per service port.

use std::collections::{BTreeMap, HashMap};

use crds::labels::OUTBOUND_PORT;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstreams;
use envoy_types::pb::google::protobuf::Any;

use super::egress::egress;
use super::http::{http2, manager, manager_filter, route_match, routes};
use super::tls::Peer;
use super::upstream::{HTTP_OPTIONS, handle, handle_connections, settle};
use super::wire::{Resources, ads, any, no, number, seconds, socket_address, yes};
use super::{Context, tcp, tls};
use crate::ingest::Protocol;
use crate::snapshot::ResourceType;
use crate::view::{Destination, Otherwise, Route, Service, ServicePort};

/// Wherever the application meant to go, untouched.
const PASSTHROUGH: &str = "passthrough";
/// Wherever the application meant to go, if a member of the mesh is there.
const MESH_PASSTHROUGH: &str = "meshpassthrough";

/// Prefix of the statistics of all service listeners together: one set per service would be most of a sidecar's
/// memory, and clusters have their own.
const STAT_PREFIX: &str = "outbound";

/// Endpoints that a connection to a TCP service tries, for one may be gone before we hear of it.
const ATTEMPTS: u32 = 3;

pub(super) fn outbound(context: Context<'_>, resources: &mut Resources) {
    let outbound = &context.view.outbound;
    for (key, destination) in &outbound.destinations {
        cluster(context, key, destination, resources);
        endpoints(key, destination, resources);
    }
    for (key, service) in &outbound.services {
        dialed(context, key, service, resources);
    }
    let (name, socket) = match outbound.otherwise {
        Otherwise::Passthrough => (PASSTHROUGH, None),
        Otherwise::MeshOnly => {
            let member = Peer::Member(context.view.trust_domain.clone());
            (MESH_PASSTHROUGH, Some(tls::client(context, &member, String::new(), &[])))
        }
    };
    resources.add(ResourceType::Cluster, name, &original_dst(name, socket, None));
    resources.add(ResourceType::Listener, "outbound", &virtual_listener(context, name));
    egress(context, name, resources);
}

/// A service that is dialed: listener and routes.
pub(super) fn dialed(context: Context<'_>, key: &ServicePort, service: &Service, resources: &mut Resources) {
    let name = key.to_string();
    resources.add(ResourceType::Listener, &name, &service_listener(context, &name, key.port, service));
    if service.protocol.is_http() {
        let mut all: Vec<_> = service.routes.iter().flat_map(request_routes).collect();
        handle(&mut all, &service.handling);
        resources.add(ResourceType::Route, &name, &routes(&name, all));
    }
}

/// A receiver, without its endpoints.
pub(super) fn cluster(
    context: Context<'_>,
    key: &ServicePort,
    destination: &Destination,
    resources: &mut Resources,
) {
    resources.add(ResourceType::Cluster, &key.to_string(), &service_cluster(context, key, destination));
}

/// The endpoints of a receiver.
pub(super) fn endpoints(key: &ServicePort, destination: &Destination, resources: &mut Resources) {
    let name = key.to_string();
    resources.add(ResourceType::Endpoint, &name, &load_assignment(&name, destination));
}

/// The one outbound listener with a socket. It hands a connection to the listener of its original destination, or
/// keeps it when there is none.
fn virtual_listener(context: Context<'_>, otherwise: &str) -> listener::Listener {
    let to = BTreeMap::from([(otherwise.to_owned(), 1)]);
    let original_dst = listener::ListenerFilter {
        name: "envoy.filters.listener.original_dst".to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(&OriginalDst::default()))),
        ..Default::default()
    };
    listener::Listener {
        name: "outbound".to_owned(),
        address: Some(socket_address("0.0.0.0", OUTBOUND_PORT)),
        // A call to this very port would come back here for ever.
        filter_chains: vec![closed(OUTBOUND_PORT)],
        default_filter_chain: Some(listener::FilterChain {
            name: otherwise.to_owned(),
            filters: vec![tcp::proxy(context, otherwise, &to, 1)],
            ..Default::default()
        }),
        use_original_dst: yes(),
        listener_filters: vec![original_dst],
        traffic_direction: core::TrafficDirection::Outbound.into(),
        enable_reuse_port: no(),
        ..Default::default()
    }
}

/// A chain for a port whose connections are closed: Envoy closes what has no filters.
pub(super) fn closed(port: u16) -> listener::FilterChain {
    listener::FilterChain {
        name: "closed".to_owned(),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: number(u32::from(port)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn service_listener(context: Context<'_>, name: &str, port: u16, service: &Service) -> listener::Listener {
    let mut filter = if service.protocol.is_http() {
        manager_filter(&manager(context, STAT_PREFIX, name, None))
    } else {
        let to =
            service.routes.iter().find(|route| route.matches.is_empty()).map(weights).unwrap_or_default();
        tcp::proxy(context, STAT_PREFIX, &to, ATTEMPTS)
    };
    handle_connections(&mut filter, &service.handling);
    let mut addresses = service.addresses.iter().map(|address| socket_address(&address.to_string(), port));
    let first = addresses.next();
    let more =
        addresses.map(|address| listener::AdditionalAddress { address: Some(address), ..Default::default() });
    listener::Listener {
        name: name.to_owned(),
        additional_addresses: more.collect(),
        address: first,
        stat_prefix: STAT_PREFIX.to_owned(),
        filter_chains: vec![listener::FilterChain { filters: vec![filter], ..Default::default() }],
        traffic_direction: core::TrafficDirection::Outbound.into(),
        bind_to_port: no(),
        ..Default::default()
    }
}

fn weights(route: &Route) -> BTreeMap<String, u32> {
    route.to.iter().map(|(receiver, weight)| (receiver.to_string(), *weight)).collect()
}

/// One Envoy route per match; one for everything when there is none.
fn request_routes(route: &Route) -> Vec<route::Route> {
    let one = |matching| route::Route {
        r#match: Some(route_match(matching)),
        action: Some(route::route::Action::Route(action(route))),
        ..Default::default()
    };
    if route.matches.is_empty() {
        vec![one(None)]
    } else {
        route.matches.iter().map(|m| one(Some(m))).collect()
    }
}

/// A call takes as long as it takes. It is tried again only when no server can have seen it.
fn action(to: &Route) -> route::RouteAction {
    use route::route_action::ClusterSpecifier;
    let weight = |(name, weight): (String, u32)| route::weighted_cluster::ClusterWeight {
        name,
        weight: number(weight),
        ..Default::default()
    };
    let weights = weights(to);
    let specifier = match weights.first_key_value() {
        Some((only, _)) if weights.len() == 1 => ClusterSpecifier::Cluster(only.clone()),
        _ => ClusterSpecifier::WeightedClusters(route::WeightedCluster {
            clusters: weights.into_iter().map(weight).collect(),
            ..Default::default()
        }),
    };
    let previous_hosts = route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate::default(),
        ))),
    };
    route::RouteAction {
        timeout: seconds(0),
        retry_policy: Some(route::RetryPolicy {
            retry_on: "connect-failure,refused-stream,reset-before-request".to_owned(),
            num_retries: number(2),
            retry_host_predicate: vec![previous_hosts],
            host_selection_retry_max_attempts: 5,
            ..Default::default()
        }),
        cluster_specifier: Some(specifier),
        ..Default::default()
    }
}

/// Endpoints come and go without the cluster changing. A removed endpoint gets no new requests and finishes those it
/// has: Envoy drains its connections, since nothing here asks it to close them.
fn service_cluster(context: Context<'_>, key: &ServicePort, destination: &Destination) -> cluster::Cluster {
    let ids = destination.peers.iter().map(|peer| peer.spiffe_id(&context.view.trust_domain)).collect();
    let alpn: &[&str] = if destination.protocol.is_http() { &["h2"] } else { &[] };
    let sni = format!("{}.{}.svc", key.service, key.namespace);
    let mut cluster = cluster::Cluster {
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            ..Default::default()
        }),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        // The less busy of two random endpoints: a slow or just started pod gets less, and calls spread evenly enough.
        lb_policy: cluster::cluster::LbPolicy::LeastRequest.into(),
        // Between sidecars it is always HTTP/2: many requests share one handshake.
        typed_extension_protocol_options: http_options(
            destination.protocol.is_http().then_some(Protocol::Http2),
        ),
        transport_socket: Some(tls::client(context, &Peer::Exactly(ids), sni, alpn)),
        ..base_cluster(&key.to_string())
    };
    settle(&mut cluster, &destination.settings);
    cluster
}

/// A cluster that connects to where the application meant to go.
pub(super) fn original_dst(
    name: &str,
    transport_socket: Option<core::TransportSocket>,
    http: Option<Protocol>,
) -> cluster::Cluster {
    cluster::Cluster {
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::OriginalDst.into(),
        )),
        lb_policy: cluster::cluster::LbPolicy::ClusterProvided.into(),
        typed_extension_protocol_options: http_options(http),
        transport_socket,
        ..base_cluster(name)
    }
}

/// What all clusters share. Envoy's own limits (1024 connections, requests and so on) would fail calls of an
/// application that is busier than that.
pub(super) fn base_cluster(name: &str) -> cluster::Cluster {
    let most = number(u32::MAX);
    let limits = cluster::circuit_breakers::Thresholds {
        max_connections: most,
        max_pending_requests: most,
        max_requests: most,
        max_retries: most,
        ..Default::default()
    };
    cluster::Cluster {
        name: name.to_owned(),
        connect_timeout: seconds(5),
        circuit_breakers: Some(cluster::CircuitBreakers { thresholds: vec![limits], ..Default::default() }),
        upstream_connection_options: Some(cluster::UpstreamConnectionOptions {
            tcp_keepalive: Some(core::TcpKeepalive {
                keepalive_time: number(60),
                keepalive_interval: number(10),
                keepalive_probes: number(3),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// HTTP/2 where asked for; HTTP/1.1, Envoy's default, where not.
fn http_options(protocol: Option<Protocol>) -> HashMap<String, Any> {
    use upstreams::http_protocol_options::explicit_http_config::ProtocolConfig;
    use upstreams::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    if protocol != Some(Protocol::Http2) {
        return HashMap::new();
    }
    let explicit =
        ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2())) };
    let options = upstreams::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), any(&options))])
}

fn load_assignment(name: &str, destination: &Destination) -> endpoint::ClusterLoadAssignment {
    let endpoints = destination.endpoints.iter().map(|address| endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: Some(socket_address(&address.ip().to_string(), address.port())),
            ..Default::default()
        })),
        ..Default::default()
    });
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: endpoints.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}
