//! TLS with certificates and roots that can be replaced while connections are open.
//!
//! ```text
//!  Certificate ─┐                           ┌▶ PeerCertificates ┐ in the request's
//!  Roots ───────┴▶ server_config ─▶ serve ──┴▶ PeerAddress ─────┘ extensions
//!        └───────▶ client_config ─▶ https
//! ```
//! A replaced certificate counts for the next handshake; open connections stay as they are.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

mod accept;
mod guests;
mod serve;
#[cfg(test)]
mod tests;

pub use serve::{Metrics, PeerAddress, PeerCertificates, serve};

/// Why a certificate, key or bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or not what was expected in it.
    #[error("not readable as PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// No certificate where at least one is needed.
    #[error("holds no certificate")]
    Empty,
    /// rustls refuses it, for example because key and certificate do not belong together.
    #[error("refused")]
    Rustls(#[source] rustls::Error),
    /// The roots cannot be used for verification.
    #[error("the roots cannot be used")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate chain with its key, replaceable at any time; for servers and for clients.
#[derive(Debug, Default)]
pub struct Certificate {
    current: ArcSwapOption<CertifiedKey>,
}

impl Certificate {
    /// Without a certificate: servers refuse handshakes, clients present none.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// Replaces the certificate. On an error the old one stays.
    ///
    /// # Errors
    /// [`TlsError`], also when key and certificate do not belong together.
    pub fn set(&self, chain_pem: &str, key: PrivateKeyDer<'static>) -> Result<(), TlsError> {
        let key =
            CertifiedKey::from_der(certificates(chain_pem)?, key, &provider()).map_err(TlsError::Rustls)?;
        self.current.store(Some(Arc::new(key)));
        Ok(())
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }
}

impl rustls::server::ResolvesServerCert for Certificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }
}

impl rustls::client::ResolvesClientCert for Certificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current.load_full()
    }

    fn has_certs(&self) -> bool {
        self.is_set()
    }
}

/// Trusted roots, replaceable at any time; for verifying servers and clients.
#[derive(Debug)]
pub struct Roots {
    current: ArcSwapOption<Verifiers>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Verifiers {
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

impl Roots {
    /// Trusts nobody yet.
    #[must_use]
    pub fn none() -> Arc<Self> {
        Arc::new(Self { current: ArcSwapOption::empty(), provider: provider() })
    }

    /// Replaces the roots by those of a PEM bundle. On an error the old ones stay.
    ///
    /// # Errors
    /// [`TlsError`], also for a bundle with no certificate in it.
    pub fn set(&self, bundle_pem: &str) -> Result<(), TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(bundle_pem)? {
            store.add(certificate).map_err(TlsError::Rustls)?;
        }
        let store = Arc::new(store);
        let clients = WebPkiClientVerifier::builder_with_provider(store.clone(), self.provider.clone())
            .build()
            .map_err(TlsError::Verifier)?;
        let servers = WebPkiServerVerifier::builder_with_provider(store, self.provider.clone())
            .build()
            .map_err(TlsError::Verifier)?;
        self.current.store(Some(Arc::new(Verifiers { clients, servers })));
        Ok(())
    }

    fn current(&self) -> Result<Arc<Verifiers>, rustls::Error> {
        self.current.load_full().ok_or_else(|| rustls::Error::General("no trusted roots yet".to_owned()))
    }
}

impl ClientCertVerifier for Roots {
    fn offer_client_auth(&self) -> bool {
        self.current.load().is_some()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// Without hints a client sends the certificate it has, which is all that is wanted here.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.current()?.clients.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Roots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.current()?.servers.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What a server does about client certificates.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// It asks for none.
    None,
    /// It asks for one and verifies it if it is sent; each endpoint decides whether it needs one.
    Optional(Arc<Roots>),
}

/// A server's configuration: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, no session tickets (each costs memory per
/// connection, and a resumed session would skip a replaced root).
///
/// # Errors
/// When the provider supports no common protocol version, which the one we install does.
pub fn server_config(
    certificate: Arc<Certificate>,
    clients: ClientAuth,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?;
    let builder = match clients {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(roots) => builder.with_client_cert_verifier(roots),
    };
    let mut config = builder.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// A client's configuration for HTTP/1.1 (see [`crate::https`]); presents the certificate if there is one.
///
/// # Errors
/// When the provider supports no common protocol version, which the one we install does.
pub fn client_config(
    certificate: Arc<Certificate>,
    roots: Arc<Roots>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .dangerous() // rustls calls every own verifier so; Roots only forwards to the WebPKI one.
        .with_custom_certificate_verifier(roots)
        .with_client_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The certificates of a PEM text, in order.
///
/// # Errors
/// [`TlsError::Pem`], or [`TlsError::Empty`] when there is none.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(TlsError::Pem)?;
    if all.is_empty() { Err(TlsError::Empty) } else { Ok(all) }
}
