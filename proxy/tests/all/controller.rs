//! A controller for the tests: it signs certificates over real TLS and, if told so, serves one configuration over
//! real delta ADS to clients that show a certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::codegen::Service;
use tonic::{Status, Streaming};

use crate::certificate::{Authority, Life, Roots};

/// What the controller does when asked for a certificate.
#[derive(Clone)]
pub enum Behaviour {
    Sign(Life),
    Refuse(u16, &'static str),
}

/// What it serves over ADS: type url and resources.
pub type Configuration = Vec<(&'static str, Vec<discovery::Resource>)>;

/// The controller.
pub struct Controller {
    /// The first root.
    pub authority: Arc<Authority>,
    /// What it trusts and what signs.
    pub roots: Mutex<Roots>,
    /// What sidecars say that they hold, by their tokens.
    pub told: Mutex<BTreeMap<String, Value>>,
    pub port: u16,
    host: &'static str,
    behaviour: Mutex<Behaviour>,
    ads: Option<Ads>,
    /// Authorization header and body of each certificate request.
    pub requests: Mutex<Vec<(String, String)>>,
}

impl Controller {
    pub fn start(behaviour: Behaviour, configuration: Option<Configuration>) -> Arc<Self> {
        Self::start_at("127.0.0.1", "localhost", behaviour, configuration)
    }

    /// The same at another address, with another name.
    pub fn start_at(
        address: &str,
        host: &'static str,
        behaviour: Behaviour,
        configuration: Option<Configuration>,
    ) -> Arc<Self> {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let authority = Arc::new(Authority::new());
        let controller = Arc::new(Self {
            roots: Mutex::new(Roots { trusted: vec![Arc::clone(&authority)], serial: 1 }),
            authority,
            told: Mutex::default(),
            host,
            port: listener.local_addr().expect("bound").port(),
            behaviour: Mutex::new(behaviour),
            ads: configuration.map(|configuration| Ads(Arc::new(Mutex::new(configuration)), Arc::default())),
            requests: Mutex::default(),
        });
        let server = Arc::clone(&controller);
        thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let ads = server.ads.clone();
            runtime.block_on(server.serve(listener, ads));
        });
        controller
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// What it answers from now on to whoever asks anew.
    pub fn configure(&self, configuration: Configuration) {
        *self.ads.as_ref().expect("it serves ADS").0.lock().unwrap() = configuration;
    }

    /// Sends this to whoever is connected, unasked.
    pub fn push(&self, configuration: &Configuration) {
        let streams = self.ads.as_ref().expect("it serves ADS").1.lock().unwrap();
        for (stream, (kind, resources)) in
            streams.iter().flat_map(|stream| configuration.iter().map(move |part| (stream, part)))
        {
            // A stream that has ended is no matter.
            let _ = stream.send(Ok(DeltaDiscoveryResponse {
                type_url: (*kind).to_owned(),
                nonce: "pushed".to_owned(),
                resources: resources.clone(),
                ..DeltaDiscoveryResponse::default()
            }));
        }
    }

    pub fn requests_seen(&self) -> usize {
        self.requests.lock().unwrap().iter().map(|(_, csr)| csr).collect::<BTreeSet<_>>().len()
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, ads: Option<Ads>) {
        listener.set_nonblocking(true).expect("a socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let acceptor = TlsAcceptor::from(Arc::new(self.tls()));
            let (server, ads) = (Arc::clone(&self), ads.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let known = stream.get_ref().1.peer_certificates().is_some();
                let ads = ads.filter(|_| known).map(AggregatedDiscoveryServiceServer::new);
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (server, mut ads) = (Arc::clone(&server), ads.clone());
                    async move {
                        match (request.uri().path(), &mut ads) {
                            ("/v1/certificates", _) => Ok(server.certificate(request).await),
                            ("/v1/holdings", _) => Ok(server.holdings(request).await),
                            (_, Some(ads)) => ads.call(request).await,
                            (_, None) => Ok(Status::unauthenticated("no").into_http()),
                        }
                    }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }

    fn tls(&self) -> rustls::ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let trust = self.roots.lock().unwrap().clone();
        for root in &trust.trusted {
            let der = CertificateDer::from_pem_slice(root.root().as_bytes()).expect("PEM");
            roots.add(der).expect("a root");
        }
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let (certificate, key) = trust.trusted[0].server(self.host);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from(certificate)],
                PrivateKeyDer::try_from(key).expect("a key"),
            )
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    async fn certificate(&self, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let token = request.headers().get("authorization").and_then(|token| token.to_str().ok());
        let token = token.unwrap_or_default().to_owned();
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let csr = String::from_utf8(body.to_vec()).expect("text");
        self.requests.lock().unwrap().push((token, csr.clone()));
        let (status, body) = match self.behaviour.lock().unwrap().clone() {
            Behaviour::Sign(life) => {
                let id = "spiffe://cluster.local/ns/bookstore/sa/bookstore";
                let roots = self.roots.lock().unwrap().clone();
                let mut body = roots.trusted[0].sign(&csr, id, life, &roots.bundle());
                body["trustedRoots"] = json!(roots.names());
                body["serial"] = json!(roots.serial);
                (200, Bytes::from(body.to_string()))
            }
            Behaviour::Refuse(status, reason) => {
                (status, Bytes::from(json!({ "reason": reason, "message": "no" }).to_string()))
            }
        };
        let mut response = Response::new(tonic::body::Body::new(http_body_util::Full::new(body)));
        *response.status_mut() = status.try_into().expect("a status");
        response
    }
}

impl Controller {
    /// Another order of the operator: these roots, the first of which signs.
    pub fn order(&self, trusted: &[&Arc<Authority>]) {
        let mut roots = self.roots.lock().unwrap();
        roots.trusted = trusted.iter().map(|root| Arc::clone(root)).collect();
        roots.serial += 1;
    }

    async fn holdings(&self, request: Request<Incoming>) -> Response<tonic::body::Body> {
        let token = request.headers()["authorization"].to_str().expect("ASCII").to_owned();
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        let report: Value = serde_json::from_slice(&body).expect("JSON");
        self.told.lock().unwrap().insert(token, report);
        let roots = self.roots.lock().unwrap().clone();
        let names = roots.names();
        let wanted = json!({
            "trustBundle": roots.bundle(), "trustedRoots": names, "issuer": names[0],
            "serial": roots.serial, "reportAfterSeconds": 1,
        });
        Response::new(tonic::body::Body::new(http_body_util::Full::new(Bytes::from(wanted.to_string()))))
    }
}

#[derive(Clone)]
struct Ads(Arc<Mutex<Configuration>>, Arc<Mutex<Vec<Answers>>>);

type Answers = tokio::sync::mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = UnboundedReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = UnboundedReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let (send, receive) = tokio::sync::mpsc::unbounded_channel();
        let Self(configuration, streams) = self.clone();
        streams.lock().unwrap().push(send.clone());
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let configuration = configuration.lock().unwrap().clone();
                let answer = configuration.iter().find(|(kind, _)| *kind == request.type_url);
                // A request with a nonce acknowledges; the first of a type asks.
                if let (true, Some((_, resources))) = (request.response_nonce.is_empty(), answer) {
                    let _ = send.send(Ok(DeltaDiscoveryResponse {
                        type_url: request.type_url,
                        nonce: "1".to_owned(),
                        resources: resources.clone(),
                        ..DeltaDiscoveryResponse::default()
                    }));
                }
            }
        });
        Ok(tonic::Response::new(UnboundedReceiverStream::new(receive)))
    }
}
