//! OSM's `Retry`: when calls of a service account are tried again.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When HTTP and gRPC calls from a service account to services are tried again.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "policy.openservicemesh.io",
    version = "v1alpha1",
    kind = "Retry",
    plural = "retries",
    namespaced,
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Source","type":"string","jsonPath":".spec.source.name"}"#,
    printcolumn = r#"{"name":"Destinations","type":"string","jsonPath":".spec.destinations[*].name"}"#,
    printcolumn = r#"{"name":"On","type":"string","jsonPath":".spec.retryPolicy.retryOn"}"#,
    printcolumn = r#"{"name":"Retries","type":"integer","jsonPath":".spec.retryPolicy.numRetries"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// The service account whose calls are tried again. Must be in the Retry's own namespace.
    pub source: RetryPeer,
    /// The services that are called.
    pub destinations: Vec<RetryPeer>,
    /// When and how often.
    pub retry_policy: RetryPolicy,
}

/// A service account or a service.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryPeer {
    /// `ServiceAccount` for the source, `Service` for a destination.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace; the Retry's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// When and how often a call is tried again.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Envoy's conditions for HTTP and gRPC, separated by commas, as in `5xx,unavailable`.
    pub retry_on: String,
    /// Longest time for one try, as in `2s`; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<String>,
    /// How often a call is tried again; 1 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_retries: Option<u32>,
    /// Pause before the first retry, as in `50ms`; it grows up to ten times that. 25 ms when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_backoff_base_interval: Option<String>,
}
