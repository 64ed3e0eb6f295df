//! The HTTP server on port 15020: what kubelet and this program's other verbs ask.
//!
//! | path | who asks | answer |
//! |---|---|---|
//! | `/livez` | kubelet | 200 while this program runs |
//! | `/readyz` | kubelet, `wait` | 200, or 503 with a typed reason |
//! | `/probe/<container>/<kind>` | kubelet | what the application answers |
//! | `/hold` | kubelet (preStop of the application) | when clients have stopped sending new work |
//! | `POST /drain` | `drain`, from inside the pod only | when nothing is in flight any more |
//! | `/stats` | people | what this program knows |
//!
//! Anybody in the cluster can connect here, so: one request per connection, few at a time, short headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
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
use tokio::task::JoinHandle;

use crate::constants::PROXY_PORT;
use crate::http_client::chain;
use crate::probe;
use crate::sidecar::Sidecar;

const MAX_CONNECTIONS: usize = 128;
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

async fn serve(listener: TcpListener, sidecar: Arc<Sidecar>, mut stopped: oneshot::Receiver<()>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else { continue };
        let (sidecar, holds) = (Arc::clone(&sidecar), Arc::clone(&holds));
        tokio::spawn(async move {
            connection(stream, peer, sidecar, holds).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, sidecar: Arc<Sidecar>, holds: Arc<Semaphore>) {
    let service = service_fn(|request| {
        let (sidecar, holds) = (Arc::clone(&sidecar), Arc::clone(&holds));
        async move { Ok::<_, std::convert::Infallible>(route(&request, peer, &sidecar, &holds).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, error = chain(&error), "connection ended early");
    }
}

async fn route(
    request: &Request<Incoming>,
    peer: SocketAddr,
    sidecar: &Sidecar,
    holds: &Semaphore,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET, "/livez") => answer(StatusCode::OK, &json!({ "live": true })),
        (&Method::GET, "/readyz") => readyz(sidecar).await,
        (&Method::GET, "/stats") => answer(StatusCode::OK, &sidecar.summary().await),
        (&Method::GET, "/hold") => hold(sidecar, holds).await,
        (&Method::POST, "/drain") => drain(sidecar, peer).await,
        (&Method::GET, path) if path.starts_with("/probe/") => forward(path, sidecar).await,
        _ => refuse(StatusCode::NOT_FOUND, "NoSuchPath", path),
    }
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

async fn hold(sidecar: &Sidecar, holds: &Semaphore) -> Response<Full<Bytes>> {
    let Ok(_permit) = holds.try_acquire() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "TooManyHolds", "too many requests hold already");
    };
    answer(StatusCode::OK, &json!({ "ended": sidecar.hold().await }))
}

async fn drain(sidecar: &Sidecar, peer: SocketAddr) -> Response<Full<Bytes>> {
    if !peer.ip().to_canonical().is_loopback() {
        return refuse(StatusCode::FORBIDDEN, "NotFromThisPod", "only the pod itself may start its drain");
    }
    answer(StatusCode::OK, &json!(sidecar.drain().await))
}

async fn forward(path: &str, sidecar: &Sidecar) -> Response<Full<Bytes>> {
    let key = path.trim_start_matches("/probe/");
    let Some(target) = sidecar.environment().probes.get(key) else {
        return refuse(StatusCode::NOT_FOUND, "NoSuchProbe", key);
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
