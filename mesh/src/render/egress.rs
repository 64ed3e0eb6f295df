//! What may be called outside the mesh: one listener per port, behind the virtual outbound listener, for every
//! address that no service has.

use std::collections::{BTreeMap, HashMap};

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::google::protobuf::Any;

use super::http::{clear_path, manager, manager_filter, resolve_paths, route_match};
use super::outbound::{base_cluster, original_dst};
use super::upstream::{HTTP_OPTIONS, as_spoken, settle};
use super::wire::{Resources, any, no, number, seconds, socket_address};
use super::{Context, tcp};
use crate::ingest::CallerSettings;
use crate::resource_name::ResourceName;
use crate::snapshot::ResourceType;
use crate::view::{EgressPort, EgressRoute, EgressScope, Scope, Target};

/// Prefix of the statistics of all egress listeners together.
const STAT_PREFIX: &str = "egress";

/// Renders what is open. Everything else goes to the cluster `otherwise`, as if nothing were open, and to the cluster
/// `inside` where nothing else may leave the mesh.
pub(super) fn egress(context: Context<'_>, otherwise: &str, inside: &str, resources: &mut Resources) {
    for (number, port) in &context.view.outbound.egress {
        let otherwise = if port.shut { inside } else { otherwise };
        for (target, settings) in &port.targets {
            let name = cluster_name(target, *number);
            let cluster = target_cluster(&name.to_string(), target, *number, settings);
            resources.add(ResourceType::Cluster, &name, &cluster);
        }
        for open in port.scopes.iter().filter(|open| !open.http.is_empty()) {
            let name = route_name(*number, open);
            let routes = requests(&name.to_string(), *number, open, otherwise);
            resources.add(ResourceType::Route, &name, &routes);
        }
        let name = ResourceName::Egress(*number);
        resources.add(ResourceType::Listener, &name, &port_listener(context, *number, port, otherwise));
    }
}

fn cluster_name(target: &Target, port: u16) -> ResourceName {
    match target {
        Target::Host(host) => ResourceName::EgressHost(host.clone(), port),
        Target::Dialled => ResourceName::Egress(port),
    }
}

/// Named by the first of its ranges.
fn route_name(port: u16, open: &EgressScope) -> ResourceName {
    match open.at.first() {
        Some(Scope(Some(range))) => ResourceName::EgressRange(port, *range),
        Some(Scope(None)) | None => ResourceName::Egress(port),
    }
}

fn target_cluster(name: &str, target: &Target, port: u16, settings: &CallerSettings) -> cluster::Cluster {
    let mut cluster = match target {
        Target::Dialled => original_dst(name, None, None),
        Target::Host(host) => looked_up(name, host, port),
    };
    cluster.typed_extension_protocol_options = HashMap::from([(HTTP_OPTIONS.to_owned(), as_spoken())]);
    settle(&mut cluster, settings);
    cluster
}

/// A host that the sidecar looks up, again when its answer ends. Its connections stay when the answer changes. A name
/// that is not answered does not hold up the rest of the configuration.
fn looked_up(name: &str, host: &str, port: u16) -> cluster::Cluster {
    let host = endpoint::Endpoint { address: Some(socket_address(host, port)), ..Default::default() };
    let host = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
        ..Default::default()
    };
    let locality = endpoint::LocalityLbEndpoints { lb_endpoints: vec![host], ..Default::default() };
    let dns = DnsCluster {
        respect_dns_ttl: true,
        dns_lookup_family: DnsLookupFamily::All.into(),
        all_addresses_in_single_endpoint: true,
        ..Default::default()
    };
    cluster::Cluster {
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::ClusterType(
            cluster::cluster::CustomClusterType {
                name: "envoy.clusters.dns".to_owned(),
                typed_config: Some(any(&dns)),
            },
        )),
        wait_for_warm_on_init: no(),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![locality],
            ..Default::default()
        }),
        ..base_cluster(name)
    }
}

