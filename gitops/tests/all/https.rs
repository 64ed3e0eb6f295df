//! TLS: repositories of servers whose certificates the machine trusts, and of no others.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crds::policy_source::{GitReference, GitSource};
use gitops::git::{Outcome, Source};
use gitops::worker::Limits;

use crate::git_server::GitServer;
use crate::work_tree::WorkTree;
use crate::worker;

/// Set where this test runs itself, with authorities of its own: they are read from the environment of the process.
const INNER: &str = "MESHWRIGHT_TEST_HTTPS";

/// A TLS front of a plain server; ends with the test.
struct Front {
    child: Child,
    port: String,
}

const FRONT: &str = r#"
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def serve(plain):
    try:
        client = context.wrap_socket(plain, server_side=True)
        server = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
        threading.Thread(target=pump, args=(client, server), daemon=True).start()
        pump(server, client)
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

impl Front {
    fn start(certificate: &Path, behind: &str) -> Self {
        let port = behind.rsplit(':').next().expect("a port");
        let mut child = Command::new("python3")
            .args(["-c", FRONT, &certificate.display().to_string(), port])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python is installed");
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut output, &mut line).expect("its port");
        Self { child, port: line.trim().to_owned() }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // One that has ended needs nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn certificate(path: &Path) {
    let path = path.display().to_string();
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:false"])
        .args(["-keyout", &path, "-out", &format!("{path}.crt")])
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut both = std::fs::read(&path).expect("a key");
    both.extend(std::fs::read(format!("{path}.crt")).expect("a certificate"));
    std::fs::write(&path, both).expect("a file");
}

fn fetch(url: &str) -> Result<Outcome, gitops::git::FetchError> {
    let folder = tempfile::tempdir().expect("a folder");
    let source = GitSource { url: url.to_owned(), reference: GitReference::default(), path: String::new() };
    let source = Source::new(&source).expect("a source");
    worker(folder.path()).fetch(&source, None, &Limits::within(Duration::from_secs(60))).result
}

#[test]
fn only_trusted_servers_are_asked_over_https() {
    if std::env::var_os(INNER).is_none() {
        let folder = tempfile::tempdir().unwrap();
        let trusted = folder.path().join("trusted.pem");
        certificate(&trusted);
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "https::only_trusted_servers_are_asked_over_https"])
            .env(INNER, &trusted)
            .env("SSL_CERT_FILE", format!("{}.crt", trusted.display()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let trusted = std::env::var_os(INNER).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tree = WorkTree::init(&folder.path().join("r"));
    let id = tree.commit("one", &[("a.yaml", "a")]);
    let plain = GitServer::start(folder.path());
    let front = Front::start(Path::new(&trusted), &plain.url);
    match fetch(&format!("https://localhost:{}/r/.git", front.port)) {
        Ok(Outcome::Fetched(found)) => assert_eq!((found.commit.id, found.files.len()), (id, 1)),
        other => panic!("{other:?}"),
    }
    // Another name of the same server.
    let error = fetch(&format!("https://127.0.0.1:{}/r/.git", front.port)).unwrap_err();
    assert_eq!(error.reason(), "Certificate", "{error}");
    let unknown = folder.path().join("unknown.pem");
    certificate(&unknown);
    let front = Front::start(&unknown, &plain.url);
    let error = fetch(&format!("https://localhost:{}/r/.git", front.port)).unwrap_err();
    assert_eq!(error.reason(), "Certificate", "{error}");
    // No TLS at all.
    let error = fetch(&format!("{}/r/.git", plain.url.replace("http:", "https:"))).unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}
