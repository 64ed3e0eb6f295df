//! The authority: the root of trust in memory, and leaves signed with it.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use super::refusal::Refusal;
use super::token::Bearer;

/// A leaf is valid a little before it is made, for clocks that are behind.
const BACKDATED: time::Duration = time::Duration::minutes(5);

/// Why a root cannot be used. Never says anything of the key.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A key of the Secret is missing.
    #[error("the Secret has no {0}")]
    Missing(&'static str),
    /// The certificate cannot be read.
    #[error("tls.crt is not a PEM certificate")]
    Certificate,
    /// It is not a CA.
    #[error("tls.crt is not the certificate of an authority (basicConstraints CA)")]
    NotAuthority,
    /// The key cannot be read.
    #[error("tls.key is not a PEM private key (PKCS #8)")]
    Key,
    /// They are not a pair.
    #[error("tls.key does not belong to tls.crt")]
    NoPair,
}

/// A root of trust with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    not_after: OffsetDateTime,
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// SPIFFE id.
    pub spiffe_id: String,
    /// DNS names, for the services of the control plane.
    pub dns_names: Vec<String>,
}

impl Subject {
    /// The subject of a workload, and of the control plane if it is one (docs/ARCHITECTURE.md, "Controller port").
    #[must_use]
    pub fn of(bearer: &Bearer, trust_domain: &str, control_plane: &str, cluster_domain: &str) -> Self {
        let account = &bearer.service_account;
        let serves = account == "meshwright-operator"
            || account.starts_with("meshwright-controller-")
            || account.starts_with("meshwright-injector-");
        let dns_names = if bearer.namespace == control_plane && serves {
            service_names(account, control_plane, cluster_domain)
        } else {
            Vec::new()
        };
        Self { spiffe_id: crds::labels::spiffe_id(trust_domain, &bearer.namespace, account), dns_names }
    }

    /// Its names as a certificate holds them.
    ///
    /// # Errors
    /// [`Refusal::TokenMalformed`] when a name is not ASCII, which Kubernetes does not allow.
    pub fn names(&self) -> Result<Vec<SanType>, Refusal> {
        let ascii = |text: &str| Ia5String::try_from(text).map_err(|_| Refusal::TokenMalformed("names"));
        let mut names = vec![SanType::URI(ascii(&self.spiffe_id)?)];
        for name in &self.dns_names {
            names.push(SanType::DnsName(ascii(name)?));
        }
        Ok(names)
    }
}

/// The DNS names of a Service.
#[must_use]
pub fn service_names(service: &str, namespace: &str, cluster_domain: &str) -> Vec<String> {
    let short = format!("{service}.{namespace}.svc");
    vec![format!("{short}.{cluster_domain}"), short]
}

/// A certificate that was made.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// PEM, the leaf alone: it is signed by the root, which every peer has.
    pub chain: String,
    /// End of its life.
    pub not_after: OffsetDateTime,
    /// When its holder should ask for the next.
    pub renew_after: OffsetDateTime,
}

