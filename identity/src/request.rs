//! A request for a certificate: a P-256 key that never leaves the process, and what proves who asks.

use http::HeaderValue;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};

/// No key or request could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a key or a request for a certificate")]
pub struct RequestError(#[source] rcgen::Error);

/// A new key and a CSR (PEM) for it. It names the SPIFFE id of whoever knows its own; the controller compares that with
/// the token and copies nothing.
///
/// # Errors
/// When the id can't stand in a certificate, or the random generator fails.
pub fn key_and_request(spiffe_id: Option<&str>) -> Result<(KeyPair, String), RequestError> {
    make(spiffe_id).map_err(RequestError)
}

fn make(spiffe_id: Option<&str>) -> Result<(KeyPair, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    if let Some(id) = spiffe_id {
        parameters.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    }
    let csr = parameters.serialize_request(&key)?.pem()?;
    Ok((key, csr))
}

/// A token as the value of the header `authorization`, which no `Debug` shows; nothing when it cannot be one.
#[must_use]
pub fn bearer(token: &str) -> Option<HeaderValue> {
    let token = token.trim();
    if token.is_empty() {
        return None;
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateSigningRequestParams, PublicKeyData};

    use super::*;

    #[test]
    fn each_request_has_a_key_of_its_own_and_names_nobody_else() {
        let id = "spiffe://cluster.local/ns/shop/sa/buyer";
        let (key, csr) = key_and_request(Some(id)).unwrap();
        let read = CertificateSigningRequestParams::from_pem(&csr).unwrap();
        assert_eq!(read.public_key.der_bytes(), key.public_key_raw());
        assert_eq!(read.params.subject_alt_names, [SanType::URI(id.try_into().unwrap())]);
        assert_eq!(read.params.distinguished_name, DistinguishedName::new());
        let (other, csr) = key_and_request(None).unwrap();
        assert_ne!(other.public_key_raw(), key.public_key_raw());
        let read = CertificateSigningRequestParams::from_pem(&csr).unwrap();
        assert_eq!(read.params.subject_alt_names, []);
        assert!(key_and_request(Some("spiffe://é")).is_err());
    }

    #[test]
    fn a_token_is_neither_empty_nor_shown() {
        let value = bearer(" token\n").unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer token");
        assert!(!format!("{value:?}").contains("token"));
        for none in ["", " \n", "a\nb", "a\u{0}"] {
            assert!(bearer(none).is_none(), "{none:?}");
        }
    }
}
