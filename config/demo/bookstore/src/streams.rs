//! Connections that live longer than a request: `bookstore echo` serves them, `bookstore talk` holds them.
//!
//! ```text
//!  talk ──TCP──▶ :9000          echo gives back what it gets, on each:
//!       ──WebSocket──▶ :9001    raw TCP, an upgraded HTTP/1.1 connection,
//!       ──gRPC stream──▶ :9002  a stream of HTTP/2 with trailers (and single requests on one connection)
//!       ──HTTP/2 requests──▶ :9002
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{StreamExt as _, channel::mpsc};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, BodyStream, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::load::{self, Counters};

const TCP: u16 = 9000;
const WEBSOCKET: u16 = 9001;
const GRPC: u16 = 9002;
/// Between two messages of a stream.
const PAUSE: Duration = Duration::from_millis(50);
/// Whoever waits longer has lost its answer.
const PATIENCE: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves until SIGTERM, and then as long as somebody is connected.
pub async fn echo() -> anyhow::Result<()> {
    let (tcp, websocket, grpc) = (listen(TCP).await?, listen(WEBSOCKET).await?, listen(GRPC).await?);
    let connections = Arc::new(());
    let held = Arc::clone(&connections);
    let tcp = accept(tcp, held, |stream| async move {
        let (mut read, mut write) = stream.into_split();
        tokio::io::copy(&mut read, &mut write).await.map(drop).map_err(Into::into)
    });
    let websocket = accept(websocket, Arc::clone(&connections), serve);
    let grpc = accept(grpc, Arc::clone(&connections), serve);
    eprintln!("listening on ports {TCP}, {WEBSOCKET} and {GRPC}");
    let tasks = [tokio::spawn(tcp), tokio::spawn(websocket), tokio::spawn(grpc)];
    crate::terminated().await?;
    tasks.into_iter().for_each(|task| task.abort());
    while Arc::strong_count(&connections) > 1 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Flags of `bookstore say`.
#[derive(clap::Args)]
pub struct Say {
    /// Host and port that echoes.
    address: String,
}

/// Prints `{"echoed": 5}`, the bytes that came back, or `{"echoed": 0, "error": ..}`.
pub async fn say(flags: Say) -> anyhow::Result<()> {
    let mut back = Vec::new();
    let exchange = async {
        let mut stream = TcpStream::connect(&flags.address).await.context("connect")?;
        stream.write_all(b"books").await.context("write")?;
        stream.shutdown().await.context("shutdown")?;
        stream.read_to_end(&mut back).await.context("read")?;
        anyhow::Ok(())
    };
    let error = within("an answer", exchange).await.and_then(|said| said).err();
    let error = error.map(|error| format!("{error:#}"));
    println!("{}", serde_json::json!({"echoed": back.len(), "error": error}));
    Ok(())
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen on port {port}"))
}

async fn accept<F>(listener: TcpListener, held: Arc<()>, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let (held, connection) = (Arc::clone(&held), serve(stream));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection ended: {error:#}");
            }
            drop(held);
        });
    }
}

async fn serve(stream: TcpStream) -> anyhow::Result<()> {
    let service = hyper::service::service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
    hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// Upgrades what asks for it; anything else gets its own body back, with a gRPC status after it.
fn answer(mut request: Request<Incoming>) -> Response<Body> {
    let response = Response::builder();
    let built = if request.headers().contains_key(header::UPGRADE) {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let stream = upgrade.await?;
            let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
            tokio::io::copy(&mut read, &mut write).await?;
            anyhow::Ok(())
        });
        let empty = Empty::new().map_err(|never| match never {}).boxed();
        let response = response.status(StatusCode::SWITCHING_PROTOCOLS).header(header::CONNECTION, "Upgrade");
        response.header(header::UPGRADE, "websocket").body(empty)
    } else {
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let trailers = futures::stream::once(async { Ok(Frame::trailers(trailers)) });
        let data = BodyStream::new(request.into_body())
            .filter(|frame| futures::future::ready(!frame.as_ref().is_ok_and(Frame::is_trailers)));
        let body = BoxBody::new(StreamBody::new(data.chain(trailers)));
        response.header(header::CONTENT_TYPE, "application/grpc").body(body)
    };
    built.unwrap_or_else(|_| Response::new(Empty::new().map_err(|never| match never {}).boxed()))
}

/// Flags of `bookstore talk`.
#[derive(clap::Args)]
pub struct Talk {
    /// Host that echoes.
    host: String,
    /// How long each connection is held, in seconds.
    #[arg(long, default_value_t = 4)]
    hold_seconds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Tcp,
    WebSocket,
    GrpcStream,
    Http2,
}

/// Runs until SIGTERM; every connection is held for its time, and a message that does not come back is a failure.
/// Counts like `bookstore load` does, from the moment on when each kind has worked once.
pub async fn talk(flags: Talk) -> anyhow::Result<()> {
    let counters = Arc::new(Counters::default());
    let mut callers = tokio::task::JoinSet::new();
    for kind in [Kind::Tcp, Kind::WebSocket, Kind::GrpcStream, Kind::Http2] {
        let (counters, host) = (Arc::clone(&counters), flags.host.clone());
        let hold = Duration::from_secs(flags.hold_seconds);
        callers.spawn(async move { sessions(&counters, kind, &host, hold).await });
    }
    load::until_terminated(&counters, callers).await
}

