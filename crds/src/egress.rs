//! OSM's `Egress`: what a service account may call outside the mesh.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Opens destinations outside the mesh to service accounts of its own namespace.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "policy.openservicemesh.io",
    version = "v1alpha1",
    kind = "Egress",
    plural = "egresses",
    namespaced,
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Sources","type":"string","jsonPath":".spec.sources[*].name"}"#,
    printcolumn = r#"{"name":"Hosts","type":"string","jsonPath":".spec.hosts"}"#,
    printcolumn = r#"{"name":"Ports","type":"string","jsonPath":".spec.ports[*].number"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EgressSpec {
    /// Who may call.
    pub sources: Vec<EgressSource>,
    /// Names that may be called: of the Host header for `http`, of TLS (SNI) for `https`. `*.example.com` is every
    /// name below `example.com`. Ignored for `tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<String>>,
    /// Address ranges (CIDR) that may be dialled, for every protocol; any when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_addresses: Option<Vec<String>>,
    /// Ports that may be called.
    pub ports: Vec<PortSpec>,
    /// HTTPRouteGroups that an `http` request must fit one of, and at most one UpstreamTrafficSetting. All of this
    /// namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<PolicyReference>>,
}

/// Somebody who may call.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressSource {
    /// Always `ServiceAccount`.
    pub kind: String,
    /// Name of the service account.
    pub name: String,
    /// Its namespace: the one of the Egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A port and what is spoken there.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortSpec {
    /// 1 to 65535.
    pub number: i32,
    /// In an Egress `http`, `https`, `tcp` or `tcp-server-first`; in an IngressBackend `http`, `https`, `grpc` or
    /// `tcp`.
    pub protocol: String,
}

/// An object of the same namespace.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReference {
    /// API group, with or without the version, as in `specs.smi-spec.io/v1alpha4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
    /// `HTTPRouteGroup` or `UpstreamTrafficSetting`.
    pub kind: String,
    /// Its name.
    pub name: String,
}
