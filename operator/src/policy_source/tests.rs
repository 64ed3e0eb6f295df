//! What a pass writes when something goes wrong in the middle of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use gitops::git::Fetched;
use gitops::worker::{Addresses, Program};
use gitops::{Commit, RepoPath};
use kube::runtime::reflector::store;
use prometheus_client::registry::Registry;
use runtime::lease::Mandate;
use runtime::shutdown::Shutdown;
use serde_json::{Value, json};

use super::*;
use crate::context::{Git, Settings as Given};
use crate::testing::ApiServer;

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
        let server = ApiServer::default();
        let given = Given {
            namespace: "system".into(),
            image_prefix: String::new(),
            catalogue: upgrades::Catalogue::embedded(),
            cluster_domain: "cluster.local".into(),
            pod: None,
            git: Git { program: Program::at("/does/not/exist"), addresses: Addresses::default() },
        };
        let mandate = Mandate::unlimited(7);
        let ctx =
            Context::new(server.client(), mandate, given, &mut Registry::default(), Shutdown::default());
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
        let spec = json!({"git": {"url": "https://git.example/r", "ref": {"commit": id}}, "prune": true});
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
