//! What the cluster holds of a source, and how it is written.

use std::collections::BTreeMap;

use crds::PolicySource;
use crds::labels::{COMMIT, FILE, SOURCE};
use crds::policy_source::InventoryEntry;
use futures::{StreamExt, TryStreamExt, stream};
use gitops::{Key, Namespaces, Policy, PolicyKind, PolicySpec, Scope};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};

use crate::apply::ApplyError;
use crate::context::Context;

/// Field manager of what the operator writes for sources, and the beginning of each source's own.
pub const MANAGER: &str = "meshwright-gitops";
/// Requests in flight for one source.
pub const PARALLEL: usize = 8;

/// Why a pass is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Something could not be read.
    #[error("cannot read {what}")]
    Read {
        /// What.
        what: String,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object could not be written.
    #[error("cannot {verb} {key}")]
    Write {
        /// `apply`, `replace` or `delete`.
        verb: &'static str,
        /// Which.
        key: String,
        /// The API server's words.
        #[source]
        source: Box<kube::Error>,
    },
    /// The status could not be written.
    #[error(transparent)]
    Report(#[from] ApplyError),
    /// Somebody wrote what was about to be written: looked at again.
    #[error("{0} was changed meanwhile; looked at again")]
    Raced(String),
}

impl ClusterError {
    /// For `map_err`.
    pub fn read(what: &str) -> impl FnOnce(kube::Error) -> Self + '_ {
        move |source| Self::Read { what: what.to_owned(), source: Box::new(source) }
    }

    /// For `map_err`.
    pub fn write(verb: &'static str, key: impl ToString) -> impl FnOnce(kube::Error) -> Self {
        move |source| {
            if matches!(&source, kube::Error::Api(status) if status.code == 409) {
                return Self::Raced(key.to_string());
            }
            Self::Write { verb, key: key.to_string(), source: Box::new(source) }
        }
    }
}

/// An object as the cluster has it.
#[derive(Debug, Clone)]
pub struct LiveObject {
    /// All of it.
    pub object: DynamicObject,
    /// Content hash of its spec; none when it doesn't fit the kind.
    pub hash: Option<String>,
}

impl LiveObject {
    /// Takes an object of a kind.
    pub fn new(kind: PolicyKind, object: DynamicObject) -> Self {
        let spec = object.data.get("spec").cloned().unwrap_or_default();
        Self { hash: PolicySpec::from_value(kind, spec).ok().map(|spec| spec.hash()), object }
    }

    /// Label of its source.
    pub fn source(&self) -> Option<&str> {
        self.object.labels().get(SOURCE).map(String::as_str)
    }
}

/// Objects by their key.
pub type Live = BTreeMap<Key, LiveObject>;

/// The cluster, as one source sees it.
pub struct Cluster {
    pub client: Client,
    /// Namespace and name of the source.
    pub id: (String, String),
    /// Value of the label on its objects.
    pub label: String,
}

impl Cluster {
    /// For a source.
    pub fn new(ctx: &Context, source: &PolicySource) -> Self {
        let id = (source.namespace().unwrap_or_default(), source.name_any());
        Self { client: ctx.client.clone(), id, label: label_of(source) }
    }

    /// Sources of the source's namespace.
    pub fn sources(&self) -> Api<PolicySource> {
        Api::namespaced(self.client.clone(), &self.id.0)
    }

    /// The source as it is now.
    pub async fn read_source(&self) -> Result<Option<PolicySource>, ClusterError> {
        self.sources().get_opt(&self.id.1).await.map_err(ClusterError::read("the PolicySource"))
    }

