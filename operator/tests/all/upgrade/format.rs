//! Pods with two slots: in place where the new release knows their format, anew where it does not.

use std::collections::BTreeSet;

use super::*;

/// Two releases write pods of one format, so the sidecars of such pods are swapped while the app runs on; pods of a format
/// that the new release does not know are made anew.
#[tokio::test]
async fn pods_of_a_known_format_are_swapped_in_place_and_others_are_made_anew() {
    let scene = Scene::new("u-format", &["a"]).await;
    let a = scene.namespaces[0].clone();
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let hot = json!({"metadata": {"annotations": {labels::UPGRADE_STRATEGY: "HotSwap"}}});
    namespaces.patch(&a, &PatchParams::default(), &Patch::Merge(hot)).await.unwrap();
    scene.slotted(&a, "known", 2, "1").await;
    scene.slotted(&a, "other", 2, "7").await;
    let uids = async |app: &str| {
        let pods = scene.pods(&a).await.into_iter();
        let live = pods.filter(|pod| pod.labels()["app"] == app && pod.metadata.deletion_timestamp.is_none());
        live.map(|pod| pod.uid().unwrap()).collect::<BTreeSet<_>>()
    };
    let (known, other) = (uids("known").await, uids("other").await);
    scene.want("0.2.0").await;
    scene.run(UpgradePhase::Complete, async |_| {}).await;
    for app in ["known", "other"] {
        assert_eq!(scene.ready(&a, app).await, BTreeMap::from([("0.2.0".to_owned(), 2)]));
    }
    assert_eq!(uids("known").await, known, "an app was restarted");
    assert!(uids("other").await.is_disjoint(&other));
    for pod in scene.pods(&a).await.iter().filter(|pod| pod.labels()["app"] == "known") {
        assert_eq!(pod.annotations()[labels::LIVE_SLOT], "b");
        let containers = &pod.spec.as_ref().unwrap().containers;
        let image =
            |name: &str| containers.iter().find(|one| one.name == name).unwrap().image.clone().unwrap();
        assert_eq!(image(labels::PROXY_CONTAINER), "proxy:0.1.0", "the old one drains");
        assert!(image(labels::PROXY_CONTAINER_B).ends_with(":0.2.0"), "{}", image(labels::PROXY_CONTAINER_B));
    }
    let steps = scene.status().await.steps;
    let step =
        |app: &str| steps.iter().find(|step| step.id == format!("workload/{a}/Deployment/{app}")).unwrap();
    assert!(step("known").step.contains("in place, one pod at a time"), "{}", step("known").step);
    assert!(step("other").step.contains("by eviction"), "{}", step("other").step);
    scene.remove().await;
}