fn port_listener(context: Context<'_>, port: u16, open: &EgressPort, otherwise: &str) -> listener::Listener {
    let told_apart = open.scopes.iter().any(|open| !open.http.is_empty() || !open.https.is_empty());
    let inspect = |name: &str, config: Any| listener::ListenerFilter {
        name: format!("envoy.filters.listener.{name}"),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    let mut filters = Vec::new();
    if told_apart {
        filters.push(inspect("tls_inspector", any(&TlsInspector::default())));
    }
    if open.scopes.iter().any(|open| !open.http.is_empty()) {
        filters.push(inspect("http_inspector", any(&HttpInspector::default())));
    }
    let chains = open.scopes.iter().flat_map(|open| chains(context, port, open, otherwise));
    let to = BTreeMap::from([(otherwise.to_owned(), 1)]);
    listener::Listener {
        name: ResourceName::Egress(port).to_string(),
        address: Some(socket_address("0.0.0.0", port)),
        additional_addresses: vec![listener::AdditionalAddress {
            address: Some(socket_address("::", port)),
            ..Default::default()
        }],
        stat_prefix: STAT_PREFIX.to_owned(),
        filter_chains: chains.collect(),
        default_filter_chain: Some(chain(otherwise.to_owned(), None, tcp::proxy(context, otherwise, &to, 1))),
        // Who waits for the server to speak first is let on after this long: to what is open for bytes.
        listener_filters_timeout: seconds(1).filter(|_| told_apart),
        continue_on_listener_filters_timeout: told_apart,
        listener_filters: filters,
        traffic_direction: core::TrafficDirection::Outbound.into(),
        bind_to_port: no(),
        ..Default::default()
    }
}

fn chain(
    name: String,
    filter_chain_match: Option<listener::FilterChainMatch>,
    filter: listener::Filter,
) -> listener::FilterChain {
    listener::FilterChain { name, filter_chain_match, filters: vec![filter], ..Default::default() }
}

/// Envoy goes by address, then TLS name, then whether there is TLS, then protocol, and never goes back: where HTTP is
/// told apart, a chain for other plaintext must stand beside it.
fn chains(
    context: Context<'_>,
    port: u16,
    open: &EgressScope,
    otherwise: &str,
) -> Vec<listener::FilterChain> {
    let name = route_name(port, open).to_string();
    let at = |transport: &str| listener::FilterChainMatch {
        prefix_ranges: open
            .at
            .iter()
            .filter_map(|scope| scope.0)
            .map(|range| core::CidrRange {
                address_prefix: range.address.to_string(),
                prefix_len: number(u32::from(range.prefix)),
            })
            .collect(),
        transport_protocol: transport.to_owned(),
        ..Default::default()
    };
    let pass = |cluster: String| tcp::proxy(context, STAT_PREFIX, &BTreeMap::from([(cluster, 1)]), 1);
    let bytes =
        if open.tcp { cluster_name(&Target::Dialled, port).to_string() } else { otherwise.to_owned() };
    let mut chains = Vec::new();
    if !open.http.is_empty() {
        let protocols = ["http/1.0", "http/1.1", "h2c"].map(str::to_owned).to_vec();
        let http = listener::FilterChainMatch { application_protocols: protocols, ..at("raw_buffer") };
        let mut manager = manager(context, STAT_PREFIX, &name, None);
        resolve_paths(&mut manager);
        chains.push(chain(format!("{name}|http"), Some(http), manager_filter(&manager)));
        chains.push(chain(format!("{name}|plain"), Some(at("raw_buffer")), pass(bytes.clone())));
    }
    let mut by_target: BTreeMap<&Target, Vec<String>> = BTreeMap::new();
    for (host, target) in open.https.iter().filter(|(host, _)| !host.is_empty()) {
        by_target.entry(target).or_default().push(host.clone());
    }
    for (target, server_names) in by_target {
        let cluster = cluster_name(target, port).to_string();
        let tls = listener::FilterChainMatch { server_names, ..at("tls") };
        chains.push(chain(format!("{name}|tls|{cluster}"), Some(tls), pass(cluster)));
    }
    if let Some(target) = open.https.get("") {
        chains.push(chain(
            format!("{name}|tls"),
            Some(at("tls")),
            pass(cluster_name(target, port).to_string()),
        ));
    }
    chains.push(chain(format!("{name}|bytes"), Some(at("")), pass(bytes)));
    chains
}

/// A virtual host for the hosts of which the same is open. A request to another host goes where it would go without any
/// Egress; one that does not fit what is open of a host is refused here, since whoever is outside cannot, unless every
/// byte is open.
fn requests(name: &str, port: u16, open: &EgressScope, otherwise: &str) -> route::RouteConfiguration {
    let dialled = || cluster_name(&Target::Dialled, port).to_string();
    let hosts = open.http.iter().map(|one| {
        let mut routes: Vec<_> = one.routes.iter().flat_map(|one| request_routes(one, port)).collect();
        routes.push(if open.tcp { to(route_match(None), dialled()) } else { refuse() });
        route::VirtualHost {
            name: one.hosts.first().cloned().unwrap_or_default(),
            domains: one.hosts.iter().flat_map(|host| [host.clone(), format!("{host}:{port}")]).collect(),
            routes,
            ..Default::default()
        }
    });
    let other = if open.tcp { dialled() } else { otherwise.to_owned() };
    let rest = route::VirtualHost {
        name: "*".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![to(route_match(None), other)],
        ..Default::default()
    };
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts.chain([rest]).collect(),
        ..Default::default()
    }
}

fn request_routes(one: &EgressRoute, port: u16) -> Vec<route::Route> {
    let cluster = cluster_name(&one.to, port).to_string();
    if one.matches.is_empty() {
        return vec![to(route_match(None), cluster)];
    }
    let fitting = one.matches.iter().map(|matching| {
        let mut fits = route_match(Some(matching));
        fits.headers.extend(matching.tells_paths().then(clear_path));
        to(fits, cluster.clone())
    });
    fitting.collect()
}

fn to(matching: route::RouteMatch, cluster: String) -> route::Route {
    let action = route::RouteAction {
        timeout: seconds(0),
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster)),
        ..Default::default()
    };
    route::Route {
        r#match: Some(matching),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

fn refuse() -> route::Route {
    let answer = route::DirectResponseAction { status: 403, ..Default::default() };
    route::Route {
        r#match: Some(route_match(None)),
        action: Some(route::route::Action::DirectResponse(answer)),
        ..Default::default()
    }
}
