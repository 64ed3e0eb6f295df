//! The heads of HTTP/1.1 messages that go through the relay. Pure.
//!
//! The child is not trusted: whatever is not one of the two requests that libgit2 makes is refused.

/// Longest head.
pub const LONGEST: usize = 16 << 10;

/// What a child asks of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The head for the server.
    pub head: Vec<u8>,
    /// How long its body is.
    pub body: Length,
}

/// How long a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Exactly(u64),
    /// In chunks, until an empty one.
    Chunked,
}

/// Reads a request's head, without its final empty line; `host` takes the place of the relay's own address.
pub fn read(head: &[u8], host: &str) -> Option<Request> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target, version) = (first.next()?, first.next()?, first.next()?);
    let plain = target.starts_with('/') && !target.contains(char::is_control);
    if first.next().is_some() || version != "HTTP/1.1" || !plain || !matches!(method, "GET" | "POST") {
        return None;
    }
    let mut body = Length::Exactly(0);
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if line.contains(|c: char| c.is_control()) {
            return None;
        }
        match name.as_str() {
            "host" => continue,
            "content-length" => body = Length::Exactly(value.parse().ok()?),
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => body = Length::Chunked,
            "transfer-encoding" => return None,
            _ => {}
        }
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    Some(Request { head: head.into_bytes(), body })
}

/// The beginning of an answer with a `location` on the same server made relative; none while its head is not complete.
/// What has no end of a head within [`LONGEST`] bytes goes on as it is.
pub fn relative(start: &[u8], scheme: &str, authority: &str) -> Option<Vec<u8>> {
    let Some(end) = start.windows(4).position(|end| end == b"\r\n\r\n") else {
        return (start.len() > LONGEST).then(|| start.to_vec());
    };
    let (head, rest) = start.split_at(end);
    let own = format!("{scheme}://{authority}");
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for line in head.split(|byte| *byte == b'\n') {
        let text = std::str::from_utf8(line).unwrap_or_default();
        let value = text.split_once(':').filter(|(name, _)| name.trim().eq_ignore_ascii_case("location"));
        let (there, path) = match value.map(|(_, value)| value.trim()) {
            Some(value) if value.is_char_boundary(own.len()) => value.split_at(own.len()),
            _ => ("", ""),
        };
        if there.eq_ignore_ascii_case(&own) && path.starts_with('/') {
            let end = if line.ends_with(b"\r") { "\r" } else { "" };
            lines.push(format!("location: {path}{end}").into_bytes());
        } else {
            lines.push(line.to_vec());
        }
    }
    let mut answer = lines.join(&b'\n');
    answer.extend_from_slice(rest);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(head: &str) -> Option<(String, Length)> {
        let request = read(head.as_bytes(), "git.example:81")?;
        Some((String::from_utf8(request.head).unwrap(), request.body))
    }

    #[test]
    fn the_server_hears_its_own_name() {
        let found =
            shown("POST /a/git-upload-pack HTTP/1.1\r\nHost: 127.1.2.3:9\r\nContent-Length: 7").unwrap();
        let expected =
            "POST /a/git-upload-pack HTTP/1.1\r\nHost: git.example:81\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(found, (expected.to_owned(), Length::Exactly(7)));
        let found = shown("POST /a HTTP/1.1\r\nTransfer-Encoding: chunked").unwrap();
        assert_eq!(found.1, Length::Chunked);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "GET",
            "GET http://elsewhere/a HTTP/1.1",
            "CONNECT elsewhere:443 HTTP/1.1",
            "PUT /a HTTP/1.1",
            "GET /a HTTP/1.0",
            "GET /a HTTP/1.1 x",
            "GET /a HTTP/1.1\r\nno colon",
            "GET /a HTTP/1.1\r\na: b\nHost: elsewhere",
            "POST /a HTTP/1.1\r\nContent-Length: -1",
            "POST /a HTTP/1.1\r\nTransfer-Encoding: gzip",
        ] {
            assert_eq!(shown(bad), None, "{bad:?}");
        }
        assert_eq!(read(b"GET /\xff HTTP/1.1", "h"), None);
    }

    #[test]
    fn a_redirect_to_the_same_server_is_relative() {
        let to = |location: &str| {
            let start = format!("HTTP/1.1 301 Moved\r\nA: b\r\nLocation: {location}\r\nC: d\r\n\r\nbody");
            let answer = relative(start.as_bytes(), "https", "git.example").unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 301 Moved\r\nA: b\r\n")
                    && answer.ends_with("\r\nC: d\r\n\r\nbody")
            );
            let line =
                answer.lines().find(|line| line.to_ascii_lowercase().starts_with("location:")).unwrap();
            line[10..].to_owned()
        };
        assert_eq!(to("https://git.example/a.git/info"), "/a.git/info");
        assert_eq!(to("HTTPS://Git.Example/a"), "/a");
        for other in [
            "http://git.example/a",
            "https://git.example:8443/a",
            "https://git.example.evil/a",
            "https://git.example@evil/a",
            "https://ä",
            "/a",
        ] {
            assert_eq!(to(other), other);
        }
        assert_eq!(relative(b"HTTP/1.1 200 OK\r\n", "http", "h"), None);
        assert_eq!(relative(&[b'x'; LONGEST + 1], "http", "h").unwrap().len(), LONGEST + 1);
    }
}
