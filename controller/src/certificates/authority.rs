//! The authority: the root of trust in memory, and leaves signed with it.

use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use runtime::tls::Roots;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{ServerName, UnixTime};
use time::OffsetDateTime;

use super::refusal::Refusal;
pub use super::root::RootError;
use super::root::{Path, certificates};
use super::token::Bearer;

/// A leaf is valid before it is made, for peers whose clocks are behind.
const BACKDATED: time::Duration = time::Duration::minutes(15);

/// Something that signs: a root with its key, or an intermediate with its key and its root.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    path: Path,
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
        let serves = account == crds::labels::OPERATOR
            || account.starts_with(crds::labels::CONTROLLER_PREFIX)
            || account.starts_with(crds::labels::INJECTOR_PREFIX);
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
    /// PEM: the leaf, then what is between it and the root, which every peer has.
    pub chain: String,
    /// Begin of its life, as its holder should count it: now.
    pub issued_at: OffsetDateTime,
    /// End of its life.
    pub not_after: OffsetDateTime,
    /// When its holder should ask for the next.
    pub renew_after: OffsetDateTime,
}

impl Authority {
    /// Reads `tls.crt`, which holds a root or a chain up to it, and `tls.key`.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn parse(certificate: &str, key: &str) -> Result<Self, RootError> {
        Self::read(certificate, key, None)
    }

    /// Reads `tls.crt`, `tls.key` and, for a root that is not in `tls.crt`, `ca.crt`.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn read(tls_crt: &str, key: &str, ca_crt: Option<&str>) -> Result<Self, RootError> {
        let path = Path::find(tls_crt, ca_crt)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&path.signer)
            .map_err(|_| RootError::Certificate("tls.crt"))?;
        let key = KeyPair::from_pem(key).map_err(|_| RootError::Key)?;
        if key.public_key_raw() != &*parsed.public_key().subject_public_key.data {
            return Err(RootError::NoPair);
        }
        let issuer =
            Issuer::from_ca_cert_der(&path.signer, key).map_err(|_| RootError::Certificate("tls.crt"))?;
        Ok(Self { issuer, path })
    }

    /// Makes a certificate and verifies it as peers will: whatever is wrong with the chain, its usages, lengths or
    /// name constraints shows here and not in the mesh.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn check(&self, subject: &Subject, now: OffsetDateTime) -> Result<(), RootError> {
        self.path.check_time(now)?;
        let useless = |why: &dyn std::fmt::Display| RootError::Useless(why.to_string());
        let key = KeyPair::generate().map_err(|error| useless(&error))?;
        let minute = Duration::from_secs(60);
        let leaf = self.sign(subject, &key, minute, now).map_err(|error| useless(&error))?;
        let chain = certificates("tls.crt", &leaf.chain)?;
        let [leaf, between @ ..] = chain.as_slice() else { return Err(RootError::NotAuthority) };
        let roots = Roots::none();
        roots.set(&self.path.root).map_err(|error| useless(&error))?;
        let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        roots.verify_client_cert(leaf, between, time).map_err(|error| useless(&error))?;
        for name in &subject.dns_names {
            let server = ServerName::try_from(name.as_str()).map_err(|error| useless(&error))?;
            roots.verify_server_cert(leaf, between, &server, &[], time).map_err(|error| useless(&error))?;
        }
        Ok(())
    }

    /// The root's certificate as PEM: what every sidecar trusts.
    #[must_use]
    pub fn trust_bundle(&self) -> &str {
        &self.path.root
    }

    /// SHA-256 of the root.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.path.fingerprint
    }

    /// When all of the chain is valid.
    #[must_use]
    pub fn not_before(&self) -> OffsetDateTime {
        self.path.not_before
    }

    /// Until when all of the chain is valid.
    #[must_use]
    pub fn not_after(&self) -> OffsetDateTime {
        self.path.not_after
    }

    /// Signs a key. The leaf never outlives what signs it.
    ///
    /// # Errors
    /// [`Refusal::NotReady`] when it cannot sign (any more).
    pub fn sign(
        &self,
        subject: &Subject,
        key: &impl PublicKeyData,
        life: Duration,
        now: OffsetDateTime,
    ) -> Result<Leaf, Refusal> {
        let not_ready = |why: String| Refusal::NotReady(why);
        let end = self.path.not_after;
        if end <= now {
            return Err(not_ready("the root certificate has expired".to_owned()));
        }
        // Whole seconds: X.509 has no others.
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let not_after = now.saturating_add(time::Duration::try_from(life).unwrap_or(time::Duration::DAY));
        let not_after = not_after.min(end);
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
        let chain = leaf.pem() + &self.path.sent;
        Ok(Leaf { chain, issued_at: now, not_after, renew_after })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("root", &self.path.fingerprint).finish_non_exhaustive()
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
        let der = certificates("chain", &leaf.chain).unwrap().remove(0);
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
        assert!(matches!(Authority::parse("x", &key), Err(RootError::Certificate("tls.crt"))));
        assert!(matches!(Authority::parse(&certificate, "x"), Err(RootError::Key)));
        let leaf_key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::default().self_signed(&leaf_key).unwrap().pem();
        assert!(matches!(Authority::parse(&leaf, &leaf_key.serialize_pem()), Err(RootError::NotAuthority)));
    }
}
