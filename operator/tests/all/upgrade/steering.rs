//! A person steers an upgrade: approves, pauses, and has waves watched.

use super::*;

/// How long a wave is watched here, in seconds.
const SOAK: i64 = 4;

impl Scene {
    async fn steer(&self, spec: Value) {
        let records: Api<MeshUpgrade> = Api::all(self.client.clone());
        let patch: Patch<Value> = Patch::Merge(json!({"spec": spec}));
        records.patch(&self.record_name(), &PatchParams::default(), &patch).await.unwrap();
    }

    /// Passes go on and nothing moves: neither a namespace nor a pod.
    async fn stands_still(&self) {
        let look = async || {
            let mut seen = Vec::new();
            for namespace in &self.namespaces {
                seen.push((self.revision(namespace).await, self.ready(namespace, "web").await));
            }
            seen
        };
        let before = look().await;
        for _ in 0..5 {
            self.pass().await;
            self.play().await;
            assert_eq!(look().await, before, "{:#?}", self.status().await);
        }
    }

    async fn pass_until(&self, what: &str, is: impl AsyncFn(&Self) -> bool) {
        until(what, || async {
            self.pass().await;
            self.play().await;
            if is(self).await { Ok(()) } else { Err(format!("{:#?}", self.status().await)) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_person_approves_and_pauses_and_each_wave_is_watched_before_the_next() {
    let scene = Scene::new("u-steer", &["a", "b"]).await;
    let (a, b) = (scene.namespaces[0].clone(), scene.namespaces[1].clone());
    for namespace in [&a, &b] {
        scene.deployment(namespace, "web", 2).await;
        scene.budget(namespace, "web", 1).await;
    }
    // By name a would be first.
    let upgrade = json!({
        "approval": "Manual", "soak": format!("{SOAK}s"),
        "waves": [{"name": "canary", "namespaces": [b]}, {"name": "rest", "namespaces": [a]}],
    });
    let patch = Patch::Merge(json!({"spec": {"upgrade": upgrade}}));
    let meshes: Api<MeshConfig> = Api::all(scene.client.clone());
    meshes.patch(&scene.mesh, &PatchParams::default(), &patch).await.unwrap();
    scene.want("0.2.0").await;

    scene
        .pass_until("the question", async |scene| {
            scene.status().await.phase == Some(UpgradePhase::AwaitingApproval)
        })
        .await;
    let asked = scene.status().await;
    assert!(asked.waiting_on.contains("spec.approved"), "{}", asked.waiting_on);
    scene.stands_still().await;

    scene.steer(json!({"approved": true, "paused": true})).await;
    scene
        .pass_until("the pause", async |scene| scene.status().await.phase == Some(UpgradePhase::Paused))
        .await;
    let paused = scene.status().await;
    assert!(paused.waiting_on.contains("spec.paused"), "{}", paused.waiting_on);
    scene.stands_still().await;

    scene.steer(json!({"paused": false})).await;
    let whole = BTreeMap::from([("0.2.0".to_owned(), 2)]);
    scene
        .pass_until("the first wave", async |scene| {
            let first = scene.ready(&b, "web").await;
            let second = scene.revision(&a).await;
            assert!(first == whole || second.as_deref() == Some("0.1.0"), "{second:?} before {first:?}");
            first == whole
        })
        .await;
    scene
        .pass_until("the second wave", async |scene| {
            let watched = scene.status().await.soaks.iter().find(|soak| soak.wave == "canary").cloned();
            let seconds = watched.and_then(|soak| soak.watched_seconds).unwrap_or_default();
            let moves = scene.revision(&a).await.as_deref() == Some("0.2.0");
            assert!(!moves || seconds >= SOAK, "the second wave begins after {seconds} s of {SOAK}");
            moves
        })
        .await;
    // A pause in the middle of a wave: what was begun may end, and nothing else begins.
    scene.steer(json!({"paused": true})).await;
    scene
        .pass_until("the second pause", async |scene| {
            scene.status().await.phase == Some(UpgradePhase::Paused)
        })
        .await;
    scene
        .pass_until("what was begun to end", async |scene| {
            let (first, second) = (scene.ready(&b, "web").await, scene.ready(&a, "web").await);
            first == whole && second.values().sum::<usize>() == 2
        })
        .await;
    scene.stands_still().await;
    scene.steer(json!({"paused": false})).await;
    scene.run(UpgradePhase::Complete, async |_| {}).await;
    assert_eq!(scene.ready(&a, "web").await, whole);
    scene.remove().await;
}
