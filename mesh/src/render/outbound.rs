//! Services that are called: a cluster and load assignment per destination, a listener (and routes) per service port.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use crds::labels::OUTBOUND_PORT;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstreams;
use envoy_types::pb::google::protobuf::Any;

use super::egress::egress;
use super::http::{
    UNDELIVERED, header_matcher, http2_upstream, manager, manager_filter, route_match, routes,
};
use super::listen::{self, closed, everywhere, for_requests};
use super::tls::Peer;
use super::upstream::{HTTP_OPTIONS, handle, handle_connections, settle};
use super::wire::{self, Resources, any, milliseconds, no, number, seconds, socket_address, yes};
use super::{Context, tcp, tls};
use crate::ingest::{Carried, Protocol, ServiceAccount};
use crate::resource_name::ResourceName;
use crate::snapshot::ResourceType;
use crate::view::{Destination, Headless, Otherwise, Route, Service, ServicePort};

/// How long a client that says nothing is waited for, where bytes are as welcome as requests. A server that speaks
/// first is heard this much later; whoever minds declares the protocol of the port.
const SILENCE: i32 = 200;

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
    let name = match outbound.otherwise {
        Otherwise::Passthrough => ResourceName::Passthrough,
        Otherwise::MeshOnly => ResourceName::MeshPassthrough,
    };
    let (text, inside) = (name.to_string(), ResourceName::MeshPassthrough.to_string());
    if name == ResourceName::Passthrough {
        resources.add(ResourceType::Cluster, &name, &original_dst(&text, None, None));
    }
    if name == ResourceName::MeshPassthrough || outbound.egress.values().any(|port| port.shut) {
        let member = Peer::Member(context.view.trust_domain.clone());
        let socket = tls::client(context, &member, String::new(), &[]);
        let cluster = original_dst(&inside, Some(socket), None);
        resources.add(ResourceType::Cluster, &ResourceName::MeshPassthrough, &cluster);
    }
    resources.add(ResourceType::Listener, &ResourceName::Outbound, &virtual_listener(context, &text));
    egress(context, &text, &inside, resources);
}

/// A service that is dialed: listeners and routes.
pub(super) fn dialed(context: Context<'_>, key: &ServicePort, service: &Service, resources: &mut Resources) {
    let receivers = Receivers { key, service };
    if let Some(headless) = &service.headless {
        let name = receivers.cluster(key);
        let cluster = dialed_cluster(context, key, &name.to_string(), headless);
        resources.add(ResourceType::Cluster, &name, &cluster);
    }
    for (name, addresses) in receivers.listeners() {
        let listener = service_listener(context, &name.to_string(), &addresses, receivers);
        resources.add(ResourceType::Listener, &name, &listener);
    }
    if !service.routes.is_empty() {
        let mut all: Vec<_> =
            service.routes.iter().flat_map(|route| request_routes(receivers, route)).collect();
        handle(&mut all, &service.handling);
        resources.add(ResourceType::Route, &named(key), &routes(&key.to_string(), all));
    }
}

/// A receiver, without its endpoints.
pub(super) fn cluster(
    context: Context<'_>,
    key: &ServicePort,
    destination: &Destination,
    resources: &mut Resources,
) {
    resources.add(ResourceType::Cluster, &named(key), &service_cluster(context, key, destination));
}

/// The endpoints of a receiver.
pub(super) fn endpoints(key: &ServicePort, destination: &Destination, resources: &mut Resources) {
    resources.add(ResourceType::Endpoint, &named(key), &load_assignment(&key.to_string(), destination));
}

fn named(key: &ServicePort) -> ResourceName {
    ResourceName::Service(key.clone())
}

