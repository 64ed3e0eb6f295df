//! The control-plane reconciler against a real API server with its controllers (garbage collection, Deployments).
//! There is no kubelet in this tier: the tests make pods ready themselves, and publish the trust bundle as a
//! controller would; the node tier (tests/e2e) does it with the real ones.

use crds::{MeshConfig, labels};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret, Service};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::cluster::{control_plane_namespace, kubectl, make_pods_ready, namespace, until, with_operator};

/// One mesh of a test's own.
struct Scene {
    client: Client,
    mesh: String,
    system: String,
    meshes: Api<MeshConfig>,
}

impl Scene {
    async fn new(mesh: &str) -> Self {
        let client = with_operator().await;
        let system = format!("{mesh}-system");
        control_plane_namespace(&client, &system).await;
        let meshes: Api<MeshConfig> = Api::all(client.clone());
        let scene = Self { client, mesh: mesh.to_owned(), system, meshes };
        scene.remove_mesh().await;
        scene
    }

    async fn remove_mesh(&self) {
        let _ = self.meshes.delete(&self.mesh, &DeleteParams::default()).await;
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.system);
        until("the children to be collected", || async {
            let left = deployments.list(&Default::default()).await.map_err(|error| error.to_string())?;
            if left.items.is_empty() {
                Ok(())
            } else {
                Err(format!("{} Deployments are left", left.items.len()))
            }
        })
        .await;
    }

    async fn create(&self, version: &str, watched: &[&str]) {
        self.create_as(&self.mesh, version, watched).await;
    }

    async fn create_as(&self, name: &str, version: &str, watched: &[&str]) {
        let spec =
            json!({"version": version, "namespace": self.system, "watchedNamespaces": {"names": watched}});
        let mesh = MeshConfig::new(name, serde_json::from_value(spec).unwrap());
        self.meshes.create(&PostParams::default(), &mesh).await.unwrap();
    }

    async fn patch(&self, spec: serde_json::Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.meshes.patch(&self.mesh, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits for a condition's status and reason; returns its message.
    async fn condition(&self, mesh: &str, kind: &str, status: &str, reason: &str) -> String {
        until(&format!("{kind}={status} ({reason}) of {mesh}"), || async {
            make_pods_ready(&self.client, &self.system).await;
            let mesh = self.meshes.get(mesh).await.map_err(|error| error.to_string())?;
            let conditions = mesh.status.map(|status| status.conditions).unwrap_or_default();
            let found = conditions.iter().find(|condition| condition.type_ == kind);
            let right = found.filter(|c| c.status == status && c.reason == reason);
            right.map(|c| c.message.clone()).ok_or_else(|| format!("{conditions:?}"))
        })
        .await
    }

    /// What a controller does first.
    async fn publish_trust_bundle(&self) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.system);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.system);
        let secret = until("the root Secret", || async {
            secrets.get(labels::ROOT_SECRET).await.map_err(|error| error.to_string())
        })
        .await;
        let root = String::from_utf8(secret.data.unwrap()["tls.crt"].0.clone()).unwrap();
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": labels::TRUST_BUNDLE}, "data": {labels::TRUST_BUNDLE_KEY: root}});
        let apply = PatchParams::apply("controller").force();
        api.patch(labels::TRUST_BUNDLE, &apply, &Patch::Apply(map)).await.unwrap();
    }

    async fn install(&self, version: &str, watched: &[&str]) {
        self.create(version, watched).await;
        self.publish_trust_bundle().await;
        self.condition(&self.mesh, "Ready", "True", "Succeeded").await;
    }

    async fn effective(&self) -> String {
        let mesh = self.meshes.get(&self.mesh).await.unwrap();
        mesh.status.and_then(|status| status.version).unwrap_or_default().effective
    }

    async fn labels_of(&self, namespace: &str) -> (Option<String>, Option<String>) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = api.get(namespace).await.unwrap();
        let label = |name: &str| namespace.labels().get(name).cloned();
        (label(labels::MESH), label(labels::REVISION))
    }

    async fn wait_labels(&self, namespace: &str, mesh: Option<&str>, revision: Option<&str>) {
        let wanted = (mesh.map(str::to_owned), revision.map(str::to_owned));
        until(&format!("labels {wanted:?} of namespace {namespace}"), || async {
            let is = self.labels_of(namespace).await;
            if is == wanted { Ok(()) } else { Err(format!("{is:?}")) }
        })
        .await;
    }

    /// Waits for an Event about the mesh.
    async fn event(&self, reason: &str) {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let about =
            ListParams::default().fields(&format!("involvedObject.name={},reason={reason}", self.mesh));
        until(&format!("an Event {reason}"), || async {
            let found = api.list(&about).await.map_err(|error| error.to_string())?;
            if found.items.is_empty() { Err("none".to_owned()) } else { Ok(()) }
        })
        .await;
    }

    async fn generation(&self, deployment: &str) -> Option<i64> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &self.system);
        api.get(deployment).await.unwrap().metadata.generation
    }
}

