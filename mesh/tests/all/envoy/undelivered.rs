//! Calls that reach a pod whose application does not take them any more.

use std::io::Write;
use std::net::TcpStream;

use envoys::{VERSIONS, free_port};

use super::apps::{answer, ask, read_line, serve};
use super::endpoints::{Stage, until};

const MARK: &str = "x-meshwright-undelivered";

/// Reads the head of a request; false when the connection was closed.
fn head(stream: &mut TcpStream) -> bool {
    let mut any = false;
    loop {
        match read_line(stream) {
            line if line.is_empty() => return any,
            _ => any = true,
        }
    }
}

/// Answers the first request of a connection and closes it instead of answering the second.
fn fickle(mut stream: TcpStream) {
    if head(&mut stream) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        head(&mut stream);
    }
}

/// Says of itself what only a sidecar may say.
fn liar(mut stream: TcpStream) {
    if head(&mut stream) {
        let text =
            format!("HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n{MARK}: true\r\n\r\n");
        let _ = stream.write_all(text.as_bytes());
    }
}

fn status(port: u16, method: &str) -> Option<u16> {
    ask(port, method, "/", &[]).map(|(status, _)| status)
}

/// An application that ends no longer listens, and callers may not have heard of it. It has seen nothing, so even a
/// POST can go to another pod.
#[test]
fn a_call_that_cannot_be_delivered_goes_to_another_pod() {
    for version in VERSIONS {
        let (mut stage, _buyer, port) = Stage::new(version);
        let _ending = stage.run_before("store-0", 1, free_port());
        let (status, text) = ask(port, "POST", "/", &[]).unwrap();
        assert_eq!(status, 503, "{version}: there is no other pod");
        assert!(!text.contains(MARK), "{version}: this is between sidecars: {text}");
        stage.endpoints(&[("store-0", 1, true), ("store-1", 2, true)]);
        let _other = stage.run_before("store-1", 2, serve(answer));
        until("the other pod is called", || self::status(port, "POST") == Some(200));
        for call in 0..40 {
            assert_eq!(self::status(port, "POST"), Some(200), "{version}: call {call}");
        }
    }
}

/// What an application closes instead of answering may have been seen: only methods that change nothing are tried
/// again.
#[test]
fn a_connection_that_the_application_closes_costs_no_safe_call() {
    for version in VERSIONS {
        let (stage, _buyer, port) = Stage::new(version);
        let _store = stage.run_before("store-0", 1, serve(fickle));
        for call in 0..10 {
            assert_eq!(status(port, "GET"), Some(200), "{version}: call {call}");
        }
        let posts: Vec<_> = (0..4).map(|_| status(port, "POST")).collect();
        assert!(posts.contains(&Some(503)), "{version}: {posts:?}");
    }
}

#[test]
fn an_application_cannot_say_that_it_has_seen_nothing() {
    for version in VERSIONS {
        let (mut stage, _buyer, port) = Stage::new(version);
        let _liar = stage.run_before("store-0", 1, serve(liar));
        stage.endpoints(&[("store-0", 1, true), ("store-1", 2, true)]);
        let _other = stage.run_before("store-1", 2, serve(answer));
        until("the other pod is called", || status(port, "GET") == Some(200));
        // Each call goes to one of two at random: without a second try, one of 60 meets the liar.
        assert!((0..60).any(|_| status(port, "GET") == Some(503)), "{version}: the lie was believed");
    }
}
