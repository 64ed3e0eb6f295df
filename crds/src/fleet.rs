//! What a controller replica tells the operator about the sidecars that are connected to it
//! (`GET /v1/fleet`, JSON over mutual TLS). Not a Kubernetes kind, but the same on both sides of the wire.

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
    /// What was left out of the report, so that it stays readable whatever sidecars and objects say: of how many
    /// things. Nothing from a release that leaves nothing out.
    #[serde(default, skip_serializing_if = "LeftOut::nothing")]
    pub left_out: LeftOut,
}

/// How much of a report was left out. Every sidecar is in it, and whether it rejects something; words may be missing.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct LeftOut {
    /// Rejections of sidecars.
    pub rejections: u64,
    /// Resource names in rejections.
    pub names: u64,
    /// Texts that were cut: Envoy's words, releases, messages.
    pub texts: u64,
    /// Problems.
    pub problems: u64,
}

impl LeftOut {
    /// Whether nothing was.
    #[must_use]
    pub fn nothing(&self) -> bool {
        *self == Self::default()
    }
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
    /// What it rejected and still has not accepted a replacement of; the first ones.
    pub rejected: Vec<Rejection>,
    /// How many more there are. A release that does not tell lists them all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected_more: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_false(yes: &bool) -> bool {
    !yes
}

/// A resource that an Envoy refused; it keeps the last good one.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// `Cluster`, `Listener`, `Route` or `Endpoint`.
    pub resource_type: String,
    /// Names of the resources in the refused response.
    pub names: Vec<String>,
    /// Envoy's own words; cut if long.
    pub error: String,
    /// Whether policy is enforced by it: the sidecar enforces the older rules that it has. `false` also from a release
    /// that does not tell.
    #[serde(default, skip_serializing_if = "is_false")]
    pub older_rules: bool,
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
