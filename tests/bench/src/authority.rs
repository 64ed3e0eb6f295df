//! A root of trust, and certificates of it.

use std::time::Duration;

use controller::certificates::authority::{Authority, Subject};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use runtime::certificates::Identity;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A root: certificate and key, PEM.
///
/// # Errors
/// None that can happen with a working TLS provider.
pub fn root() -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(1);
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// A certificate of somebody: chain (PEM) and key.
///
/// # Errors
/// When the names are none.
pub fn leaf(authority: &Authority, spiffe_id: &str, dns_name: &str) -> anyhow::Result<(String, KeyPair)> {
    let key = KeyPair::generate()?;
    let subject = Subject { spiffe_id: spiffe_id.to_owned(), dns_names: vec![dns_name.to_owned()] };
    let leaf = authority.sign(&subject, &key, Duration::from_secs(3600), time::OffsetDateTime::now_utc())?;
    Ok((leaf.chain, key))
}

/// The identity of a controller that is called by this name.
///
/// # Errors
/// As [`leaf`].
pub fn server(authority: &Authority, root: &str, dns_name: &str) -> anyhow::Result<Identity> {
    let identity = Identity::default();
    identity.roots.set(root)?;
    let id = "spiffe://cluster.local/ns/meshwright-system/sa/controller";
    let (chain, own) = leaf(authority, id, dns_name)?;
    let own = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    identity.certificate.set(&chain, own)?;
    Ok(identity)
}
