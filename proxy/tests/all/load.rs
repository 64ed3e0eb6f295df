//! Clients that notice everything: each kind of traffic, without retries, until told to stop.

use std::cell::RefCell;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::{Network, read_message};

/// Longer than anything takes; whoever waits longer has lost its answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// So that a busy machine is not kept busy by the clients alone.
const PAUSE: Duration = Duration::from_millis(2);
/// A path whose answer begins at once and ends after [`HOLD`].
pub const HELD: &str = "/held";
/// A third of the shortest time that there is for a drain.
pub const HOLD: Duration = Duration::from_millis(3500);

/// Serves HTTP with keep-alive on one address, echoes upgraded connections, and echoes bytes on another.
pub fn app(http: SocketAddr, tcp: SocketAddr) {
    let http = TcpListener::bind(http).expect("a free port");
    let tcp = TcpListener::bind(tcp).expect("a free port");
    thread::spawn(move || {
        for stream in http.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
}

fn answer(mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    // A client that goes away ends the connection, which `read_message` takes for a message without a word.
    loop {
        let (first, headers, _) = read_message(&mut reader);
        if first.is_empty() {
            return;
        }
        if headers.contains_key("upgrade") {
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
            if stream.write_all(head.as_bytes()).is_ok() {
                echo(stream);
            }
            return;
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").is_err() {
            return;
        }
        if first.contains(HELD) {
            thread::sleep(HOLD);
        }
        if stream.write_all(b"ok").is_err() {
            return;
        }
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 64];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// What the clients saw.
#[derive(Default)]
pub struct Seen {
    stop: AtomicBool,
    done: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Seen {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, kind: &str, outcome: std::io::Result<()>) {
        match outcome {
            Ok(()) => {
                self.done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.failures.lock().unwrap().push(format!("{kind}: {error}")),
        }
    }
}

/// Running clients.
pub struct Load {
    pub seen: Arc<Seen>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts short and kept HTTP connections, HTTP/2 and short TCP connections, from `outside`.
    pub fn start(outside: &Arc<Network>, http: SocketAddr, tcp: SocketAddr) -> Self {
        let seen = Arc::new(Seen::default());
        let clients: [(&str, Client); 5] =
            [("short", short), ("kept", kept), ("http2", http2), ("held", held), ("tcp", bytes)];
        let clients = clients.map(|(kind, client)| {
            let (seen, outside) = (Arc::clone(&seen), Arc::clone(outside));
            let address = if kind == "tcp" { tcp } else { http };
            thread::spawn(move || outside.inside(move || client(address, &seen)))
        });
        Self { seen, clients: clients.into() }
    }

    /// How many answers there were so far.
    pub fn done(&self) -> u64 {
        self.seen.done.load(Ordering::Relaxed)
    }

    /// Stops; returns how many answers there were, and every failure.
    pub fn stop(self) -> (u64, Vec<String>) {
        self.seen.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("the client ends");
        }
        (self.seen.done.load(Ordering::Relaxed), self.seen.failures.lock().unwrap().clone())
    }
}

type Client = fn(SocketAddr, &Arc<Seen>);

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request; says whether the connection stays open.
fn request(stream: &mut TcpStream, close: bool) -> std::io::Result<bool> {
    let connection = if close { "connection: close\r\n" } else { "" };
    stream.write_all(format!("GET / HTTP/1.1\r\nhost: app\r\n{connection}\r\n").as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(std::io::Error::other(head));
    }
    stream.read_exact(&mut [0; 2])?;
    Ok(!head.contains("connection: close"))
}

fn short(address: SocketAddr, seen: &Arc<Seen>) {
    while seen.goes_on() {
        seen.note("short", connect(address).and_then(|mut stream| request(&mut stream, true)).map(drop));
        thread::sleep(PAUSE);
    }
}

fn kept(address: SocketAddr, seen: &Arc<Seen>) {
    let mut stream = None;
    while seen.goes_on() {
        let outcome = match stream.take() {
            Some(stream) => Ok(stream),
            None => connect(address),
        };
        let outcome = outcome.and_then(|mut open| {
            if request(&mut open, false)? {
                stream = Some(open);
            }
            Ok(())
        });
        seen.note("kept", outcome);
        thread::sleep(PAUSE);
    }
}

fn bytes(address: SocketAddr, seen: &Arc<Seen>) {
    while seen.goes_on() {
        seen.note("tcp", connect(address).and_then(|mut stream| ping(&mut stream)));
        thread::sleep(PAUSE);
    }
}

/// Sends a few bytes and waits for them.
pub fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping")?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)?;
    if &back == b"ping" { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// A connection that stays open: bytes.
pub fn long_tcp(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address).expect("connected");
    ping(&mut stream).expect("an echo");
    stream
}

/// A connection that stays open: what a WebSocket is below its frames.
pub fn long_upgraded(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address).expect("connected");
    let head = "GET /ws HTTP/1.1\r\nhost: app\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let (first, _, _) = read_message(&mut BufReader::with_capacity(1, stream.try_clone().expect("a socket")));
    assert!(first.contains("101"), "{first}");
    ping(&mut stream).expect("an echo");
    stream
}

type Sender = hyper::client::conn::http2::SendRequest<http_body_util::Full<bytes::Bytes>>;

/// An HTTP/2 connection that is kept until the server says goodbye; then the next request takes a new one.
pub struct Http2 {
    address: SocketAddr,
    kept: RefCell<Option<Sender>>,
}

impl Http2 {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, kept: RefCell::default() }
    }

    /// One request and its whole answer.
    pub async fn ask(&self, path: &str) -> std::io::Result<()> {
        let answer = tokio::time::timeout(PATIENCE, self.try_ask(path)).await;
        answer
            .unwrap_or_else(|late| Err(late.into()))
            .map_err(|error| std::io::Error::other(format!("{error:?}")))
    }

    async fn try_ask(&self, path: &str) -> Result<(), Box<dyn std::error::Error>> {
        let request =
            || http::Request::get(format!("http://app{path}")).body(http_body_util::Full::default());
        let answer = match self.sender().await?.send_request(request()?).await {
            // The server said goodbye before anything was sent.
            Err(error) if error.is_canceled() => {
                self.kept.replace(None);
                self.sender().await?.send_request(request()?).await?
            }
            answer => answer?,
        };
        if answer.status() != 200 {
            return Err(answer.status().to_string().into());
        }
        let body = http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes();
        if body == "ok" { Ok(()) } else { Err("the body broke off".into()) }
    }

    async fn sender(&self) -> Result<Sender, Box<dyn std::error::Error>> {
        use hyper_util::rt::{TokioExecutor, TokioIo};

        let kept = self.kept.borrow().clone();
        if let Some(mut kept) = kept
            && kept.ready().await.is_ok()
        {
            return Ok(kept);
        }
        let stream = TokioIo::new(tokio::net::TcpStream::connect(self.address).await?);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        self.kept.replace(Some(sender.clone()));
        Ok(sender)
    }
}

/// Runs what needs tokio in the calling thread, and so in its network.
pub fn here<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

fn http2(address: SocketAddr, seen: &Arc<Seen>) {
    here(async { streams(&Http2::new(address), seen, "http2", "/").await });
}

/// Streams that overlap, so that their connection is never idle.
fn held(address: SocketAddr, seen: &Arc<Seen>) {
    here(async {
        let client = Http2::new(address);
        let later = async {
            tokio::time::sleep(HOLD / 2).await;
            streams(&client, seen, "held", HELD).await;
        };
        tokio::join!(streams(&client, seen, "held", HELD), later);
    });
}

async fn streams(client: &Http2, seen: &Arc<Seen>, kind: &str, path: &str) {
    while seen.goes_on() {
        seen.note(kind, client.ask(path).await);
        tokio::time::sleep(PAUSE).await;
    }
}
