//! One request to one peer over TLS: no pool, no redirects, bounded in time and size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `host:port` to connect to.
    pub address: String,
    /// Name that the peer's certificate must hold.
    pub server_name: String,
}

/// What a request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From connecting to the last byte.
    pub time: Duration,
    /// Bytes of the answer's body.
    pub body: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// The certificate's name is not a DNS name or address.
    #[error("{0:?} is not a host name")]
    Name(String),
    /// No TCP connection.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// No TLS session, for example because the peer's certificate is not trusted.
    #[error("no TLS session with {0}")]
    Tls(String, #[source] std::io::Error),
    /// The exchange broke.
    #[error("the request to {0} failed")]
    Http(String, #[source] hyper::Error),
    /// The answer broke off or was too large.
    #[error("the answer of {0} cannot be read")]
    Body(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer in time.
    #[error("{0} did not answer within {1:?}")]
    Timeout(String, Duration),
}

/// Sends one HTTP/1.1 request; the `host` header is set from the peer's name.
///
/// # Errors
/// [`HttpsError`]; an HTTP status of 400 and above is an answer, not an error.
pub async fn send(
    peer: &Peer,
    tls: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
    limits: Limits,
) -> Result<(StatusCode, Bytes), HttpsError> {
    match tokio::time::timeout(limits.time, exchange(peer, tls, request, limits.body)).await {
        Ok(result) => result,
        Err(_) => Err(HttpsError::Timeout(peer.address.clone(), limits.time)),
    }
}

async fn exchange(
    peer: &Peer,
    tls: Arc<ClientConfig>,
    mut request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<(StatusCode, Bytes), HttpsError> {
    let address = || peer.address.clone();
    let bad_name = || HttpsError::Name(peer.server_name.clone());
    let name = ServerName::try_from(peer.server_name.clone()).map_err(|_| bad_name())?;
    let host = HeaderValue::try_from(peer.server_name.as_str()).map_err(|_| bad_name())?;
    request.headers_mut().insert(header::HOST, host);
    let stream =
        TcpStream::connect(&peer.address).await.map_err(|error| HttpsError::Connect(address(), error))?;
    let stream = TlsConnector::from(tls)
        .connect(name, stream)
        .await
        .map_err(|error| HttpsError::Tls(address(), error))?;
    let http = |error| HttpsError::Http(address(), error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let driver = AbortOnDrop(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), limit).collect().await;
    drop(driver);
    Ok((status, body.map_err(|error| HttpsError::Body(address(), error))?.to_bytes()))
}

/// Ends the connection's task with the request, also when that is dropped half-way.
struct AbortOnDrop(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
