//! A server that speaks as much of git's smart HTTP as it takes to be asked for a pack, and then answers as it likes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The commit that the server claims to have.
pub const CLAIMED: &str = "1111111111111111111111111111111111111111";

/// What it answers when it is asked for the pack, or at once.
#[derive(Clone)]
pub enum Answer {
    /// To the first request: nothing, ever; the connection stays open.
    Silence,
    /// To the first request: a byte per second, for ever.
    Drip,
    /// To the first request: these bytes.
    Raw(Vec<u8>),
    /// This pack.
    Pack(Vec<u8>),
    /// A pack's beginning and then zeros without end.
    Endless,
}

/// A running server; it ends with the process.
pub struct Scripted {
    /// `http://127.0.0.1:PORT/r.git`
    pub url: String,
    /// Its port.
    pub port: u16,
    connections: Arc<AtomicUsize>,
}

impl Scripted {
    /// Starts one.
    pub fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = answer.clone();
                std::thread::spawn(move || serve(stream, &answer));
            }
        });
        Self { url: format!("http://127.0.0.1:{port}/r.git"), port, connections }
    }

    /// How often it was connected to.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, answer: &Answer) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut line = String::new();
        let (mut post, mut length, mut chunked) = (None, 0, false);
        while reader.read_line(&mut line).ok()? > 0 && line != "\r\n" {
            post.get_or_insert(line.starts_with("POST"));
            let header = line.to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            chunked |= header.starts_with("transfer-encoding:");
            line.clear();
        }
        assert!(!chunked, "a request for one commit is short");
        reader.read_exact(&mut vec![0; length]).ok()?;
        match (post?, answer) {
            (_, Answer::Silence) => {
                // Held open until the client leaves.
                let _ = reader.read(&mut [0]);
                return None;
            }
            (_, Answer::Drip) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").ok()?;
                loop {
                    stream.write_all(b"x").ok()?;
                    std::thread::sleep(std::time::Duration::from_secs(1));
                }
            }
            (_, Answer::Raw(bytes)) => {
                stream.write_all(bytes).ok()?;
                return None;
            }
            (false, _) => advertise(&mut stream)?,
            (true, answer) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-result\r\n\
                            connection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).ok()?;
                stream.write_all(format!("0035shallow {CLAIMED}\n00000008NAK\n").as_bytes()).ok()?;
                match answer {
                    Answer::Pack(pack) => stream.write_all(pack).ok()?,
                    _ => loop {
                        // An object's header that promises a gigabyte, and stored zeros.
                        stream.write_all(&[0; 1 << 16]).ok()?;
                    },
                }
                return None;
            }
        }
    }
}

fn advertise(stream: &mut TcpStream) -> Option<()> {
    let service = "001e# service=git-upload-pack\n0000";
    let first = format!("{CLAIMED} HEAD\0shallow ofs-delta agent=x\n");
    let second = format!("{CLAIMED} refs/heads/main\n");
    let body = format!("{service}{:04x}{first}{:04x}{second}0000", first.len() + 4, second.len() + 4);
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-advertisement\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()
}

/// Puts a pack together by hand.
pub struct Pack {
    bytes: Vec<u8>,
    objects: u32,
    last: usize,
}

impl Pack {
    /// One without objects.
    pub fn new() -> Self {
        Self { bytes: b"PACK\0\0\0\x02\0\0\0\0".to_vec(), objects: 0, last: 0 }
    }

    /// A blob.
    pub fn blob(mut self, content: &[u8]) -> Self {
        self.begin(3, content.len());
        self.bytes.extend_from_slice(&deflate(content));
        self
    }

    /// An object of some type that says it has another size than it has.
    pub fn lie(mut self, kind: u8, size: usize, content: &[u8]) -> Self {
        self.begin(kind, size);
        self.bytes.extend_from_slice(&deflate(content));
        self
    }

    /// A delta on the object before it.
    pub fn delta(mut self, delta: &[u8]) -> Self {
        let before = self.last;
        self.begin(6, delta.len());
        let offset = self.last - before;
        // The offset, seven bits at a time, each group but the last less one.
        let mut groups = vec![(offset & 0x7f) as u8];
        let mut rest = offset >> 7;
        while rest > 0 {
            rest -= 1;
            groups.push(0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        groups.reverse();
        self.bytes.extend_from_slice(&groups);
        self.bytes.extend_from_slice(&deflate(delta));
        self
    }

    fn begin(&mut self, kind: u8, size: usize) {
        self.objects += 1;
        self.last = self.bytes.len();
        let mut rest = size >> 4;
        let more = |rest: usize| if rest > 0 { 0x80 } else { 0 };
        self.bytes.push(more(rest) | kind << 4 | (size & 0xf) as u8);
        while rest > 0 {
            let group = (rest & 0x7f) as u8;
            rest >>= 7;
            self.bytes.push(more(rest) | group);
        }
    }

    /// With its checksum.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[8..12].copy_from_slice(&self.objects.to_be_bytes());
        let sum = sha1(&self.bytes);
        self.bytes.extend_from_slice(&sum);
        self.bytes
    }
}

/// A number as deltas write it.
pub fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// zlib (RFC 1950) by stored blocks: nothing is compressed.
fn deflate(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x78, 0x01];
    let mut blocks = content.chunks(0xffff).peekable();
    if blocks.peek().is_none() {
        bytes.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).expect("chunked");
        bytes.push(u8::from(blocks.peek().is_none()));
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&(!length).to_le_bytes());
        bytes.extend_from_slice(block);
    }
    let (mut a, mut b) = (1u32, 0u32);
    for byte in content {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    bytes.extend_from_slice(&(b << 16 | a).to_be_bytes());
    bytes
}

fn sha1(bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("sha1sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha1sum runs");
    child.stdin.take().expect("piped").write_all(bytes).expect("it reads");
    let output = child.wait_with_output().expect("it ends").stdout;
    let text = std::str::from_utf8(&output[..40]).expect("hexadecimal");
    (0..20).map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).expect("hexadecimal")).collect()
}
