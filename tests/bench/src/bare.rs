//! The bare transport: the bytes that the controller would send, over the same TLS, HTTP/2 and framing, made once,
//! with no mesh, no subscriptions and no versions behind them. What it costs is the floor.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::post;
use bytes::Bytes;
use controller::xds::body::{Requests, frame};
use controller::xds::wire::DeltaResponse;
use mesh::{Incremental, Mesh, ResourceType};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::server::{Change, Serve};
use bench::world::{self, World};

const PATH: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// As the controller cuts them.
const CUT: usize = 64 * 1024;

/// What is pushed: to the first so many streams.
type Push = (usize, Bytes);

/// See the module.
#[derive(Clone)]
pub struct Bare(Arc<Inner>);

struct Inner {
    world: World,
    /// By type: what a new client gets.
    first: Vec<Vec<Bytes>>,
    /// By type: what one that holds everything gets.
    nothing: Vec<Bytes>,
    push: watch::Sender<Push>,
    changed: [Bytes; 2],
    next: AtomicUsize,
    streams: AtomicUsize,
    subscribed: AtomicUsize,
    on_their_way: AtomicI64,
    acks: AtomicU64,
    bytes: AtomicU64,
}

impl Bare {
    /// Makes the bytes.
    pub fn start(world: World) -> anyhow::Result<(Self, Router)> {
        let mut mesh = Mesh::new(world.settings()?);
        for object in world.objects()? {
            mesh.apply(object);
        }
        let audience = mesh.audience(world::NAMESPACE, &world::pod(0))?;
        let mut incremental = Incremental::new();
        incremental.add(&mesh, &audience);
        let snapshot = incremental.snapshot(&audience).unwrap_or_default();
        let bodies = |kind: ResourceType| snapshot.of(kind).values().map(|one| one.body.clone()).collect();
        let first = ResourceType::ALL.map(|kind| cut(kind, bodies(kind)));
        let nothing = ResourceType::ALL.map(|kind| message(kind, Vec::new()));
        let one = |kind: ResourceType, service: usize| {
            let resource = snapshot.of(kind).get(&world::resource(service));
            message(kind, resource.map(|one| one.body.clone()).into_iter().collect())
        };
        let changed = [one(ResourceType::Endpoint, world.changing(0)), one(ResourceType::Route, 0)];
        let inner = Inner {
            world,
            first: first.into(),
            nothing: nothing.into(),
            push: watch::Sender::new((0, Bytes::new())),
            changed,
            next: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            subscribed: AtomicUsize::new(0),
            on_their_way: AtomicI64::new(0),
            acks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let bare = Self(Arc::new(inner));
        Ok((bare.clone(), Router::new().route(PATH, post(accept)).with_state(bare)))
    }
}

fn message(kind: ResourceType, resources: Vec<Bytes>) -> Bytes {
    frame(&DeltaResponse {
        system_version_info: "1".to_owned(),
        resources,
        type_url: kind.type_url().to_owned(),
        nonce: "1".to_owned(),
        removed_resources: Vec::new(),
    })
}

fn cut(kind: ResourceType, bodies: Vec<Bytes>) -> Vec<Bytes> {
    let (mut frames, mut batch, mut size) = (Vec::new(), Vec::new(), 0);
    for body in bodies {
        if size + body.len() > CUT && !batch.is_empty() {
            frames.push(message(kind, std::mem::take(&mut batch)));
            size = 0;
        }
        size += body.len();
        batch.push(body);
    }
    frames.push(message(kind, batch));
    frames
}

async fn accept(State(bare): State<Bare>, request: Request) -> http::Response<Body> {
    let (out, frames) = mpsc::channel(8);
    tokio::spawn(async move {
        let Bare(inner) = bare;
        let number = inner.next.fetch_add(1, Ordering::Relaxed);
        inner.streams.fetch_add(1, Ordering::Relaxed);
        let subscribed = inner.stream(number, Requests::new(request.into_body()), &out).await;
        inner.subscribed.fetch_sub(subscribed, Ordering::Relaxed);
        inner.streams.fetch_sub(1, Ordering::Relaxed);
    });
    let mut response = http::Response::new(Body::from_stream(ReceiverStream::new(frames)));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

impl Inner {
    /// Returns how many types were subscribed to.
    async fn stream(
        &self,
        number: usize,
        mut requests: Requests,
        out: &mpsc::Sender<Result<Bytes, Infallible>>,
    ) -> usize {
        let mut push = self.push.subscribe();
        push.mark_unchanged();
        let mut subscribed = 0;
        loop {
            let frames = tokio::select! {
                message = requests.message() => {
                    let Ok(Some(request)) = message else { return subscribed };
                    if !request.response_nonce.is_empty() {
                        self.acks.fetch_add(1, Ordering::Relaxed);
                        self.on_their_way.fetch_sub(1, Ordering::Relaxed);
                        continue;
                    }
                    let Some(at) =
                        ResourceType::ALL.iter().position(|kind| kind.type_url() == request.type_url)
                    else {
                        continue;
                    };
                    subscribed += 1;
                    self.subscribed.fetch_add(1, Ordering::Relaxed);
                    match (request.initial_resource_versions.is_empty(), ResourceType::ALL[at].wildcard()) {
                        (true, _) => self.first[at].clone(),
                        (false, true) => vec![self.nothing[at].clone()],
                        (false, false) => Vec::new(),
                    }
                }
                changed = push.changed() => {
                    if changed.is_err() {
                        return subscribed;
                    }
                    let (most, frame) = push.borrow_and_update().clone();
                    if number % self.world.clients < most { vec![frame] } else { Vec::new() }
                }
            };
            for frame in frames {
                self.on_their_way.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                if out.send(Ok(frame)).await.is_err() {
                    return subscribed;
                }
            }
        }
    }
}

impl Serve for Bare {
    fn synced(&self) -> bool {
        let Self(inner) = self;
        inner.streams.load(Ordering::Relaxed) == inner.world.clients
            && inner.subscribed.load(Ordering::Relaxed) == inner.world.clients * 4
            && inner.on_their_way.load(Ordering::Relaxed) == 0
    }

    fn empty(&self) -> bool {
        let Self(inner) = self;
        let empty = inner.streams.load(Ordering::Relaxed) == 0;
        if empty {
            inner.on_their_way.store(0, Ordering::Relaxed);
        }
        empty
    }

    async fn change(&self, change: Change, round: usize) -> anyhow::Result<usize> {
        let Self(inner) = self;
        let (clients, frame) = match change {
            Change::Endpoints => (inner.world.callers(inner.world.changing(round)), &inner.changed[0]),
            Change::Policy => (inner.world.clients, &inner.changed[1]),
        };
        inner.push.send_replace((clients, frame.clone()));
        Ok(clients)
    }

    fn acks(&self, _: Change) -> u64 {
        self.0.acks.load(Ordering::Relaxed)
    }

    fn streams(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }

    fn sent(&self) -> (u64, u64) {
        (self.0.bytes.load(Ordering::Relaxed), 0)
    }
}
