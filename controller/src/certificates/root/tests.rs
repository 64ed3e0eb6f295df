//! Secrets as people provide them: roots, chains, and what is wrong with them.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints,
};
use time::OffsetDateTime;

use super::*;
use crate::certificates::authority::{Authority, Subject};

/// A certificate authority, perhaps below another.
struct Ca {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - time::Duration::HOUR;
    params.not_after = OffsetDateTime::now_utc() + time::Duration::DAY;
    params
}

impl Ca {
    fn root(params: CertificateParams) -> Self {
        Self::with_key(params, KeyPair::generate().unwrap())
    }

    fn with_key(params: CertificateParams, key: KeyPair) -> Self {
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap().pem();
        Self { params, key, pem }
    }

    fn key(&self) -> String {
        self.key.serialize_pem()
    }
}

fn subject() -> Subject {
    Subject {
        spiffe_id: "spiffe://books.example/ns/shop/sa/buyer".to_owned(),
        dns_names: vec!["meshwright-controller-0-1-0.meshwright-system.svc".to_owned()],
    }
}

/// What is wrong with a Secret, as the controller judges it.
fn wrong(tls_crt: &str, key: &str, ca_crt: Option<&str>) -> &'static str {
    let now = OffsetDateTime::now_utc();
    let judged = Authority::read(tls_crt, key, ca_crt).and_then(|authority| authority.check(&subject(), now));
    judged.expect_err("it is bad").reason()
}

#[test]
fn an_intermediate_signs_and_is_sent_and_only_the_root_is_trusted() {
    let root = Ca::root(params("root"));
    let upper = root.below(params("upper"));
    let lower = upper.below(params("lower"));
    // As one Secret or with ca.crt, in any order above the first.
    let together = [&lower.pem, &upper.pem, &root.pem].map(String::as_str).concat();
    let apart = lower.pem.clone() + &upper.pem;
    let other = Ca::root(params("other")).pem;
    for (tls_crt, ca_crt) in [
        (together, None),
        (apart, Some(root.pem.clone())),
        (lower.pem.clone(), Some(other + &root.pem + &upper.pem)),
    ] {
        let authority = Authority::read(&tls_crt, &lower.key(), ca_crt.as_deref()).unwrap();
        authority.check(&subject(), OffsetDateTime::now_utc()).unwrap();
        assert_eq!(
            certificates("x", authority.trust_bundle()).unwrap(),
            certificates("x", &root.pem).unwrap()
        );
        let key = KeyPair::generate().unwrap();
        let now = OffsetDateTime::now_utc();
        let leaf = authority.sign(&subject(), &key, Duration::from_secs(600), now).unwrap();
        assert_eq!(certificates("chain", &leaf.chain).unwrap().len(), 3, "leaf, lower, upper");
    }
}

#[test]
fn a_root_alone_may_have_any_key() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let root = Ca::with_key(params("root"), KeyPair::generate_for(algorithm).unwrap());
        let authority = Authority::read(&root.pem, &root.key(), Some("")).unwrap();
        authority.check(&subject(), OffsetDateTime::now_utc()).unwrap();
    }
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let (root, other) = (Ca::root(params("root")), Ca::root(params("other")));
    let lower = root.below(params("lower"));
    assert_eq!(wrong(&lower.pem, &lower.key(), None), "RootMissing");
    assert_eq!(wrong(&lower.pem, &lower.key(), Some(&other.pem)), "RootMissing");
    assert_eq!(wrong(&root.pem, &other.key(), None), "KeyMismatch");
    assert_eq!(wrong(&root.pem, "x", None), "KeyUnreadable");
    assert_eq!(wrong("x", &root.key(), None), "CertificateUnreadable");
    assert_eq!(
        wrong(&root.pem, &root.key(), Some("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----")),
        "CertificateUnreadable"
    );

    let change = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = params("root");
        change(&mut params);
        let root = Ca::root(params);
        wrong(&root.pem, &root.key(), None)
    };
    let now = OffsetDateTime::now_utc();
    assert_eq!(change(&|params| params.is_ca = IsCa::ExplicitNoCa), "NotAnAuthority");
    assert_eq!(
        change(&|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        "NotAnAuthority"
    );
    assert_eq!(change(&|params| params.not_after = now - time::Duration::MINUTE), "Expired");
    assert_eq!(change(&|params| params.not_before = now + time::Duration::HOUR), "NotYetValid");
    let elsewhere = |params: &mut CertificateParams| {
        let names = vec![GeneralSubtree::DnsName("elsewhere.example".to_owned())];
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees: names, excluded_subtrees: Vec::new() });
    };
    assert_eq!(change(&elsewhere), "Useless");
    // An intermediate below a root that allows none.
    let mut narrow = params("narrow");
    narrow.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let narrow = Ca::root(narrow);
    let (upper, lower) = {
        let upper = narrow.below(params("upper"));
        let lower = upper.below(params("lower"));
        (upper, lower)
    };
    assert_eq!(wrong(&lower.pem, &lower.key(), Some(&(upper.pem + &narrow.pem))), "Useless");
    // An expired root is no root, whatever is below it.
    let mut old = params("old");
    old.not_after = now - time::Duration::MINUTE;
    let old = Ca::root(old);
    let below = old.below(params("below"));
    assert_eq!(wrong(&below.pem, &below.key(), Some(&old.pem)), "Expired");
}

proptest::proptest! {
    #[test]
    fn no_input_panics(crt in ".{0,200}", key in ".{0,200}", ca in ".{0,200}", at in 0..400usize, byte: u8) {
        let _ = Authority::read(&crt, &key, Some(&ca));
        let root = Ca::root(params("root"));
        let mut der = certificates("x", &root.pem).unwrap().remove(0).to_vec();
        let at = at % der.len();
        der[at] = byte;
        let _ = Authority::read(&pem(&der.into()), &root.key(), None);
    }
}
