//! Everything that belongs to Meshwright in a cluster, found anew each time: by fixed names and by our label, never
//! from memory, so that a half-done uninstall can be finished and one without an operator works.

use crds::labels;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::cluster;

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
const NAMESPACED: [Sweepable; 2] = [
    Sweepable { group: "rbac.authorization.k8s.io", version: "v1", kind: "RoleBinding" },
    Sweepable { group: "rbac.authorization.k8s.io", version: "v1", kind: "Role" },
];
/// How the name of every webhook and role of Meshwright begins.
const NAME_PREFIX: &str = "meshwright-";
/// Kinds of ours whose objects may carry a finalizer of the operator.
const FINALIZED: [&str; 3] = ["MeshConfig", "PolicySource", "MeshUpgrade"];

/// One thing to remove.
#[derive(Debug, Clone)]
pub struct Found {
    /// The API it is reached by.
    api: Api<DynamicObject>,
    kind: &'static str,
    namespace: Option<String>,
    name: String,
    /// Whether label or name says that it is ours. Names count too: `kubectl apply -k` sets no label.
    ours: bool,
}

impl Found {
    /// `Kind namespace/name`.
    pub fn describe(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
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

/// Webhooks, roles, and what the operator put into the namespaces of the mesh.
pub async fn objects(client: &Client, namespace: &str) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for kind in CLUSTER_WIDE.iter().chain(&NAMESPACED) {
        let listed = found_of(client, kind, &ListParams::default()).await?;
        // What is in the control plane's namespace goes with it.
        let elsewhere = |object: &Found| object.namespace.as_deref() != Some(namespace);
        found.extend(listed.into_iter().filter(|object| object.ours && elsewhere(object)));
    }
    let bundles = ListParams::default().fields(&format!("metadata.name={}", labels::TRUST_BUNDLE));
    let bundles = cluster::list(&Api::<ConfigMap>::all(client.clone()), &bundles).await?.unwrap_or_default();
    for bundle in bundles {
        let inside = bundle.namespace().unwrap_or_default();
        if inside != namespace {
            let api = Api::namespaced_with(client.clone(), &inside, &resource("", "v1", "ConfigMap"));
            let name = bundle.name_any();
            found.push(Found { api, kind: "ConfigMap", namespace: Some(inside), name, ours: true });
        }
    }
    Ok(found)
}

/// Objects of our own kinds that may wait for the operator.
pub async fn finalized(client: &Client) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::new();
    for kind in FINALIZED {
        let kind = Sweepable { group: "meshwright.io", version: "v1alpha1", kind };
        found.extend(found_of(client, &kind, &ListParams::default()).await?);
    }
    Ok(found)
}

/// The definitions that `install` applied.
pub async fn definitions(client: &Client) -> anyhow::Result<Vec<Found>> {
    let kind = Sweepable { group: "apiextensions.k8s.io", version: "v1", kind: "CustomResourceDefinition" };
    let names: Vec<_> = crds::all().iter().map(ResourceExt::name_any).collect();
    let found = found_of(client, &kind, &ListParams::default()).await?;
    Ok(found.into_iter().filter(|object| names.contains(&object.name)).collect())
}

/// Namespaces that carry a label of ours.
pub async fn labelled(client: &Client) -> anyhow::Result<Vec<Namespace>> {
    let namespaces = cluster::list(&Api::<Namespace>::all(client.clone()), &ListParams::default()).await?;
    let ours = |namespace: &Namespace| {
        let labels = namespace.labels();
        labels.contains_key(labels::MESH)
            || labels.contains_key(labels::REVISION)
            || namespace.annotations().contains_key(labels::LABELLED_BY)
    };
    Ok(namespaces.unwrap_or_default().into_iter().filter(ours).collect())
}

/// Takes our labels off a namespace.
pub async fn unlabel(client: &Client, name: &str) -> anyhow::Result<()> {
    let patch = json!({"metadata": {
        "labels": {labels::MESH: null, labels::REVISION: null},
        "annotations": {labels::LABELLED_BY: null},
    }});
    let api: Api<Namespace> = Api::all(client.clone());
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// How many pods still carry a sidecar; they keep it until they are restarted.
pub async fn sidecars(client: &Client) -> anyhow::Result<usize> {
    let injected = ListParams::default().labels(labels::MESH);
    Ok(cluster::list(&Api::<Pod>::all(client.clone()), &injected).await?.unwrap_or_default().len())
}

async fn found_of(client: &Client, kind: &Sweepable, params: &ListParams) -> anyhow::Result<Vec<Found>> {
    let resource = resource(kind.group, kind.version, kind.kind);
    let listed = cluster::list(&Api::<DynamicObject>::all_with(client.clone(), &resource), params).await?;
    let found = listed.unwrap_or_default().into_iter().map(|object| {
        let namespace = object.namespace();
        let api = match &namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let name = object.name_any();
        let labelled = object.labels().get(labels::MANAGED_BY).is_some_and(|value| value == labels::MANAGER);
        let ours = labelled || name.starts_with(NAME_PREFIX);
        Found { api, kind: kind.kind, namespace, name, ours }
    });
    Ok(found.collect())
}

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}
