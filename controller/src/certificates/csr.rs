//! Signing requests: reading them. Pure.
//!
//! Only the public key is taken from a request. Names in it are compared with the identity and never copied.

use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKey, SanType};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;

use super::refusal::Refusal;

/// Longest request that is read. A P-256 request with a few names has less than 1 kB.
pub const MAX_CSR: usize = 16 * 1024;

/// A request whose sender holds the key.
pub struct SigningRequest {
    /// The key to certify.
    pub key: PublicKey,
    names: Vec<SanType>,
}

impl SigningRequest {
    /// Reads a PEM PKCS #10 request and verifies that its own key signed it.
    ///
    /// # Errors
    /// One of the [`Refusal`]s that begin with `Csr`.
    pub fn parse(pem: &[u8]) -> Result<Self, Refusal> {
        if pem.len() > MAX_CSR {
            return Err(Refusal::CsrTooLarge(MAX_CSR));
        }
        let unreadable = |error: &dyn std::fmt::Display| Refusal::CsrUnreadable(error.to_string());
        let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|error| unreadable(&error))?;
        let request = CertificateSigningRequestParams::from_der(&der).map_err(|error| match error {
            rcgen::Error::InvalidCertificationRequestSignature => Refusal::CsrSignature,
            rcgen::Error::UnsupportedSignatureAlgorithm => Refusal::CsrKey,
            error => unreadable(&error),
        })?;
        // Uncompressed point, so that a P-384 key signed with SHA-256 does not pass.
        let key = &request.public_key;
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || rcgen::PublicKeyData::der_bytes(key).len() != 65 {
            return Err(Refusal::CsrKey);
        }
        Ok(Self { key: request.public_key, names: request.params.subject_alt_names })
    }

    /// Whether every name in the request is one of those that the certificate will hold.
    ///
    /// # Errors
    /// [`Refusal::IdentityMismatch`] with the first that is not.
    pub fn check_names(&self, allowed: &[SanType]) -> Result<(), Refusal> {
        match self.names.iter().find(|name| !allowed.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Refusal::IdentityMismatch(describe(name))),
        }
    }
}

fn describe(name: &SanType) -> String {
    let text = match name {
        SanType::URI(text) | SanType::DnsName(text) | SanType::Rfc822Name(text) => text.as_str().to_owned(),
        SanType::IpAddress(address) => address.to_string(),
        _ => "a name of another type".to_owned(),
    };
    text.chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn csr(names: &[SanType], key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    fn refused(pem: &[u8]) -> Refusal {
        SigningRequest::parse(pem).err().unwrap()
    }

    #[test]
    fn only_the_own_identity_may_be_named() {
        let key = KeyPair::generate().unwrap();
        let own = uri("spiffe://cluster.local/ns/shop/sa/buyer");
        let thief = uri("spiffe://cluster.local/ns/shop/sa/thief");
        let request = SigningRequest::parse(csr(std::slice::from_ref(&own), &key).as_bytes()).unwrap();
        assert_eq!(request.check_names(std::slice::from_ref(&own)), Ok(()));
        let named = "spiffe://cluster.local/ns/shop/sa/buyer".to_owned();
        assert_eq!(request.check_names(&[thief]), Err(Refusal::IdentityMismatch(named)));
        let silent = SigningRequest::parse(csr(&[], &key).as_bytes()).unwrap();
        assert_eq!(silent.check_names(&[]), Ok(()));
        let host = SanType::DnsName("api.shop.svc".try_into().unwrap());
        let request = SigningRequest::parse(csr(&[host], &key).as_bytes()).unwrap();
        assert!(request.check_names(&[own]).is_err());
    }

    #[test]
    fn other_keys_and_broken_signatures_are_refused() {
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(refused(csr(&[], &p384).as_bytes()), Refusal::CsrKey);
        let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert_eq!(refused(csr(&[], &ed).as_bytes()), Refusal::CsrKey);
        let good = csr(&[], &KeyPair::generate().unwrap());
        let mut der = CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
        // The last byte belongs to the signature.
        *der.last_mut().unwrap() ^= 1;
        let broken = CertificateSigningRequestParams::from_der(&der.into()).err().unwrap();
        assert_eq!(broken, rcgen::Error::InvalidCertificationRequestSignature);
    }

    #[test]
    fn garbage_is_unreadable_and_too_much_is_too_large() {
        assert!(matches!(refused(b"hello"), Refusal::CsrUnreadable(_)));
        assert_eq!(refused(&vec![b'a'; MAX_CSR + 1]), Refusal::CsrTooLarge(MAX_CSR));
    }

    proptest! {
        #[test]
        fn no_input_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let pem = csr(&[uri("spiffe://a/ns/b/sa/c")], &KeyPair::generate().unwrap());
            let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
            for (at, value) in flips {
                let at = at.index(der.len());
                der[at] = value;
            }
            use base64::Engine;
            let body = base64::engine::general_purpose::STANDARD.encode(&der);
            let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
            let _ = SigningRequest::parse(pem.as_bytes());
        }
    }
}
