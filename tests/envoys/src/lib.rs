//! Real Envoys on this machine: snapshots of `mesh` as static configuration, identities on file, processes.
//!
//! ```text
//!  mesh::Snapshot ──Config::of──▶ Config (endpoints and addresses of this machine) ──Envoy::start──▶ process
//!                                 Identities::issue ──▶ folder with a certificate ──────────────▲
//! ```
//!
//! Tests and benchmarks may use it, and nothing else: what goes wrong is a panic, which is their report.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests only: a panic is the report")]

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use mesh::{ResourceType, Snapshot};
use prost::{Message, Name};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use tempfile::TempDir;

/// The oldest and the newest that a release may hold.
pub const VERSIONS: [&str; 2] = ["1.36.4", "1.40.0"];

/// Path of a real Envoy, fetched once.
fn binary(version: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/cluster");
    let output = Command::new(script).args(["envoy", version]).output().unwrap();
    assert!(output.status.success(), "no Envoy {version}: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Static configuration.
#[derive(Clone, Default)]
pub struct Config {
    /// Listeners.
    pub listeners: Vec<listener::Listener>,
    /// Clusters.
    pub clusters: Vec<cluster::Cluster>,
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
        Self { listeners: vec![listener], clusters: Vec::new() }
    }

    /// With routes and endpoints written in instead of asked for. Endpoints are on this machine.
    pub fn inlined(mut self, snapshot: &Snapshot) -> Self {
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
            for one in assignment.endpoints.iter_mut().flat_map(|locality| &mut locality.lb_endpoints) {
                let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) =
                    &mut one.host_identifier
                else {
                    panic!()
                };
                endpoint.address = Some(local(port_of(endpoint.address.as_ref().unwrap())));
            }
            make_static(cluster, assignment);
        }
        self
    }

    /// Makes a cluster lead to a port of this machine.
    pub fn lead(&mut self, cluster: &str, port: u16) {
        let host = endpoint::Endpoint { address: Some(local(port)), ..Default::default() };
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
        let mut kept = self.listeners.iter().find(|one| one.name == name).unwrap().clone();
        kept.bind_to_port = None;
        kept.use_original_dst = None;
        kept.address = Some(local(ports[0]));
        kept.additional_addresses = ports[1..]
            .iter()
            .map(|port| listener::AdditionalAddress { address: Some(local(*port)), ..Default::default() })
            .collect();
        self.listeners = vec![kept];
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
            node: Some(core::Node {
                id: "id".to_owned(),
                cluster: "cluster".to_owned(),
                ..Default::default()
            }),
            static_resources: Some(bootstrap::bootstrap::StaticResources {
                listeners: self.listeners.clone(),
                clusters,
                ..Default::default()
            }),
            dynamic_resources: Some(bootstrap::bootstrap::DynamicResources {
                ads_config: Some(ads),
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
    cluster.lb_policy = cluster::cluster::LbPolicy::RoundRobin.into();
    cluster.cluster_discovery_type =
        Some(cluster::cluster::ClusterDiscoveryType::Type(cluster::cluster::DiscoveryType::Static.into()));
    cluster.load_assignment = Some(assignment);
}

/// A controller that is not there.
fn controller() -> cluster::Cluster {
    let mut cluster = cluster::Cluster { name: "controller".to_owned(), ..Default::default() };
    let assignment =
        endpoint::ClusterLoadAssignment { cluster_name: "controller".to_owned(), ..Default::default() };
    make_static(&mut cluster, assignment);
    cluster
}

/// A port of this machine.
pub fn local(port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: "127.0.0.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

fn port_of(address: &core::Address) -> u16 {
    match &address.address {
        Some(core::address::Address::SocketAddress(core::SocketAddress {
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..
        })) => u16::try_from(*port).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Lets Envoy judge a configuration.
pub fn validate(version: &str, bootstrap: &[u8]) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bootstrap.pb");
    std::fs::write(&path, bootstrap).unwrap();
    let output = Command::new(binary(version))
        .args(["--mode", "validate", "--config-path"])
        .arg(&path)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Envoy {version}: {}", text.lines().last().unwrap_or_default());
}

/// A root of trust.
pub struct Identities {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

impl Identities {
    /// A new root.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A folder as `meshwright-proxy` keeps it, for a service account.
    pub fn issue(&self, namespace: &str, account: &str) -> TempDir {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A leaf with its root's name would look self-signed.
        params.distinguished_name = DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        let id = crds::labels::spiffe_id("cluster.local", namespace, account);
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let secret = |name: &str, field: &str, value: serde_json::Value| {
            json!({"resources": [{
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                "name": name, field: value,
            }]})
        };
        let identity = json!({
            "certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key.serialize_pem()},
        });
        let trust = json!({"trusted_ca": {"inline_string": self.root}});
        let folder = TempDir::new().unwrap();
        let write = |name: &str, value: serde_json::Value| {
            std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        };
        write("identity.json", secret("identity", "tls_certificate", identity));
        write("trust.json", secret("trust", "validation_context", trust));
        folder
    }
}

/// A running Envoy; killed when dropped.
pub struct Envoy {
    child: Child,
    folder: TempDir,
}

impl Envoy {
    /// Starts one and waits until it listens.
    pub fn start(version: &str, config: &Config, listens: u16) -> Self {
        Self::start_with(version, "bootstrap.pb", &config.bootstrap(), listens)
    }

    /// Starts one with a bootstrap whose format the file's name says (`.pb`, `.json`).
    pub fn start_with(version: &str, file: &str, bootstrap: &[u8], listens: u16) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, bootstrap).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(binary(version))
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "--config-path"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut envoy = Self { child, folder };
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", listens)).is_err() {
            let log = std::fs::read_to_string(envoy.folder.path().join("log")).unwrap_or_default();
            assert!(envoy.child.try_wait().unwrap().is_none(), "Envoy {version} has ended: {log}");
            assert!(began.elapsed() < Duration::from_secs(30), "Envoy {version} does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        envoy
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}
