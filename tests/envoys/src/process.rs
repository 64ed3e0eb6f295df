//! Processes, the identities that they have, and where they listen.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use tempfile::TempDir;

use crate::Config;

/// Where an Envoy answers about itself, in its folder.
pub(crate) const ADMIN: &str = "admin.sock";

/// Path of a real Envoy, fetched once.
pub fn binary(version: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/cluster");
    let output = Command::new(script).args(["envoy", version]).output().unwrap();
    assert!(output.status.success(), "no Envoy {version}: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Addresses of this machine that nobody else uses: all their ports are free.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    second: u8,
    third: u8,
}

impl Block {
    /// Addresses that no other process and no other test of this one has, until 16 blocks later.
    pub fn reserve() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let [_, high, low, lowest] = std::process::id().to_be_bytes();
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 16;
        Self { second: lowest.max(1), third: (low ^ high) << 4 | number }
    }

    /// One of them.
    pub fn at(self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([127, self.second, self.third, last], port))
    }
}

/// A port that is free now, of those that the kernel gives to nobody: between looking and listening, one that it does
/// give away may be somebody's.
pub fn free_port() -> u16 {
    const FIRST: u32 = 16_384;
    const COUNT: u32 = 16_384;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that run at the same time begin far from each other.
    let begin = std::process::id().wrapping_mul(1009);
    loop {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + number).unwrap();
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// Lets Envoy judge a configuration.
pub fn validate(version: &str, bootstrap: &[u8]) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("bootstrap.pb");
    std::fs::write(&path, bootstrap).unwrap();
    let output = Command::new(binary(version))
        .args(["--mode", "validate", "--config-path"])
        .arg(&path)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Envoy {version}: {}", text.lines().last().unwrap_or_default());
}

/// A root of trust.
pub struct Identities {
    issuer: Issuer<'static, KeyPair>,
    root: String,
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

impl Identities {
    /// A new root.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), root }
    }

    /// A certificate that the root vouches for and its key, as PEM. A name with `://` is a URI, any other a DNS name;
    /// `subject` is its common name, if it has one.
    pub fn certificate(&self, names: &[&str], subject: Option<&str>) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A leaf with its root's name would look self-signed.
        params.distinguished_name = DistinguishedName::new();
        if let Some(subject) = subject {
            params.distinguished_name.push(DnType::CommonName, subject);
        }
        params.use_authority_key_identifier_extension = true;
        let name = |name: &&str| match name.contains("://") {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A folder as `meshwright-proxy` keeps it, for a service account.
    pub fn issue(&self, namespace: &str, account: &str) -> TempDir {
        let id = crds::labels::spiffe_id("cluster.local", namespace, account);
        let (certificate, key) = self.certificate(&[&id], None);
        let secret = |name: &str, field: &str, value: serde_json::Value| {
            json!({"resources": [{
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                "name": name, field: value,
            }]})
        };
        let identity = json!({
            "certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key},
        });
        let trust = json!({"trusted_ca": {"inline_string": self.root}});
        let folder = TempDir::new().unwrap();
        let write = |name: &str, value: serde_json::Value| {
            std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        };
        write("identity.json", secret("identity", "tls_certificate", identity));
        write("trust.json", secret("trust", "validation_context", trust));
        folder
    }
}

/// A running Envoy; killed when dropped.
pub struct Envoy {
    child: Child,
    folder: TempDir,
}

impl Envoy {
    /// Starts one and waits until it listens.
    pub fn start(version: &str, config: &Config, listens: u16) -> Self {
        let mut envoy = Self::spawn(version, config);
        envoy.until_listening(version, SocketAddr::from(([127, 0, 0, 1], listens)));
        envoy
    }

    /// Starts one with a bootstrap whose format the file's name says (`.pb`, `.json`), and waits until it listens.
    pub fn start_with(version: &str, file: &str, bootstrap: &[u8], listens: u16) -> Self {
        let mut envoy = Self::spawn_with(version, file, bootstrap);
        envoy.until_listening(version, SocketAddr::from(([127, 0, 0, 1], listens)));
        envoy
    }

    /// Starts one and does not wait.
    pub fn spawn(version: &str, config: &Config) -> Self {
        Self::spawn_with(version, "bootstrap.pb", &config.bootstrap())
    }

    fn spawn_with(version: &str, file: &str, bootstrap: &[u8]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(file);
        std::fs::write(&path, bootstrap).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let output = std::fs::File::create(folder.path().join("output")).unwrap();
        let child = Command::new(binary(version))
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .args(["--file-flush-interval-msec", "100", "--drain-time-s", "2", "--config-path"])
            .arg(&path)
            .current_dir(folder.path())
            .stdout(output)
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    /// Waits until it listens.
    pub fn until_listening(&mut self, version: &str, at: SocketAddr) {
        let began = Instant::now();
        while std::net::TcpStream::connect(at).is_err() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "Envoy {version} has ended: {log}");
            assert!(began.elapsed() < Duration::from_secs(120), "Envoy {version} does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has written to its standard output so far: access logs.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap()
    }

    /// All counters and gauges, one a line.
    pub fn stats(&self) -> String {
        let mut stream = UnixStream::connect(self.folder.path().join(ADMIN)).unwrap();
        stream.write_all(b"GET /stats HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// A counter or gauge by its name; 0 when there is none yet.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.stats();
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}
