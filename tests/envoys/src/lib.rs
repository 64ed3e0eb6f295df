//! Real Envoys on this machine: snapshots of `mesh` as static configuration, identities on file, processes.
//!
//! ```text
//!  mesh::Snapshot ──Config::of──▶ Config (endpoints and addresses of this machine) ──Envoy::start──▶ process
//!                                 Identities::issue ──▶ folder with a certificate ──────────────▲
//! ```
//!
//! Tests and benchmarks may use it, and nothing else: what goes wrong is a panic, which is their report.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests only: a panic is the report")]

mod follow;
mod process;

pub use process::{Block, Envoy, Identities, binary, free_port, validate};

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryResponse, Resource};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use mesh::{ResourceType, Snapshot};
use prost::{Message, Name};

/// The oldest and the newest that a release may hold.
pub const VERSIONS: [&str; 2] = ["1.36.4", "1.40.0"];

/// Static configuration.
#[derive(Clone, Default)]
pub struct Config {
    /// Listeners.
    pub listeners: Vec<listener::Listener>,
    /// Clusters.
    pub clusters: Vec<cluster::Cluster>,
    /// Where the listeners are looked for instead ([`Config::follow`]).
    followed: Option<PathBuf>,
}

/// The messages of one type in a snapshot.
fn decode<M: Message + Default>(snapshot: &Snapshot, kind: ResourceType) -> HashMap<String, M> {
    let resources = snapshot.of(kind).values().map(|resource| {
        let resource = Resource::decode(resource.body.clone()).unwrap();
        (resource.name, M::decode(resource.resource.unwrap().value.as_slice()).unwrap())
    });
    resources.collect()
}

