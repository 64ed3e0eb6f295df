//! The gRPC health check (`grpc.health.v1.Health/Check`), as kubelet makes it. One unary call with two tiny messages
//! needs no gRPC library in a program that every pod runs.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::http_client::{self, Address, HttpError};

/// A health answer is a dozen bytes.
const MAX_BODY: usize = 4 * 1024;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// What the application said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It answers that it doesn't, with this `ServingStatus`.
    NotServing(u64),
    /// The call failed with this gRPC status; 12 (unimplemented) is a server without the health service.
    Failed(u64),
    /// What answers there is no gRPC.
    NoGrpc(StatusCode),
}

/// Asks for the health of `service`; empty is the server as a whole.
///
/// # Errors
/// When nobody answers. The caller bounds the time.
pub async fn check(address: &Address, service: &str) -> Result<Health, HttpError> {
    let failed = |source| HttpError::Http { address: address.to_string(), source };
    let stream = http_client::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(failed)?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let (head, body) = sender.send_request(request(address, service)).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|_| HttpError::Body { address: address.to_string(), limit: MAX_BODY })?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok(judge(head.status, &head.headers, &trailers, &body.to_bytes()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

fn request(address: &Address, service: &str) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::from(message(service)));
    *request.method_mut() = http::Method::POST;
    // An address and a fixed path always make a URI; if not, the server says that it knows no such call.
    *request.uri_mut() = format!("http://{address}/grpc.health.v1.Health/Check").parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static("kube-probe/meshwright"));
    request
}

/// `HealthCheckRequest { service = 1 }` in a gRPC frame.
fn message(service: &str) -> Bytes {
    let mut body = BytesMut::new();
    if !service.is_empty() {
        body.put_u8(0x0a);
        varint(&mut body, service.len() as u64);
        body.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + body.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    frame.put(body);
    frame.freeze()
}

fn varint(into: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        into.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.put_u8(value as u8);
}

fn judge(status: StatusCode, head: &HeaderMap, trailers: &HeaderMap, body: &[u8]) -> Health {
    // A call that fails at once has its status in the head ("trailers only").
    let code = trailers.get("grpc-status").or_else(|| head.get("grpc-status"));
    let code = code.and_then(|code| code.to_str().ok()).and_then(|code| code.parse().ok());
    match (status, code) {
        (StatusCode::OK, Some(0)) => match serving_status(body.get(5..).unwrap_or_default()) {
            SERVING => Health::Serving,
            other => Health::NotServing(other),
        },
        (StatusCode::OK, Some(code)) => Health::Failed(code),
        (status, _) => Health::NoGrpc(status),
    }
}

/// Field 1 of a `HealthCheckResponse`; a field that is left out is 0, `UNKNOWN`.
fn serving_status(message: &[u8]) -> u64 {
    match message {
        [0x08, rest @ ..] => {
            let bytes = rest.iter().take(10).enumerate();
            let mut value = 0;
            for (index, byte) in bytes {
                value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_a_frame_with_the_name() {
        assert_eq!(message("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = message(&"x".repeat(200));
        assert_eq!(&long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn answers_are_told_apart() {
        let headers =
            |code: &str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
        let none = HeaderMap::new();
        let ok = StatusCode::OK;
        let serving = [0, 0, 0, 0, 2, 8, 1];
        let not = [0, 0, 0, 0, 2, 8, 2];
        assert_eq!(judge(ok, &none, &headers("0"), &serving), Health::Serving);
        assert_eq!(judge(ok, &none, &headers("0"), &not), Health::NotServing(2));
        assert_eq!(judge(ok, &none, &headers("0"), &[0, 0]), Health::NotServing(0));
        assert_eq!(judge(ok, &headers("12"), &none, &[]), Health::Failed(12));
        assert_eq!(judge(ok, &none, &none, b"hello"), Health::NoGrpc(ok));
        assert_eq!(judge(StatusCode::NOT_FOUND, &none, &none, b""), Health::NoGrpc(StatusCode::NOT_FOUND));
        assert_eq!(
            serving_status(&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            u64::MAX
        );
    }
}
