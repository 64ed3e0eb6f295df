//! `spec.certificateAuthority` of a MeshConfig, and what the status says of the root of trust.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Certificates.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAuthority {
    /// Who makes the root.
    #[serde(default)]
    pub provider: CaProvider,
    /// Key of a root that Meshwright makes; it counts for the next one. Workloads always have P-256 keys.
    #[serde(default)]
    pub key_type: KeyType,
    /// Life of a workload's certificate, as in `24h`.
    #[serde(default = "default_workload_ttl", rename = "workloadTTL")]
    pub workload_ttl: String,
    /// Life of a root that Meshwright makes, as in `87600h`. It is rotated by itself when four fifths of it are over.
    #[serde(default = "default_root_ttl", rename = "rootTTL")]
    pub root_ttl: String,
    /// Which root of its own making the mesh shall have. A number higher than `status.certificateAuthority.generation`
    /// starts a rotation; taking the edit back while the old root is still there aborts it. Only for `BuiltIn`.
    #[serde(default = "first_generation")]
    #[schemars(range(min = 1))]
    pub root_generation: i64,
}

/// Who makes the root of trust.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum CaProvider {
    /// The operator makes it and rotates it.
    #[default]
    BuiltIn,
    /// You put it into the Secret `meshwright-root-ca` of the control plane's namespace: `tls.crt` (the certificate
    /// that signs, then its intermediates), `tls.key`, and `ca.crt` (its root) if it is not itself the root.
    /// Replacing the Secret rotates it.
    Secret,
}

/// Key of a root.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum KeyType {
    /// ECDSA with P-256: the fastest.
    #[default]
    #[serde(rename = "ECDSA-P256")]
    EcdsaP256,
    /// ECDSA with P-384.
    #[serde(rename = "ECDSA-P384")]
    EcdsaP384,
    /// RSA with 3072 bits: for peers outside the mesh that know nothing else. Signs about 50 times slower than P-256.
    #[serde(rename = "RSA-3072")]
    Rsa3072,
    /// RSA with 4096 bits.
    #[serde(rename = "RSA-4096")]
    Rsa4096,
}

/// The root of trust: what is in force (written by the operator, obeyed by the controllers) and what is awaited.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAuthorityStatus {
    /// How far a rotation is.
    #[serde(default)]
    pub step: RotationStep,
    /// Generation of the root that signs.
    #[serde(default)]
    pub generation: i64,
    /// Name of the Secret of the root that signs.
    #[serde(default)]
    pub secret: String,
    /// Goes up whenever what is trusted or what signs changes; controllers obey the highest that they have seen.
    #[serde(default)]
    pub serial: i64,
    /// SHA-256 of the root that signs.
    #[serde(default)]
    pub signing: String,
    /// SHA-256 of every root that is trusted, the one that signs first.
    #[serde(default)]
    pub trusted: Vec<String>,
    /// When `serial` last changed (RFC 3339).
    #[serde(default)]
    pub since: String,
    /// End of the signing root's life (RFC 3339).
    #[serde(default)]
    pub not_after: String,
    /// What goes on, and who is waited for.
    #[serde(default)]
    pub message: String,
}

/// How far a rotation of the root is. Each step waits until every live holder of a certificate has confirmed.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default, JsonSchema)]
pub enum RotationStep {
    /// One root, and everybody knows it.
    #[default]
    Stable,
    /// The other root is being made.
    Preparing,
    /// Both roots are trusted; waiting until everybody trusts both.
    TrustingBoth,
    /// The target root signs; waiting until everybody has a certificate of it.
    Issuing,
    /// Only the target root is trusted; waiting until nobody trusts the other.
    Dropping,
}

impl RotationStep {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "Stable",
            Self::Preparing => "Preparing",
            Self::TrustingBoth => "TrustingBoth",
            Self::Issuing => "Issuing",
            Self::Dropping => "Dropping",
        }
    }
}

impl Default for CertificateAuthority {
    fn default() -> Self {
        Self {
            provider: CaProvider::default(),
            key_type: KeyType::default(),
            workload_ttl: default_workload_ttl(),
            root_ttl: default_root_ttl(),
            root_generation: first_generation(),
        }
    }
}

fn default_workload_ttl() -> String {
    "24h".to_owned()
}

fn default_root_ttl() -> String {
    "87600h".to_owned()
}

fn first_generation() -> i64 {
    1
}