impl Config {
    /// A snapshot as it is.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            listeners: decode(snapshot, ResourceType::Listener).into_values().collect(),
            clusters: decode(snapshot, ResourceType::Cluster).into_values().collect(),
            followed: None,
        }
    }

    /// A listener with these routes.
    pub fn of_routes(routes: Vec<route::Route>) -> Self {
        let host = route::VirtualHost {
            name: "x".to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..Default::default()
        };
        let config = route::RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
        let router = envoy_types::pb::envoy::extensions::filters::http::router::v3::Router::default();
        let manager = hcm::HttpConnectionManager {
            stat_prefix: "x".to_owned(),
            http_filters: vec![hcm::HttpFilter {
                name: "router".to_owned(),
                config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(&router))),
                ..Default::default()
            }],
            route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(config)),
            ..Default::default()
        };
        let filter = listener::Filter {
            name: "hcm".to_owned(),
            config_type: Some(listener::filter::ConfigType::TypedConfig(any(&manager))),
        };
        let chain = listener::FilterChain { filters: vec![filter], ..Default::default() };
        let listener = listener::Listener {
            name: "x".to_owned(),
            address: Some(local(1)),
            filter_chains: vec![chain],
            ..Default::default()
        };
        Self { listeners: vec![listener], ..Self::default() }
    }

    /// With routes and endpoints written in instead of asked for. Endpoints are on this machine.
    pub fn inlined(self, snapshot: &Snapshot) -> Self {
        self.inlined_at(snapshot, |endpoint| SocketAddr::from(([127, 0, 0, 1], endpoint.port())))
    }

    /// The same, with endpoints somewhere else on this machine.
    pub fn inlined_at(mut self, snapshot: &Snapshot, place: impl Fn(SocketAddr) -> SocketAddr) -> Self {
        let routes: HashMap<String, route::RouteConfiguration> = decode(snapshot, ResourceType::Route);
        let endpoints: HashMap<String, endpoint::ClusterLoadAssignment> =
            decode(snapshot, ResourceType::Endpoint);
        for listener in &mut self.listeners {
            let chains = listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain);
            for filter in chains.flat_map(|chain| &mut chain.filters) {
                inline_routes(filter, &routes);
            }
        }
        for cluster in &mut self.clusters {
            let Some(mut assignment) = endpoints.get(&cluster.name).cloned() else { continue };
            place_endpoints(&mut assignment, &place);
            make_static(cluster, assignment);
        }
        self
    }

    /// Makes a cluster take its endpoints from a file, as they are in each snapshot that [`write_endpoints`] puts there.
    pub fn endpoints_from(&mut self, cluster: &str, folder: &Path) {
        let cluster = self.clusters.iter_mut().find(|one| one.name == cluster).unwrap();
        let watched = core::WatchedDirectory { path: folder.display().to_string(), ..Default::default() };
        let source = core::PathConfigSource {
            path: folder.join("endpoints.pb").display().to_string(),
            watched_directory: Some(watched),
            ..Default::default()
        };
        let source = core::config_source::ConfigSourceSpecifier::PathConfigSource(source);
        let eds = cluster.eds_cluster_config.as_mut().unwrap();
        eds.eds_config =
            Some(core::ConfigSource { config_source_specifier: Some(source), ..Default::default() });
    }

    /// Makes a cluster lead to a port of this machine.
    pub fn lead(&mut self, cluster: &str, port: u16) {
        self.lead_to(cluster, SocketAddr::from(([127, 0, 0, 1], port)));
    }

    /// Makes a cluster lead to an address of this machine.
    pub fn lead_to(&mut self, cluster: &str, to: SocketAddr) {
        let host = endpoint::Endpoint { address: Some(socket(to)), ..Default::default() };
        let host = endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)),
            ..Default::default()
        };
        let assignment = endpoint::ClusterLoadAssignment {
            cluster_name: cluster.to_owned(),
            endpoints: vec![endpoint::LocalityLbEndpoints { lb_endpoints: vec![host], ..Default::default() }],
            ..Default::default()
        };
        make_static(self.clusters.iter_mut().find(|one| one.name == cluster).unwrap(), assignment);
    }

    /// Keeps one listener only, on ports of this machine.
    pub fn listen(&mut self, name: &str, ports: &[u16]) {
        self.place(&[(name, ports)]);
    }

    /// Keeps these listeners only, on ports of this machine.
    pub fn place(&mut self, places: &[(&str, &[u16])]) {
        let at = |ports: &[u16]| ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
        let places = places.iter().map(|(name, ports)| ((*name).to_owned(), at(ports)));
        self.place_at(&places.collect());
    }

    /// Keeps these listeners only, at these addresses.
    pub fn place_at(&mut self, places: &BTreeMap<String, Vec<SocketAddr>>) {
        let place = |(name, at): (&String, &Vec<SocketAddr>)| {
            let found = self.listeners.iter().find(|one| one.name == *name);
            let names = || self.listeners.iter().map(|one| one.name.as_str()).collect::<Vec<_>>();
            let mut kept = found.unwrap_or_else(|| panic!("no {name} in {:?}", names())).clone();
            kept.bind_to_port = None;
            kept.use_original_dst = None;
            kept.address = Some(socket(at[0]));
            let more = at[1..].iter().map(|at| Some(socket(*at)));
            kept.additional_addresses =
                more.map(|address| listener::AdditionalAddress { address, ..Default::default() }).collect();
            kept
        };
        self.listeners = places.iter().map(place).collect();
    }

    /// The virtual outbound listener again, for calls to one address: without a redirect there is no original
    /// destination.
    pub fn passthrough(&mut self, name: &str, to: SocketAddr) {
        let mut cluster = self.clusters.iter().find(|one| one.name == "meshpassthrough").unwrap().clone();
        cluster.name = name.to_owned();
        self.clusters.push(cluster);
        self.lead_to(name, to);
        let mut listener = self.listeners.iter().find(|one| one.name == "outbound").unwrap().clone();
        listener.name = name.to_owned();
        let filter = &mut listener.default_filter_chain.as_mut().unwrap().filters[0];
        let Some(listener::filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else {
            panic!()
        };
        let mut proxy = tcp_proxy::TcpProxy::decode(config.value.as_slice()).unwrap();
        proxy.cluster_specifier = Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(name.to_owned()));
        *config = any(&proxy);
        self.listeners.push(listener);
    }

    /// Keeps one listener only, on all its addresses but on another port.
    pub fn listen_everywhere(&mut self, name: &str, port: u16) {
        self.listeners.retain(|one| one.name == name);
        for listener in &mut self.listeners {
            let more = listener.additional_addresses.iter_mut().map(|more| &mut more.address);
            for address in more.chain([&mut listener.address]).flatten() {
                if let Some(core::address::Address::SocketAddress(socket)) = &mut address.address {
                    socket.port_specifier = Some(core::socket_address::PortSpecifier::PortValue(port.into()));
                }
            }
        }
    }

    /// An encoded bootstrap, with the runtime value that the contract asks for.
    pub fn bootstrap(&self) -> Vec<u8> {
        let limit = Value { kind: Some(Kind::NumberValue(32768.0)) };
        let layer =
            Struct { fields: HashMap::from([("re2.max_program_size.error_level".to_owned(), limit)]) };
        let mut clusters = self.clusters.clone();
        clusters.push(controller());
        let service = core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(
                core::grpc_service::EnvoyGrpc { cluster_name: "controller".to_owned(), ..Default::default() },
            )),
            ..Default::default()
        };
        let ads = core::ApiConfigSource {
            api_type: core::api_config_source::ApiType::DeltaGrpc.into(),
            transport_api_version: core::ApiVersion::V3.into(),
            grpc_services: vec![service],
            ..Default::default()
        };
        let bootstrap = bootstrap::Bootstrap {
            admin: Some(bootstrap::Admin { address: Some(pipe(process::ADMIN)), ..Default::default() }),
            node: Some(core::Node {
                id: "id".to_owned(),
                cluster: "cluster".to_owned(),
                ..Default::default()
            }),
            static_resources: Some(bootstrap::bootstrap::StaticResources {
                listeners: self.listeners.iter().filter(|_| self.followed.is_none()).cloned().collect(),
                clusters,
                ..Default::default()
            }),
            dynamic_resources: Some(bootstrap::bootstrap::DynamicResources {
                ads_config: Some(ads),
                lds_config: self.listeners_from(),
                ..Default::default()
            }),
            layered_runtime: Some(bootstrap::LayeredRuntime {
                layers: vec![bootstrap::RuntimeLayer {
                    name: "static".to_owned(),
                    layer_specifier: Some(bootstrap::runtime_layer::LayerSpecifier::StaticLayer(layer)),
                }],
            }),
            ..Default::default()
        };
        bootstrap.encode_to_vec()
    }
}

