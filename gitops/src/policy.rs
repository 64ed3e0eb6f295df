//! One policy of a bundle: its kind, its name, its typed spec and where it was written.

use std::collections::BTreeMap;
use std::fmt;

use crds::policy_source::InventoryEntry;
use crds::{
    EgressSpec, HTTPRouteGroupSpec, IngressBackendSpec, MeshPolicySpec, RetrySpec, TCPRouteSpec,
    TrafficSplitSpec, TrafficTargetSpec, UpstreamTrafficSettingSpec,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::path::RepoPath;

/// The kinds that may come from Git. Everything else is refused: Git decides who may call whom, not what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// SMI access.
    TrafficTarget,
    /// SMI specs.
    HTTPRouteGroup,
    /// SMI specs.
    TCPRoute,
    /// SMI split.
    TrafficSplit,
    /// Ours.
    MeshPolicy,
    /// OSM policy.
    Egress,
    /// OSM policy.
    IngressBackend,
    /// OSM policy.
    Retry,
    /// OSM policy.
    UpstreamTrafficSetting,
}

impl PolicyKind {
    /// All of them, in a fixed order.
    pub const ALL: [Self; 9] = [
        Self::TrafficTarget,
        Self::HTTPRouteGroup,
        Self::TCPRoute,
        Self::TrafficSplit,
        Self::MeshPolicy,
        Self::Egress,
        Self::IngressBackend,
        Self::Retry,
        Self::UpstreamTrafficSetting,
    ];

    /// The kind as Kubernetes writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TrafficTarget => "TrafficTarget",
            Self::HTTPRouteGroup => "HTTPRouteGroup",
            Self::TCPRoute => "TCPRoute",
            Self::TrafficSplit => "TrafficSplit",
            Self::MeshPolicy => "MeshPolicy",
            Self::Egress => "Egress",
            Self::IngressBackend => "IngressBackend",
            Self::Retry => "Retry",
            Self::UpstreamTrafficSetting => "UpstreamTrafficSetting",
        }
    }

    /// Its API group.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::TrafficTarget => "access.smi-spec.io",
            Self::HTTPRouteGroup | Self::TCPRoute => "specs.smi-spec.io",
            Self::TrafficSplit => "split.smi-spec.io",
            Self::MeshPolicy => "meshwright.io",
            Self::Egress | Self::IngressBackend | Self::Retry | Self::UpstreamTrafficSetting => {
                "policy.openservicemesh.io"
            }
        }
    }

    /// The version in which it is applied, then others that are read and have the same fields.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::TrafficTarget => &["v1alpha3"],
            Self::HTTPRouteGroup | Self::TCPRoute => &["v1alpha4"],
            Self::TrafficSplit => &["v1alpha4", "v1alpha2"],
            Self::MeshPolicy
            | Self::Egress
            | Self::IngressBackend
            | Self::Retry
            | Self::UpstreamTrafficSetting => &["v1alpha1"],
        }
    }

    /// Plural, as in URLs of the API.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::TrafficTarget => "traffictargets",
            Self::HTTPRouteGroup => "httproutegroups",
            Self::TCPRoute => "tcproutes",
            Self::TrafficSplit => "trafficsplits",
            Self::MeshPolicy => "meshpolicies",
            Self::Egress => "egresses",
            Self::IngressBackend => "ingressbackends",
            Self::Retry => "retries",
            Self::UpstreamTrafficSetting => "upstreamtrafficsettings",
        }
    }

    /// The version in which it is applied.
    #[must_use]
    pub fn version(self) -> &'static str {
        self.versions()[0]
    }

    /// Group and version in which it is applied.
    #[must_use]
    pub fn api_version(self) -> String {
        format!("{}/{}", self.group(), self.version())
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What makes an object one and the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Kind.
    pub kind: PolicyKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The typed spec of a policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum PolicySpec {
    /// A TrafficTarget's.
    TrafficTarget(TrafficTargetSpec),
    /// An HTTPRouteGroup's.
    HTTPRouteGroup(HTTPRouteGroupSpec),
    /// A TCPRoute's.
    TCPRoute(TCPRouteSpec),
    /// A TrafficSplit's.
    TrafficSplit(TrafficSplitSpec),
    /// A MeshPolicy's.
    MeshPolicy(MeshPolicySpec),
    /// An Egress's.
    Egress(EgressSpec),
    /// An IngressBackend's.
    IngressBackend(IngressBackendSpec),
    /// A Retry's.
    Retry(RetrySpec),
    /// An UpstreamTrafficSetting's.
    UpstreamTrafficSetting(UpstreamTrafficSettingSpec),
}

impl PolicySpec {
    /// Reads a spec as the API server returns it, fields that the kind doesn't have being ignored.
    ///
    /// # Errors
    /// When it doesn't fit the kind.
    pub fn from_value(kind: PolicyKind, spec: Value) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            PolicyKind::TrafficTarget => Self::TrafficTarget(serde_json::from_value(spec)?),
            PolicyKind::HTTPRouteGroup => Self::HTTPRouteGroup(serde_json::from_value(spec)?),
            PolicyKind::TCPRoute => Self::TCPRoute(serde_json::from_value(spec)?),
            PolicyKind::TrafficSplit => Self::TrafficSplit(serde_json::from_value(spec)?),
            PolicyKind::MeshPolicy => Self::MeshPolicy(serde_json::from_value(spec)?),
            PolicyKind::Egress => Self::Egress(serde_json::from_value(spec)?),
            PolicyKind::IngressBackend => Self::IngressBackend(serde_json::from_value(spec)?),
            PolicyKind::Retry => Self::Retry(serde_json::from_value(spec)?),
            PolicyKind::UpstreamTrafficSetting => Self::UpstreamTrafficSetting(serde_json::from_value(spec)?),
        })
    }

    /// The content hash that the seal lists ([`crds::seal::content_hash`]).
    #[must_use]
    pub fn hash(&self) -> String {
        crds::seal::content_hash(self).expect("every map in a policy's spec has text as keys")
    }
}

/// One policy of a commit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// Which object it is.
    #[serde(flatten)]
    pub key: Key,
    /// File it is written in.
    pub file: RepoPath,
    /// Line where it begins, from 1.
    pub line: usize,
    /// Labels of the author.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the author.
    pub annotations: BTreeMap<String, String>,
    /// What it says.
    pub spec: PolicySpec,
    /// Content hash of the spec.
    pub hash: String,
}

impl Policy {
    /// `file:line`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// The object as it is applied, with more labels and annotations.
    #[must_use]
    pub fn manifest(
        &self,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> Value {
        let join =
            |own: &BTreeMap<String, String>, more: &BTreeMap<String, String>| -> BTreeMap<String, String> {
                own.iter().chain(more).map(|(k, v)| (k.clone(), v.clone())).collect()
            };
        json!({
            "apiVersion": self.key.kind.api_version(),
            "kind": self.key.kind.name(),
            "metadata": {
                "name": self.key.name,
                "namespace": self.key.namespace,
                "labels": join(&self.labels, labels),
                "annotations": join(&self.annotations, annotations),
            },
            "spec": self.spec,
        })
    }

    /// Its line of the seal.
    #[must_use]
    pub fn inventory_entry(&self) -> InventoryEntry {
        InventoryEntry {
            kind: self.key.kind.name().to_owned(),
            namespace: self.key.namespace.clone(),
            name: self.key.name.clone(),
            hash: self.hash.clone(),
        }
    }
}
