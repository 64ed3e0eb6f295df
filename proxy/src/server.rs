//! The HTTP server on port 15020: what kubelet and this program's other verbs ask.
//!
//! | path | who asks | answer |
//! |---|---|---|
//! | `/livez` | kubelet | 200 while this program runs |
//! | `/readyz` | kubelet, `wait` | 200, or 503 with a typed reason |
//! | `/probe/<key>/<container>/<kind>` | kubelet | what the application answers |
//! | `/hold?key=<key>` | kubelet (preStop of the application) | when clients have stopped sending new work |
//! | `POST /drain` | `drain`, from inside the pod only | when nothing is in flight any more |
//! | `/stats` | people, from inside the pod only | what this program knows |
//!
//! Anybody in the cluster can connect here, so: one request per connection, short headers, a share for each peer
//! ([`crate::guests`]), and a key that only the kubelet was told ([`crate::hook_key`]) for whatever reaches the application. A pod that a
//! release before this one injected has no key; there the paths are open, as they were.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use crate::constants::PROXY_PORT;
use crate::guests::{Guest, Guests, Welcome};
use crate::http_client::chain;
use crate::probe;
use crate::sidecar::Sidecar;

/// Holds last long; they must not keep probes out.
const MAX_HOLDS: usize = 32;
const HEADER_TIME: Duration = Duration::from_secs(5);
const MAX_HEADERS: usize = 16 * 1024;

/// The server, until it is stopped.
#[derive(Debug)]
pub struct Server {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Serves on all addresses of the pod's family.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(sidecar: Arc<Sidecar>) -> std::io::Result<Self> {
        let listener = bind(&sidecar)?;
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, sidecar, stopped));
        Ok(Self { stop, serving })
    }

    /// Answers what has come so far, and takes no more.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.serving.await;
    }
}

/// In a pod with two slots the one that takes over listens before the other one stops.
fn bind(sidecar: &Sidecar) -> std::io::Result<TcpListener> {
    let v4 = sidecar.environment().pod_ip.is_ipv4();
    let any: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = if v4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(sidecar.environment().slot.is_some())?;
    socket.bind(SocketAddr::new(any, PROXY_PORT))?;
    socket.listen(1024)
}

/// Everybody who is connected, and how to end each connection.
#[derive(Default)]
struct House {
    guests: Guests,
    connections: BTreeMap<Guest, AbortHandle>,
}

/// The place of one connection, given back when it is dropped.
struct Place {
    house: Arc<Mutex<House>>,
    guest: Guest,
    peer: SocketAddr,
}

impl Place {
    /// Finds one, if need be by ending another connection.
    fn find(house: &Arc<Mutex<House>>, peer: SocketAddr) -> Option<Self> {
        let welcome = lock(house).guests.come(peer.ip());
        let guest = match welcome {
            Welcome::Place(guest) => guest,
            Welcome::PlaceOf { gone, new } => {
                let connection = lock(house).connections.remove(&gone);
                if let Some(connection) = connection {
                    connection.abort();
                }
                new
            }
            Welcome::Full => return None,
        };
        Some(Self { house: Arc::clone(house), guest, peer })
    }

    /// Nobody else gets this place any more.
    fn know(&self) {
        lock(&self.house).guests.know(self.guest);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = lock(&self.house);
        inside.guests.leave(self.guest);
        inside.connections.remove(&self.guest);
    }
}

fn lock(house: &Mutex<House>) -> std::sync::MutexGuard<'_, House> {
    house.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, sidecar: Arc<Sidecar>, mut stopped: oneshot::Receiver<()>) {
    let house = Arc::<Mutex<House>>::default();
    let holds = Arc::new(Semaphore::new(MAX_HOLDS));
    let mut stopping = false;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            _ = &mut stopped, if !stopping => {
                // What is in the queue would be reset with the socket.
                stopping = true;
                continue;
            }
            () = std::future::ready(()), if stopping => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, for instance: trying again at once would only burn CPU.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(place) = Place::find(&house, peer) else { continue };
        let guest = place.guest;
        let task = tokio::spawn(connection(stream, place, Arc::clone(&sidecar), Arc::clone(&holds)));
        // It has not begun yet: there is one thread, and nothing was awaited since.
        lock(&house).connections.insert(guest, task.abort_handle());
    }
}

