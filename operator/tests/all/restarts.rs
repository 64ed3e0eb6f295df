//! Pods that escaped injection are restarted against a real API server: real Deployments, PodDisruptionBudgets and
//! evictions. The tests play injector and kubelet, as those of upgrades do.

use std::collections::BTreeSet;

use crds::MeshConfig;
use crds::labels;
use crds::mesh_config::{RestartStatus, RestartUninjected};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use operator::control_plane::{gather, plan::Plan, restarts};
use operator::upgrade::Sidecars;
use serde_json::{Value, json};

use crate::cluster::{make_pods_ready, until};
use crate::upgrade::scene::{AllInSync, Scene};

/// Much longer than all restarts of a test take.
const LONG: std::time::Duration = std::time::Duration::from_secs(300);

/// Takes from a pod what an injector gave it: it is one that nobody was asked about.
async fn escape(scene: &Scene, namespace: &str, pod: &str) {
    let api: Api<Pod> = Api::namespaced(scene.client.clone(), namespace);
    let none = json!({labels::REVISION: null, labels::MESH: null, labels::INJECT: null});
    let patch = Patch::Merge(json!({"metadata": {"labels": none}}));
    api.patch(pod, &PatchParams::default(), &patch).await.unwrap();
}

/// Names of the pods that stay, and of those among them that have no sidecar.
async fn pods(scene: &Scene, namespace: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let pods = scene.pods(namespace).await;
    let live: Vec<_> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    let bare = live.iter().filter(|pod| !pod.labels().contains_key(labels::MESH));
    (live.iter().map(|pod| pod.name_any()).collect(), bare.map(|pod| pod.name_any()).collect())
}

/// Injector and kubelet: pods that have the mesh's label get the rest.
async fn play(scene: &Scene, namespace: &str) {
    let api: Api<Pod> = Api::namespaced(scene.client.clone(), namespace);
    for pod in scene.pods(namespace).await {
        if pod.labels().contains_key(labels::MESH) && !pod.labels().contains_key(labels::REVISION) {
            let patch = Patch::Merge(json!({"metadata": {"labels": {labels::REVISION: "0.1.0"}}}));
            let _ = api.patch(&pod.name_any(), &PatchParams::default(), &patch).await;
        }
    }
    make_pods_ready(&scene.client, namespace).await;
}

/// One pass of the reconciler over a mesh that wants restarts, with sidecars that are all in sync; what the status would
/// say stays here. The operator of the other tests sees the MeshConfig as it is, which wants none.
async fn pass(scene: &Scene, said: &mut Vec<RestartStatus>) {
    let mut mesh: MeshConfig = scene.get_mesh().await;
    mesh.spec.upgrade.restart_uninjected = RestartUninjected::Planned;
    mesh.status.as_mut().unwrap().restarts.clone_from(said);
    let fleet = AllInSync(scene.client.clone()).gather(&scene.ctx, &mesh).await;
    let facts = gather::gather(&scene.ctx.client, &mesh, fleet).await.unwrap();
    let plan = Plan::decide(&mesh, &facts, &scene.ctx.catalogue);
    let looked = restarts::look(&scene.ctx, &mesh, &facts, &plan).await;
    said.clone_from(&looked.entries);
    restarts::act(&scene.ctx, &mesh, &looked).await;
}

#[tokio::test]
async fn escaped_pods_are_restarted_one_at_a_time_within_their_budget() {
    let scene = Scene::new("r-escaped", &["a"]).await;
    let a = scene.namespaces[0].clone();
    for app in ["web", "zoo"] {
        scene.deployment(&a, app, 3).await;
        scene.budget(&a, app, 2).await;
    }
    let (before, _) = pods(&scene, &a).await;
    // Two of web, one of zoo; the others have their sidecar, and must keep their pods.
    let of = |app: &'static str| before.iter().filter(move |pod| pod.starts_with(app));
    let escaped: BTreeSet<_> = of("web").take(2).chain(of("zoo").take(1)).cloned().collect();
    for pod in &escaped {
        escape(&scene, &a, pod).await;
    }
    let mut said = Vec::new();
    let begun = std::time::Instant::now();
    // As long as the cluster takes for new pods and budgets, however often one can look meanwhile.
    while begun.elapsed() < LONG {
        let (live, _) = pods(&scene, &a).await;
        pass(&scene, &mut said).await;
        let (after, bare) = pods(&scene, &a).await;
        assert!(live.difference(&after).count() <= 1, "{live:?} {after:?}");
        if bare.is_empty() && said.is_empty() {
            break;
        }
        play(&scene, &a).await;
    }
    assert_eq!(said, Vec::new());
    let (after, bare) = pods(&scene, &a).await;
    assert_eq!((after.len(), bare.len()), (6, 0));
    assert_eq!(before.difference(&after).cloned().collect::<BTreeSet<_>>(), escaped, "others were touched");
    scene.remove().await;
}

