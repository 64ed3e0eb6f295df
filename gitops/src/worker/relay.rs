//! The child's only way into the network: from a loopback address that nobody can guess to the one server that was
//! checked, within a budget of bytes and until the deadline.
//!
//! ```text
//!  child ─http──▶ 127.a.b.c:port ─ head::read: one of libgit2's two requests? ─▶ http or https ─▶ server
//!                                 ◀── head::relative ── what comes back is counted ◀────────────
//! ```
//! The address is one of sixteen million, new for each fetch: a redirect to `127.0.0.1` is then one to another host,
//! which libgit2 refuses, also on a kernel that cannot hold the child to the relay's port.

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::head::{self, Length, Request};
use super::server::{NoTls, Server};
use crate::git::MAX_RECEIVED_BYTES;

/// Connections of one fetch; libgit2 uses one or two.
const MAX_CONNECTIONS: usize = 16;
/// Most bytes that a fetch sends.
const MAX_SENT_BYTES: u64 = 16 << 20;
/// Longest wait for one address.
const CONNECT: Duration = Duration::from_secs(10);

/// Where the relay leads.
#[derive(Clone)]
pub struct Target {
    /// As the URL writes it, in lower case and without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// For https.
    pub tls: Option<Arc<ClientConfig>>,
    /// The checked addresses, never empty.
    pub addresses: Vec<SocketAddr>,
}

impl Target {
    /// The Host header, as a client without a relay writes it.
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.port, &self.tls) {
            (80, None) | (443, Some(_)) => host,
            (port, _) => format!("{host}:{port}"),
        }
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// Why the relay ended a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// No address answers.
    Unreachable,
    /// The certificate is not trusted.
    Certificate(String),
    /// No TLS where the URL says https.
    NoTls,
    /// More bytes than the budget.
    TooLarge,
    /// The child asked for something that fetching does not need.
    Unexpected,
}

