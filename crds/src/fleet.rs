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
