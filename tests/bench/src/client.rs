//! A simulated sidecar: mutual TLS, one delta ADS stream, everything acknowledged.

use std::sync::Arc;

use controller::certificates::authority::Authority;
use controller::xds::wire::{DeltaRequest, DeltaResponse, Node};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use mesh::ResourceType;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use crate::{server, world};

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Connects and acknowledges until the connection ends.
pub async fn run(
    client: usize,
    services: usize,
    address: Arc<str>,
    authority: Arc<Authority>,
) -> anyhow::Result<()> {
    let channel = connect(client, address, &authority).await?;
    let (out, requests) = mpsc::channel(64);
    for request in subscriptions(client, services) {
        out.send(request).await?;
    }
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let codec = ProstCodec::<DeltaRequest, DeltaResponse>::default();
    let stream = tonic::Request::new(ReceiverStream::new(requests));
    let response = grpc.streaming(stream, http::uri::PathAndQuery::from_static(PATH), codec).await?;
    let mut responses = response.into_inner();
    while let Some(response) = responses.message().await? {
        let ack = DeltaRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaRequest::default()
        };
        out.send(ack).await?;
    }
    Ok(())
}

async fn connect(client: usize, address: Arc<str>, authority: &Authority) -> anyhow::Result<Channel> {
    let (chain, key) = server::leaf(authority, &world::spiffe_id(client))?;
    let identity = runtime::certificates::Identity::default();
    identity.roots.set(authority.trust_bundle())?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    identity.certificate.set(&chain, key)?;
    let mut config = identity.client_config()?.as_ref().clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
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

fn subscriptions(client: usize, services: usize) -> Vec<DeltaRequest> {
    let text = |value: String| Value { kind: Some(Kind::StringValue(value)) };
    let metadata = Struct { fields: [("pod_uid".to_owned(), text(world::pod(client)))].into() };
    let node = Node {
        id: format!("{}.{}", world::pod(client), world::NAMESPACE),
        cluster: format!("{}.{}", world::account(client), world::NAMESPACE),
        metadata: Some(metadata),
        ..Node::default()
    };
    let all = ResourceType::ALL.into_iter().enumerate();
    all.map(|(index, kind)| {
        let names = if kind.wildcard() { Vec::new() } else { (0..services).map(world::resource).collect() };
        DeltaRequest {
            node: (index == 0).then(|| node.clone()),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names,
            ..DeltaRequest::default()
        }
    })
    .collect()
}