/// A running relay; it ends when it is dropped.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    deadline: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    stopped: AtomicBool,
    cut: Mutex<Option<Cut>>,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Starts one.
    pub fn start(target: Target, deadline: Instant) -> std::io::Result<Self> {
        let listener = TcpListener::bind((secret_address(), 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            deadline,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            cut: Mutex::default(),
            open: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread(move || accept(&listener, &accepting))?;
        Ok(Self { address, shared })
    }

    /// Where the child connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Why it ended a connection, if it did: the first reason.
    pub fn cut(&self) -> Option<Cut> {
        self.shared.cut.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn thread(body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name("git-relay".to_owned()).spawn(body).map(|_| ())
}

/// 127.a.b.c, by the hasher's random seed.
fn secret_address() -> Ipv4Addr {
    let [a, b, c, ..] = RandomState::new().hash_one("relay").to_be_bytes();
    Ipv4Addr::new(127, a, b, c.clamp(1, 254))
}

impl Shared {
    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Already closed is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn cut(&self, why: Cut) {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    /// Remembers a connection, so that stopping ends it. False when it is too late or there are too many.
    fn keep(&self, stream: &TcpStream) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopped.load(Ordering::SeqCst) || open.len() >= 2 * MAX_CONNECTIONS {
            return false;
        }
        let limits =
            [stream.set_read_timeout(Some(self.left())), stream.set_write_timeout(Some(self.left()))];
        limits.iter().all(Result::is_ok) && stream.try_clone().map(|stream| open.push(stream)).is_ok()
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { return };
        let shared = Arc::clone(shared);
        let served = thread(move || {
            // An error ends this connection, which is all that it can do.
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        });
        if served.is_err() {
            return;
        }
    }
}

fn serve(client: &TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
    if !shared.keep(client) {
        return Ok(());
    }
    let mut reader = BufReader::new(client.try_clone()?);
    let Some(first) = ask(&mut reader, shared)? else { return Ok(()) };
    let server = match connect(shared) {
        Ok(server) => server,
        Err(cut) => return refuse(client, shared, cut),
    };
    let (back, towards, counting) = (server.clone(), client.try_clone()?, Arc::clone(shared));
    thread(move || {
        // What the server has ended, or what is too much, has ended for the child.
        let _ = down(&back, &towards, &counting);
        let _ = towards.shutdown(Shutdown::Both);
        back.end();
    })?;
    let result = requests(reader, first, &server, shared);
    if result.is_err() {
        server.end();
    }
    result
}

fn refuse(mut client: &TcpStream, shared: &Shared, why: Cut) -> std::io::Result<()> {
    shared.cut(why);
    client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

/// The next request's head; none when the child has no further one.
fn ask(reader: &mut BufReader<TcpStream>, shared: &Shared) -> std::io::Result<Option<Request>> {
    let mut head = Vec::new();
    loop {
        let most = (head::LONGEST + 1 - head.len()) as u64;
        if reader.by_ref().take(most).read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
        let request = match head.strip_suffix(b"\r\n\r\n") {
            Some(head) => head::read(head, &shared.target.authority()),
            None if head.len() <= head::LONGEST => continue,
            None => None,
        };
        if request.is_none() {
            shared.cut(Cut::Unexpected);
        }
        return Ok(request);
    }
}

fn connect(shared: &Shared) -> Result<Server, Cut> {
    let mut addresses = shared.target.addresses.iter();
    let stream = addresses.find_map(|address| {
        let limit = shared.left().min(CONNECT);
        TcpStream::connect_timeout(address, limit).ok()
    });
    let stream = stream.filter(|stream| shared.keep(stream)).ok_or(Cut::Unreachable)?;
    match &shared.target.tls {
        None => Ok(Server::plain(stream)),
        Some(config) => Server::tls(stream, &shared.target.host, Arc::clone(config)).map_err(|no| match no {
            NoTls::Certificate(why) => Cut::Certificate(why),
            NoTls::Handshake => Cut::NoTls,
        }),
    }
}

/// From the server to the child. Redirects of the server to itself become relative, because the child knows it by
/// another name; libgit2 follows one only in answer to the first request of a connection.
fn down(server: &Server, mut client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut head = Some(Vec::new());
    loop {
        let read = server.receive(&mut buffer)?;
        if read == 0 {
            // Less than a head came, and nothing more will.
            return client.write_all(&head.unwrap_or_default());
        }
        if shared.received.fetch_add(read as u64, Ordering::Relaxed) + read as u64 > MAX_RECEIVED_BYTES as u64
        {
            shared.cut(Cut::TooLarge);
            return Ok(());
        }
        let Some(mut start) = head.take() else {
            client.write_all(&buffer[..read])?;
            continue;
        };
        start.extend_from_slice(&buffer[..read]);
        match head::relative(&start, shared.target.scheme(), &shared.target.authority()) {
            Some(start) => client.write_all(&start)?,
            None => head = Some(start),
        }
    }
}

/// Plain requests, one after another on one connection.
fn requests(
    mut reader: BufReader<TcpStream>,
    first: Request,
    server: &Server,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut next = Some(first);
    while let Some(Request { head, body }) = next {
        server.send(&head)?;
        match body {
            Length::Exactly(bytes) => pass(&mut reader, server, bytes, shared)?,
            Length::Chunked => chunks(&mut reader, server, shared)?,
        }
        next = ask(&mut reader, shared)?;
    }
    Ok(())
}

fn pass(reader: &mut impl Read, server: &Server, bytes: u64, shared: &Shared) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut body = reader.take(bytes);
    loop {
        let read = body.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        if shared.sent.fetch_add(read as u64, Ordering::Relaxed) + read as u64 > MAX_SENT_BYTES {
            shared.cut(Cut::Unexpected);
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        server.send(&buffer[..read])?;
    }
}

/// A chunked body (RFC 9112, 7.1), without extensions and trailers, which libgit2 does not send.
fn chunks(reader: &mut BufReader<TcpStream>, server: &Server, shared: &Shared) -> std::io::Result<()> {
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(32).read_until(b'\n', &mut line)?;
        let size = std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix("\r\n"));
        let size = size.and_then(|size| u64::from_str_radix(size, 16).ok());
        let Some(size) = size.filter(|size| *size <= MAX_SENT_BYTES) else {
            return Err(std::io::ErrorKind::InvalidData.into());
        };
        server.send(&line)?;
        pass(reader, server, size + 2, shared)?;
        if size == 0 {
            return Ok(());
        }
    }
}