impl Authority {
    /// Reads `tls.crt` and `tls.key`.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn parse(certificate: &str, key: &str) -> Result<Self, RootError> {
        let der =
            CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| RootError::Certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| RootError::Certificate)?;
        if !parsed.is_ca() {
            return Err(RootError::NotAuthority);
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let key = KeyPair::from_pem(key).map_err(|_| RootError::Key)?;
        if key.public_key_raw() != &*parsed.public_key().subject_public_key.data {
            return Err(RootError::NoPair);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|_| RootError::Certificate)?;
        Ok(Self { issuer, pem: certificate.to_owned(), not_after })
    }

    /// The root's certificate as PEM: what every sidecar trusts.
    #[must_use]
    pub fn trust_bundle(&self) -> &str {
        &self.pem
    }

    /// End of the root's life.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Signs a key. The leaf never outlives the root.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] when the root cannot sign (any more).
    pub fn sign(
        &self,
        subject: &Subject,
        key: &impl PublicKeyData,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Leaf, Refusal> {
        let not_ready = |why: String| Refusal::NotReady(why);
        if self.not_after <= now {
            return Err(not_ready("the root certificate has expired".to_owned()));
        }
        // Whole seconds: X.509 has no others.
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let not_after = now.saturating_add(time::Duration::try_from(life).unwrap_or(time::Duration::DAY));
        let not_after = not_after.min(self.not_after);
        let serial: [u8; 16] = random().map_err(|()| not_ready("no randomness".to_owned()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = subject.names()?;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = now.saturating_sub(BACKDATED);
        params.not_after = not_after;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer).map_err(|error| not_ready(error.to_string()))?;
        let renew_after = now + renew_in(not_after - now, &serial);
        Ok(Leaf { chain: leaf.pem(), not_after, renew_after })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Two thirds of the life, minus up to a tenth of it, so that certificates issued together are not renewed together.
fn renew_in(life: time::Duration, serial: &[u8; 16]) -> time::Duration {
    let jitter = f64::from(u16::from_be_bytes([serial[14], serial[15]])) / f64::from(u16::MAX);
    (life * 2 / 3) - (life / 10) * jitter
}

fn random() -> Result<[u8; 16], ()> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ())?;
    // A serial number is positive (RFC 5280, section 4.1.2.2).
    bytes[0] &= 0x7f;
    bytes[0] |= 0x40;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::testing::root;

    fn bearer(namespace: &str, account: &str) -> Bearer {
        Bearer {
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            pod: "p".to_owned(),
            pod_uid: "u".to_owned(),
        }
    }

    fn subject(namespace: &str, account: &str) -> Subject {
        Subject::of(&bearer(namespace, account), "cluster.local", "meshwright-system", "cluster.local")
    }

    #[test]
    fn only_the_control_plane_gets_host_names() {
        assert!(subject("shop", "meshwright-controller-0-1-0").dns_names.is_empty());
        assert!(subject("meshwright-system", "default").dns_names.is_empty());
        assert_eq!(
            subject("meshwright-system", "meshwright-injector-0-1-0").dns_names,
            [
                "meshwright-injector-0-1-0.meshwright-system.svc.cluster.local",
                "meshwright-injector-0-1-0.meshwright-system.svc",
            ]
        );
    }

    #[test]
    fn a_leaf_says_who_and_for_how_long() {
        let (certificate, key) = root();
        let authority = Authority::parse(&certificate, &key).unwrap();
        let now = OffsetDateTime::now_utc();
        let key = KeyPair::generate().unwrap();
        let day = Duration::from_secs(86_400);
        let leaf = authority.sign(&subject("shop", "buyer"), &key, day, now).unwrap();
        let der = CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        let spiffe = "spiffe://cluster.local/ns/shop/sa/buyer";
        assert!(
            matches!(names.value.general_names[..], [x509_parser::extensions::GeneralName::URI(uri)] if uri == spiffe)
        );
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && usage.server_auth && !parsed.is_ca());
        assert!(parsed.validity().not_before.to_datetime() <= now - BACKDATED);
        let life = leaf.not_after - now;
        assert!(life <= time::Duration::DAY && life > time::Duration::DAY - time::Duration::minutes(1));
        let share = (leaf.renew_after - now).as_seconds_f64() / life.as_seconds_f64();
        assert!((0.56..=0.67).contains(&share), "{share}");
    }

    #[test]
    fn a_leaf_never_outlives_the_root() {
        let (certificate, key) = root();
        let authority = Authority::parse(&certificate, &key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = |now| authority.sign(&subject("shop", "buyer"), &key, Duration::from_secs(86_400), now);
        let late = authority.not_after() - time::Duration::hours(1);
        assert_eq!(leaf(late).unwrap().not_after, authority.not_after());
        assert!(matches!(leaf(authority.not_after()), Err(Refusal::NotReady(_))));
    }

    #[test]
    fn what_is_not_a_root_is_refused_by_name() {
        let ((certificate, key), (_, other)) = (root(), root());
        assert!(matches!(Authority::parse(&certificate, &other), Err(RootError::NoPair)));
        assert!(matches!(Authority::parse("x", &key), Err(RootError::Certificate)));
        assert!(matches!(Authority::parse(&certificate, "x"), Err(RootError::Key)));
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::default().self_signed(&leaf_key).unwrap().pem();
        assert!(matches!(Authority::parse(&leaf, &leaf_key.serialize_pem()), Err(RootError::NotAuthority)));
    }
}
