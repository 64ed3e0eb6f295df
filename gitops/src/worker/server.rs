//! A connection to a repository's server, with TLS where the URL says https.
//!
//! TLS ends here and not in the child: certificates are checked where no pack is parsed, by code that a certificate cannot
//! corrupt, and the child needs no certificate authorities. (libgit2 1.9 also uses memory that it has freed when a
//! certificate that it saw through a proxy is not trusted.)

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Where systems keep the certificate authorities that they trust, in one file.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The variable that names another file, as OpenSSL has it.
const VARIABLE: &str = "SSL_CERT_FILE";

/// A connection; clones are the same one.
#[derive(Clone)]
pub struct Server {
    stream: Arc<TcpStream>,
    tls: Option<Arc<Mutex<ClientConnection>>>,
}

/// Why there is no TLS.
#[derive(Debug)]
pub enum NoTls {
    /// The certificate is not trusted, and why.
    Certificate(String),
    /// Whatever answers does not speak TLS, or ends.
    Handshake,
}

impl Server {
    /// Plain bytes.
    pub fn plain(stream: TcpStream) -> Self {
        Self { stream: Arc::new(stream), tls: None }
    }

    /// TLS with whoever has a certificate for this host.
    pub fn tls(stream: TcpStream, host: &str, config: Arc<ClientConfig>) -> Result<Self, NoTls> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| NoTls::Handshake)?;
        let mut connection = ClientConnection::new(config, name).map_err(|_| NoTls::Handshake)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut &stream).map_err(|error| refused(&error))?;
        }
        Ok(Self { stream: Arc::new(stream), tls: Some(Arc::new(Mutex::new(connection))) })
    }

    /// Sends all of it.
    pub fn send(&self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(tls) = &self.tls else { return (&*self.stream).write_all(bytes) };
        let mut connection = lock(tls);
        // What goes out is at most a request, so the buffer of the connection holds it.
        connection.writer().write_all(bytes)?;
        flush(&mut connection, &self.stream)
    }

    /// Waits for bytes; 0 is the end.
    pub fn receive(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(tls) = &self.tls else { return (&*self.stream).read(buffer) };
        let mut sealed = vec![0; 16 << 10];
        loop {
            match lock(tls).reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // Ended without a word: what HTTP says about the length decides whether it is whole.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            // Without the lock: sending must not wait for this.
            let read = (&*self.stream).read(&mut sealed)?;
            let mut connection = lock(tls);
            let mut rest = &sealed[..read];
            loop {
                connection.read_tls(&mut rest)?;
                connection.process_new_packets().map_err(std::io::Error::other)?;
                if rest.is_empty() {
                    break;
                }
            }
            flush(&mut connection, &self.stream)?;
        }
    }

    /// Ends it, both ways.
    pub fn end(&self) {
        // One that has ended needs nothing.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn lock(tls: &Mutex<ClientConnection>) -> MutexGuard<'_, ClientConnection> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

fn flush(connection: &mut ClientConnection, mut stream: &TcpStream) -> std::io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(&mut stream)?;
    }
    Ok(())
}

fn refused(error: &std::io::Error) -> NoTls {
    let inner = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => NoTls::Certificate(why.to_string()),
        _ => NoTls::Handshake,
    }
}

/// The configuration for a fetch, with the authorities that this machine trusts now.
pub fn config() -> Result<Arc<ClientConfig>, String> {
    let named = std::env::var_os(VARIABLE);
    let mut files = named.iter().map(Path::new).chain(AUTHORITIES.iter().map(Path::new));
    let file = files.find(|file| file.is_file()).ok_or("no file of certificate authorities is installed")?;
    let bytes = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let mut roots = RootCertStore::empty();
    // One that cannot be read is one that is not trusted.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
