//! Reading a root of trust from the Secret that holds it. Pure.
//!
//! ```text
//!  tls.crt: the certificate that signs [, its intermediates …] [, the root]
//!  ca.crt:  the root, when tls.crt does not hold it
//!  tls.key: key of the first certificate of tls.crt
//! ```
//! Sidecars trust the root alone; what is between it and a leaf is sent with the leaf.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;

/// Certificates that are read from one Secret at most.
const MOST: usize = 16;

/// Why a Secret cannot be used. Never says anything of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// A key of the Secret is missing.
    #[error("the Secret has no {0}")]
    Missing(&'static str),
    /// A certificate cannot be read.
    #[error("{0} is not a list of PEM certificates")]
    Certificate(&'static str),
    /// It is not a CA.
    #[error("tls.crt is not the certificate of an authority (basicConstraints CA, keyUsage keyCertSign)")]
    NotAuthority,
    /// The key cannot be read.
    #[error("tls.key is not a PEM private key (PKCS #8)")]
    Key,
    /// They are not a pair.
    #[error("tls.key does not belong to tls.crt")]
    NoPair,
    /// The chain does not end in a root.
    #[error("the root that {0} was signed by is missing: put it into ca.crt")]
    NoRoot(String),
    /// Its time is over.
    #[error("{0} has expired at {1}")]
    Expired(String, OffsetDateTime),
    /// Its time has not come.
    #[error("{0} is not valid before {1}")]
    NotYetValid(String, OffsetDateTime),
    /// Peers would refuse what it signs, for example because of its name constraints.
    #[error("a certificate signed with it would be refused by its peers: {0}")]
    Useless(String),
}

impl RootError {
    /// CamelCase, part of the API.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => "SecretIncomplete",
            Self::Certificate(_) => "CertificateUnreadable",
            Self::NotAuthority => "NotAnAuthority",
            Self::Key => "KeyUnreadable",
            Self::NoPair => "KeyMismatch",
            Self::NoRoot(_) => "RootMissing",
            Self::Expired(..) => "Expired",
            Self::NotYetValid(..) => "NotYetValid",
            Self::Useless(_) => "Useless",
        }
    }
}

/// The certificates of a Secret, put in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The one that signs.
    pub signer: CertificateDer<'static>,
    /// The signer and what is between it and the root, PEM; empty when the root signs itself.
    pub sent: String,
    /// The root, PEM.
    pub root: String,
    /// SHA-256 of the root, hexadecimal.
    pub fingerprint: String,
    /// When all of them are valid.
    pub not_before: OffsetDateTime,
    /// Until when all of them are valid.
    pub not_after: OffsetDateTime,
}

/// SHA-256 of a certificate, hexadecimal.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The certificates of a PEM text.
///
/// # Errors
/// [`RootError::Certificate`] with the name of the text.
pub fn certificates(name: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, RootError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .take(MOST + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| RootError::Certificate(name))?;
    if all.is_empty() || all.len() > MOST { Err(RootError::Certificate(name)) } else { Ok(all) }
}

/// One certificate as PEM.
#[must_use]
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn parse<'a>(name: &'static str, der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, RootError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|_| RootError::Certificate(name))?;
    Ok(parsed)
}

fn subject(certificate: &X509Certificate<'_>) -> String {
    let subject = certificate.subject().to_string();
    if subject.is_empty() { "the certificate without a subject".to_owned() } else { format!("{subject:?}") }
}

fn signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    certificate.issuer() == issuer.subject()
        && issuer.is_ca()
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.key_usage().ok().flatten();
    certificate.is_ca() && usage.is_none_or(|usage| usage.value.key_cert_sign())
}

impl Path {
    /// Finds the way from the first certificate of `tls_crt` to a root in `tls_crt` or `ca_crt`.
    ///
    /// # Errors
    /// [`RootError`].
    pub fn find(tls_crt: &str, ca_crt: Option<&str>) -> Result<Self, RootError> {
        let own = certificates("tls.crt", tls_crt)?;
        let above = match ca_crt.map(str::trim).filter(|text| !text.is_empty()) {
            Some(text) => certificates("ca.crt", text)?,
            None => Vec::new(),
        };
        let [signer, ..] = own.as_slice() else { return Err(RootError::Certificate("tls.crt")) };
        if !may_sign(&parse("tls.crt", signer)?) {
            return Err(RootError::NotAuthority);
        }
        let (mut sent, mut current) = (Vec::new(), signer);
        loop {
            let parsed = parse("tls.crt", current)?;
            if signed_by(&parsed, &parsed) {
                return Self::new(signer, &sent, current);
            }
            sent.push(current);
            let issuer = own.iter().chain(&above).find(|candidate| {
                !sent.contains(candidate)
                    && parse("ca.crt", candidate).is_ok_and(|candidate| signed_by(&parsed, &candidate))
            });
            current = issuer.ok_or_else(|| RootError::NoRoot(subject(&parsed)))?;
        }
    }

    fn new(
        signer: &CertificateDer<'static>,
        sent: &[&CertificateDer<'static>],
        root: &CertificateDer<'static>,
    ) -> Result<Self, RootError> {
        let (mut not_before, mut not_after) = (None::<OffsetDateTime>, None::<OffsetDateTime>);
        for (below, certificate) in sent.iter().copied().chain([root]).enumerate() {
            let certificate = parse("tls.crt", certificate)?;
            // Envoy counts the root's path length too, rustls does not.
            let constraints = certificate.basic_constraints().ok().flatten();
            let most = constraints.and_then(|constraints| constraints.value.path_len_constraint);
            if most.is_some_and(|most| usize::try_from(most).is_ok_and(|most| below > most)) {
                let name = subject(&certificate);
                return Err(RootError::Useless(format!("{name} allows fewer intermediates (pathlen)")));
            }
            let validity = certificate.validity();
            let (from, to) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
            not_before = Some(not_before.map_or(from, |known| known.max(from)));
            not_after = Some(not_after.map_or(to, |known| known.min(to)));
        }
        let end = RootError::Certificate("tls.crt");
        Ok(Self {
            signer: signer.clone(),
            sent: sent.iter().map(|certificate| pem(certificate)).collect(),
            root: pem(root),
            fingerprint: fingerprint(root),
            not_before: not_before.ok_or(end.clone())?,
            not_after: not_after.ok_or(end)?,
        })
    }

    /// Whether it may be used now.
    ///
    /// # Errors
    /// [`RootError::Expired`] or [`RootError::NotYetValid`], with the certificate's subject.
    pub fn check_time(&self, now: OffsetDateTime) -> Result<(), RootError> {
        let name = || parse("tls.crt", &self.signer).map(|parsed| subject(&parsed));
        if self.not_after <= now {
            return Err(RootError::Expired(name()?, self.not_after));
        }
        if now < self.not_before {
            return Err(RootError::NotYetValid(name()?, self.not_before));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
