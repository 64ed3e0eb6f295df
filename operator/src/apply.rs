//! Server-side apply, only when something differs, and pruning of what is no longer wanted.
//!
//! ```text
//!  desired object ──▶ read ──▶ differs? ──▶ apply with our field manager ──▶ Outcome
//! ```
//! [`Writer`] is the only hand that writes. Each of its writes is made in the term of this process' leadership and
//! carries the resource version of what it read, so that a leader that was deposed without noticing overwrites
//! nothing that its successor wrote; [`fence`] refuses the rest.
//!
//! Two things count as a difference: a field of ours that has another value (a hand edit), and another hash in the
//! annotation `meshwright.io/applied` (so that a field which we no longer want is given up). What others added to
//! an object stays theirs, as server-side apply has it.

use std::collections::BTreeSet;

use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    Preconditions, TypeMeta,
};
use kube::{Api, Client, Resource, ResourceExt};
use runtime::lease::{Deposed, Mandate};
use serde::Serialize;
use serde_json::Value;

pub mod fence;
#[cfg(test)]
mod simulation;
mod termed;
#[cfg(test)]
mod tests;

pub use termed::Termed;

/// Field manager of the operator for everything but what is listed below.
pub const MANAGER: &str = crds::labels::OPERATOR;
/// Field manager of the label that picks a namespace's revision; an upgrade uses it too.
pub const REVISION_MANAGER: &str = crds::labels::REVISION_MANAGER;
/// Annotation with the hash of what was applied last.
pub const APPLIED: &str = crds::labels::APPLIED;

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
    /// Another process leads, or this one cannot be sure that it does.
    #[error(transparent)]
    Deposed(#[from] Deposed),
    /// The object was last written in a later term than ours; the lease decides who leads.
    #[error("{object} was written in term {seen} of the leadership, later than ours ({mine})")]
    Outranked {
        /// Kind and name.
        object: String,
        /// Its mark.
        seen: i64,
        /// The term of this process.
        mine: i64,
    },
}

impl ApplyError {
    /// Whether the object was written by somebody else since it was read.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { verb: "apply", source, .. }
            if matches!(&**source, kube::Error::Api(status) if status.is_conflict()))
    }
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

/// What writing a status came to.
#[derive(Debug, Clone)]
pub enum Reported<K> {
    /// It was as wanted.
    Unchanged,
    /// The object as it is now.
    Changed(Box<K>),
    /// Somebody wrote the object since it was read: nothing was written, and the next pass looks again.
    Raced,
    /// The object is gone: there is nobody left to tell.
    Gone,
}

impl<K> Reported<K> {
    /// Whether the object says now what was to be said.
    #[must_use]
    pub fn is_said(&self) -> bool {
        match self {
            Self::Unchanged | Self::Changed(_) => true,
            Self::Raced | Self::Gone => false,
        }
    }
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

/// How often an object is read again and compared anew when somebody wrote it in between.
const ATTEMPTS: usize = 3;

/// The only hand that writes: in the term of this process, and on what it has read.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    mandate: Mandate,
}

impl Writer {
    /// With a client that is fenced by the same mandate ([`fence::client`]).
    #[must_use]
    pub fn new(client: Client, mandate: Mandate) -> Self {
        Self { client, mandate }
    }

    /// The term in which may be written now.
    ///
    /// # Errors
    /// [`ApplyError::Deposed`].
    pub fn term(&self) -> Result<i64, ApplyError> {
        Ok(self.mandate.check()?)
    }

    /// Whether a mark on an object lets this process go on.
    ///
    /// # Errors
    /// [`ApplyError::Outranked`]; the election then finds out who leads.
    pub fn yield_to(&self, object: &str, seen: Option<i64>) -> Result<i64, ApplyError> {
        let mine = self.term()?;
        match seen.filter(|seen| *seen > mine) {
            None => Ok(mine),
            Some(seen) => {
                self.mandate.outrank(seen);
                Err(ApplyError::Outranked { object: object.to_owned(), seen, mine })
            }
        }
    }

    /// Makes the cluster's object as wanted.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn apply(&self, manager: &str, desired: &DynamicObject) -> Result<Outcome, ApplyError> {
        let mut attempts = 1;
        loop {
            match self.apply_once(manager, desired).await {
                Err(error) if error.is_conflict() && attempts < ATTEMPTS => attempts += 1,
                result => return result,
            }
        }
    }

    async fn apply_once(&self, manager: &str, desired: &DynamicObject) -> Result<Outcome, ApplyError> {
        let api = api(&self.client, desired)?;
        let name = desired.name_any();
        let failed = |verb, source| ApplyError::Api {
            verb,
            object: key(desired).to_string(),
            source: Box::new(source),
        };
        let live = api.get_opt(&name).await.map_err(|error| failed("read", error))?;
        let mut stamped = stamp(desired)?;
        let outcome = match &live {
            None => Outcome::Created,
            Some(live) if covers(&json(live)?, &json(&stamped)?) => return Ok(Outcome::Unchanged),
            Some(_) => Outcome::Changed,
        };
        stamped.metadata.resource_version = live.and_then(|live| live.metadata.resource_version);
        let params = PatchParams::apply(manager).force();
        api.patch(&name, &params, &Patch::Apply(&stamped)).await.map_err(|error| failed("apply", error))?;
        Ok(outcome)
    }

    /// Deletes the selected objects of a kind that are not in `keep`, each only as it was read; returns what went.
    ///
    /// # Errors
    /// [`ApplyError`]; what was deleted before it stays deleted.
    pub async fn prune(
        &self,
        resource: &ApiResource,
        selection: &Selection,
        keep: &BTreeSet<Key>,
    ) -> Result<Vec<Key>, ApplyError> {
        let api = |namespace: Option<&str>| -> Api<DynamicObject> {
            match namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
                None => Api::all_with(self.client.clone(), resource),
            }
        };
        let failed =
            |verb, object: String, source| ApplyError::Api { verb, object, source: Box::new(source) };
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
            let params = DeleteParams { preconditions: Some(as_read(&object)), ..DeleteParams::background() };
            match api(namespace.as_deref()).delete(&key.name, &params).await {
                Ok(_) => gone.push(key),
                // Gone, or not what was read: the next pass looks again.
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => return Err(failed("delete", key.to_string(), error)),
            }
        }
        Ok(gone)
    }

    /// Writes a status by server-side apply if it differs from the one that was read, or if it was last written in
    /// an earlier term. It replaces only the status of the object that was read.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn status<K, S>(
        &self,
        api: &Api<K>,
        object: &K,
        before: Option<&S>,
        after: &S,
    ) -> Result<Reported<K>, ApplyError>
    where
        K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
        S: Serialize + PartialEq + Clone + Termed,
    {
        let name = object.name_any();
        let shown = || format!("status of {} {name}", K::kind(&()));
        let mut after = after.clone();
        after.set_term(self.yield_to(&shown(), before.and_then(S::term))?);
        if before == Some(&after) {
            return Ok(Reported::Unchanged);
        }
        let body = serde_json::json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "resourceVersion": object.meta().resource_version},
            "status": after,
        });
        match api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(body)).await {
            Ok(now) => Ok(Reported::Changed(Box::new(now))),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Reported::Gone),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Reported::Raced),
            Err(source) => Err(ApplyError::Api { verb: "apply", object: shown(), source: Box::new(source) }),
        }
    }
}

/// The object, and no later one of its name nor a later state of it.
fn as_read<K: Resource>(object: &K) -> Preconditions {
    let meta = object.meta();
    Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() }
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
