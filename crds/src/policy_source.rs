//! `PolicySource`: a Git repository whose policies are applied, and the seal over what was applied.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Git repository of policies. In the control plane's namespace it may hold objects of any watched namespace;
/// in another namespace only objects of that namespace.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[kube(
    group = "meshwright.io",
    version = "v1alpha1",
    kind = "PolicySource",
    namespaced,
    status = "PolicySourceStatus",
    category = "meshwright",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Applied","type":"string","jsonPath":".status.applied.commit"}"#,
    printcolumn = r#"{"name":"Attempted","type":"string","jsonPath":".status.attempted.commit"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".spec.git.url","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PolicySourceSpec {
    /// Where the policies are.
    pub git: GitSource,
    /// How often the repository is asked for a new commit, as in `30s`.
    #[serde(default = "default_interval")]
    pub interval: String,
    /// Whether objects that vanish from Git (or whose source is deleted) are deleted from the cluster. If not, they
    /// stay there. What vanished from Git no longer counts: only what `status.inventory` lists is enforced. What it lists
    /// when the source is deleted loses the source's label and counts from then on like any object written by hand.
    #[serde(default = "default_prune")]
    pub prune: bool,
    /// Stops fetching and applying; what is applied stays in force.
    #[serde(default)]
    pub suspend: bool,
}

/// A place in a Git repository.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// `http://`, `https://`, `file://` or an absolute path on the operator's file system.
    pub url: String,
    /// What to follow; the branch `main` when left out.
    #[serde(rename = "ref", default)]
    pub reference: GitReference,
    /// Folder below the root of the repository; the whole repository when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// What to follow in a repository: the first of `commit`, `tag`, `branch` that is set.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitReference {
    /// A branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// A tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// A commit, as 40 hexadecimal digits; it must be reachable from a branch or tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What the operator saw and did.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicySourceStatus {
    /// The term of the operator's leadership in which this was last written; an operator of an earlier term changes
    /// nothing. Absent where an operator wrote it that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_term: Option<i64>,
    /// Generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (kstatus).
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The newest commit that was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted: Option<CommitStatus>,
    /// The commit that is in force: the seal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<CommitStatus>,
    /// Every object of the sealed commit with its content hash. Only these count for the controllers.
    #[serde(default)]
    pub inventory: Vec<InventoryEntry>,
    /// Why the attempted commit was not applied.
    #[serde(default)]
    pub problems: Vec<SourceProblem>,
}

/// A commit and when it was handled.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommitStatus {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// First line of the commit message, shortened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub time: String,
}

/// One object of the sealed commit.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InventoryEntry {
    /// Kind, as in `TrafficTarget`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// [`crate::seal::content_hash`] of the spec.
    pub hash: String,
    /// API group of the kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
}

/// Something in a commit that keeps it from being applied.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceProblem {
    /// Path in the repository; empty when the problem is not in a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Line, from 1; 0 when not known.
    #[serde(default)]
    pub line: i32,
    /// What is wrong and what to do.
    pub message: String,
}

fn default_interval() -> String {
    "30s".to_owned()
}

fn default_prune() -> bool {
    true
}
