//! Everything that Meshwright made in a cluster, found anew each time and by its marks, never from memory: so that a
//! half-done uninstall can be finished and one without an operator works.
//!
//! | what | how it is known for ours |
//! |---|---|
//! | webhooks, roles, bindings, what is in the namespaces of the mesh | label `app.kubernetes.io/managed-by: meshwright` |
//! | definitions of `meshwright.io` | their group |
//! | definitions of SMI and OSM | the label, and nobody else applies them |
//! | the control plane's namespace | annotation `meshwright.io/created-by` |
//! | labels of a namespace | annotation `meshwright.io/labelled-by`, or our field manager |
//!
//! A name alone says nothing. What only has a name of ours is shown ([`unmarked`]) and left.

use std::collections::BTreeSet;

use anyhow::Context;
use crds::labels;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::discovery::{ApiGroup, Discovery, Scope, verbs};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::cluster;
use crate::manifests;
use crate::ours;

/// A kind whose objects may be ours.
struct Sweepable {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
}

/// Cluster-wide objects, in the order in which they go: webhooks first, so that nothing is asked of an injector
/// that is going away.
const CLUSTER_WIDE: [Sweepable; 4] = [
    Sweepable { group: "admissionregistration.k8s.io", version: "v1", kind: "MutatingWebhookConfiguration" },
    Sweepable {
        group: "admissionregistration.k8s.io",
        version: "v1",
        kind: "ValidatingWebhookConfiguration",
    },
    Sweepable { group: "rbac.authorization.k8s.io", version: "v1", kind: "ClusterRoleBinding" },
    Sweepable { group: "rbac.authorization.k8s.io", version: "v1", kind: "ClusterRole" },
];
/// Objects in namespaces other than the control plane's.
const NAMESPACED: [Sweepable; 3] = [
    Sweepable { group: "rbac.authorization.k8s.io", version: "v1", kind: "RoleBinding" },
    Sweepable { group: "rbac.authorization.k8s.io", version: "v1", kind: "Role" },
    Sweepable { group: "", version: "v1", kind: "ConfigMap" },
];
/// Kinds of ours whose objects may carry a finalizer of the operator.
const FINALIZED: [&str; 3] = ["MeshConfig", "PolicySource", "MeshUpgrade"];
/// What the daemons write into the control plane's namespace without a label: kind and name.
const FIXED: [(Sweepable, &str); 2] = [
    (Sweepable { group: "coordination.k8s.io", version: "v1", kind: "Lease" }, crate::install::OPERATOR),
    (Sweepable { group: "", version: "v1", kind: "ConfigMap" }, labels::TRUST_BUNDLE),
];

/// One thing to remove.
#[derive(Debug, Clone)]
pub struct Found {
    /// The API it is reached by.
    api: Api<DynamicObject>,
    kind: String,
    namespace: Option<String>,
    name: String,
    metadata: ObjectMeta,
}

impl Found {
    fn new(client: &Client, resource: &ApiResource, object: DynamicObject) -> Self {
        let namespace = object.namespace();
        let api = match &namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
            None => Api::all_with(client.clone(), resource),
        };
        let name = object.name_any();
        Self { api, kind: resource.kind.clone(), namespace, name, metadata: object.metadata }
    }

    /// `Kind namespace/name`.
    pub fn describe(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Deletes it.
    pub async fn delete(&self) -> anyhow::Result<bool> {
        cluster::delete(&self.api, &self.name).await
    }

    /// Takes its finalizers away, when whoever should act on them is gone.
    pub async fn release(&self) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        match self.api.patch(&self.name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn marked() -> ListParams {
    ListParams::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER))
}

/// Webhooks, roles, and what the operator put into the namespaces of the mesh.
pub async fn objects(client: &Client, namespace: &str) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for kind in CLUSTER_WIDE.iter().chain(&NAMESPACED) {
        let listed = found_of(client, kind, &marked()).await?;
        // What is in the control plane's namespace goes with it, or by `inside`.
        found.extend(listed.into_iter().filter(|object| object.namespace.as_deref() != Some(namespace)));
    }
    Ok(found)
}

