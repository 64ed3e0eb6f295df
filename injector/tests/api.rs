//! Against a real API server with its controllers: who gets a sidecar, whatever comes first.

use crds::labels;
use crds::mesh_config::LastGood;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{Scene, until};

/// Namespaces that are made at once.
const MANY: usize = 200;

fn deployment() -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "app"},
        "spec": {
            "selector": {"matchLabels": {"app": "app"}},
            "template": {
                "metadata": {"labels": {"app": "app"}},
                "spec": {"automountServiceAccountToken": false, "containers": [{"name": "app", "image": "none"}]},
            },
        },
    }))
    .unwrap()
}

fn has_sidecar(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref().unwrap();
    spec.containers.iter().any(|container| container.name == labels::PROXY_CONTAINER)
}

/// A namespace and its Deployment, one right after the other.
async fn namespace_with_app(scene: &Scene, name: &str, labels: Value) {
    scene.namespace(name, labels).await.unwrap();
    let api: Api<Deployment> = Api::namespaced(scene.client.clone(), name);
    api.create(&Default::default(), &deployment()).await.unwrap();
}

/// Waits for the first pod that the real controllers make in a namespace.
async fn first_pod(scene: &Scene, namespace: &str) -> Pod {
    let pods: Api<Pod> = Api::namespaced(scene.client.clone(), namespace);
    until(&format!("a pod in {namespace}"), || async {
        let list = pods.list(&ListParams::default().match_any()).await.map_err(|error| error.to_string())?;
        list.items.into_iter().next().ok_or_else(|| "none yet".to_owned())
    })
    .await
}

