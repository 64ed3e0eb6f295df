//! The policy-source reconciler with real git repositories, over real smart HTTP, against a real API server.

use std::path::Path;

use crds::{MeshConfig, PolicySource, TrafficSplit, TrafficTarget, labels};
use k8s_openapi::api::core::v1::Event as CoreEvent;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::{namespace, until};

mod scene;

use scene::{Scene, ready, shown, split, target};

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_applied_sealed_and_pruned() {
    let scene = Scene::new("story").await;
    let target = target(&scene.namespace);
    let first = scene.tree.commit("first", &[("mesh/a.yaml", &target), ("mesh/b.yaml", &split(90))]);
    scene.follow().await;
    let source = scene.in_force(&first).await;
    let status = source.status.clone().unwrap();
    assert_eq!(status.attempted.unwrap().commit, first);
    assert_eq!(status.inventory.len(), 2);
    assert_eq!(status.applied.unwrap().subject, "first");
    let found = scene.api::<TrafficTarget>().get("buyer").await.unwrap();
    assert_eq!(found.labels()[labels::SOURCE], "gs-story.policies");
    assert_eq!(found.annotations()[labels::COMMIT], first);
    assert_eq!(found.annotations()[labels::FILE], "mesh/a.yaml:2");
    let sealed = status.inventory.iter().find(|entry| entry.kind == "TrafficTarget").unwrap();
    assert_eq!(
        sealed.hash,
        crds::seal::content_hash(&found.spec).unwrap(),
        "controllers must find the sealed hash"
    );

    // The unchanged object is not written again.
    let second = scene.tree.commit("second", &[("mesh/b.yaml", &split(50))]);
    scene.in_force(&second).await;
    assert_eq!(scene.weight().await, Some(50));
    let again = scene.api::<TrafficTarget>().get("buyer").await.unwrap();
    assert_eq!(again.resource_version(), found.resource_version());

    // What vanishes from Git vanishes from the cluster.
    scene.tree.git(&["rm", "-q", "mesh/b.yaml"]);
    let third = scene.tree.commit("third", &[]);
    scene.in_force(&third).await;
    scene.weight_is(None).await;

    // Deleting the source takes its objects with it.
    scene.remove("policies").await;
    assert!(scene.api::<TrafficTarget>().get_opt("buyer").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_commit_changes_nothing_and_says_file_line_and_reason() {
    let scene = Scene::new("bad").await;
    let good = scene.tree.commit("good", &[("mesh/b.yaml", &split(90))]);
    scene.follow().await;
    scene.in_force(&good).await;
    let broken = split(10).replace("weight: 10", "weight: ten");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    let deployment =
        format!("{}---\napiVersion: apps/v1\nkind: Deployment\n", split(1).replace("name: split", "name: x"));
    let cases = [
        ("not YAML", "a: [1\n", "mesh/x.yaml:"),
        ("a type", &broken, "mesh/x.yaml:9: TrafficSplit"),
        ("a Secret", secret, "mesh/x.yaml:2: Secret (v1) is not a policy"),
        ("a Deployment", &deployment, "mesh/x.yaml:12: Deployment (apps/v1) is not a policy"),
        ("another namespace", &target("default"), "is outside namespace gs-bad"),
        // Only the API server knows this one: a label that isn't one.
        (
            "a bad label",
            &split(5).replace("name: split", "name: y\n  labels: {team: 'a b'}"),
            "was refused by the API server",
        ),
    ];
    for (subject, text, words) in cases {
        let bad = scene.tree.commit(subject, &[("mesh/x.yaml", text), ("mesh/b.yaml", &split(1))]);
        let source = scene.refused("policies", "InvalidCommit", &[&bad[..12], words, "stays in force"]).await;
        let status = source.status.unwrap();
        assert_eq!(status.attempted.unwrap().commit, bad);
        assert_eq!(status.applied.unwrap().commit, good);
        assert_eq!(status.problems[0].file, "mesh/x.yaml", "{subject}");
        assert!(status.problems[0].line > 0, "{subject}");
        assert_eq!(scene.weight().await, Some(90), "{subject}: the good file of a bad commit was applied");
    }
    // While the commit is bad, what is sealed is still put back.
    scene.api::<TrafficSplit>().delete("split", &DeleteParams::default()).await.unwrap();
    scene.weight_is(Some(90)).await;
    let events: Api<CoreEvent> = scene.api();
    until("an Event", || async {
        let list = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let found = list.iter().any(|event| event.reason.as_deref() == Some("InvalidCommit"));
        if found { Ok(()) } else { Err("no Event".to_owned()) }
    })
    .await;
    scene.tree.git(&["rm", "-q", "mesh/x.yaml"]);
    let fixed = scene.tree.commit("fixed", &[("mesh/b.yaml", &split(70))]);
    scene.in_force(&fixed).await;
    assert_eq!(scene.weight().await, Some(70));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_edit_is_put_back() {
    let scene = Scene::new("drift").await;
    let commit = scene.tree.commit("one", &[("mesh/b.yaml", &split(90))]);
    scene.follow().await;
    scene.in_force(&commit).await;
    let splits = scene.api::<TrafficSplit>();
    let edit = |patch: Value| {
        let splits = splits.clone();
        async move {
            let by_hand = PatchParams { field_manager: Some("hand".into()), ..PatchParams::default() };
            splits.patch("split", &by_hand, &Patch::Merge(patch)).await.unwrap()
        }
    };
    edit(json!({"spec": {"backends": [{"service": "v1", "weight": 1}]}})).await;
    scene.weight_is(Some(90)).await;
    // A field that Git doesn't have and that another manager owns.
    edit(json!({"spec": {"matches": [{"kind": "HTTPRouteGroup", "name": "x"}]}})).await;
    until("the field to go", || async {
        let found = splits.get("split").await.map_err(|error| error.to_string())?;
        if found.spec.matches.is_none() { Ok(()) } else { Err(format!("{:?}", found.spec)) }
    })
    .await;
    // Without its label it would not count; and nobody must be able to take it out of the seal that way.
    edit(json!({"metadata": {"labels": {labels::SOURCE: null}}, "spec": {"service": "mine"}})).await;
    until("the label to come back", || async {
        let found = splits.get("split").await.map_err(|error| error.to_string())?;
        let good = found.labels().contains_key(labels::SOURCE) && found.spec.service == "bookstore";
        if good { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_made_is_not_taken_over() {
    let scene = Scene::new("others").await;
    let text = split(90).replace("name: split", "name: split\n  namespace: gs-others");
    let mut mine: TrafficSplit =
        gitops::yaml::documents(&text, gitops::yaml::Format::Yaml).unwrap()[0].read().unwrap();
    mine.spec.backends[0].weight = 3;
    scene.api::<TrafficSplit>().create(&PostParams::default(), &mine).await.unwrap();
    let commit = scene.tree.commit("one", &[("mesh/b.yaml", &split(90))]);
    scene.follow().await;
    scene.refused("policies", "InvalidCommit", &["mesh/b.yaml:1:", "already exists in the cluster"]).await;
    assert_eq!(scene.weight().await, Some(3));
    // Equal to Git, it is taken over.
    let patch = Patch::Merge(json!({"spec": {"backends": [{"service": "v1", "weight": 90}]}}));
    scene.api::<TrafficSplit>().patch("split", &PatchParams::default(), &patch).await.unwrap();
    scene.in_force(&commit).await;
    // A second source with the same object.
    scene.remove("rival").await;
    scene.source("rival", json!({"git": {"url": scene.url()}, "interval": "1s"})).await;
    scene.refused("rival", "InvalidCommit", &["belongs to PolicySource gs-others/policies"]).await;
    scene.remove("rival").await;
    assert_eq!(scene.weight().await, Some(90), "a rival that never applied anything prunes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_be_fetched_is_named() {
    let scene = Scene::new("fetch").await;
    let cases = [
        ("empty", scene.url(), "EmptyRepository: the repository is empty"),
        ("missing", format!("{}/none.git", scene.server.url), "RepositoryNotFound: there is no repository"),
        ("private", format!("{}/private/r.git", scene.server.url), "AuthenticationRequired"),
        ("elsewhere", format!("{}/elsewhere/r.git", scene.server.url), "Redirected"),
        ("dead", "http://127.0.0.1:1/r.git".to_owned(), "Unreachable"),
    ];
    for (name, url, words) in &cases {
        scene.remove(name).await;
        scene.source(name, json!({"git": {"url": url}, "interval": "1s"})).await;
        scene.refused(name, "FetchFailed", &[words]).await;
        scene.remove(name).await;
    }
    let invalid = [
        ("password", json!({"git": {"url": "https://me:hunter2@example.com/r"}}), "InvalidUrl"),
        ("local", json!({"git": {"url": "/etc"}}), "LocalPathForbidden"),
        ("interval", json!({"git": {"url": scene.url()}, "interval": "soon"}), "InvalidInterval"),
        ("outside", json!({"git": {"url": scene.url(), "path": "../.."}}), "InvalidPath"),
    ];
    for (name, spec, reason) in invalid {
        scene.remove(name).await;
        scene.source(name, spec).await;
        let source = scene.refused(name, reason, &[]).await;
        assert!(!shown(&source).contains("hunter2"));
        scene.remove(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_repository_leaves_what_is_sealed_in_force_and_put_back() {
    let scene = Scene::new("dead").await;
    let commit = scene.tree.commit("one", &[("mesh/b.yaml", &split(90))]);
    scene.follow().await;
    scene.in_force(&commit).await;
    std::fs::rename(scene.tree.path.join(".git"), scene.tree.path.join("gone")).unwrap();
    scene.refused("policies", "FetchFailed", &["RepositoryNotFound", &commit[..12], "stays in force"]).await;
    scene.api::<TrafficSplit>().delete("split", &DeleteParams::default()).await.unwrap();
    scene.weight_is(Some(90)).await;
    std::fs::rename(scene.tree.path.join("gone"), scene.tree.path.join(".git")).unwrap();
    scene.in_force(&commit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn suspend_and_prune_are_honoured() {
    let scene = Scene::new("switches").await;
    let first =
        scene.tree.commit("one", &[("mesh/a.yaml", &target("gs-switches")), ("mesh/b.yaml", &split(90))]);
    scene.follow().await;
    scene.in_force(&first).await;
    let sources = scene.api::<PolicySource>();
    let patch = |spec: Value| Patch::Merge(json!({"spec": spec}));
    sources.patch("policies", &PatchParams::default(), &patch(json!({"suspend": true}))).await.unwrap();
    until("suspension", || async {
        let source = scene.read("policies").await;
        if ready(&source).2.starts_with("suspended") { Ok(()) } else { Err(shown(&source)) }
    })
    .await;
    let second = scene.tree.commit("two", &[("mesh/b.yaml", &split(50))]);
    let off = patch(json!({"suspend": false, "prune": false}));
    assert_eq!(scene.read("policies").await.status.unwrap().attempted.unwrap().commit, first);
    sources.patch("policies", &PatchParams::default(), &off).await.unwrap();
    scene.in_force(&second).await;
    // Not pruned, but not in the seal either.
    scene.tree.git(&["rm", "-q", "mesh/b.yaml"]);
    let third = scene.tree.commit("three", &[]);
    let source = scene.in_force(&third).await;
    assert_eq!(source.status.unwrap().inventory.len(), 1);
    // The source is deleted while it is suspended and what it sealed has been edited: that is its author's from now on. What
    // had vanished from Git stays the source's, or it would count again.
    sources.patch("policies", &PatchParams::default(), &patch(json!({"suspend": true}))).await.unwrap();
    until("suspension", || async {
        let source = scene.read("policies").await;
        if ready(&source).2.starts_with("suspended") { Ok(()) } else { Err(shown(&source)) }
    })
    .await;
    let targets = scene.api::<TrafficTarget>();
    let edit =
        json!({"spec": {"sources": [{"kind": "ServiceAccount", "name": "me", "namespace": "gs-switches"}]}});
    targets.patch("buyer", &PatchParams::default(), &Patch::Merge(edit)).await.unwrap();
    scene.remove("policies").await;
    let left = targets.get("buyer").await.unwrap();
    assert_eq!(left.spec.sources[0].name, "me");
    assert!(!left.labels().contains_key(labels::SOURCE), "{:?}", left.metadata);
    assert!(!left.annotations().contains_key(labels::COMMIT), "{:?}", left.metadata);
    let vanished = scene.api::<TrafficSplit>().get("split").await.unwrap();
    assert_eq!(vanished.spec.backends[0].weight, 50);
    assert_eq!(vanished.labels()[labels::SOURCE], "gs-switches.policies");
}

/// A mesh whose control plane is in the scene's namespace, and of the same name, with one member.
async fn mesh_in(scene: &Scene, member: &str) -> Api<MeshConfig> {
    let name = &scene.namespace;
    let meshes: Api<MeshConfig> = Api::all(scene.client.clone());
    // A release that nobody knows: the control plane is not what is tested.
    let spec = json!({"version": "9.9.9", "namespace": name});
    let mesh = json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": name}, "spec": spec});
    meshes.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(mesh)).await.unwrap();
    namespace(&scene.client, member).await;
    let label = Patch::Merge(json!({"metadata": {"labels": {labels::MESH: name}}}));
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    namespaces.patch(member, &PatchParams::default(), &label).await.unwrap();
    meshes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_source_reaches_the_namespaces_of_its_mesh_only() {
    let scene = Scene::new("platform").await;
    let meshes = mesh_in(&scene, "gs-inside").await;
    namespace(&scene.client, "gs-outside").await;
    let bad =
        scene.tree.commit("one", &[("a.yaml", &target("gs-inside")), ("b.yaml", &target("gs-outside"))]);
    // A control plane's namespace may use the operator's own file system.
    let url: &Path = &scene.tree.path;
    scene.source("policies", json!({"git": {"url": url}, "interval": "1s"})).await;
    let words = ["b.yaml:4:", "gs-outside/buyer is in a namespace that is not part of the mesh"];
    scene.refused("policies", "InvalidCommit", &[&bad[..12], words[0], words[1]]).await;
    scene.tree.git(&["rm", "-q", "b.yaml"]);
    let good = scene.tree.commit("two", &[]);
    scene.in_force(&good).await;
    let inside: Api<TrafficTarget> = Api::namespaced(scene.client.clone(), "gs-inside");
    assert_eq!(inside.get("buyer").await.unwrap().labels()[labels::SOURCE], "gs-platform.policies");
    scene.remove("policies").await;
    assert!(inside.get_opt("buyer").await.unwrap().is_none());
    meshes.delete("gs-platform", &DeleteParams::default()).await.unwrap();
}

/// Who deletes the control plane's namespace says nothing about policies, whoever goes first, the source or the operator.
#[tokio::test(flavor = "multi_thread")]
async fn policies_outlive_the_namespace_of_the_control_plane() {
    let scene = Scene::new("lost").await;
    let meshes = mesh_in(&scene, "gs-lost-shop").await;
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    let commit = scene.tree.commit("one", &[("a.yaml", &target("gs-lost-shop"))]);
    let url: &Path = &scene.tree.path;
    scene.source("policies", json!({"git": {"url": url}, "interval": "1s"})).await;
    scene.in_force(&commit).await;
    let shop: Api<TrafficTarget> = Api::namespaced(scene.client.clone(), "gs-lost-shop");
    let before = shop.get("buyer").await.unwrap();
    namespaces.delete(&scene.namespace, &DeleteParams::default()).await.unwrap();
    gone(&namespaces, &scene.namespace).await;
    let after = shop.get_opt("buyer").await.unwrap().expect("the policy stays in force");
    assert_eq!(after.resource_version(), before.resource_version(), "nobody touched it");
    meshes.delete("gs-lost", &DeleteParams::default()).await.unwrap();
    namespaces.delete("gs-lost-shop", &DeleteParams::default()).await.unwrap();
}

async fn gone(namespaces: &Api<Namespace>, name: &str) {
    until("the namespace to go", || async {
        match namespaces.get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_with_a_source_can_be_deleted() {
    let scene = Scene::new("leaving").await;
    let commit = scene.tree.commit("one", &[("mesh/b.yaml", &split(90))]);
    scene.follow().await;
    scene.in_force(&commit).await;
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    namespaces.delete(&scene.namespace, &DeleteParams::default()).await.unwrap();
    gone(&namespaces, &scene.namespace).await;
}
