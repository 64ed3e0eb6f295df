//! The kinds of the Service Mesh Interface that Meshwright honours.
//!
//! Field by field as the SMI specification has them: `access.smi-spec.io` v1alpha3, `specs.smi-spec.io`
//! v1alpha4, `split.smi-spec.io` v1alpha2 and v1alpha4.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may call whom, and how.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "access.smi-spec.io",
    version = "v1alpha3",
    kind = "TrafficTarget",
    namespaced,
    shortname = "tt",
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Destination","type":"string","jsonPath":".spec.destination.name"}"#,
    printcolumn = r#"{"name":"Sources","type":"string","jsonPath":".spec.sources[*].name"}"#,
    printcolumn = r#"{"name":"Rules","type":"string","jsonPath":".spec.rules[*].name"}"#,
    printcolumn = r#"{"name":"Commit","type":"string","jsonPath":".metadata.annotations.meshwright\\.io/commit","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTargetSpec {
    /// The service account that is called. Must be in the TrafficTarget's own namespace.
    pub destination: IdentitySubject,
    /// The routes that are opened; all of them add up.
    #[serde(default)]
    pub rules: Vec<TrafficTargetRule>,
    /// The service accounts that may call.
    pub sources: Vec<IdentitySubject>,
}

/// A service account.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentitySubject {
    /// Always `ServiceAccount`.
    pub kind: String,
    /// Name of the service account.
    pub name: String,
    /// Its namespace; the TrafficTarget's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// One rule of a TrafficTarget.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTargetRule {
    /// `HTTPRouteGroup` or `TCPRoute`, in the TrafficTarget's namespace.
    pub kind: String,
    /// Name of the route object.
    pub name: String,
    /// Names of matches of an HTTPRouteGroup; all of them when left out (SMI traffic-access).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<String>>,
}

/// Ways an HTTP request can look like, to be named by a TrafficTarget or a TrafficSplit.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "specs.smi-spec.io",
    version = "v1alpha4",
    kind = "HTTPRouteGroup",
    plural = "httproutegroups",
    namespaced,
    shortname = "htr",
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Matches","type":"string","jsonPath":".spec.matches[*].name"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct HTTPRouteGroupSpec {
    /// Matches; a request that fits one of the named ones is allowed.
    #[serde(default)]
    pub matches: Vec<HTTPMatch>,
}

/// One way an HTTP request can look like; all parts given must fit.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HTTPMatch {
    /// Name by which a TrafficTarget picks it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// RE2 expression for the whole path without the query; any path when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// Methods; any when left out, empty or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Header name to RE2 expression for the whole value; all of them must fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
}

/// Headers of a match: the specification's prose shows a map, its CRD a list of maps. Both are read.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(untagged)]
pub enum Headers {
    /// `headers: {user-agent: ".*"}`
    Map(BTreeMap<String, String>),
    /// `headers: [{user-agent: ".*"}]`
    List(Vec<BTreeMap<String, String>>),
}

impl Headers {
    /// Name and expression pairs in a fixed order.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&str, &str)> {
        let mut pairs: Vec<_> = match self {
            Self::Map(map) => map.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
            Self::List(list) => list.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        };
        pairs.sort_unstable();
        pairs
    }
}

impl JsonSchema for Headers {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Headers".into()
    }

    /// A structural schema cannot say "map or list" (Kubernetes, structural schemas), so the API server keeps
    /// what it is given and ingest judges it.
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"x-kubernetes-preserve-unknown-fields": true})
    }
}

/// TCP ports that a TrafficTarget opens.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "specs.smi-spec.io",
    version = "v1alpha4",
    kind = "TCPRoute",
    plural = "tcproutes",
    namespaced,
    shortname = "tr",
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ports","type":"string","jsonPath":".spec.matches.ports"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TCPRouteSpec {
    /// What is matched.
    #[serde(default)]
    pub matches: TCPMatch,
}

/// The ports of a TCPRoute.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TCPMatch {
    /// Name of the match; informative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Ports of the destination pods; every TCP port when empty.
    #[serde(default)]
    pub ports: Vec<i32>,
}

/// Shares the calls of one service out among others.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "split.smi-spec.io",
    version = "v1alpha4",
    kind = "TrafficSplit",
    namespaced,
    shortname = "ts",
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.service"}"#,
    printcolumn = r#"{"name":"Backends","type":"string","jsonPath":".spec.backends[*].service"}"#,
    printcolumn = r#"{"name":"Weights","type":"string","jsonPath":".spec.backends[*].weight"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSplitSpec {
    /// The root service that clients call: `name`, `name.namespace` or its full name.
    pub service: String,
    /// Services that get the calls, each with its weight.
    #[serde(default)]
    pub backends: Vec<TrafficSplitBackend>,
    /// Only requests that fit one of these HTTPRouteGroups are split; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<Vec<TypedReference>>,
}

/// One receiver of a TrafficSplit.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficSplitBackend {
    /// Name of a service in the same namespace.
    pub service: String,
    /// Its share is weight divided by the sum of all weights. At least 0.
    pub weight: i32,
}

/// A route object in the same namespace.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TypedReference {
    /// `HTTPRouteGroup`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `specs.smi-spec.io`, also with a version behind it; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
}

/// TrafficSplit is served as v1alpha2 and v1alpha4; the fields of the first are a subset of the second's, so no
/// conversion is needed (Kubernetes, CRD versioning, strategy None).
#[must_use]
pub fn traffic_split_crd() -> CustomResourceDefinition {
    let mut crd = TrafficSplit::crd();
    let mut older = crd.spec.versions.clone();
    for version in &mut older {
        version.name = "v1alpha2".to_owned();
        version.storage = false;
    }
    crd.spec.versions.extend(older);
    crd
}
