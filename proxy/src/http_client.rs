//! One HTTP/1.1 request over one connection: to the controller, to Envoy's admin interface, to the application and
//! to this program itself. No pool: there are few requests, and a sidecar must be small.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The name has no address.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with {address} failed")]
    Tls {
        /// The address.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or what came isn't HTTP.
    #[error("no proper HTTP answer from {address}")]
    Http {
        /// The address.
        address: String,
        /// The cause.
        #[source]
        source: hyper::Error,
    },
    /// The body is too long, or broke off.
    #[error("the answer of {address} is longer than {limit} bytes or broke off")]
    Body {
        /// The address.
        address: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// It took too long.
    #[error("no answer from {address} within {limit:?}")]
    Timeout {
        /// The address.
        address: String,
        /// The limit.
        limit: Duration,
    },
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A name to look up.
    Name(String, u16),
    /// An address.
    Ip(SocketAddr),
    /// An address, from a given source address.
    From(IpAddr, SocketAddr),
    /// A socket in the file system.
    Socket(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(host, port) => write!(formatter, "{host}:{port}"),
            Self::Ip(address) | Self::From(_, address) => write!(formatter, "{address}"),
            Self::Socket(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// How to talk.
#[derive(Clone)]
pub enum Transport {
    /// Plain TCP.
    Plain,
    /// TLS, with the name to ask for.
    Tls(Arc<rustls::ClientConfig>, ServerName<'static>),
}

/// Limits of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For everything together.
    pub time: Duration,
    /// Longest body of an answer, in bytes.
    pub body: usize,
}

/// Sends a request and reads the answer whole.
///
/// # Errors
/// When there is no complete answer within the limits. Any HTTP status is an answer.
pub async fn send(
    address: &Address,
    transport: &Transport,
    request: Request<Full<Bytes>>,
    limits: Limits,
) -> Result<Response<Bytes>, HttpError> {
    let timeout = || HttpError::Timeout { address: address.to_string(), limit: limits.time };
    tokio::time::timeout(limits.time, exchange(address, transport, request, limits.body))
        .await
        .unwrap_or_else(|_| Err(timeout()))
}

async fn exchange(
    address: &Address,
    transport: &Transport,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Response<Bytes>, HttpError> {
    if let Address::Socket(path) = address {
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|source| HttpError::Connect { address: address.to_string(), source })?;
        return talk(address, stream, request, limit).await;
    }
    let stream = connect(address).await?;
    match transport {
        Transport::Plain => talk(address, stream, request, limit).await,
        Transport::Tls(config, name) => {
            let stream = TlsConnector::from(Arc::clone(config))
                .connect(name.clone(), stream)
                .await
                .map_err(|source| HttpError::Tls { address: address.to_string(), source })?;
            talk(address, stream, request, limit).await
        }
    }
}

/// Opens a TCP connection, to whatever has an address in a network.
///
/// # Errors
/// When the name has no address or nobody listens there.
pub async fn connect(address: &Address) -> Result<TcpStream, HttpError> {
    let failed = |source| HttpError::Connect { address: address.to_string(), source };
    match address {
        Address::Ip(ip) => TcpStream::connect(ip).await.map_err(failed),
        Address::Socket(_) => Err(failed(io::ErrorKind::Unsupported.into())),
        Address::From(source, ip) => {
            let socket =
                if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
            socket.bind(SocketAddr::new(*source, 0)).map_err(failed)?;
            socket.connect(*ip).await.map_err(failed)
        }
        Address::Name(host, port) => {
            let addresses: Vec<_> = tokio::net::lookup_host((host.as_str(), *port))
                .await
                .map_err(|source| HttpError::Resolve { host: host.clone(), source })?
                .collect();
            TcpStream::connect(addresses.as_slice()).await.map_err(failed)
        }
    }
}

async fn talk(
    address: &Address,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Response<Bytes>, HttpError> {
    let failed = |source| HttpError::Http { address: address.to_string(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let (parts, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, limit)
            .collect()
            .await
            .map_err(|_| HttpError::Body { address: address.to_string(), limit })?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}