async fn connection(stream: TcpStream, place: Place, sidecar: Arc<Sidecar>, holds: Arc<Semaphore>) {
    let place = &place;
    let service = service_fn(|request| {
        let (sidecar, holds) = (Arc::clone(&sidecar), Arc::clone(&holds));
        async move { Ok::<_, std::convert::Infallible>(route(&request, place, &sidecar, &holds).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(peer = %place.peer, error = chain(&error), "connection ended early");
    }
}

async fn route(
    request: &Request<Incoming>,
    place: &Place,
    sidecar: &Sidecar,
    holds: &Semaphore,
) -> Response<Full<Bytes>> {
    // Kubelets before 1.27 put one more slash before the path of a hook.
    let path = request.uri().path().trim_start_matches('/');
    match (request.method(), path) {
        (&Method::GET, "livez") => answer(StatusCode::OK, &json!({ "live": true })),
        (&Method::GET, "readyz") => readyz(sidecar).await,
        (&Method::GET, "stats") if !is_own(place.peer) => not_from_this_pod(),
        (&Method::GET, "stats") => answer(StatusCode::OK, &sidecar.summary().await),
        (&Method::GET, "hold") => {
            let word = request.uri().query().and_then(|query| query.strip_prefix("key="));
            hold(word, place, sidecar, holds).await
        }
        (&Method::POST, "drain") if !is_own(place.peer) => not_from_this_pod(),
        (&Method::POST, "drain") => {
            place.know();
            answer(StatusCode::OK, &json!(sidecar.drain().await))
        }
        (&Method::GET, path) => match path.strip_prefix("probe/") {
            Some(key) => forward(key, place, sidecar).await,
            None => refuse(StatusCode::NOT_FOUND, "NoSuchPath", path),
        },
        _ => refuse(StatusCode::NOT_FOUND, "NoSuchPath", path),
    }
}

/// Whether this is the kubelet, as far as one can tell: it knows the key, where there is one.
fn is_kubelet(word: Option<&str>, place: &Place, sidecar: &Sidecar) -> bool {
    let Some(key) = &sidecar.environment().hook_key else { return true };
    let known = word.is_some_and(|word| key.is(word));
    if known {
        place.know();
    }
    known
}

fn is_own(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

fn not_from_this_pod() -> Response<Full<Bytes>> {
    refuse(StatusCode::FORBIDDEN, "NotFromThisPod", "only the pod itself may ask for this")
}

fn not_the_kubelet() -> Response<Full<Bytes>> {
    let message =
        "only the kubelet may ask for this; what it has to know stands in the pod's probes and hooks";
    refuse(StatusCode::FORBIDDEN, "NotTheKubelet", message)
}

async fn readyz(sidecar: &Sidecar) -> Response<Full<Bytes>> {
    match sidecar.readiness().await {
        Ok(()) => answer(StatusCode::OK, &json!({ "ready": true })),
        Err(reason) => {
            let mut body = serde_json::to_value(&reason).unwrap_or_else(|_| json!({}));
            body["message"] = reason.to_string().into();
            answer(StatusCode::SERVICE_UNAVAILABLE, &body)
        }
    }
}

async fn hold(
    word: Option<&str>,
    place: &Place,
    sidecar: &Sidecar,
    holds: &Semaphore,
) -> Response<Full<Bytes>> {
    if !is_kubelet(word, place, sidecar) {
        return not_the_kubelet();
    }
    let Ok(_permit) = holds.try_acquire() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "TooManyHolds", "too many requests hold already");
    };
    answer(StatusCode::OK, &json!({ "ended": sidecar.hold().await }))
}

/// The injector's names of probes begin with the key, so that a sidecar of a release that knows no key finds them too.
async fn forward(name: &str, place: &Place, sidecar: &Sidecar) -> Response<Full<Bytes>> {
    if !is_kubelet(name.split('/').next(), place, sidecar) {
        return not_the_kubelet();
    }
    let Some(target) = sidecar.environment().probes.get(name) else {
        return refuse(StatusCode::NOT_FOUND, "NoSuchProbe", name);
    };
    match probe::forward(target, sidecar.environment().pod_ip).await {
        Ok(reply) => {
            let mut response = Response::new(Full::from(reply.body().clone()));
            *response.status_mut() = reply.status();
            response
        }
        Err(error) => refuse(StatusCode::BAD_GATEWAY, "ProbeFailed", &chain(&error)),
    }
}

fn refuse(status: StatusCode, reason: &str, message: &str) -> Response<Full<Bytes>> {
    answer(status, &json!({ "reason": reason, "message": message }))
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