/// What we made in the control plane's namespace, for a namespace that somebody else made; roots of trust are not among
/// it ([`roots`]).
pub async fn inside(client: &Client, namespace: &str) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    let served = served(client).await?;
    for group in served.iter().flat_map(Discovery::groups) {
        for (resource, capabilities) in group.recommended_resources() {
            let ours = capabilities.scope == Scope::Namespaced
                && capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE);
            // Pods, ReplicaSets and the like carry the labels of their owners, and go with them.
            if !ours {
                continue;
            }
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            let listed = cluster::list(&api, &marked()).await?.unwrap_or_default();
            let wanted = listed.into_iter().filter(|object| !is_root(&resource.kind, &object.name_any()));
            found.extend(wanted.map(|object| Found::new(client, &resource, object)));
        }
    }
    for (kind, name) in &FIXED {
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let listed = found_of(client, kind, &by_name).await?;
        let known: BTreeSet<_> = found.iter().map(Found::describe).collect();
        let here = listed.into_iter().filter(|object| object.namespace.as_deref() == Some(namespace));
        found.extend(here.filter(|object| !known.contains(&object.describe())));
    }
    Ok(found)
}

/// Everything that the API server serves, group by group. A group that is asked for and not there is going just now, like
/// our own a moment after its definitions; one whose server is away is somebody's aggregated API, and nothing in it is ours.
async fn served(client: &Client) -> anyhow::Result<Vec<Discovery>> {
    let named = client.list_api_groups().await.context("which APIs there are")?;
    let named = named.groups.iter().map(|group| group.name.as_str());
    let mut served = Vec::new();
    for group in named.chain([ApiGroup::CORE_GROUP]) {
        match Discovery::new(client.clone()).filter(&[group]).run().await {
            Ok(one) => served.push(one),
            Err(kube::Error::Api(status)) if [404, 503].contains(&status.code) => {}
            Err(error) => return Err(error).with_context(|| format!("what is in the API group {group:?}")),
        }
    }
    Ok(served)
}

fn is_root(kind: &str, name: &str) -> bool {
    kind == "Secret" && [labels::ROOT_SECRET, labels::OTHER_ROOT_SECRET].contains(&name)
}

/// The Secrets of the roots of trust.
pub async fn roots(client: &Client, namespace: &str) -> anyhow::Result<Vec<Secret>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut roots = Vec::new();
    for name in [labels::ROOT_SECRET, labels::OTHER_ROOT_SECRET] {
        roots.extend(api.get_opt(name).await?);
    }
    Ok(roots)
}

/// Objects with a name of the manifests' and without any mark of ours: somebody else's, or of an installation by
/// `kubectl apply -k` of a release that marked nothing. They are left.
pub async fn unmarked(client: &Client) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for kind in &CLUSTER_WIDE {
        let names = manifests::names_of(kind.kind)?;
        if names.is_empty() {
            continue;
        }
        let listed = found_of(client, kind, &ListParams::default()).await?;
        let same_name = listed.into_iter().filter(|object| names.contains(&object.name));
        left.extend(same_name.filter(|object| !ours::is_marked(&object.metadata)).map(|one| one.describe()));
    }
    Ok(left)
}

/// Objects of our own kinds that may wait for the operator.
pub async fn finalized(client: &Client) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for kind in FINALIZED {
        let kind = Sweepable { group: labels::GROUP, version: "v1alpha1", kind };
        found.extend(found_of(client, &kind, &ListParams::default()).await?);
    }
    Ok(found)
}