/// The one outbound listener with a socket. It hands a connection to the listener of its original destination, or
/// keeps it when there is none.
fn virtual_listener(context: Context<'_>, otherwise: &str) -> listener::Listener {
    let to = BTreeMap::from([(otherwise.to_owned(), 1)]);
    let (address, additional_addresses) = everywhere(context.view.families, OUTBOUND_PORT);
    listener::Listener {
        name: ResourceName::Outbound.to_string(),
        address,
        additional_addresses,
        // A call to this very port would come back here for ever.
        filter_chains: vec![closed(OUTBOUND_PORT)],
        default_filter_chain: Some(listener::FilterChain {
            name: otherwise.to_owned(),
            filters: vec![tcp::proxy(context, otherwise, &to, 1)],
            ..Default::default()
        }),
        use_original_dst: yes(),
        listener_filters: vec![listen::original_dst()],
        traffic_direction: core::TrafficDirection::Outbound.into(),
        enable_reuse_port: no(),
        ..Default::default()
    }
}

fn service_listener(
    context: Context<'_>,
    name: &str,
    addresses: &[SocketAddr],
    receivers: Receivers<'_>,
) -> listener::Listener {
    let Receivers { key, service } = receivers;
    let chain = |filters| listener::FilterChain { filters, ..Default::default() };
    let requests = (!service.routes.is_empty())
        .then(|| chain(vec![manager_filter(&manager(context, STAT_PREFIX, &key.to_string(), None))]));
    let connections =
        (!service.connections.is_empty()).then(|| chain(connection_filters(context, receivers)));
    let undeclared = requests.is_some() && connections.is_some();
    let requests = if undeclared { requests.map(for_requests) } else { requests };
    let mut addresses =
        addresses.iter().map(|address| socket_address(&address.ip().to_string(), address.port()));
    let first = addresses.next();
    let more =
        addresses.map(|address| listener::AdditionalAddress { address: Some(address), ..Default::default() });
    listener::Listener {
        name: name.to_owned(),
        additional_addresses: more.collect(),
        address: first,
        stat_prefix: STAT_PREFIX.to_owned(),
        filter_chains: requests.into_iter().chain(connections).collect(),
        listener_filters: undeclared.then(listen::http_inspector).into_iter().collect(),
        listener_filters_timeout: milliseconds(SILENCE).filter(|_| undeclared),
        continue_on_listener_filters_timeout: undeclared,
        traffic_direction: core::TrafficDirection::Outbound.into(),
        bind_to_port: no(),
        ..Default::default()
    }
}

/// Bytes; announced as such where a receiver could take them for requests.
fn connection_filters(context: Context<'_>, receivers: Receivers<'_>) -> Vec<listener::Filter> {
    let service = receivers.service;
    let announce = service.announced.then(tcp::announce);
    let attempts = if service.headless.is_some() { 1 } else { ATTEMPTS };
    let mut proxy = tcp::proxy(context, STAT_PREFIX, &receivers.weights(&service.connections), attempts);
    handle_connections(&mut proxy, &service.handling);
    announce.into_iter().chain([proxy]).collect()
}

/// A service port and the clusters that its receivers are.
#[derive(Clone, Copy)]
struct Receivers<'a> {
    key: &'a ServicePort,
    service: &'a Service,
}

impl Receivers<'_> {
    /// What goes to a headless service itself goes to the pod that was dialed.
    fn cluster(&self, receiver: &ServicePort) -> ResourceName {
        if self.service.headless.is_some() && receiver == self.key {
            return ResourceName::Dialed(receiver.clone());
        }
        named(receiver)
    }

    fn weights(&self, to: &BTreeMap<ServicePort, u32>) -> BTreeMap<String, u32> {
        to.iter().map(|(receiver, weight)| (self.cluster(receiver).to_string(), *weight)).collect()
    }

    /// Names and addresses of its listeners. Each pod of a headless service has one of its own: a listener whose
    /// addresses change would drop the connections to all of them.
    fn listeners(&self) -> Vec<(ResourceName, Vec<SocketAddr>)> {
        let own =
            self.service.addresses.iter().map(|address| SocketAddr::new(*address, self.key.port)).collect();
        let own: Vec<SocketAddr> = own;
        let pods = self.service.headless.iter().flat_map(|headless| &headless.pods);
        let pods = pods.map(|pod| (ResourceName::Pod(self.key.clone(), *pod), vec![*pod]));
        let own = (!own.is_empty()).then(|| (named(self.key), own));
        own.into_iter().chain(pods).collect()
    }
}