    /// The objects of a kind in a namespace.
    pub fn api(&self, key: &Key) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &key.kind.resource())
    }

    /// Every object with the source's label, and the named ones whatever their labels.
    pub async fn look<'a>(
        &self,
        scope: &Scope,
        keys: impl Iterator<Item = &'a Key>,
    ) -> Result<Live, ClusterError> {
        let mut live = self.labelled(scope).await?;
        let missing: Vec<Key> = keys.filter(|key| !live.contains_key(key)).cloned().collect();
        let found: Vec<_> = stream::iter(missing)
            .map(|key| async move {
                let found = match self.api(&key).get_opt(&key.name).await {
                    Ok(found) => found,
                    Err(error) => return Err(ClusterError::read(&key.to_string())(error)),
                };
                Ok(found.map(|object| (key.clone(), LiveObject::new(key.kind, object))))
            })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        live.extend(found.into_iter().flatten());
        Ok(live)
    }

    /// Every object with the source's label.
    pub async fn labelled(&self, scope: &Scope) -> Result<Live, ClusterError> {
        let ours = ListParams::default().labels(&format!("{SOURCE}={}", self.label));
        let mut live = Live::new();
        for kind in PolicyKind::ALL {
            let resource = kind.resource();
            let api: Api<DynamicObject> = match scope {
                Namespaces::Own(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                Namespaces::Any | Namespaces::Mesh(_) => Api::all_with(self.client.clone(), &resource),
            };
            let list = match api.list(&ours).await {
                Ok(list) => list,
                // A kind that isn't installed has no objects.
                Err(kube::Error::Api(status)) if status.is_not_found() => continue,
                Err(error) => return Err(ClusterError::read(&kind.plural())(error)),
            };
            for object in list {
                let key =
                    Key { kind, namespace: object.namespace().unwrap_or_default(), name: object.name_any() };
                live.insert(key, LiveObject::new(kind, object));
            }
        }
        Ok(live)
    }

    /// Field manager for an object: each source has its own, so that two that make one object at the same moment have a
    /// conflict. Objects of before that keep the manager that all had, or what it owns would never be given up.
    pub fn manager(&self, live: Option<&LiveObject>) -> String {
        let entries = live.iter().flat_map(|live| live.object.managed_fields());
        let applied = |entry: &&ManagedFieldsEntry| entry.operation.as_deref() == Some("Apply");
        let shared = entries.filter(applied).any(|entry| entry.manager.as_deref() == Some(MANAGER));
        if shared { MANAGER.to_owned() } else { format!("{MANAGER}-{}", self.label) }
    }

    /// Whether an object has to be written. The commit is not compared: an object keeps the commit that changed it.
    pub fn differs(&self, policy: &Policy, live: &Live) -> bool {
        let Some(found) = live.get(&policy.key) else { return true };
        let (labels, annotations) = (found.object.labels(), found.object.annotations());
        !self.holds(&policy.key, &policy.hash, live)
            || annotations.get(FILE).map(|place| file_of(place)) != Some(policy.file.as_str())
            || !annotations.contains_key(COMMIT)
            || policy.labels.iter().any(|(key, value)| labels.get(key) != Some(value))
            || policy.annotations.iter().any(|(key, value)| annotations.get(key) != Some(value))
    }

    /// Whether the cluster has an object of ours with that content.
    pub fn holds(&self, key: &Key, hash: &str, live: &Live) -> bool {
        live.get(key).is_some_and(|found| {
            found.hash.as_deref() == Some(hash) && found.source() == Some(self.label.as_str())
        })
    }
}

/// The file of a place, without the line: an object whose line alone has moved is the same object. Its annotation
/// keeps the line that it has in the commit of its other annotation.
fn file_of(place: &str) -> &str {
    place.rsplit_once(':').map_or(place, |(file, _)| file)
}

/// Value of the label that ties objects to their source. A namespace has no dot, so it is unambiguous.
pub fn label_of(source: &PolicySource) -> String {
    format!("{}.{}", source.namespace().unwrap_or_default(), source.name_any())
}

/// The keys of a seal, with their content hashes. An entry of a kind that we don't know is left out.
pub fn keys(inventory: &[InventoryEntry]) -> Vec<(Key, String)> {
    let key = |entry: &InventoryEntry| {
        let kind = entry.policy_kind()?;
        let key = Key { kind, namespace: entry.namespace.clone(), name: entry.name.clone() };
        Some((key, entry.hash.clone()))
    };
    inventory.iter().filter_map(key).collect()
}

/// The API resources of the policy kinds.
pub fn resources() -> impl Iterator<Item = ApiResource> {
    PolicyKind::ALL.into_iter().map(PolicyKind::resource)
}
