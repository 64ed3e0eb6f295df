//! OSM's `IngressBackend`: who outside the mesh may call a service of it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::egress::{PolicyReference, PortSpec};

/// Opens services of its own namespace to callers without a sidecar.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "policy.openservicemesh.io",
    version = "v1alpha1",
    kind = "IngressBackend",
    plural = "ingressbackends",
    namespaced,
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Backends","type":"string","jsonPath":".spec.backends[*].name"}"#,
    printcolumn = r#"{"name":"Ports","type":"string","jsonPath":".spec.backends[*].port.number"}"#,
    printcolumn = r#"{"name":"Sources","type":"string","jsonPath":".spec.sources[*].name"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct IngressBackendSpec {
    /// What is opened.
    pub backends: Vec<Backend>,
    /// Who may call. Ranges and services add up; a principal is asked for besides.
    pub sources: Vec<IngressSource>,
    /// HTTPRouteGroups that a request must fit one of; every request when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<PolicyReference>>,
}

/// A port of a service.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Name of a service of this namespace.
    pub name: String,
    /// Port of its pods (the service's target port), and what the callers speak.
    pub port: PortSpec,
    /// TLS of the callers; only for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
}

/// TLS of the callers.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// Whether callers need no certificate of the mesh.
    #[serde(default)]
    pub skip_client_cert_validation: bool,
    /// Names that a caller must ask for (SNI); any when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni_hosts: Option<Vec<String>>,
}

/// Somebody who may call.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressSource {
    /// `Service` (the addresses of its pods), `IPRange` or `AuthenticatedPrincipal`.
    pub kind: String,
    /// Name of the service, the range (CIDR), or the name in the caller's certificate:
    /// `<service account>.<namespace>.<trust domain>`, a SPIFFE id, a DNS name, or `*` for any certificate of the mesh.
    pub name: String,
    /// Namespace of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}
