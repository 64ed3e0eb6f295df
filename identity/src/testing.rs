//! An authority for the tests of this crate.

use http::StatusCode;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, IsCa,
    KeyPair, SanType,
};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::answer::{AnswerError, Expected, Identity, accept};

pub const ID: &str = "spiffe://cluster.local/ns/shop/sa/buyer";

/// What an answer is about.
pub struct Wish<'a> {
    pub uris: Vec<&'a str>,
    pub end: Duration,
    pub renew: Option<Duration>,
    pub issued: Option<Duration>,
    /// What is sent as the roots.
    pub bundle: String,
}

/// Something that signs.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

fn parameters(name: &str, is_ca: IsCa) -> CertificateParams {
    let mut parameters = CertificateParams::new([]).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = is_ca;
    parameters
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let parameters = parameters(name, IsCa::Ca(BasicConstraints::Unconstrained));
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// One below it; without leave to sign when `is_ca` says so.
    pub fn below(&self, name: &str, is_ca: IsCa) -> Self {
        Self(
            CertifiedIssuer::signed_by(parameters(name, is_ca), KeyPair::generate().unwrap(), &self.0)
                .unwrap(),
        )
    }

    pub fn root(&self) -> String {
        self.0.pem()
    }

    pub fn wish(&self) -> Wish<'static> {
        Wish {
            uris: vec![ID],
            end: Duration::hours(24),
            renew: Some(Duration::hours(16)),
            issued: Some(Duration::ZERO),
            bundle: self.root(),
        }
    }

    /// Signs the key of a request, whatever the request says.
    pub fn sign(&self, csr: &str, wish: &Wish<'_>) -> Value {
        let now = OffsetDateTime::now_utc();
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        let names = wish.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        request.params.subject_alt_names =
            names.chain([SanType::DnsName("injector.mesh.svc".try_into().unwrap())]).collect();
        request.params.not_before = now - Duration::minutes(5);
        request.params.not_after = now + wish.end;
        let at = |after: Duration| (now + after).format(&Rfc3339).unwrap();
        json!({
            "certificateChain": request.signed_by(&self.0).unwrap().pem(),
            "trustBundle": wish.bundle,
            "issuer": "aa", "trustedRoots": ["aa", "bb"], "serial": 7,
            "issuedAt": wish.issued.map(at),
            "notAfter": at(wish.end),
            "renewAfter": wish.renew.map(at),
        })
    }
}

/// Whether an answer is believed by whoever expects [`ID`].
pub fn believed(answer: &Value, key: &KeyPair) -> Result<Identity, AnswerError> {
    let expected = Expected::Id(ID.to_owned());
    accept(StatusCode::OK, answer.to_string().as_bytes(), &expected, key, OffsetDateTime::now_utc())
}
