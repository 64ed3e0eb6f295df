//! A root of trust: written by `create` only, never read by the operator. It has no owner, so that nothing but
//! `meshwright uninstall`, a finished rotation or a person with rights on that Secret destroys it.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::mesh_config::KeyType;
use crds::{MeshConfig, labels};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RsaKeySize,
};

/// Clocks of other machines may be behind ours; more than a leaf is backdated.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Why no root could be made.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// `rootTTL` is not a duration.
    #[error("certificateAuthority.rootTTL")]
    Ttl(#[source] crds::duration::NotADuration),
    /// `rootTTL` ends after the year 9999.
    #[error("certificateAuthority.rootTTL is longer than a certificate can live")]
    TooLong,
    /// rcgen refuses.
    #[error("cannot make a root certificate")]
    Make(#[source] rcgen::Error),
}

/// A Secret without a root in it, for asking whether one of that name exists (by a dry run of its creation).
#[must_use]
pub fn empty_secret(mesh: &MeshConfig, name: &str) -> Secret {
    Secret { metadata: metadata(mesh, name, 0), ..Default::default() }
}

/// A new self-signed root in the Secret that the controllers read.
///
/// # Errors
/// [`RootError`].
pub fn root_secret(
    mesh: &MeshConfig,
    name: &str,
    generation: i64,
    now: time::OffsetDateTime,
) -> Result<Secret, RootError> {
    let authority = &mesh.spec.certificate_authority;
    let life = crds::duration::parse(&authority.root_ttl).map_err(RootError::Ttl)?;
    let life = time::Duration::try_from(life).map_err(|_| RootError::TooLong)?;
    let mut params = CertificateParams::default();
    params.not_before = now - BACKDATE;
    params.not_after = now.checked_add(life).ok_or(RootError::TooLong)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Meshwright");
    // No two roots have the same name, for peers look up issuers by it.
    let common_name = format!("{} root {generation} of {}", mesh.name_any(), now.unix_timestamp());
    params.distinguished_name.push(DnType::CommonName, common_name);
    let key = key(authority.key_type).map_err(RootError::Make)?;
    let certificate = params.self_signed(&key).map_err(RootError::Make)?;
    let data = BTreeMap::from([
        ("tls.crt".to_owned(), ByteString(certificate.pem().into_bytes())),
        ("tls.key".to_owned(), ByteString(key.serialize_pem().into_bytes())),
    ]);
    Ok(Secret {
        metadata: metadata(mesh, name, generation),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Default::default()
    })
}

fn key(key_type: KeyType) -> Result<KeyPair, rcgen::Error> {
    match key_type {
        KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyType::EcdsaP384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyType::Rsa3072 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        KeyType::Rsa4096 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_4096),
    }
}

fn metadata(mesh: &MeshConfig, name: &str, generation: i64) -> ObjectMeta {
    let labels = [(labels::MANAGED_BY, labels::MANAGER.to_owned()), (labels::MESH, mesh.name_any())];
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(mesh.spec.namespace.clone()),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        annotations: Some([(labels::ROOT_GENERATION.to_owned(), generation.to_string())].into()),
        // No owner: a root outlives its MeshConfig, because the sidecars that trust it do.
        ..Default::default()
    }
}