/// What was seen before: of three pods that were made together with their namespaces, two had no sidecar, because the
/// operator had not written the revision yet. Here no operator runs at all.
#[tokio::test(flavor = "multi_thread")]
async fn no_pod_escapes_a_namespace_that_was_made_in_the_same_moment() {
    let mut scene = Scene::new("t-burst", json!({})).await;
    scene.write_children().await;
    scene.start_injector().await;
    scene.webhooks_in_force().await;
    let run = std::process::id();
    let names: Vec<_> = (0..MANY).map(|number| format!("t-burst-{run}-{number}")).collect();
    let mesh = json!({labels::MESH: scene.mesh});
    let outside = format!("t-burst-{run}-outside");
    let all = names.iter().map(|name| namespace_with_app(&scene, name, mesh.clone()));
    futures::future::join_all(all).await;
    namespace_with_app(&scene, &outside, json!({})).await;

    let mut escaped = Vec::new();
    for name in &names {
        let pod = first_pod(&scene, name).await;
        if !has_sidecar(&pod) || pod.labels().get(labels::REVISION).map(String::as_str) != Some("0.2.0") {
            escaped.push(name.clone());
        }
    }
    let free = first_pod(&scene, &outside).await;
    scene.remove_namespaces(&names).await;
    scene.remove_namespaces(&[outside]).await;
    assert_eq!(escaped, [""; 0], "pods without a sidecar");
    assert!(!has_sidecar(&free), "a namespace outside of the mesh is none of ours");
    scene.remove_mesh().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_served_by_exactly_one_injector_and_closed_while_it_is_away() {
    let mut scene = Scene::new("t-closed", json!({})).await;
    scene.write_children().await;
    scene.start_injector().await;
    scene.webhooks_in_force().await;
    let run = std::process::id();
    let cases = [
        ("none", json!({labels::MESH: scene.mesh})),
        ("known", json!({labels::MESH: scene.mesh, labels::REVISION: "0.2.0"})),
        ("unknown", json!({labels::MESH: scene.mesh, labels::REVISION: "9.9.9"})),
    ];
    let mut names = Vec::new();
    for (case, labels) in &cases {
        let name = format!("t-closed-{run}-{case}");
        namespace_with_app(&scene, &name, labels.clone()).await;
        let pod = first_pod(&scene, &name).await;
        let sidecars =
            pod.spec.unwrap().containers.into_iter().filter(|one| one.name == labels::PROXY_CONTAINER);
        assert_eq!(sidecars.count(), 1, "{case}");
        names.push(name);
    }
    scene.stop_injector();
    for name in &names {
        let pods: Api<Pod> = Api::namespaced(scene.client.clone(), name);
        let pod = json!({"metadata": {"name": "late"}, "spec": deployment().spec.unwrap().template.spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let refused = pods.create(&Default::default(), &pod).await.unwrap_err().to_string();
        assert!(refused.contains("inject.meshwright.io"), "{refused}");
    }
    scene.remove_namespaces(&names).await;
    scene.remove_mesh().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_an_invalid_mesh_config_new_injectors_go_on_with_the_last_good_one() {
    let mut scene = Scene::new("t-last-good", json!({"sidecar": {"concurrency": 3}})).await;
    scene.write_children().await;
    scene.start_injector().await;
    scene.webhooks_in_force().await;
    let mesh = scene.mesh.clone();
    let merge = |spec: Value| Patch::Merge(json!({"spec": spec}));
    let edit = PatchParams::default();

    // Numbers are refused by the API server itself, whoever asks and whatever else runs.
    let refused = scene.meshes.patch(&mesh, &edit, &merge(json!({"sidecar": {"concurrency": 0}}))).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("spec.sidecar.concurrency"), "{refused}");
    let port = json!({"traffic": {"exclusions": {"outboundPorts": [70000]}}});
    let refused = scene.meshes.patch(&mesh, &edit, &merge(port)).await.unwrap_err().to_string();
    assert!(refused.contains("outboundPorts"), "{refused}");
    // The rest by the webhook, with the path of the field.
    let bad = json!({"sidecar": {"resources": {"requests": {"cpu": "many"}}}});
    let refused = scene.meshes.patch(&mesh, &edit, &merge(bad.clone())).await.unwrap_err().to_string();
    assert!(refused.contains("spec.sidecar.resources.requests.cpu"), "{refused}");

    // Nobody judges while no injector runs (it is allowed, so that a mesh can be repaired); the operator has published
    // what was good.
    let good = scene.meshes.get(&mesh).await.unwrap();
    let status = json!({"status": {"lastGood": LastGood::of(&good.spec, good.metadata.generation)}});
    scene.meshes.patch_status(&mesh, &edit, &Patch::Merge(status)).await.unwrap();
    scene.stop_injector();
    scene.meshes.patch(&mesh, &edit, &merge(bad)).await.unwrap();
    scene.start_injector().await;

    let namespace = format!("t-last-good-{}", std::process::id());
    namespace_with_app(&scene, &namespace, json!({labels::MESH: mesh})).await;
    let pod = first_pod(&scene, &namespace).await;
    let proxy = pod.spec.unwrap().containers.remove(0);
    assert_eq!(proxy.name, labels::PROXY_CONTAINER);
    let threads = proxy.env.unwrap().into_iter().find(|one| one.name == "MESHWRIGHT_CONCURRENCY").unwrap();
    assert_eq!(threads.value.as_deref(), Some("3"));
    scene.remove_namespaces(&[namespace]).await;
    scene.remove_mesh().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_with_sidecars_is_deleted_by_intent_only() {
    let mut scene = Scene::new("t-deleted", json!({})).await;
    scene.write_children().await;
    scene.start_injector().await;
    scene.webhooks_in_force().await;
    let mesh = scene.mesh.clone();
    let edit = PatchParams::default();
    let status = json!({"status": {"proxies": {"total": 2, "connected": 1, "rejected": 0}}});
    scene.meshes.patch_status(&mesh, &edit, &Patch::Merge(status)).await.unwrap();
    let refused = scene.meshes.delete(&mesh, &DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("2 sidecars") && refused.contains("uninstall"), "{refused}");
    let selected = ListParams::default().fields(&format!("metadata.name={mesh}"));
    let refused = scene.meshes.delete_collection(&DeleteParams::default(), &selected).await;
    assert!(refused.is_err(), "nor together with others");
    let allow = json!({"metadata": {"annotations": {labels::ALLOW_DELETION: "true"}}});
    scene.meshes.patch(&mesh, &edit, &Patch::Merge(allow)).await.unwrap();
    scene.meshes.delete(&mesh, &DeleteParams::default()).await.unwrap();
    scene.remove_mesh().await;
}
