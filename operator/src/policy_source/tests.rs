//! What a pass writes when something goes wrong in the middle of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use gitops::git::Fetched;
use gitops::worker::Program;
use gitops::{Commit, RepoPath};
use kube::runtime::reflector::store;
use serde_json::{Value, json};

use super::*;
use crate::testing::{self, ApiServer};

const SOURCE: &str = "/apis/meshwright.io/v1alpha1/namespaces/team/policysources/policies";
const SPLIT: &str = "/apis/split.smi-spec.io/v1alpha4/namespaces/team/trafficsplits/a";
const TARGET: &str = "/apis/access.smi-spec.io/v1alpha3/namespaces/team/traffictargets/buyer";

/// A team's source in a simulated cluster; what its repository holds is remembered, so that nothing is fetched.
struct Scene {
    server: ApiServer,
    reconciler: Reconciler,
}

fn text(weight: i32) -> String {
    format!(
        "apiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {{name: a}}\n\
         spec: {{service: s, backends: [{{service: v1, weight: {weight}}}]}}\n"
    )
}

fn target() -> String {
    "---\napiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\nmetadata: {name: buyer}\nspec:\n  \
     destination: {kind: ServiceAccount, name: store, namespace: team}\n  \
     sources: [{kind: ServiceAccount, name: buyer, namespace: team}]\n"
        .to_owned()
}

impl Scene {
    fn new() -> Self {
        Self::with_git(Program::at("/does/not/exist"))
    }

    fn with_git(program: Program) -> Self {
        let server = ApiServer::default();
        let ctx = testing::with_git(&server, program);
        let fetching = Fetching::new(&ctx, std::env::temp_dir());
        let (sources, _) = store();
        let reconciler = Reconciler { ctx, fetching, memories: Memories::default(), sources };
        Self { server, reconciler }
    }

    fn id(&self) -> Id {
        ("team".to_owned(), "policies".to_owned())
    }

    /// The source follows this commit now.
    fn commit(&self, letter: &str, text: &str) {
        let id = letter.repeat(40);
        let spec = json!({"git": {"url": "https://8.8.8.8/r", "ref": {"commit": id}}, "prune": true});
        let mut source = self.server.get(SOURCE).unwrap_or_else(|| {
            json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "PolicySource", "metadata":
                {"name": "policies", "namespace": "team", "finalizers": [finalize::FINALIZER]}})
        });
        source["spec"] = spec;
        self.server.put(SOURCE, source.clone());
        let source: PolicySource = serde_json::from_value(source).unwrap();
        let place = Source::new(&source.spec.git).unwrap();
        let files = BTreeMap::from([(RepoPath::new("a.yaml").unwrap(), text.to_owned())]);
        let commit = Commit { id, subject: String::new(), time: String::new() };
        let fetched = Fetched { commit, seconds: 0, files, problems: Vec::new() };
        self.reconciler
            .memories
            .change(&self.id(), |memory| memory.fetched = Some((place, Arc::new(fetched))));
    }

    async fn pass(&self) -> Result<Action, ClusterError> {
        let source: PolicySource = serde_json::from_value(self.server.get(SOURCE).unwrap()).unwrap();
        self.reconciler.reconcile(&source, &self.id()).await
    }

    fn status(&self) -> Value {
        self.server.get(SOURCE).unwrap()["status"].clone()
    }

    fn ready(&self) -> (String, String) {
        let status = self.status();
        let conditions = status["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
        let text = |key: &str| ready[key].as_str().unwrap().to_owned();
        (text("reason"), text("message"))
    }

    fn applied(&self) -> String {
        self.status()["applied"]["commit"].as_str().unwrap_or_default().chars().take(1).collect()
    }
}

