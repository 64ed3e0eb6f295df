//! What can never be right, judged before it is stored.
//!
//! A reference to something that isn't there is no mistake here: it may come later, and the controllers report it.
//! SMI's and OSM's kinds and MeshPolicy are judged by the same `mesh::ingest` that enforces them.

mod config;
mod ours;

use std::fmt;

use crds::mesh_config::Floor;
use crds::{PolicyKind, labels};
use kube::core::DynamicObject;
use mesh::Object;
use mesh::ingest::ingest;
use serde::de::DeserializeOwned;

/// One reason to refuse an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Path of the field, as in `spec.rules[0].kind`; empty for the object as a whole.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// Everything about an object that can never be right; empty for kinds that are not judged. `old` is what the
/// object was before an update.
#[must_use]
pub fn judge(group: &str, kind: &str, object: &DynamicObject, old: Option<&DynamicObject>) -> Vec<Refusal> {
    // What is stored stays editable: labels and finalizers of an object with an old mistake, and its deletion.
    let same_spec = old.is_some_and(|old| old.data.get("spec") == object.data.get("spec"));
    if same_spec || object.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    if let Some(kind) = PolicyKind::of(group, kind) {
        let judged = crds::with_policy_type!(kind, T => typed::<T>(object).map(policy));
        return judged.unwrap_or_else(|refusal| vec![refusal]);
    }
    let judged = match (group, kind) {
        (labels::GROUP, "MeshConfig") => {
            let before = old.and_then(|old| typed::<crds::MeshConfig>(old).ok());
            typed::<crds::MeshConfig>(object).map(|config| config::judge(&config, before.as_ref()))
        }
        (labels::GROUP, "PolicySource") => {
            typed::<crds::PolicySource>(object).map(|source| ours::source("spec", &source.spec))
        }
        (labels::GROUP, "MeshUpgrade") => {
            let before = old.and_then(|old| typed::<crds::MeshUpgrade>(old).ok());
            typed::<crds::MeshUpgrade>(object).map(|upgrade| ours::upgrade(&upgrade, before.as_ref()))
        }
        _ => Ok(Vec::new()),
    };
    judged.unwrap_or_else(|refusal| vec![refusal])
}

/// What will not count as it is written. It is stored all the same: a floor may be raised and lowered at any time, and a
/// policy that comes from Git must not keep the rest of its commit back.
#[must_use]
pub fn warn(group: &str, kind: &str, object: &DynamicObject, floor: Floor) -> Vec<String> {
    match PolicyKind::of(group, kind) {
        Some(PolicyKind::MeshPolicy) => typed::<crds::MeshPolicy>(object)
            .map(|policy| ours::below(&policy.spec, floor))
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Why an object may not be deleted now; empty for all kinds but `MeshConfig`, with which a whole control plane goes.
#[must_use]
pub fn judge_deletion(group: &str, kind: &str, object: Option<&DynamicObject>) -> Vec<Refusal> {
    match (group, kind, object) {
        (labels::GROUP, "MeshConfig", Some(object)) => config::judge_deletion(object).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Reads an object as one of our types. The whole object goes through JSON once; admission of policies is rare.
fn typed<T: DeserializeOwned>(object: &DynamicObject) -> Result<T, Refusal> {
    let value = serde_json::to_value(object).map_err(|error| Refusal::new("", error.to_string()))?;
    serde_json::from_value(value).map_err(|error| Refusal::new("spec", error.to_string()))
}

/// What the mesh would say of the object. An object that is created with `generateName` has no name yet and is
/// judged under a name it could get.
fn policy<T: Into<Object> + kube::Resource>(mut object: T) -> Vec<Refusal> {
    let meta = object.meta_mut();
    if meta.name.is_none() {
        meta.name = meta.generate_name.as_ref().map(|prefix| format!("{prefix}x"));
    }
    ingest(&object.into())
        .err()
        .map(|problem| Refusal::new(problem.field, problem.message))
        .into_iter()
        .collect()
}