async fn sessions(counters: &Counters, kind: Kind, host: &str, hold: Duration) {
    let mut worked = false;
    while !counters.stopping() {
        let outcome = match kind {
            Kind::Tcp => raw(host, hold).await,
            Kind::WebSocket => upgraded(host, hold).await,
            Kind::GrpcStream => stream(host, hold).await,
            Kind::Http2 => requests(host, hold).await,
        };
        worked |= outcome.is_ok();
        match outcome {
            Ok(messages) => counters.sent(messages),
            Err(error) if worked => counters.failed(format!("{kind:?}: {error:#}")).await,
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn raw(host: &str, hold: Duration) -> anyhow::Result<u64> {
    let mut stream = connect(host, TCP).await?;
    exchange(&mut stream, hold).await
}

async fn upgraded(host: &str, hold: Duration) -> anyhow::Result<u64> {
    let stream = connect(host, WEBSOCKET).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection.with_upgrades());
    let request = Request::get("/chat")
        .header(header::HOST, format!("{host}:{WEBSOCKET}"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, "bWVzaHdyaWdodC1ib29rcw==")
        .body(Empty::<Bytes>::new())?;
    let mut response = within("an answer to the upgrade", sender.send_request(request)).await??;
    ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "status {}", response.status());
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await?);
    let done = exchange(&mut stream, hold).await;
    drop(stream);
    connection.abort();
    done
}

/// Messages there and back; then the end is said and expected.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), hold: Duration) -> anyhow::Result<u64> {
    let (began, mut messages) = (Instant::now(), 0);
    let mut back = [0; 8];
    while began.elapsed() < hold {
        let message = format!("{messages:08}");
        stream.write_all(message.as_bytes()).await.context("write")?;
        within("a message to come back", stream.read_exact(&mut back)).await?.context("read")?;
        ensure!(back == message.as_bytes(), "{message} came back as {back:?}");
        messages += 1;
        tokio::time::sleep(PAUSE).await;
    }
    stream.shutdown().await.context("shutdown")?;
    Ok(messages)
}

async fn stream(host: &str, hold: Duration) -> anyhow::Result<u64> {
    let stream = connect(host, GRPC).await?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let (mut writer, reader) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let request = grpc(host, StreamBody::new(reader))?;
    let response = within("headers", sender.send_request(request)).await??;
    ensure!(response.status() == StatusCode::OK, "status {}", response.status());
    let mut body = response.into_body();
    let (began, mut messages) = (Instant::now(), 0_u64);
    while began.elapsed() < hold {
        let message = framed(messages);
        if writer.try_send(Ok(Frame::data(message.clone()))).is_err() {
            bail!("the stream takes no message any more");
        }
        let mut back = BytesMut::new();
        while back.len() < message.len() {
            let frame =
                within("a message to come back", body.frame()).await?.context("the stream ended")??;
            back.put(frame.into_data().map_err(|_| anyhow::anyhow!("trailers in the middle of the stream"))?);
        }
        ensure!(back == message, "a message came back as {back:?}");
        messages += 1;
        tokio::time::sleep(PAUSE).await;
    }
    drop(writer);
    let trailers = within("trailers", body.collect()).await??.trailers().cloned().unwrap_or_default();
    ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "trailers {trailers:?}");
    Ok(messages)
}

/// Single requests on one connection. What the server says that it never saw is sent again (RFC 9113, section 6.8).
async fn requests(host: &str, hold: Duration) -> anyhow::Result<u64> {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let (began, mut messages) = (Instant::now(), 0);
    while began.elapsed() < hold {
        let message = framed(messages);
        let request = grpc(host, Full::new(message.clone()))?;
        let response = within("an answer", client.request(request)).await??;
        ensure!(response.status() == StatusCode::OK, "status {}", response.status());
        // Where there is no answer, a sidecar says why here.
        let said = response.headers().get("grpc-message").cloned();
        let back = within("a body", response.into_body().collect()).await??.to_bytes();
        ensure!(back == message, "a message came back as {back:?} ({said:?})");
        messages += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(messages)
}

fn grpc<B>(host: &str, body: B) -> anyhow::Result<Request<B>> {
    let request =
        Request::builder().method(Method::POST).uri(format!("http://{host}:{GRPC}/books.Talk/Echo"));
    Ok(request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers").body(body)?)
}

/// A message as gRPC frames it: not compressed, length, bytes.
fn framed(number: u64) -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(8);
    message.put_u64(number);
    message.freeze()
}

async fn connect(host: &str, port: u16) -> anyhow::Result<TcpStream> {
    within("connect", TcpStream::connect((host, port))).await?.context("connect")
}

async fn within<F: Future>(what: &str, future: F) -> anyhow::Result<F::Output> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("{what}: nothing for {PATIENCE:?}"))
}
