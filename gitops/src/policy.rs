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
pub use crds::PolicyKind;

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
            group: self.key.kind.group().into_owned(),
        }
    }
}