#[tokio::test]
async fn children_are_made_put_back_and_collected() {
    let scene = Scene::new("t-children").await;
    namespace(&scene.client, "t-children-shop").await;
    scene.install("0.1.0", &["t-children-shop"]).await;
    scene.wait_labels("t-children-shop", Some("t-children"), Some("0.1.0")).await;
    assert_eq!(scene.effective().await, "0.1.0");

    let services: Api<Service> = Api::namespaced(scene.client.clone(), &scene.system);
    let name = labels::controller_name("0.1.0");
    let old = services.get(&name).await.unwrap();
    services.delete(&name, &DeleteParams::default()).await.unwrap();
    until("the deleted Service to be back", || async {
        let now = services.get(&name).await.map_err(|error| error.to_string())?;
        if now.uid() == old.uid() { Err("still the old one".to_owned()) } else { Ok(()) }
    })
    .await;

    let deployments: Api<Deployment> = Api::namespaced(scene.client.clone(), &scene.system);
    let edit = Patch::Merge(json!({"spec": {"replicas": 7}}));
    deployments.patch(&name, &PatchParams::default(), &edit).await.unwrap();
    until("the hand-edited Deployment to be put back", || async {
        let replicas = deployments.get(&name).await.unwrap().spec.unwrap().replicas;
        if replicas == Some(2) { Ok(()) } else { Err(format!("{replicas:?} replicas")) }
    })
    .await;

    let copies: Api<ConfigMap> = Api::namespaced(scene.client.clone(), "t-children-shop");
    assert!(copies.get(labels::TRUST_BUNDLE).await.unwrap().data.unwrap()["ca.crt"].contains("BEGIN"));
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(scene.client.clone());
    let webhook = webhooks.get("meshwright-injector-t-children-0-1-0").await.unwrap();
    assert!(webhook.webhooks.unwrap()[0].client_config.ca_bundle.is_some());

    scene.meshes.delete(&scene.mesh, &DeleteParams::default()).await.unwrap();
    scene.wait_labels("t-children-shop", None, None).await;
    until("the webhook to be collected", || async {
        match webhooks.get_opt("meshwright-injector-t-children-0-1-0").await.unwrap() {
            None => Ok(()),
            Some(_) => Err("it is still there".to_owned()),
        }
    })
    .await;
    scene.remove_mesh().await;
}

#[tokio::test]
async fn a_version_that_cannot_be_had_changes_nothing() {
    let scene = Scene::new("t-unknown").await;
    namespace(&scene.client, "t-unknown-shop").await;
    scene.install("0.1.0", &["t-unknown-shop"]).await;
    scene.wait_labels("t-unknown-shop", Some("t-unknown"), Some("0.1.0")).await;
    let name = labels::controller_name("0.1.0");
    let before = scene.generation(&name).await;
    scene.patch(json!({"version": "9.9.9"})).await;
    let message = scene.condition("t-unknown", "Stalled", "True", "UnknownVersion").await;
    assert!(message.contains("0.1.0") && message.contains("0.2.0"), "{message}");
    assert_eq!(scene.effective().await, "0.1.0");
    assert_eq!(scene.generation(&name).await, before);
    scene.event("UnknownVersion").await;
    assert_eq!(scene.labels_of("t-unknown-shop").await, (Some("t-unknown".into()), Some("0.1.0".into())));
    scene.patch(json!({"version": "0.1.0"})).await;
    scene.condition("t-unknown", "Ready", "True", "Succeeded").await;
    scene.remove_mesh().await;
}

