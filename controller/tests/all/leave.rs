//! A replica that stops, and its streams.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use controller::certificates::authority::Authority;
use controller::daemon::empty_mesh;
use controller::fleet::Proxies;
use controller::metrics::Metrics;
use controller::snapshots::{Input, Snapshots};
use controller::xds::body::frame;
use controller::xds::door::Door;
use controller::xds::leave::{APART, Leaving};
use controller::xds::server::{Ads, Limits, router};
use controller::xds::wire::{DeltaRequest, Node};
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use http_body_util::BodyExt;
use mesh::{Object, ResourceType};
use runtime::tls::PeerCertificates;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::{leaf, options, pod_value, root, shop, until_true};

/// A controller's streams without its sockets.
pub struct Replica {
    router: Router,
    authority: Authority,
    pub proxies: Arc<Proxies>,
    pub metrics: Metrics,
    pub stopping: CancellationToken,
}

impl Replica {
    async fn start(leaving: Leaving, buyers: usize) -> Self {
        Self::start_with(leaving, buyers, Door::default(), Limits::default()).await
    }

    pub async fn start_with(leaving: Leaving, buyers: usize, door: Door, limits: Limits) -> Self {
        let (certificate, key) = root();
        let authority = Authority::parse(&certificate, &key).unwrap();
        let (metrics, proxies) = (Metrics::default(), Arc::new(Proxies::default()));
        let snapshots = Snapshots::start(empty_mesh(&options()).unwrap(), metrics.clone()).unwrap();
        let pods = (2..=buyers).map(|number| -> Object {
            let pod = pod_value(&format!("buyer-{number}"), "buyer", "buyer");
            serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pod).unwrap().into()
        });
        for object in shop().into_iter().chain(pods) {
            snapshots.send(Input::Apply(Box::new(object))).await;
        }
        snapshots.send(Input::Synced).await;
        let stopping = CancellationToken::new();
        let ads = Ads {
            snapshots,
            proxies: proxies.clone(),
            canaries: Arc::default(),
            door: Arc::new(door),
            metrics: metrics.clone(),
            stopping: stopping.clone(),
            leaving: Arc::new(leaving),
            limits,
        };
        Self { router: router(ads), authority, proxies, metrics, stopping }
    }

    /// Opens the stream of a buyer, which has got an answer.
    pub async fn open(&self, number: usize) -> Stream {
        let mut stream = self.ask(number, "0.1.0").await;
        assert!(stream.goes_on().await);
        stream
    }

    /// Opens the stream of a buyer that says that it is of a release.
    pub async fn ask(&self, number: usize, revision: &str) -> Stream {
        let (requests, body) = mpsc::channel::<Result<Bytes, Infallible>>(4);
        let (chain, _) = leaf(&self.authority, "spiffe://cluster.local/ns/shop/sa/buyer", &[]);
        let chain = runtime::tls::certificates(&chain).unwrap();
        let mut call = http::Request::post(
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        )
        .body(Body::from_stream(ReceiverStream::new(body)))
        .unwrap();
        call.extensions_mut().insert(PeerCertificates(chain.into()));
        let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
        let fields = [("pod_uid", format!("uid-buyer-{number}")), ("revision", revision.to_owned())];
        let node = Node {
            id: format!("buyer-{number}.shop"),
            metadata: Some(Struct {
                fields: fields.map(|(key, value)| (key.to_owned(), text(value))).into(),
            }),
            ..Node::default()
        };
        let answers = self.router.clone().oneshot(call).await.unwrap().into_body();
        let stream = Stream { requests, answers };
        stream.subscribe(ResourceType::Cluster, None, Some(node)).await;
        stream
    }
}

pub struct Stream {
    pub requests: mpsc::Sender<Result<Bytes, Infallible>>,
    answers: Body,
}

impl Stream {
    pub async fn subscribe(&self, kind: ResourceType, name: Option<&str>, node: Option<Node>) {
        let request = DeltaRequest {
            node,
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: name.into_iter().map(str::to_owned).collect(),
            ..DeltaRequest::default()
        };
        self.requests.send(Ok(frame(&request))).await.unwrap();
    }

    /// Whether the next that comes is a response, and not the end, which must be without an error.
    pub async fn goes_on(&mut self) -> bool {
        let status = self.next().await;
        assert!(status.as_deref().is_none_or(|status| status == "0"), "{status:?}");
        status.is_none()
    }

    /// Takes what comes: the status at the end, nothing for a response.
    pub async fn next(&mut self) -> Option<String> {
        let frame = self.answers.frame().await.unwrap().unwrap();
        frame.into_trailers().ok().map(|trailers| trailers["grpc-status"].to_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn streams_of_a_replica_that_stops_leave_one_after_another() {
    let count = 30;
    let replica = Replica::start(Leaving::default(), count).await;
    let mut streams = Vec::new();
    for number in 1..=count {
        streams.push(replica.open(number).await);
    }
    let begin = Instant::now();
    replica.stopping.cancel();
    let ends = streams.into_iter().map(|mut stream| async move {
        while stream.goes_on().await {}
        begin.elapsed()
    });
    let mut ends = futures::future::join_all(ends).await;
    ends.sort();
    // A turn may come late on a busy machine, but never early.
    for (turn, end) in (0..).zip(ends) {
        assert!(end >= APART * turn, "{turn}: {end:?}");
    }
}

#[tokio::test]
async fn until_its_turn_a_stream_is_served() {
    let hour = Duration::from_secs(3600);
    let replica = Replica::start(Leaving::new(hour, 100 * hour), 2).await;
    let (first, second) = (replica.open(1).await, replica.open(2).await);
    replica.stopping.cancel();
    until_true("one has left", || replica.metrics.streams.get() == 1).await;
    let left = replica.proxies.newest().remove(0).pod.name.clone();
    let (mut gone, mut stays) = if left == "buyer-1" { (second, first) } else { (first, second) };
    assert!(!gone.goes_on().await);
    stays.subscribe(ResourceType::Endpoint, Some("out|shop|bookstore|80"), None).await;
    assert!(stays.goes_on().await, "it is answered");
}
