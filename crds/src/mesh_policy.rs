//! `MeshPolicy`: the mTLS and authorization mode of a workload, a namespace or the mesh, over what the MeshConfig says.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mesh_config::{Authorization, Mtls};

/// The most specific MeshPolicy wins: workload (with `selector`), then namespace, then the mesh (without `selector`, in
/// the namespace of the control plane), then the MeshConfig.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "meshwright.io",
    version = "v1alpha1",
    kind = "MeshPolicy",
    plural = "meshpolicies",
    namespaced,
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"mTLS","type":"string","jsonPath":".spec.mtls"}"#,
    printcolumn = r#"{"name":"Authorization","type":"string","jsonPath":".spec.authorization"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshPolicySpec {
    /// Pods of this namespace that the policy is for; all of them when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Whether plaintext callers are accepted; as the next wider policy says when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// Whether TrafficTargets are enforced; as the next wider policy says when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<Authorization>,
}