/// One Envoy route per match; one for everything when there is none.
fn request_routes(receivers: Receivers<'_>, route: &Route) -> Vec<route::Route> {
    let one = |matching| route::Route {
        r#match: Some(route_match(matching)),
        action: Some(route::route::Action::Route(action(receivers, route))),
        ..Default::default()
    };
    if route.matches.is_empty() {
        vec![one(None)]
    } else {
        route.matches.iter().map(|m| one(Some(m))).collect()
    }
}

/// How often another endpoint is drawn for a retry before one that failed already is taken again. A pod that is gone
/// has no calls to answer and so looks the least busy: of two pods it is drawn three times in four, and few draws
/// would send every retry of some calls back to it until its endpoint is withdrawn.
const PICKS: i64 = 64;

/// A call takes as long as it takes. It is tried again only when no server can have seen it.
fn action(receivers: Receivers<'_>, to: &Route) -> route::RouteAction {
    use route::route_action::ClusterSpecifier;
    let weight = |(name, weight): (String, u32)| route::weighted_cluster::ClusterWeight {
        name,
        weight: number(weight),
        ..Default::default()
    };
    let weights = receivers.weights(&to.to);
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
            retry_on: "connect-failure,refused-stream,reset-before-request,retriable-headers".to_owned(),
            num_retries: number(2),
            retriable_headers: vec![header_matcher(UNDELIVERED, "true")],
            retry_host_predicate: vec![previous_hosts],
            host_selection_retry_max_attempts: PICKS,
            ..Default::default()
        }),
        cluster_specifier: Some(specifier),
        ..Default::default()
    }
}

/// Endpoints come and go without the cluster changing. A removed endpoint gets no new requests and finishes those it
/// has: Envoy drains its connections, since nothing here asks it to close them.
fn service_cluster(context: Context<'_>, key: &ServicePort, destination: &Destination) -> cluster::Cluster {
    let mut cluster = cluster::Cluster {
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(wire::endpoints()),
            ..Default::default()
        }),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        // The less busy of two random endpoints: a slow or just started pod gets less, and calls spread evenly enough.
        lb_policy: cluster::cluster::LbPolicy::LeastRequest.into(),
        typed_extension_protocol_options: http_options(between_sidecars(destination.protocol)),
        transport_socket: Some(peers(context, key, destination.protocol, &destination.peers)),
        ..base_cluster(&key.to_string())
    };
    settle(&mut cluster, &destination.settings);
    cluster
}

/// Between sidecars requests are always HTTP/2: many of them share one handshake.
fn between_sidecars(protocol: Protocol) -> Option<Protocol> {
    protocol.carries(Carried::Requests).then_some(Protocol::Http2)
}

fn peers(
    context: Context<'_>,
    key: &ServicePort,
    protocol: Protocol,
    peers: &BTreeSet<ServiceAccount>,
) -> core::TransportSocket {
    let ids = peers.iter().map(|peer| peer.spiffe_id(&context.view.trust_domain)).collect();
    let alpn: &[&str] = if protocol.carries(Carried::Requests) { &["h2"] } else { &[] };
    tls::client(context, &Peer::Exactly(ids), format!("{}.{}.svc", key.service, key.namespace), alpn)
}

/// The pod of a headless service that was dialed.
fn dialed_cluster(context: Context<'_>, key: &ServicePort, name: &str, to: &Headless) -> cluster::Cluster {
    let socket = peers(context, key, to.protocol, &to.peers);
    original_dst(name, Some(socket), between_sidecars(to.protocol))
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
        ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2_upstream())) };
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
