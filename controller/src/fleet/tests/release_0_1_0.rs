//! What release 0.1.0 reads and writes as a fleet report: crds/src/fleet.rs of commit 8ef361e, word by word. Not to be
//! changed.

use serde::{Deserialize, Serialize};

/// The state of one controller replica.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct FleetReport {
    /// Name of the controller's pod.
    pub replica: String,
    /// Release of the controller.
    pub version: String,
    /// Whether all its caches are synced; before that it serves nothing and its lists mean nothing.
    pub synced: bool,
    /// Sidecars connected to this replica, sorted by namespace and pod.
    pub proxies: Vec<ProxyReport>,
    /// Objects that are skipped or not fully honoured, sorted.
    pub problems: Vec<ProblemReport>,
    /// The root of trust as this replica has it; `None` from a release that does not tell.
    #[serde(default)]
    pub authority: Option<AuthorityReport>,
    /// What holders of certificates have told this replica, sorted by namespace and pod.
    #[serde(default)]
    pub holdings: Vec<HoldingReport>,
}

/// The root of trust of one controller replica.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityReport {
    /// Every root that this replica can sign with, sorted by fingerprint.
    pub roots: Vec<RootReport>,
    /// `serial` of the MeshConfig's status that it obeys; 0 before there was one.
    pub serial: i64,
    /// SHA-256 of the root that should sign; whether it can is in `roots`. Empty: none.
    pub signing: String,
    /// SHA-256 of every root that it trusts and publishes, the one that should sign first.
    pub trusted: Vec<String>,
    /// SHA-256 of the root behind its own serving certificate.
    pub serving: String,
    /// What is wrong with a Secret: `<Reason>: <message>`. The last good one stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A root that a replica can sign with.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct RootReport {
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
    /// Generation that the operator wrote on the Secret; 1 without it.
    pub generation: i64,
    /// Name and uid of the Secret that holds it; `None` when it is only in memory any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretReport>,
    /// Begin of its life (RFC 3339).
    pub not_before: String,
    /// End of its life, or of the intermediate's if that ends earlier (RFC 3339).
    pub not_after: String,
}

/// Which Secret.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct SecretReport {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What one pod says that it holds (`POST /v1/holdings`).
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct HoldingReport {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Goes up with every report of the pod; of two, the higher one counts.
    pub sequence: i64,
    /// The last word of the operator that it has heard of: it takes no certificate from a controller that obeys an
    /// older one, so what it says stays true until the next word.
    #[serde(default)]
    pub serial: i64,
    /// SHA-256 of every root that it trusts, sorted.
    pub roots: Vec<String>,
    /// SHA-256 of the root behind its certificate.
    pub issuer: String,
}

/// One connected sidecar.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct ProxyReport {
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// Uid of its pod.
    pub uid: String,
    /// Release of the sidecar.
    pub version: String,
    /// Envoy's version.
    pub envoy: String,
    /// RFC 3339.
    pub connected_since: String,
    /// Whether it has acknowledged everything that it should hold now.
    pub in_sync: bool,
    /// What it rejected and still has not accepted a replacement of.
    pub rejected: Vec<Rejection>,
}

/// A resource that an Envoy refused; it keeps the last good one.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// `Cluster`, `Listener`, `Route` or `Endpoint`.
    pub resource_type: String,
    /// Names of the resources in the refused response.
    pub names: Vec<String>,
    /// Envoy's own words.
    pub error: String,
}

/// Something wrong with an object that a person wrote.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct ProblemReport {
    /// Kind of the object.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// CamelCase, part of the API.
    pub reason: String,
    /// What is wrong, where, and what to do.
    pub message: String,
}
