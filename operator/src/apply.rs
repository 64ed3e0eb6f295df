//! Server-side apply, only when something differs, and pruning of what is no longer wanted.
//!
//! ```text
//!  desired object ──▶ read ──▶ differs? ──▶ apply with our field manager ──▶ Outcome
//! ```
//! Two things count as a difference: a field of ours that has another value (a hand edit), and another hash in the
//! annotation `meshwright.io/applied` (so that a field which we no longer want is given up). What others added to
//! an object stays theirs, as server-side apply has it.

use std::collections::BTreeSet;

use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, TypeMeta,
};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde_json::Value;

#[cfg(test)]
mod tests;

/// Field manager of the operator for everything but what is listed below.
pub const MANAGER: &str = "meshwright-operator";
/// Field manager of the label that picks a namespace's revision; an upgrade uses it too.
pub const REVISION_MANAGER: &str = "meshwright-operator-revision";
/// Annotation with the hash of what was applied last.
pub const APPLIED: &str = "meshwright.io/applied";

/// Why an object could not be applied or pruned.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A value of ours that does not become JSON or has no kind or name: a mistake in our code.
    #[error("cannot build {0}")]
    Build(String, #[source] anyhow::Error),
    /// The API server says no.
    #[error("cannot {verb} {object}")]
    Api {
        /// `read`, `apply`, `list` or `delete`.
        verb: &'static str,
        /// Kind, namespace and name.
        object: String,
        /// Its words.
        #[source]
        source: Box<kube::Error>,
    },
}

/// What applying an object came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was as wanted.
    Unchanged,
    /// It was not there.
    Created,
    /// It was different.
    Changed,
}

/// Kind, namespace (empty for cluster-scoped objects) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Kind.
    pub kind: String,
    /// Namespace or nothing.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// The key of an object.
