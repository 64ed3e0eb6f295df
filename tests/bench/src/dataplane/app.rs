//! The application: answers every request with a kilobyte, on connections that it keeps.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

const BODY: [u8; 1024] = [b'x'; 1024];

/// Starts it on a free port of this machine.
pub fn start() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Answers until the caller goes. Requests have no body.
fn serve(mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n".as_slice(), &BODY].concat();
    let mut line = String::new();
    while reader.read_line(&mut line).ok()? > 0 {
        if line == "\r\n" {
            stream.write_all(&answer).ok()?;
        }
        line.clear();
    }
    Some(())
}