#[tokio::test]
async fn a_seal_outlives_what_fails_after_it() {
    let scene = Scene::new();
    scene.commit("a", &(text(1) + &target()));
    scene.pass().await.unwrap();
    assert_eq!(scene.applied(), "a");
    // The permission is taken back; deleting the object fails.
    scene.commit("b", &text(1));
    scene.server.fail(|method, _| *method == http::Method::DELETE);
    scene.pass().await.unwrap_err();
    let status = scene.status();
    assert_eq!(scene.applied(), "b", "the old inventory was written over the new seal");
    assert_eq!(status["inventory"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(scene.ready().0, "ApplyFailed");
    assert!(scene.ready().1.contains("bbbbbbbbbbbb stays in force"), "{}", scene.ready().1);
    scene.server.fail(|_, _| false);
    scene.pass().await.unwrap();
    assert_eq!((scene.ready().0.as_str(), scene.server.get(TARGET)), ("Succeeded", None));
}

#[tokio::test]
async fn what_is_stored_otherwise_than_meant_is_named_and_not_fought_over() {
    let scene = Scene::new();
    scene.commit("a", &text(1));
    scene.pass().await.unwrap();
    // A webhook comes that changes what it is given, for new content and for what is put back.
    scene.server.admit(|object| {
        if object["kind"] == "TrafficSplit" {
            object["spec"]["backends"][0]["weight"] = json!(99);
        }
    });
    scene.commit("b", &text(2));
    scene.pass().await.unwrap();
    let (reason, message) = scene.ready();
    assert_eq!((reason.as_str(), scene.applied().as_str()), ("ContentChanged", "a"), "{message}");
    assert!(
        message.contains("TrafficSplit team/a") && message.contains("`spec.backends[0].weight`"),
        "{message}"
    );
    assert_eq!(scene.server.get(SPLIT).unwrap()["spec"]["backends"][0]["weight"], 1, "only tried");
    // Back at the sealed commit, with a hand edit to be put back: tried once, not at each look.
    scene.commit("a", &text(1));
    let mut edited = scene.server.get(SPLIT).unwrap();
    edited["spec"]["backends"][0]["weight"] = json!(5);
    scene.server.put(SPLIT, edited);
    scene.pass().await.unwrap();
    assert_eq!(scene.ready().0, "ContentChanged");
    scene.server.writes();
    for _ in 0..5 {
        scene.pass().await.unwrap();
    }
    assert_eq!(scene.server.writes(), Vec::<String>::new(), "it goes on writing");
    // The webhook is gone: after a while the object is tried again.
    scene.server.admit(|_| ());
    scene.reconciler.memories.change(&scene.id(), |memory| {
        memory.altered.values_mut().for_each(|altered| altered.since = Instant::now() - SLOWEST);
    });
    scene.pass().await.unwrap();
    assert_eq!(scene.ready().0, "Succeeded");
}

#[tokio::test]
async fn an_object_that_another_source_takes_meanwhile_stays_its() {
    let theirs = |weight: i32| {
        json!({"apiVersion": "split.smi-spec.io/v1alpha4", "kind": "TrafficSplit", "metadata": {"name": "a",
            "namespace": "team", "labels": {crds::labels::SOURCE: "team.other"}, "resourceVersion": "900", "uid": "x"},
            "spec": {"service": "s", "backends": [{"service": "v1", "weight": weight}]}})
    };
    let scene = Scene::new();
    let other = SOURCE.replace("/policies", "/other");
    scene.server.put(
        &other,
        json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "PolicySource",
        "metadata": {"name": "other", "namespace": "team"}, "spec": {"git": {"url": "https://h/r"}}}),
    );
    // It was not there when it was looked for.
    scene.commit("a", &text(1));
    scene.server.meanwhile("/trafficsplits/a", move |objects| {
        objects.insert(SPLIT.to_owned(), theirs(50));
    });
    assert!(matches!(scene.pass().await, Err(ClusterError::Raced(_))));
    assert_eq!(scene.server.get(SPLIT).unwrap()["spec"]["backends"][0]["weight"], 50);
    scene.pass().await.unwrap();
    assert!(scene.ready().1.contains("belongs to PolicySource team/other"), "{}", scene.ready().1);
    // It was ours when it was looked at.
    scene.server.remove(SPLIT);
    scene.pass().await.unwrap();
    assert_eq!(scene.applied(), "a");
    scene.commit("b", &text(2));
    scene.server.meanwhile("/trafficsplits/a", move |objects| {
        objects.insert(SPLIT.to_owned(), theirs(60));
    });
    assert!(matches!(scene.pass().await, Err(ClusterError::Raced(_))));
    assert_eq!(scene.server.get(SPLIT).unwrap()["spec"]["backends"][0]["weight"], 60);
    assert_eq!(scene.applied(), "a");
}

