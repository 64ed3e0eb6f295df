//! Verbs `wait` (postStart: the application's containers start after the sidecar is ready) and `drain` (preStop:
//! the sidecar ends after the application's traffic). Both only ask the running sidecar.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;

use crate::constants::PROXY_PORT;
use crate::http_client::{self, Address, HttpError, Limits, Transport, chain};

const POLL: Duration = Duration::from_millis(100);
const ASK: Duration = Duration::from_secs(5);
const MAX_BODY: usize = 64 * 1024;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// The sidecar wasn't ready in time.
    #[error("the sidecar is not ready after {after:?}: {reason}")]
    NotReady {
        /// How long it was waited for.
        after: Duration,
        /// What it said last.
        reason: String,
    },
    /// The sidecar doesn't answer.
    #[error("the sidecar does not answer")]
    NoAnswer(#[source] HttpError),
    /// The request could not be made.
    #[error("cannot make a request")]
    Request(#[source] http::Error),
}

/// Waits until the sidecar is ready.
///
/// # Errors
/// With the sidecar's own reason when it isn't within `limit`.
pub async fn wait(limit: Duration) -> Result<(), VerbError> {
    let began = Instant::now();
    loop {
        let reason = match ask(Method::GET, "/readyz", ASK).await {
            Ok((StatusCode::OK, _)) => return Ok(()),
            Ok((_, body)) => body.trim().to_owned(),
            Err(VerbError::NoAnswer(error)) => chain(&error),
            Err(other) => return Err(other),
        };
        if began.elapsed() >= limit {
            return Err(VerbError::NotReady { after: limit, reason });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Drains the sidecar; the answer says how it went.
///
/// # Errors
/// When the sidecar doesn't answer within the grace period.
pub async fn drain(grace: Duration) -> Result<String, VerbError> {
    ask(Method::POST, "/drain", grace).await.map(|(_, body)| body.trim().to_owned())
}

async fn ask(method: Method, path: &str, time: Duration) -> Result<(StatusCode, String), VerbError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1")
        .header("connection", "close")
        .body(Full::<Bytes>::default())
        .map_err(VerbError::Request)?;
    let address = Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, PROXY_PORT)));
    let answer = http_client::send(&address, &Transport::Plain, request, Limits { time, body: MAX_BODY })
        .await
        .map_err(VerbError::NoAnswer)?;
    Ok((answer.status(), String::from_utf8_lossy(answer.body()).into_owned()))
}
