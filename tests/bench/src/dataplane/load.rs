//! Load on connections that are kept, and how long each request took.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const CONNECTIONS: u32 = 16;

struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn new(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        let mut connection = Self { stream, reader };
        // The first request pays for handshakes.
        connection.ask();
        connection
    }

    fn ask(&mut self) {
        self.stream.write_all(b"GET /books HTTP/1.1\r\nhost: bookstore\r\n\r\n").unwrap();
        let (mut line, mut first, mut length) = (String::new(), true, 0);
        while line != "\r\n" {
            line.clear();
            assert!(self.reader.read_line(&mut line).unwrap() > 0, "the connection was closed");
            assert!(!first || line.starts_with("HTTP/1.1 200"), "{line}");
            first = false;
            if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).unwrap();
    }
}

/// Requests one after another on one connection; microseconds of each.
pub fn closed(port: u16, time: Duration) -> Vec<f64> {
    let mut connection = Connection::new(port);
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < time {
        let sent = Instant::now();
        connection.ask();
        took.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    took
}

/// Requests at a steady rate; microseconds of each from when it was due, however late it was sent.
pub fn steady(port: u16, time: Duration, rate: u32) -> Vec<f64> {
    let pause = Duration::from_secs(1) * CONNECTIONS / rate.max(1);
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|index| {
            std::thread::spawn(move || {
                let mut connection = Connection::new(port);
                let begin = Instant::now() + pause * index / CONNECTIONS;
                let mut took = Vec::new();
                for number in 0.. {
                    let due = begin + pause * number;
                    if due >= begin + time {
                        break;
                    }
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    connection.ask();
                    took.push(due.elapsed().as_secs_f64() * 1e6);
                }
                took
            })
        })
        .collect();
    callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
}

/// The time that `percent` of the requests did not exceed.
pub fn percentile(mut times: Vec<f64>, percent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