/// A message as what filters and the like are configured with.
pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn inline_routes(filter: &mut listener::Filter, routes: &HashMap<String, route::RouteConfiguration>) {
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else { return };
    if config.type_url != hcm::HttpConnectionManager::type_url() {
        return;
    }
    let mut manager = hcm::HttpConnectionManager::decode(config.value.as_slice()).unwrap();
    if let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) = &manager.route_specifier {
        let config = routes[&rds.route_config_name].clone();
        manager.route_specifier = Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(config));
    }
    *config = any(&manager);
}

fn make_static(cluster: &mut cluster::Cluster, assignment: endpoint::ClusterLoadAssignment) {
    cluster.eds_cluster_config = None;
    if cluster.lb_policy() == cluster::cluster::LbPolicy::ClusterProvided {
        cluster.lb_policy = cluster::cluster::LbPolicy::RoundRobin.into();
    }
    cluster.cluster_discovery_type =
        Some(cluster::cluster::ClusterDiscoveryType::Type(cluster::cluster::DiscoveryType::Static.into()));
    cluster.load_assignment = Some(assignment);
}

/// Puts the endpoints of a snapshot where a running Envoy finds them.
pub fn write_endpoints(
    snapshot: &Snapshot,
    cluster: &str,
    folder: &Path,
    place: impl Fn(SocketAddr) -> SocketAddr,
) {
    let mut all: HashMap<String, endpoint::ClusterLoadAssignment> = decode(snapshot, ResourceType::Endpoint);
    let mut assignment = all.remove(cluster).unwrap();
    place_endpoints(&mut assignment, place);
    let response = DiscoveryResponse { resources: vec![any(&assignment)], ..Default::default() };
    let temporary = folder.join("next");
    std::fs::write(&temporary, response.encode_to_vec()).unwrap();
    std::fs::rename(temporary, folder.join("endpoints.pb")).unwrap();
}

fn place_endpoints(
    assignment: &mut endpoint::ClusterLoadAssignment,
    place: impl Fn(SocketAddr) -> SocketAddr,
) {
    for one in assignment.endpoints.iter_mut().flat_map(|locality| &mut locality.lb_endpoints) {
        let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &mut one.host_identifier else {
            panic!()
        };
        endpoint.address = Some(socket(place(socket_of(endpoint.address.as_ref().unwrap()))));
    }
}

/// A controller that is not there.
fn controller() -> cluster::Cluster {
    let mut cluster = cluster::Cluster { name: "controller".to_owned(), ..Default::default() };
    let assignment =
        endpoint::ClusterLoadAssignment { cluster_name: "controller".to_owned(), ..Default::default() };
    make_static(&mut cluster, assignment);
    cluster
}

fn pipe(path: &str) -> core::Address {
    let pipe = core::Pipe { path: path.to_owned(), mode: 0 };
    core::Address { address: Some(core::address::Address::Pipe(pipe)) }
}

/// A port of this machine.
pub fn local(port: u16) -> core::Address {
    socket(SocketAddr::from(([127, 0, 0, 1], port)))
}

fn socket(at: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(at.port().into())),
            ..Default::default()
        })),
    }
}

fn socket_of(address: &core::Address) -> SocketAddr {
    match &address.address {
        Some(core::address::Address::SocketAddress(core::SocketAddress {
            address,
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..
        })) => SocketAddr::new(address.parse().unwrap(), u16::try_from(*port).unwrap()),
        other => panic!("{other:?}"),
    }
}