#[tokio::test]
async fn of_two_meshes_that_claim_a_namespace_the_older_has_it() {
    let old = Scene::new("t-older").await;
    let young = Scene::new("t-younger").await;
    namespace(&old.client, "t-claimed").await;
    old.install("0.1.0", &["t-claimed"]).await;
    old.wait_labels("t-claimed", Some("t-older"), Some("0.1.0")).await;
    young.create("0.1.0", &["t-claimed"]).await;
    let message = young.condition("t-younger", "NamespaceConflict", "True", "NamespaceConflict").await;
    assert!(
        message.contains("t-older") && message.contains("t-younger") && message.contains("t-claimed"),
        "{message}"
    );
    assert_eq!(old.labels_of("t-claimed").await, (Some("t-older".into()), Some("0.1.0".into())));

    let third = "t-third";
    let _ = young.meshes.delete(third, &DeleteParams::default()).await;
    young.create_as(third, "0.1.0", &[]).await;
    let message = young.condition(third, "Stalled", "True", "NamespaceConflict").await;
    assert!(message.contains("t-younger") && message.contains("t-third"), "{message}");
    let _ = young.meshes.delete(third, &DeleteParams::default()).await;
    old.remove_mesh().await;
    young.wait_labels("t-claimed", Some("t-younger"), Some("0.1.0")).await;
    young.remove_mesh().await;
}

#[tokio::test]
async fn a_new_release_comes_up_beside_the_old_and_the_old_goes_when_nobody_uses_it() {
    let scene = Scene::new("t-beside").await;
    namespace(&scene.client, "t-beside-shop").await;
    scene.install("0.1.0", &["t-beside-shop"]).await;
    scene.wait_labels("t-beside-shop", Some("t-beside"), Some("0.1.0")).await;
    scene.patch(json!({"version": "0.2.0"})).await;
    scene.condition("t-beside", "Reconciling", "True", "Upgrading").await;
    assert_eq!(scene.effective().await, "0.1.0");
    let deployments: Api<Deployment> = Api::namespaced(scene.client.clone(), &scene.system);
    deployments.get(&labels::controller_name("0.1.0")).await.expect("the old release stays while it is used");
    // What the upgrade reconciler does, with its field manager.
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let label = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "t-beside-shop", "labels": {labels::REVISION: "0.2.0"}}});
    let apply = PatchParams::apply(operator::apply::REVISION_MANAGER).force();
    namespaces.patch("t-beside-shop", &apply, &Patch::Apply(label)).await.unwrap();
    scene.condition("t-beside", "Ready", "True", "Succeeded").await;
    assert_eq!(scene.effective().await, "0.2.0");
    until("the old release to be removed", || async {
        match deployments.get_opt(&labels::controller_name("0.1.0")).await.unwrap() {
            None => Ok(()),
            Some(_) => Err("it is still there".to_owned()),
        }
    })
    .await;
    scene.remove_mesh().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_operator_has_no_rights_it_says_what_to_bind_and_that_is_enough() {
    let client = with_operator().await;
    let (mesh, system) = ("t-unbound".to_owned(), "t-unbound-system".to_owned());
    namespace(&client, &system).await;
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &system);
    bindings.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    let scene = Scene { meshes: Api::all(client.clone()), client, mesh, system };
    scene.remove_mesh().await;
    scene.create("0.1.0", &[]).await;
    let message = scene.condition("t-unbound", "Stalled", "True", "RoleBindingMissing").await;
    let held = scene.condition("t-unbound", "PruningHeld", "True", "ApplyFailed").await;
    assert!(held.contains("nothing that is no longer wanted is deleted"), "{held}");
    // What it says to run, run as it says.
    let (words, command) = message.split_once("kubectl ").unwrap();
    assert!(words.contains("meshwright-operator-namespace") && words.contains("t-unbound-system"), "{words}");
    kubectl(&command.split_whitespace().collect::<Vec<_>>());
    scene.condition("t-unbound", "Ready", "False", "ControlPlaneStarting").await;
    scene.publish_trust_bundle().await;
    scene.condition("t-unbound", "Ready", "True", "Succeeded").await;
    scene.remove_mesh().await;
}
