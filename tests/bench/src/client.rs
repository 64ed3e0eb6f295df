//! A simulated sidecar: mutual TLS, one delta ADS stream, everything acknowledged. It connects and leaves as it is
//! told, and comes back with what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bench::authority;
use controller::certificates::authority::Authority;
use controller::xds::wire::{BuildVersion, DeltaRequest, DeltaResponse, Node, SemanticVersion};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use mesh::ResourceType;
use prost::Message;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use crate::server;
use bench::world::{self, World};

pub const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// What all clients are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Connect, or come back.
    Connected,
    /// Leave.
    Away,
}

/// What a resource is called, of all that it is.
#[derive(Clone, PartialEq, Message)]
struct Called {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "3")]
    name: String,
}

/// Type URL to name to version.
type Held = BTreeMap<String, BTreeMap<String, String>>;

/// One sidecar.
pub struct Client {
    /// Which one.
    pub number: usize,
    /// Of which mesh.
    pub world: World,
    /// The server.
    pub address: Arc<str>,
    /// Who signs its certificate.
    pub authority: Arc<Authority>,
    /// What to do.
    pub phase: watch::Receiver<Phase>,
    /// Of all clients together.
    pub counts: Arc<Counts>,
}

/// What clients count together.
#[derive(Default)]
pub struct Counts {
    /// Clients that have their certificate and wait to be told.
    pub prepared: AtomicU64,
    /// Connections and streams that failed.
    pub failures: AtomicU64,
}

impl Client {
    /// Does as it is told until nobody tells it anything any more.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let tls = self.tls()?;
        self.counts.prepared.fetch_add(1, Ordering::Relaxed);
        let mut held = Held::new();
        loop {
            self.phase.wait_for(|phase| *phase == Phase::Connected).await?;
            let mut phase = self.phase.clone();
            let ended = tokio::select! {
                ended = self.stream(tls.clone(), &mut held) => Some(ended),
                away = phase.wait_for(|phase| *phase == Phase::Away) => {
                    away?;
                    None
                }
            };
            if let Some(ended) = ended {
                if ended.is_err() {
                    self.counts.failures.fetch_add(1, Ordering::Relaxed);
                }
                // As Envoy, but without its randomness.
                let spread = Duration::from_millis(self.number as u64 % 250);
                tokio::time::sleep(Duration::from_millis(250) + spread).await;
            }
        }
    }

    fn tls(&self) -> anyhow::Result<Arc<rustls::ClientConfig>> {
        tls(&self.authority, &self.world.spiffe_id(self.number))
    }

    async fn stream(&self, tls: Arc<rustls::ClientConfig>, held: &mut Held) -> anyhow::Result<()> {
        let channel = connect(tls, self.address.clone()).await?;
        let (out, requests) = mpsc::channel(64);
        for request in self.subscriptions(held) {
            out.send(request).await?;
        }
        let mut grpc = Grpc::new(channel);
        grpc.ready().await?;
        let codec = ProstCodec::<DeltaRequest, DeltaResponse>::default();
        let stream = tonic::Request::new(ReceiverStream::new(requests));
        let response = grpc.streaming(stream, http::uri::PathAndQuery::from_static(PATH), codec).await?;
        let mut responses = response.into_inner();
        while let Some(response) = responses.message().await? {
            let of_type = held.entry(response.type_url.clone()).or_default();
            for resource in response.resources {
                let Called { name, version } = Called::decode(resource)?;
                of_type.insert(name, version);
            }
            for name in response.removed_resources {
                of_type.remove(&name);
            }
            let ack = DeltaRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                ..DeltaRequest::default()
            };
            out.send(ack).await?;
        }
        Ok(())
    }

    fn subscriptions(&self, held: &Held) -> Vec<DeltaRequest> {
        let node = node(&world::pod(self.number), &self.world.account(self.number));
        let services = self.world.reachable(self.number % self.world.accounts());
        let all = ResourceType::ALL.into_iter().enumerate();
        all.map(|(index, kind)| {
            let names: BTreeSet<_> = match kind {
                ResourceType::Cluster | ResourceType::Listener => BTreeSet::new(),
                // All calls to the first service go to the next two.
                ResourceType::Endpoint => services.iter().skip(1).map(|one| world::resource(*one)).collect(),
                ResourceType::Route => services.iter().map(|one| world::resource(*one)).collect(),
            };
            DeltaRequest {
                node: (index == 0).then(|| node.clone()),
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: names.into_iter().collect(),
                initial_resource_versions: held.get(kind.type_url()).cloned().unwrap_or_default(),
                ..DeltaRequest::default()
            }
        })
        .collect()
    }
}

/// The certificate of somebody, and whom it trusts.
pub fn tls(authority: &Authority, spiffe_id: &str) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let (chain, key) = authority::leaf(authority, spiffe_id, server::HOST)?;
    let identity = runtime::certificates::Identity::default();
    identity.roots.set(authority.trust_bundle())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    identity.certificate.set(&chain, key)?;
    let mut config = identity.client_config()?.as_ref().clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Every connection is a whole handshake, as that of an Envoy that lost its controller.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// What the Envoy of a pod says of itself.
pub fn node(pod: &str, account: &str) -> Node {
    let text = |value: String| Value { kind: Some(Kind::StringValue(value)) };
    let version = SemanticVersion { major: 1, minor: 40, patch: 0 };
    Node {
        id: format!("{pod}.{}", world::NAMESPACE),
        cluster: format!("{account}.{}", world::NAMESPACE),
        metadata: Some(Struct { fields: [("pod_uid".to_owned(), text(pod.to_owned()))].into() }),
        user_agent_build_version: Some(BuildVersion { version: Some(version) }),
    }
}

/// Opens a connection.
pub async fn connect(tls: Arc<rustls::ClientConfig>, address: Arc<str>) -> anyhow::Result<Channel> {
    let connector = tokio_rustls::TlsConnector::from(tls);
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let tcp = tokio::net::TcpStream::connect(&*address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("controller.bench").map_err(std::io::Error::other)?;
            std::io::Result::Ok(hyper_util::rt::TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    Ok(Endpoint::from_static("http://controller.bench").connect_with_connector(connect).await?)
}
