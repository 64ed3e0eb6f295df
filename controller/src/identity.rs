//! Who is at the other end: the SPIFFE id of a certificate that TLS has verified.

use runtime::tls::PeerCertificates;
use x509_parser::extensions::GeneralName;

/// A verified peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// SPIFFE id, compared as a whole and never taken apart.
    pub id: String,
    /// When its certificate expires, in seconds since 1970.
    pub not_after: i64,
}

/// The identity in a certificate: its only URI name (SPIFFE X.509-SVID, section 2). `None` without one.
#[must_use]
pub fn of(peer: &PeerCertificates) -> Option<Identity> {
    let (_, leaf) = x509_parser::parse_x509_certificate(peer.0.first()?).ok()?;
    let names = leaf.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let id = uris.next()?.to_owned();
    uris.next().is_none().then(|| Identity { id, not_after: leaf.validity().not_after.timestamp() })
}