#[must_use]
pub fn key(object: &DynamicObject) -> Key {
    Key {
        kind: object.types.as_ref().map(|types| types.kind.clone()).unwrap_or_default(),
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

/// A typed object as one that this module takes.
///
/// # Errors
/// When it does not become JSON.
pub fn erase<K>(object: &K) -> Result<DynamicObject, ApplyError>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let build = |error: serde_json::Error| ApplyError::Build(K::kind(&()).into_owned(), error.into());
    let mut erased: DynamicObject =
        serde_json::to_value(object).and_then(serde_json::from_value).map_err(build)?;
    erased.types =
        Some(TypeMeta { api_version: K::api_version(&()).into_owned(), kind: K::kind(&()).into_owned() });
    Ok(erased)
}

/// The API for an object's kind, in its namespace if it has one.
fn api(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>, ApplyError> {
    let no_kind = || ApplyError::Build(object.name_any(), anyhow::anyhow!("no apiVersion and kind"));
    let types = object.types.as_ref().ok_or_else(no_kind)?;
    let gvk = GroupVersionKind::try_from(types.clone()).map_err(|_| no_kind())?;
    let resource = ApiResource::from_gvk(&gvk);
    Ok(match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

/// Makes the cluster's object as wanted.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply(client: &Client, manager: &str, desired: &DynamicObject) -> Result<Outcome, ApplyError> {
    let api = api(client, desired)?;
    let name = desired.name_any();
    let failed =
        |verb, source| ApplyError::Api { verb, object: key(desired).to_string(), source: Box::new(source) };
    let live = api.get_opt(&name).await.map_err(|error| failed("read", error))?;
    let stamped = stamp(desired)?;
    let outcome = match &live {
        None => Outcome::Created,
        Some(live) if covers(&json(live)?, &json(&stamped)?) => return Ok(Outcome::Unchanged),
        Some(_) => Outcome::Changed,
    };
    let params = PatchParams::apply(manager).force();
    api.patch(&name, &params, &Patch::Apply(&stamped)).await.map_err(|error| failed("apply", error))?;
    Ok(outcome)
}

/// The object with the hash of itself as an annotation.
fn stamp(desired: &DynamicObject) -> Result<DynamicObject, ApplyError> {
    let hash = crds::seal::content_hash(desired)
        .map_err(|error| ApplyError::Build(key(desired).to_string(), error.into()))?;
    let mut stamped = desired.clone();
    stamped.annotations_mut().insert(APPLIED.to_owned(), hash);
    Ok(stamped)
}

fn json(object: &DynamicObject) -> Result<Value, ApplyError> {
    serde_json::to_value(object).map_err(|error| ApplyError::Build(key(object).to_string(), error.into()))
}

/// Whether `live` has everything that `desired` says. Lists of named things are compared by name, because a
/// server or another manager may add elements; other lists must be as long.
#[must_use]
pub fn covers(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => desired
            .iter()
            .all(|(name, desired)| live.get(name).map_or(empty(desired), |live| covers(live, desired))),
        (Value::Array(live), Value::Array(desired)) => {
            let named = |item: &Value| item.get("name").is_some();
            if !desired.is_empty() && desired.iter().all(named) {
                desired
                    .iter()
                    .all(|want| live.iter().any(|is| is["name"] == want["name"] && covers(is, want)))
            } else {
                live.len() == desired.len()
                    && live.iter().zip(desired).all(|(live, desired)| covers(live, desired))
            }
        }
        (live, desired) => live == desired,
    }
}

/// The API server drops empty lists, maps and nulls.
fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Which objects of a kind pruning is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// `None` for cluster-scoped kinds and for all namespaces.
    pub namespace: Option<String>,
    /// Label selector; what does not carry our labels is never ours to delete.
    pub labels: String,
    /// Only this name; where the operator's rights are limited to it.
    pub name: Option<String>,
}

/// Deletes the selected objects of a kind that are not in `keep`; returns what went.
///
/// # Errors
/// [`ApplyError`]; what was deleted before it stays deleted.
pub async fn prune(
    client: &Client,
    resource: &ApiResource,
    selection: &Selection,
    keep: &BTreeSet<Key>,
) -> Result<Vec<Key>, ApplyError> {
    let api = |namespace: Option<&str>| -> Api<DynamicObject> {
        match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
            None => Api::all_with(client.clone(), resource),
        }
    };
    let failed = |verb, object: String, source| ApplyError::Api { verb, object, source: Box::new(source) };
    let mut params = ListParams::default().labels(&selection.labels);
    if let Some(name) = &selection.name {
        params = params.fields(&format!("metadata.name={name}"));
    }
    let list = api(selection.namespace.as_deref()).list_metadata(&params).await;
    let mut gone = Vec::new();
    for object in list.map_err(|error| failed("list", resource.kind.clone(), error))? {
        let namespace = object.namespace();
        let kind = resource.kind.clone();
        let key = Key { kind, namespace: namespace.clone().unwrap_or_default(), name: object.name_any() };
        if keep.contains(&key) || object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match api(namespace.as_deref()).delete(&key.name, &DeleteParams::background()).await {
            Ok(_) => gone.push(key),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(failed("delete", key.to_string(), error)),
        }
    }
    Ok(gone)
}

/// Writes a status by server-side apply if it differs from the one that was read.
///
/// # Errors
/// [`ApplyError`].
pub async fn status<K, S>(
    api: &Api<K>,
    object: &K,
    before: Option<&S>,
    after: &S,
) -> Result<Outcome, ApplyError>
where
    K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    S: Serialize + PartialEq,
{
    if before == Some(after) {
        return Ok(Outcome::Unchanged);
    }
    let name = object.name_any();
    let body = serde_json::json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "status": after,
    });
    match api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)).await {
        Ok(_) => Ok(Outcome::Changed),
        // Deleted meanwhile: there is nobody left to tell.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Outcome::Unchanged),
        Err(source) => Err(ApplyError::Api {
            verb: "apply",
            object: format!("status of {} {name}", K::kind(&())),
            source: Box::new(source),
        }),
    }
}

/// An API in one namespace or, for `None`, in all of them.
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