/// Everything looks as if new pods would be injected, and they are not: after a few it is left and named. A pod that nothing
/// makes again, and one that opted out, are not touched at all.
#[tokio::test]
async fn pods_that_escape_again_are_left_after_a_few_tries() {
    let scene = Scene::new("r-again", &["a"]).await;
    let a = scene.namespaces[0].clone();
    scene.deployment(&a, "web", 2).await;
    let api: Api<Pod> = Api::namespaced(scene.client.clone(), &a);
    for (name, inject) in [("bare", json!(null)), ("outside", json!("false"))] {
        let pod = json!({"metadata": {"name": name, "labels": {"app": name, labels::INJECT: "false"}},
            "spec": {"containers": [{"name": "app", "image": "app"}]}});
        api.create(&Default::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let patch = Patch::Merge(json!({"metadata": {"labels": {labels::INJECT: inject}}}));
        api.patch(name, &PatchParams::default(), &patch).await.unwrap();
    }
    let (mut said, mut evicted) = (Vec::<RestartStatus>::new(), BTreeSet::new());
    let (mut known, _) = pods(&scene, &a).await;
    let begun = std::time::Instant::now();
    // And ten passes more after it was left: then nothing is evicted any more.
    let mut left = 10;
    while left > 0 {
        assert!(begun.elapsed() < LONG, "{said:#?}");
        if said.iter().any(|one| one.reason == "EscapedAgain") {
            left -= 1;
        }
        // Pods are told apart by the second in which they were made.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        for pod in known.iter().filter(|pod| pod.starts_with("web")) {
            escape(&scene, &a, pod).await;
        }
        pass(&scene, &mut said).await;
        make_pods_ready(&scene.client, &a).await;
        let (now, _) = pods(&scene, &a).await;
        evicted.extend(known.difference(&now).cloned());
        known = now;
    }
    let reasons: Vec<_> = said.iter().map(|one| (one.workload.as_str(), one.reason.as_str())).collect();
    assert_eq!(reasons, [("Pod/bare", "NobodyMakesItAgain"), ("Deployment/web", "EscapedAgain")]);
    assert!((3..=5).contains(&evicted.len()), "{evicted:?}");
    assert!(evicted.iter().all(|pod| pod.starts_with("web")), "{evicted:?}");
    scene.remove().await;
}

/// The whole reconciler: a MeshConfig that wants restarts waits for approval where upgrades do, writes down what it is about
/// to do, and goes no further than it can see: here nobody answers for the sidecars.
#[tokio::test]
async fn the_operator_waits_for_approval_and_writes_down_what_it_does() {
    let scene = Scene::new("r-approval", &["a"]).await;
    let a = scene.namespaces[0].clone();
    scene.deployment(&a, "web", 3).await;
    let (before, _) = pods(&scene, &a).await;
    for pod in &before {
        escape(&scene, &a, pod).await;
    }
    let meshes: Api<MeshConfig> = Api::all(scene.client.clone());
    let merge = |value: Value| Patch::Merge(value);
    let wish = merge(json!({"spec": {"upgrade": {"restartUninjected": "Planned", "approval": "Manual"}}}));
    meshes.patch(&scene.mesh, &PatchParams::default(), &wish).await.unwrap();
    let says = async |reason: &str| {
        until(reason, || async {
            let said = scene.get_mesh().await.status.unwrap_or_default().restarts;
            match said.as_slice() {
                [one] if one.reason == reason && one.workload == "Deployment/web" => Ok(one.clone()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    };
    let waiting = says("AwaitingApproval").await;
    assert!(waiting.message.contains("meshwright.io/restart-uninjected=Approved"), "{}", waiting.message);
    assert_eq!((waiting.pods, waiting.since), (3, None));
    assert_eq!(pods(&scene, &a).await.0, before, "not before a person said so");
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let approve = merge(json!({"metadata": {"annotations": {labels::RESTART_UNINJECTED: "Approved"}}}));
    namespaces.patch(&a, &PatchParams::default(), &approve).await.unwrap();
    until("a pod to be restarted", || async {
        let (now, bare) = pods(&scene, &a).await;
        play(&scene, &a).await;
        if bare.len() == 2 && now.len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    let held = until("the new pod's sidecar to be waited for", || async {
        play(&scene, &a).await;
        let said = scene.get_mesh().await.status.unwrap_or_default().restarts;
        let held = said.first().filter(|one| one.reason == "SidecarNotInSync").cloned();
        held.ok_or_else(|| format!("{said:?}"))
    })
    .await;
    assert!(held.since.is_some() && !held.last.is_empty(), "{held:?}");
    assert_eq!(before.difference(&pods(&scene, &a).await.0).count(), 1);
    scene.remove().await;
}
