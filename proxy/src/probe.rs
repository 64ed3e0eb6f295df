//! Kubelet's probes of the application, which it sends here because it has no certificate of the mesh.
//!
//! Forwarded to the pod's address, where kubelet itself would have knocked, with the status code kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use rustls_pki_types::ServerName;
use serde::Deserialize;

use crate::constants::{DELIVERY_SOURCE_V4, DELIVERY_SOURCE_V6};
use crate::grpc::{self, Health};
use crate::http_client::{self, Address, HttpError, Limits, Transport};
use crate::tls::{self, TrustError};

const MAX_BODY: usize = 64 * 1024;
const MAX_REDIRECTS: usize = 10;

/// How a probe talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Scheme {
    /// HTTP.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTPS, certificate not verified.
    #[serde(rename = "HTTPS")]
    Https,
    /// A TCP connection.
    #[serde(rename = "TCP")]
    Tcp,
    /// The gRPC health service.
    #[serde(rename = "GRPC")]
    Grpc,
}

/// A probe as the pod's author wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeTarget {
    /// How.
    pub scheme: Scheme,
    /// Port of the application.
    pub port: u16,
    /// Path and query; `/` when left out.
    #[serde(default)]
    pub path: Option<String>,
    /// Headers, `Host` among them.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The service whose health is asked for, of gRPC only; the whole server when left out.
    #[serde(default)]
    pub service: Option<String>,
    /// Kubelet's time limit in seconds; 1 when left out.
    #[serde(default)]
    pub timeout_seconds: Option<u32>,
}

/// Why a probe got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The application doesn't answer.
    #[error("the application does not answer")]
    NoAnswer(#[source] HttpError),
    /// The probe can't be sent as it is written.
    #[error("the probe is not a valid HTTP request")]
    Invalid(#[source] http::Error),
    /// The TLS library refuses.
    #[error("the probe needs TLS")]
    Tls(#[source] TrustError),
}

/// Sends one probe to the application.
///
/// # Errors
/// When the application doesn't answer in time; any HTTP status is an answer.
pub async fn forward(target: &ProbeTarget, pod_ip: IpAddr) -> Result<Response<Bytes>, ProbeError> {
    let address = Address::From(delivery_source(pod_ip), SocketAddr::new(pod_ip, target.port));
    let time = Duration::from_secs(target.timeout_seconds.unwrap_or(1).clamp(1, 3600).into());
    let transport = match target.scheme {
        Scheme::Tcp => return knock(&address, time).await,
        Scheme::Grpc => return health(&address, target.service.as_deref().unwrap_or_default(), time).await,
        Scheme::Http => Transport::Plain,
        Scheme::Https => {
            Transport::Tls(tls::unverified().map_err(ProbeError::Tls)?, ServerName::from(pod_ip))
        }
    };
    let limits = Limits { time, body: MAX_BODY };
    let mut path = target.path.clone().unwrap_or_default();
    for _ in 0..MAX_REDIRECTS {
        let request = request(target, &address, &path).map_err(ProbeError::Invalid)?;
        let answer =
            http_client::send(&address, &transport, request, limits).await.map_err(ProbeError::NoAnswer)?;
        match redirect(&answer, &address) {
            Redirect::None => return Ok(answer),
            Redirect::Here(next) => path = next,
            // Kubelet follows no redirect to another host, and counts it as a success.
            Redirect::Elsewhere => break,
        }
    }
    Ok(Response::new(Bytes::from_static(b"redirected elsewhere\n")))
}

fn delivery_source(pod_ip: IpAddr) -> IpAddr {
    match pod_ip {
        IpAddr::V4(_) => DELIVERY_SOURCE_V4.into(),
        IpAddr::V6(_) => DELIVERY_SOURCE_V6.into(),
    }
}

async fn knock(address: &Address, time: Duration) -> Result<Response<Bytes>, ProbeError> {
    let late = || HttpError::Timeout { address: address.to_string(), limit: time };
    tokio::time::timeout(time, http_client::connect(address))
        .await
        .unwrap_or_else(|_| Err(late()))
        .map(|_| Response::new(Bytes::from_static(b"connected\n")))
        .map_err(ProbeError::NoAnswer)
}

/// Kubelet calls an application healthy that says SERVING, and nothing else.
async fn health(address: &Address, service: &str, time: Duration) -> Result<Response<Bytes>, ProbeError> {
    let late = || HttpError::Timeout { address: address.to_string(), limit: time };
    let health = tokio::time::timeout(time, grpc::check(address, service))
        .await
        .unwrap_or_else(|_| Err(late()))
        .map_err(ProbeError::NoAnswer)?;
    let mut response = Response::new(Bytes::from(format!("{health:?}\n")));
    if health != Health::Serving {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

fn request(target: &ProbeTarget, address: &Address, path: &str) -> Result<Request<Full<Bytes>>, http::Error> {
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static("kube-probe/meshwright"));
    headers.insert(HOST, HeaderValue::try_from(address.to_string())?);
    for (name, value) in &target.headers {
        headers.insert(HeaderName::try_from(name.as_str())?, HeaderValue::try_from(value.as_str())?);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::get(path).body(Full::default())?;
    *request.headers_mut() = headers;
    Ok(request)
}

enum Redirect {
    None,
    Here(String),
    Elsewhere,
}

/// Kubelet would follow a redirect to this very server; coming from here it would lead to the wrong port.
fn redirect(answer: &Response<Bytes>, address: &Address) -> Redirect {
    let followed = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    if !followed.contains(&answer.status()) {
        return Redirect::None;
    }
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let Some(uri) = location.and_then(|location| location.parse::<Uri>().ok()) else {
        return Redirect::Elsewhere;
    };
    let here = uri.authority().is_none_or(|authority| authority.as_str() == address.to_string());
    match uri.path_and_query() {
        Some(path) if here => Redirect::Here(path.to_string()),
        _ => Redirect::Elsewhere,
    }
}
