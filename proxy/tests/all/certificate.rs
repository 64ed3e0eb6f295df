//! What is accepted as a certificate, and a certificate authority for the tests.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use proxy::certificate::{CertificateError, accept, key_and_request};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa,
    KeyPair, SanType,
};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

const ID: &str = "spiffe://cluster.local/ns/bookstore/sa/bookstore";

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

#[test]
fn a_certificate_for_our_key_and_id_is_accepted() {
    let (key, csr) = key_and_request(ID).unwrap();
    let now = OffsetDateTime::now_utc();
    let identity = accept(&Authority::new().answer(&csr, ID, Life::default()), ID, &key, now).unwrap();
    assert!((identity.not_after - now - Duration::hours(24)).abs() < Duration::minutes(1));
    assert!((identity.renew_at - now - Duration::hours(16)).abs() < Duration::minutes(1));
    assert!(identity.key.pem().contains("PRIVATE KEY"));
    assert!(!format!("{identity:?}").contains("PRIVATE KEY"), "a key must not reach a log");
}

#[test]
fn renewal_falls_back_to_two_thirds_of_life() {
    let (key, csr) = key_and_request(ID).unwrap();
    let now = OffsetDateTime::now_utc();
    for renew in [None, Some(Duration::hours(25))] {
        let answer = Authority::new().answer(&csr, ID, Life { end: Duration::hours(24), renew });
        let identity = accept(&answer, ID, &key, now).unwrap();
        assert!(
            (identity.renew_at - now - Duration::hours(16)).abs() < Duration::minutes(5),
            "{}",
            identity.renew_at
        );
    }
    let past =
        Authority::new().answer(&csr, ID, Life { end: Duration::hours(1), renew: Some(-Duration::hours(1)) });
    assert!(accept(&past, ID, &key, now).unwrap().renew_at > now, "never in a tight loop");
}

#[test]
fn a_clock_that_is_wrong_by_minutes_renews_neither_early_nor_late() {
    let (key, csr) = key_and_request(ID).unwrap();
    for wrong in [Duration::minutes(-7), Duration::minutes(7)] {
        let own_clock = OffsetDateTime::now_utc() + wrong;
        let life = Life { end: Duration::minutes(30), renew: Some(Duration::minutes(20)) };
        let identity = accept(&Authority::new().answer(&csr, ID, life), ID, &key, own_clock).unwrap();
        let after = identity.renew_at - own_clock;
        assert!((after - Duration::minutes(20)).abs() < Duration::minutes(1), "{wrong}: after {after}");
    }
}

#[test]
fn anything_else_is_refused() {
    let authority = Authority::new();
    let (key, csr) = key_and_request(ID).unwrap();
    let (other_key, other_csr) = key_and_request(ID).unwrap();
    let now = OffsetDateTime::now_utc();
    let refused =
        |answer: &Response<Bytes>, key| accept(answer, ID, key, now).expect_err("refused").to_string();
    assert!(refused(&authority.answer(&csr, ID, Life::default()), &other_key).contains("another key"));
    assert!(refused(&authority.answer(&other_csr, ID, Life::default()), &key).contains("another key"));
    let foreign = authority.answer(&csr, "spiffe://cluster.local/ns/bookstore/sa/bookbuyer", Life::default());
    assert!(refused(&foreign, &key).contains("another identity"));
    let ended = authority.answer(&csr, ID, Life { end: -Duration::minutes(1), renew: None });
    assert!(refused(&ended, &key).contains("expired"));
    for body in ["", "{}", "[]", r#"{"certificateChain": "", "trustBundle": ""}"#, "\u{0}"] {
        let answer = Response::new(Bytes::from_static(body.as_bytes()));
        assert!(refused(&answer, &key).contains("cannot be used"), "{body:?}");
    }
}

#[test]
fn a_refusal_is_passed_on_with_its_reason() {
    let (key, _) = key_and_request(ID).unwrap();
    let mut answer =
        Response::new(Bytes::from_static(br#"{"reason": "TokenExpired", "message": "since\nnoon"}"#));
    *answer.status_mut() = http::StatusCode::UNAUTHORIZED;
    let error = accept(&answer, ID, &key, OffsetDateTime::now_utc()).expect_err("refused");
    let CertificateError::Refused { reason, message, .. } = &error else { panic!("{error}") };
    assert_eq!((reason.as_str(), message.as_str()), ("TokenExpired", "sincenoon"));
}