/// The definitions that go: our own kinds, and with them, if asked for, those of SMI and OSM that `install` made.
/// Beside them the definitions of SMI and OSM that stay.
pub async fn definitions(client: &Client, with_policies: bool) -> anyhow::Result<(Vec<Found>, Vec<String>)> {
    let kind = Sweepable { group: "apiextensions.k8s.io", version: "v1", kind: "CustomResourceDefinition" };
    let names: BTreeSet<_> = crds::all().iter().map(ResourceExt::name_any).collect();
    let listed = found_of(client, &kind, &ListParams::default()).await?;
    let known = listed.into_iter().filter(|object| names.contains(&object.name));
    let goes = |object: &Found| {
        ours::is_own_kind(&object.name) || (with_policies && ours::is_made_by_us(&object.metadata))
    };
    let (gone, left): (Vec<_>, Vec<_>) = known.partition(goes);
    Ok((gone, left.iter().map(Found::describe).collect()))
}

/// What of a namespace's labels is ours to take away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The namespace.
    pub name: String,
    /// Whether the operator set the mesh's label.
    pub mesh: bool,
    /// Whether the operator set the revision.
    pub revision: bool,
}

impl Labelled {
    /// What of it is ours; `None` when nothing is. A label that somebody set by hand is theirs.
    #[must_use]
    pub fn of(namespace: &Namespace) -> Option<Self> {
        let mesh = namespace.annotations().contains_key(labels::LABELLED_BY);
        let revision = namespace.labels().contains_key(labels::REVISION)
            && (mesh || ours::has_manager(&namespace.metadata, ours::REVISION_MANAGER));
        (mesh || revision).then(|| Self { name: namespace.name_any(), mesh, revision })
    }

    /// Takes the labels away.
    pub async fn unlabel(&self, client: &Client) -> anyhow::Result<()> {
        let mut metadata = json!({});
        if self.mesh {
            metadata["labels"][labels::MESH] = json!(null);
            metadata["annotations"][labels::LABELLED_BY] = json!(null);
        }
        if self.revision {
            metadata["labels"][labels::REVISION] = json!(null);
        }
        let api: Api<Namespace> = Api::all(client.clone());
        api.patch(&self.name, &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata}))).await?;
        Ok(())
    }
}

/// Namespaces with labels of ours.
pub async fn labelled(client: &Client) -> anyhow::Result<Vec<Labelled>> {
    let namespaces = cluster::list(&Api::<Namespace>::all(client.clone()), &ListParams::default()).await?;
    Ok(namespaces.unwrap_or_default().iter().filter_map(Labelled::of).collect())
}

async fn found_of(client: &Client, kind: &Sweepable, params: &ListParams) -> anyhow::Result<Vec<Found>> {
    let resource = resource(kind.group, kind.version, kind.kind);
    let listed = cluster::list(&Api::<DynamicObject>::all_with(client.clone(), &resource), params).await?;
    Ok(listed.unwrap_or_default().into_iter().map(|object| Found::new(client, &resource, object)).collect())
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_that_we_set_are_ours() {
        let namespace = |labels: serde_json::Value, annotations: serde_json::Value, manager: &str| {
            let object = json!({"metadata": {
                "name": "shop", "labels": labels, "annotations": annotations,
                "managedFields": [{"manager": manager, "operation": "Apply", "apiVersion": "v1"}]
            }});
            Labelled::of(&serde_json::from_value(object).unwrap())
        };
        let by_hand = json!({labels::MESH: "books"});
        let both = json!({labels::MESH: "books", labels::REVISION: "0.2.0"});
        let set = json!({labels::LABELLED_BY: "books"});
        let some = |mesh, revision| Some(Labelled { name: "shop".to_owned(), mesh, revision });
        assert_eq!(namespace(by_hand, json!({}), "kubectl"), None);
        assert_eq!(namespace(both.clone(), json!({}), "kubectl"), None, "a person set both");
        assert_eq!(namespace(both.clone(), json!({}), ours::REVISION_MANAGER), some(false, true));
        assert_eq!(namespace(both, set, "kubectl"), some(true, true));
    }
}
