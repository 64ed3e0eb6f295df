//! The root of trust against a real API server and its garbage collector: what must not destroy it.

use crds::{MeshConfig, labels};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::cluster::{control_plane_namespace, until, with_operator};

struct Scene {
    meshes: Api<MeshConfig>,
    secrets: Api<Secret>,
    deployments: Api<Deployment>,
    mesh: &'static str,
    system: String,
}

impl Scene {
    async fn new(mesh: &'static str) -> Self {
        let client = with_operator().await;
        let system = format!("{mesh}-system");
        control_plane_namespace(&client, &system).await;
        let scene = Self {
            meshes: Api::all(client.clone()),
            secrets: Api::namespaced(client.clone(), &system),
            deployments: Api::namespaced(client.clone(), &system),
            mesh,
            system,
        };
        scene.remove_mesh().await;
        for name in [labels::ROOT_SECRET, labels::OTHER_ROOT_SECRET] {
            let _ = scene.secrets.delete(name, &DeleteParams::default()).await;
        }
        let bundles: Api<ConfigMap> = Api::namespaced(client.clone(), &scene.system);
        let _ = bundles.delete(labels::TRUST_BUNDLE, &DeleteParams::default()).await;
        scene
    }

    async fn create_mesh(&self) {
        let spec = json!({"version": "0.1.0", "namespace": self.system});
        let mesh = MeshConfig::new(self.mesh, serde_json::from_value(spec).unwrap());
        self.meshes.create(&PostParams::default(), &mesh).await.unwrap();
        until("the operator to have acted", || async {
            let mesh = self.meshes.get(self.mesh).await.map_err(|error| error.to_string())?;
            let seen = mesh.status.as_ref().and_then(|status| status.observed_generation);
            if seen == mesh.metadata.generation { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }

    /// Deletes the MeshConfig and waits until its garbage is collected.
    async fn remove_mesh(&self) {
        let _ = self.meshes.delete(self.mesh, &DeleteParams::default()).await;
        until("the children to be collected", || async {
            let gone = self.meshes.get_opt(self.mesh).await.map_err(|error| error.to_string())?.is_none();
            let left = self.deployments.list(&Default::default()).await.map_err(|error| error.to_string())?;
            if gone && left.items.is_empty() { Ok(()) } else { Err(format!("{} are left", left.items.len())) }
        })
        .await;
    }

    async fn root(&self, name: &str) -> Secret {
        until(&format!("Secret {name}"), || async {
            self.secrets.get(name).await.map_err(|error| error.to_string())
        })
        .await
    }
}

#[tokio::test]
async fn the_root_outlives_its_mesh_config() {
    let scene = Scene::new("t-root").await;
    scene.create_mesh().await;
    let made = scene.root(labels::ROOT_SECRET).await;
    assert_eq!(made.owner_references(), [], "the garbage collector would take it");
    // The Deployments of the same MeshConfig are collected, so the collector has been here.
    scene.remove_mesh().await;
    let left = scene.root(labels::ROOT_SECRET).await;
    assert_eq!((left.uid(), &left.data), (made.uid(), &made.data));
    scene.create_mesh().await;
    let again = scene.root(labels::ROOT_SECRET).await;
    assert_eq!((again.uid(), &again.data), (made.uid(), &made.data), "a mesh that is made again uses it");
    assert!(scene.secrets.get_opt(labels::OTHER_ROOT_SECRET).await.unwrap().is_none());
    scene.remove_mesh().await;
}

#[tokio::test]
async fn a_root_in_either_secret_is_the_meshs() {
    let scene = Scene::new("t-root-b").await;
    // Where the last rotation left it; nothing else remembers it, not even the published bundle.
    let rotated = json!({"metadata": {"name": labels::OTHER_ROOT_SECRET}, "stringData": {"tls.crt": "x", "tls.key": "x"}});
    let rotated: Secret = serde_json::from_value(rotated).unwrap();
    scene.secrets.create(&PostParams::default(), &rotated).await.unwrap();
    scene.create_mesh().await;
    // The operator has looked, and looks again when anything changes.
    let touch = json!({"metadata": {"annotations": {"touched": "yes"}}});
    scene.meshes.patch(scene.mesh, &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
    until("the revision's Deployments", || async {
        let made = scene.deployments.list(&Default::default()).await.map_err(|error| error.to_string())?;
        if made.items.len() == 2 { Ok(()) } else { Err(format!("{}", made.items.len())) }
    })
    .await;
    assert!(scene.secrets.get_opt(labels::ROOT_SECRET).await.unwrap().is_none(), "a second root was made");
    scene.remove_mesh().await;
}

/// The operator may make and delete roots, and neither read nor change them: a patch is answered with the content.
#[tokio::test]
async fn the_operator_sees_no_key() {
    let scene = Scene::new("t-root-rights").await;
    scene.create_mesh().await;
    scene.root(labels::ROOT_SECRET).await;
    let operator = crate::cluster::client(Some(crate::cluster::OPERATOR_USER)).await;
    for namespace in [scene.system.as_str(), "meshwright-system"] {
        let secrets: Api<Secret> = Api::namespaced(operator.clone(), namespace);
        denied(secrets.get(labels::ROOT_SECRET).await);
        denied(secrets.list(&Default::default()).await);
        let nothing = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
        denied(secrets.patch(labels::ROOT_SECRET, &PatchParams::default(), &nothing).await);
    }
    scene.remove_mesh().await;
}

fn denied<T: std::fmt::Debug>(answer: Result<T, kube::Error>) {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => {}
        other => {
            panic!("it should be denied: {}", if other.is_ok() { "it was answered" } else { "another error" })
        }
    }
}
