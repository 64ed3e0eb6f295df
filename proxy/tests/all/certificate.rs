//! A certificate authority for the tests.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa,
    KeyPair, SanType,
};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>, String);

/// What a controller trusts, the root that signs first, and how often that has changed.
#[derive(Clone)]
pub struct Roots {
    pub trusted: Vec<Arc<Authority>>,
    pub serial: i64,
}

impl Roots {
    pub fn names(&self) -> Vec<String> {
        self.trusted.iter().map(|root| root.name().to_owned()).collect()
    }

    pub fn bundle(&self) -> String {
        self.trusted.iter().map(|root| root.root()).collect()
    }
}

/// How long a certificate lives, and when it shall be renewed.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    pub end: Duration,
    pub renew: Option<Duration>,
}

impl Default for Life {
    fn default() -> Self {
        Self { end: Duration::hours(24), renew: Some(Duration::hours(16)) }
    }
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let name: String = key.public_key_raw()[1..33].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut parameters = CertificateParams::new([]).unwrap();
        // Envoy takes a leaf with the name of its issuer for self-signed.
        parameters.distinguished_name.push(DnType::CommonName, format!("test root {name}"));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, key).unwrap(), name)
    }

    /// What controllers and sidecars call it: something like a SHA-256.
    pub fn name(&self) -> &str {
        &self.1
    }

    /// Its root.
    pub fn root(&self) -> String {
        self.0.pem()
    }

    /// A server certificate and key, DER.
    pub fn server(&self, name: &str) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.der().to_vec(), key.serialize_der())
    }

    /// Signs a request, for this id whatever the request says, and answers as the controller does.
    pub fn answer(&self, csr: &str, id: &str, life: Life) -> Response<Bytes> {
        let body = self.sign(csr, id, life, &self.root());
        Response::new(Bytes::from(body.to_string()))
    }

    /// The same as JSON, with these roots.
    pub fn sign(&self, csr: &str, id: &str, life: Life, bundle: &str) -> Value {
        let now = OffsetDateTime::now_utc();
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        request.params.not_before = now - Duration::minutes(5);
        request.params.not_after = now + life.end;
        request.params.use_authority_key_identifier_extension = true;
        json!({
            "certificateChain": request.signed_by(&self.0).unwrap().pem(),
            "trustBundle": bundle,
            "issuer": self.1,
            "issuedAt": now.format(&Rfc3339).unwrap(),
            "notAfter": (now + life.end).format(&Rfc3339).unwrap(),
            "renewAfter": life.renew.map(|renew| (now + renew).format(&Rfc3339).unwrap()),
        })
    }
}
