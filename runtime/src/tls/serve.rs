//! Connections: so many of one address, handshakes in tasks of their own, HTTP/1.1 and HTTP/2, none without requests for
//! long, graceful end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::Watcher;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use super::accept::accept;
use super::guests::{Guests, Place, Places, Requests};
use crate::shutdown::Shutdown;

/// What handshakes may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handshakes {
    /// So many are worked on at a time, those that came first. When thousands come at once, some are done after the
    /// other; without this all of them would be done late, or too late, together.
    pub(super) places: usize,
    /// A peer that is waited for so long goes on without a place: it must not keep others out.
    pub(super) place: Duration,
    /// Who has waited so long for a place goes on without one: peers that come only to hold places, however many,
    /// cost the others this and no more.
    pub(super) queue: Duration,
    /// A peer that has not begun, or has begun and not finished, by then is dropped.
    pub(super) limit: Duration,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            places: 256,
            place: Duration::from_secs(1),
            queue: Duration::from_secs(2),
            limit: Duration::from_secs(10),
        }
    }
}

/// A peer that has not sent a whole HTTP/1.1 header by then is dropped.
const HEADER_LIMIT: Duration = Duration::from_secs(15);
/// HTTP/2 pings find peers that vanished without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// In the extensions of every request: the peer's verified certificate chain, leaf first; empty without one.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// In the extensions of every request: where the connection comes from.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub SocketAddr);

/// Counts of a TLS port.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Connections that were taken.
    pub accepted: Counter,
    /// Connections that are open after their handshake.
    pub connections: Gauge,
    /// Handshakes that failed or took too long.
    pub failed_handshakes: Counter,
    /// Connections that were closed at once because their address had too many.
    pub crowded_out: Counter,
    /// Connections that were closed because nothing was asked for long.
    pub idle: Counter,
}

impl Metrics {
    /// Registers the counts as `<prefix>_accepted_connections`, `<prefix>_connections`, `<prefix>_failed_handshakes`,
    /// `<prefix>_crowded_out_connections` and `<prefix>_idle_connections`.
    #[must_use]
    pub fn register(registry: &mut Registry, prefix: &str) -> Self {
        let metrics = Self::default();
        registry.register(
            format!("{prefix}_accepted_connections"),
            "TCP connections that were accepted",
            metrics.accepted.clone(),
        );
        registry.register(
            format!("{prefix}_connections"),
            "Open TLS connections",
            metrics.connections.clone(),
        );
        registry.register(
            format!("{prefix}_failed_handshakes"),
            "TLS handshakes that failed or took too long",
            metrics.failed_handshakes.clone(),
        );
        registry.register(
            format!("{prefix}_crowded_out_connections"),
            "Connections closed at once because their address had too many",
            metrics.crowded_out.clone(),
        );
        registry.register(
            format!("{prefix}_idle_connections"),
            "Connections closed because nothing was asked for long",
            metrics.idle.clone(),
        );
        metrics
    }
}

/// Serves the routes until `shutdown` says stop; then takes no new connection and lets open ones finish what they
/// are at until it is overdue. Streams that never end by themselves must be ended by their handlers.
///
/// # Errors
/// When there is no thread for the acceptor, or it cannot listen.
pub async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    router: Router,
    metrics: Metrics,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    serve_with((Handshakes::default(), Places::default()), listener, config, router, metrics, shutdown).await
}

pub(super) async fn serve_with(
    (handshakes, rooms): (Handshakes, Places),
    listener: TcpListener,
    config: Arc<ServerConfig>,
    router: Router,
    metrics: Metrics,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let acceptor = TlsAcceptor::from(config);
    let places = Arc::new(Semaphore::new(handshakes.places));
    let port = Port { http: http(), router, metrics, handshakes, places, rooms };
    let guests = Guests::default();
    let workers = tokio::runtime::Handle::current();
    let take = move |stream, address: SocketAddr, watcher| {
        port.metrics.accepted.inc();
        let Some(place) = guests.place(address.ip(), &port.rooms) else {
            port.metrics.crowded_out.inc();
            return;
        };
        workers.spawn(port.clone().connection(acceptor.clone(), stream, (address, place), watcher));
    };
    let graceful = accept(listener, shutdown.stopping.clone(), take).await?;
    tokio::select! {
        () = graceful.shutdown() => {}
        () = shutdown.overdue.cancelled() => tracing::warn!("connections were cut: the time to drain is over"),
    }
    Ok(())
}

fn http() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(64);
    builder
}

#[derive(Clone)]
struct Port {
    http: Builder<TokioExecutor>,
    router: Router,
    metrics: Metrics,
    handshakes: Handshakes,
    places: Arc<Semaphore>,
    rooms: Places,
}

impl Port {
    async fn connection(
        self,
        acceptor: TlsAcceptor,
        stream: TcpStream,
        (address, _place): (SocketAddr, Place),
        watcher: Watcher,
    ) {
        // Small writes are the rule here; waiting to fill packets would only delay them.
        let _ = stream.set_nodelay(true);
        let stream = match self.handshake(acceptor, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                self.metrics.failed_handshakes.inc();
                tracing::debug!(%address, error, "handshake failed");
                return;
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Arc<[_]> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let peer = PeerCertificates(chain);
        let (router, requests) = (self.router, Requests::default());
        let counted = requests.clone();
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(PeerAddress(address));
            let (open, answering) = (counted.begin(), router.clone().oneshot(request));
            async move { answering.await.map(|response| open.answer(response)) }
        });
        let open = Open::new(&self.metrics.connections);
        let connection = self.http.serve_connection(TokioIo::new(stream), service).into_owned();
        tokio::select! {
            ended = watcher.watch(connection) => if let Err(error) = ended {
                tracing::debug!(%address, error, "connection ended");
            },
            () = requests.idle(self.rooms.idle) => {
                self.metrics.idle.inc();
            }
        }
        drop(open);
    }

    async fn handshake(
        &self,
        acceptor: TlsAcceptor,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let Handshakes { place, queue, limit, .. } = self.handshakes;
        let late = |_| "took too long".to_owned();
        // Whoever says nothing needs no place.
        let begun = tokio::time::timeout(limit, stream.readable()).await.map_err(late)?;
        begun.map_err(|error| error.to_string())?;
        let held = tokio::time::timeout(queue, self.places.acquire()).await;
        let mut accepted = std::pin::pin!(acceptor.accept(stream));
        let mut done = tokio::time::timeout(place, &mut accepted).await;
        drop(held);
        if done.is_err() {
            done = tokio::time::timeout(limit, accepted).await;
        }
        done.map_err(late)?.map_err(|error| error.to_string())
    }
}

/// Counts a connection for as long as it lives, also when its task is dropped.
struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
