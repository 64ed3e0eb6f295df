//! Applications, and those who call them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// An application that answers with what it was asked.
pub fn app() -> u16 {
    serve(answer)
}

pub fn answer(stream: TcpStream) {
    answer_as(stream, "app");
}

/// The same, and says who it is.
pub fn answer_as(mut stream: TcpStream, name: &str) {
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => asked.extend_from_slice(&buffer[..read]),
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nx-pod: {name}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        asked.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&asked));
}

/// Status and body of a request; `None` when the connection was closed without an answer.
pub fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<(u16, String)> {
    ask_at(("127.0.0.1", port), method, path, headers)
}

pub fn ask_at(
    at: impl ToSocketAddrs,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Option<(u16, String)> {
    let mut stream = connect(at);
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        text += "host: bookstore\r\n";
    }
    text += "connection: close\r\n";
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{text}\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !is_whole(&answer) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, answer))
}

/// Envoy keeps a connection that it is done with open for a second, so its end is not waited for.
pub fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

pub fn connect(at: impl ToSocketAddrs) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Serves each connection by a function in a thread of its own.
pub fn serve(each: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || each(stream));
        }
    });
    port
}

/// What comes back for bytes that are not HTTP, up to a line's end; what there was when the connection was closed.
pub fn send_line(port: u16, line: &str) -> String {
    send_line_at(("127.0.0.1", port), line)
}

pub fn send_line_at(at: impl ToSocketAddrs, line: &str) -> String {
    let mut stream = connect(at);
    let _ = stream.write_all(format!("{line}\r\n").as_bytes());
    read_line(&mut stream)
}

pub fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        match stream.read(&mut byte) {
            Ok(0) | Err(_) => break,
            Ok(_) => line.push(byte[0]),
        }
    }
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

/// A database in manner: it speaks first, then repeats each line.
pub fn banner(mut stream: TcpStream) {
    let _ = stream.write_all(b"220 ready\r\n");
    lines(stream);
}

/// Repeats each line in capitals.
pub fn lines(mut stream: TcpStream) {
    loop {
        let line = read_line(&mut stream);
        if line.is_empty() || stream.write_all(format!("{}\r\n", line.to_uppercase()).as_bytes()).is_err() {
            return;
        }
    }
}

/// Says yes to a websocket (RFC 6455) and then repeats what comes.
pub fn websocket(mut stream: TcpStream) {
    let mut upgrade = false;
    loop {
        match read_line(&mut stream) {
            line if line.is_empty() => break,
            line => upgrade |= line.eq_ignore_ascii_case("upgrade: websocket"),
        }
    }
    if !upgrade {
        let _ = stream.write_all(b"HTTP/1.1 400 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
    }
    let _ = stream.write_all(b"HTTP/1.1 101 Yes\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
    lines(stream);
}
