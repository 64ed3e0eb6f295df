//! The bytes of the stream: gRPC's five-byte frames around messages, made and read here, because tonic's own encoder
//! and decoder keep a buffer of the largest message for as long as a stream lives. Here a response is bytes only from
//! the moment that HTTP/2 can take it until it is written.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::Frame;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::wire::{DeltaRequest, DeltaResponse};

/// Length of gRPC's frame header: a flag for compression and the length of the message.
const HEADER: usize = 5;
/// The largest request, in bytes: one that names about 80,000 resources is as large.
pub const LARGEST: usize = 8 * 1024 * 1024;
/// The most names and versions in one request: short ones take more memory than they have bytes.
pub const MOST_NAMES: usize = 200_000;

/// Why there is no further request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRequest {
    /// The connection broke.
    #[error("{0}")]
    Broken(String),
    /// A request is larger than any that is taken.
    #[error("a request has {0} bytes; at most {LARGEST} are taken")]
    TooLarge(usize),
    /// A request names more than any that is taken.
    #[error("a request names {0} resources; at most {MOST_NAMES} are taken")]
    TooManyNames(usize),
    /// It is no request.
    #[error("{0}")]
    Garbled(String),
}

impl NoRequest {
    /// What the client is told.
    #[must_use]
    pub fn status(&self) -> Status {
        let code = match self {
            Self::Broken(_) => Code::Cancelled,
            Self::TooLarge(_) | Self::TooManyNames(_) => Code::ResourceExhausted,
            Self::Garbled(_) => Code::InvalidArgument,
        };
        Status::new(code, self.to_string())
    }
}

/// What is sent: a response, or the end of the stream and why. Boxed, because channels keep room for many.
pub type Item = Result<Box<DeltaResponse>, Box<Status>>;

/// A message with its frame.
#[must_use]
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEADER + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room: that is its length.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// The body of the answer.
pub struct Responses {
    queue: mpsc::Receiver<Item>,
    ended: bool,
}

impl Responses {
    /// Sends what comes out of `queue`, then that all is well.
    #[must_use]
    pub fn new(queue: mpsc::Receiver<Item>) -> Self {
        Self { queue, ended: false }
    }
}

impl hyper::body::Body for Responses {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(self.queue.poll_recv(context));
        let frame = match item {
            Some(Ok(response)) => Frame::data(frame(response.as_ref())),
            Some(Err(status)) => {
                self.ended = true;
                Frame::trailers(trailers(&status))
            }
            None => {
                self.ended = true;
                Frame::trailers(trailers(&Status::ok("")))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        headers.insert("grpc-status", HeaderValue::from(i32::from(Code::Unknown)));
    }
    headers
}

/// The messages of a request's body.
pub struct Requests {
    body: Body,
    buffer: BytesMut,
}

impl Requests {
    /// Reads a body.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next message; `None` at the end. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is not a message.
    pub async fn message(&mut self) -> Result<Option<DeltaRequest>, NoRequest> {
        loop {
            if let Some(message) = self.decode()? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(NoRequest::Broken(error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(NoRequest::Broken("the stream ended within a message".to_owned())),
            }
        }
    }

    fn decode(&mut self) -> Result<Option<DeltaRequest>, NoRequest> {
        let Some(&[flag, a, b, c, d]) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        if flag != 0 {
            return Err(NoRequest::Garbled("compressed messages are not taken".to_owned()));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > LARGEST {
            return Err(NoRequest::TooLarge(length));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let bytes = self.buffer.split_to(length);
        let names = names(bytes.as_ref());
        let message = match names {
            Ok(names) if names > MOST_NAMES => return Err(NoRequest::TooManyNames(names)),
            Ok(_) => DeltaRequest::decode(bytes),
            Err(error) => Err(error),
        };
        if self.buffer.is_empty() {
            // Most messages are small; the room that a large one took is given back.
            self.buffer = BytesMut::new();
        }
        let broken = |error: prost::DecodeError| NoRequest::Garbled(format!("not a request: {error}"));
        message.map(Some).map_err(broken)
    }
}

/// How many names a request holds, without reading them.
fn names(mut bytes: &[u8]) -> Result<usize, prost::DecodeError> {
    use prost::encoding::{DecodeContext, decode_key, skip_field};
    let mut names = 0;
    while bytes.has_remaining() {
        let (tag, wire) = decode_key(&mut bytes)?;
        names += usize::from(matches!(tag, 3..=5));
        skip_field(wire, tag, &mut bytes, DecodeContext::default())?;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str) -> DeltaRequest {
        DeltaRequest { type_url: url.to_owned(), ..DeltaRequest::default() }
    }

    #[tokio::test]
    async fn messages_may_come_in_any_pieces() {
        let bytes: Vec<u8> = ["a", "bb"].iter().flat_map(|url| frame(&request(url))).collect();
        for size in 1..=bytes.len() {
            let pieces: Vec<_> =
                bytes.chunks(size).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
            let mut requests = Requests::new(Body::from_stream(futures::stream::iter(pieces)));
            assert_eq!(requests.message().await.unwrap(), Some(request("a")));
            assert_eq!(requests.message().await.unwrap(), Some(request("bb")));
            assert_eq!(requests.message().await.unwrap(), None);
            assert_eq!(requests.buffer.capacity(), 0, "nothing is kept");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_stream() {
        let half = frame(&request("a")).slice(..4);
        for bytes in [Bytes::from_static(&[1, 0, 0, 0, 0]), Bytes::from_static(&[0, 255, 0, 0, 0]), half] {
            assert!(Requests::new(Body::from(bytes)).message().await.is_err());
        }
    }

    #[tokio::test]
    async fn too_much_in_one_request_is_said_with_its_number() {
        let many = DeltaRequest {
            resource_names_subscribe: vec![String::new(); MOST_NAMES + 1],
            ..DeltaRequest::default()
        };
        let answer = Requests::new(Body::from(frame(&many))).message().await;
        assert_eq!(answer, Err(NoRequest::TooManyNames(MOST_NAMES + 1)));
        let long = DeltaRequest { type_url: "x".repeat(LARGEST), ..DeltaRequest::default() };
        let answer = Requests::new(Body::from(frame(&long))).message().await;
        assert!(matches!(answer, Err(NoRequest::TooLarge(bytes)) if bytes > LARGEST), "{answer:?}");
    }

    #[tokio::test]
    async fn responses_end_with_a_status() {
        let (out, queue) = mpsc::channel(2);
        out.send(Ok(Box::default())).await.unwrap();
        out.send(Err(Box::new(Status::aborted("why")))).await.unwrap();
        let mut body = Responses::new(queue);
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&data[..], [0, 0, 0, 0, 0]);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"10".parse().unwrap(), &"why".parse().unwrap())
        );
        assert!(body.frame().await.is_none());
    }
}