#[tokio::test]
async fn a_pruned_object_is_the_one_that_was_looked_at() {
    let scene = Scene::new();
    scene.commit("a", &(text(1) + &target()));
    scene.pass().await.unwrap();
    scene.commit("b", &text(1));
    // Between the look and the deletion somebody else takes the object over.
    scene.server.meanwhile("/traffictargets/buyer", |objects| {
        let object = objects.get_mut(TARGET).unwrap();
        object["metadata"]["labels"][crds::labels::SOURCE] = json!("team.other");
        object["metadata"]["resourceVersion"] = json!("901");
    });
    scene.pass().await.unwrap();
    assert!(scene.server.get(TARGET).is_some());
}

#[tokio::test]
async fn a_source_of_a_later_term_is_left_alone() {
    let scene = Scene::new();
    scene.commit("a", &text(1));
    scene.pass().await.unwrap();
    assert_eq!(scene.status()["leaderTerm"], 7);
    // A leader that comes later says so before it does anything else.
    let mut source = scene.server.get(SOURCE).unwrap();
    source["status"]["leaderTerm"] = json!(6);
    scene.server.put(SOURCE, source.clone());
    scene.server.writes();
    scene.pass().await.unwrap();
    assert_eq!(scene.server.writes(), [format!("PATCH {SOURCE}/status")]);
    // One of an earlier term writes nothing.
    source["status"]["leaderTerm"] = json!(8);
    scene.server.put(SOURCE, source);
    scene.commit("b", &text(2));
    scene.server.writes();
    scene.pass().await.unwrap_err();
    assert_eq!(scene.server.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_line_that_is_inserted_rewrites_no_object_after_it() {
    let scene = Scene::new();
    scene.commit("a", &text(1));
    scene.pass().await.unwrap();
    let before = scene.server.get(SPLIT);
    scene.commit("b", &format!("# why\n{}", text(1)));
    scene.pass().await.unwrap();
    assert_eq!(scene.applied(), "b");
    assert_eq!(scene.server.get(SPLIT), before);
}

impl Scene {
    /// Writes into the source, as a person would.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut source = self.server.get(SOURCE).unwrap();
        change(&mut source);
        self.server.put(SOURCE, source);
    }

    fn source_of(&self, path: &str) -> Option<String> {
        let object = self.server.get(path).unwrap();
        object["metadata"]["labels"][crds::labels::SOURCE].as_str().map(str::to_owned)
    }

    fn finalizers(&self) -> Value {
        self.server.get(SOURCE).unwrap()["metadata"]["finalizers"].clone()
    }
}

/// `prune: false`, killed after any write: what the seal lists is its author's in the end, whatever it holds by then; what
/// had vanished from Git before stays the source's and counts for nothing.
#[tokio::test]
async fn a_deleted_source_that_does_not_prune_lets_its_objects_go() {
    let vanished = TARGET.replace("/buyer", "/gone");
    for killed_at in 0.. {
        let scene = Scene::new();
        scene.commit("a", &(text(1) + &target() + &target().replace("name: buyer", "name: gone")));
        scene.edit(|source| source["spec"]["prune"] = json!(false));
        scene.pass().await.unwrap();
        scene.commit("b", &(text(1) + &target()));
        scene.edit(|source| source["spec"]["prune"] = json!(false));
        scene.pass().await.unwrap();
        assert_eq!(scene.finalizers(), json!([finalize::FINALIZER]), "it would go before its objects");
        let mut edited = scene.server.get(SPLIT).unwrap();
        edited["spec"]["backends"][0]["weight"] = json!(5);
        scene.server.put(SPLIT, edited);
        scene.edit(|source| source["metadata"]["deletionTimestamp"] = json!(Timestamp::now().to_string()));
        let mut writes = 0;
        scene.server.fail(move |method, _| {
            writes += usize::from(*method != http::Method::GET);
            writes > killed_at
        });
        let died = scene.pass().await.is_err();
        assert!(!died || scene.finalizers() == json!([finalize::FINALIZER]), "{killed_at}");
        scene.server.fail(|_, _| false);
        scene.pass().await.unwrap();
        assert_eq!((scene.source_of(SPLIT), scene.source_of(TARGET)), (None, None), "{killed_at}");
        assert_eq!(scene.server.get(SPLIT).unwrap()["spec"]["backends"][0]["weight"], 5);
        assert_eq!(scene.server.get(TARGET).unwrap()["metadata"]["annotations"], json!({}));
        assert_eq!(scene.source_of(&vanished).as_deref(), Some("team.policies"));
        assert_eq!(scene.finalizers(), json!([]));
        if !died {
            assert_eq!(killed_at, 3, "two labels and the finalizer");
            break;
        }
    }
}

#[tokio::test]
async fn an_object_that_another_source_took_keeps_its_label_when_ours_goes() {
    let scene = Scene::new();
    scene.commit("a", &text(1));
    scene.pass().await.unwrap();
    scene.edit(|source| {
        source["spec"]["prune"] = json!(false);
        source["metadata"]["deletionTimestamp"] = json!(Timestamp::now().to_string());
    });
    // Between the look and the write.
    scene.server.meanwhile("/trafficsplits/a", |objects| {
        let object = objects.get_mut(SPLIT).unwrap();
        object["metadata"]["labels"][crds::labels::SOURCE] = json!("team.other");
        object["metadata"]["resourceVersion"] = json!("901");
    });
    assert!(matches!(scene.pass().await, Err(ClusterError::Raced(_))));
    scene.pass().await.unwrap();
    assert_eq!((scene.source_of(SPLIT).as_deref(), scene.finalizers()), (Some("team.other"), json!([])));
}

#[tokio::test]
async fn a_suspended_source_has_the_finalizer_too() {
    let scene = Scene::new();
    scene.commit("a", &text(1));
    scene.edit(|source| {
        source["metadata"]["finalizers"] = json!(["team/theirs"]);
        source["spec"]["suspend"] = json!(true);
        source["spec"]["prune"] = json!(false);
    });
    scene.pass().await.unwrap();
    assert_eq!(scene.finalizers(), json!(["team/theirs", finalize::FINALIZER]));
    assert!(scene.ready().1.starts_with("suspended"));
}

/// A commit that is not applied, an edit by hand, and an operator that began after the sealed commit: Git is asked for its
/// whole history once, not at each interval.
#[tokio::test]
async fn an_invalid_commit_and_an_edit_do_not_ask_for_all_of_history_again_and_again() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (program, asked) = (folder.path().join("git"), folder.path().join("asked"));
    std::fs::write(&program, format!("#!/bin/sh\necho >> {}\nexit 1\n", asked.display())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let scene = Scene::with_git(Program::at(&program));
    scene.commit("a", &text(1));
    scene.pass().await.unwrap();
    scene.commit("b", "kind: [");
    scene.reconciler.memories.change(&scene.id(), |memory| memory.sealed = None);
    let mut edited = scene.server.get(SPLIT).unwrap();
    edited["spec"]["backends"][0]["weight"] = json!(5);
    scene.server.put(SPLIT, edited);
    for _ in 0..5 {
        scene.pass().await.unwrap();
        assert_eq!((scene.applied().as_str(), scene.ready().0.as_str()), ("a", "InvalidCommit"));
    }
    assert_eq!(std::fs::read_to_string(&asked).unwrap_or_default().lines().count(), 1);
    // After a while it is looked for again.
    scene.reconciler.memories.change(&scene.id(), |memory| {
        let lost = memory.lost.as_mut().unwrap();
        lost.1 = Instant::now() - SLOWEST;
    });
    scene.pass().await.unwrap();
    assert_eq!(std::fs::read_to_string(&asked).unwrap().lines().count(), 2);
}
