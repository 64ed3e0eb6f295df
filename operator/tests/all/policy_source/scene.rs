//! A namespace, a repository, a git server and a source, and what a test wants to know of them.

use crds::{PolicySource, TrafficSplit, TrafficTarget};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::cluster::{namespace, until, with_operator};

#[path = "../../../../gitops/tests/all/git_server.rs"]
mod git_server;
#[path = "../../../../gitops/tests/all/work_tree.rs"]
mod work_tree;

use git_server::GitServer;
use work_tree::WorkTree;

/// A namespace, a repository and a source that follows it.
pub struct Scene {
    pub client: Client,
    pub namespace: String,
    pub tree: WorkTree,
    pub server: GitServer,
    _folder: tempfile::TempDir,
}

impl Scene {
    pub async fn new(name: &str) -> Self {
        let client = with_operator().await;
        let folder = tempfile::tempdir().expect("the API server and git work");
        let tree = WorkTree::init(&folder.path().join("r"));
        let server = GitServer::start(folder.path());
        let name = format!("gs-{name}");
        namespace(&client, &name).await;
        let scene = Self { client, namespace: name, tree, server, _folder: folder };
        scene.remove("policies").await;
        let everything = ListParams::default();
        let (targets, splits) = (scene.api::<TrafficTarget>(), scene.api::<TrafficSplit>());
        targets
            .delete_collection(&DeleteParams::default(), &everything)
            .await
            .expect("the API server and git work");
        splits
            .delete_collection(&DeleteParams::default(), &everything)
            .await
            .expect("the API server and git work");
        scene
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn url(&self) -> String {
        format!("{}/r/.git", self.server.url)
    }

    pub async fn source(&self, name: &str, spec: Value) {
        let source =
            PolicySource::new(name, serde_json::from_value(spec).expect("the API server and git work"));
        self.api::<PolicySource>()
            .create(&PostParams::default(), &source)
            .await
            .expect("the API server and git work");
    }

    /// The usual source.
    pub async fn follow(&self) {
        self.source("policies", json!({"git": {"url": self.url(), "path": "mesh"}, "interval": "1s"})).await;
    }

    pub async fn remove(&self, name: &str) {
        let sources = self.api::<PolicySource>();
        let _ = sources.delete(name, &DeleteParams::default()).await;
        until("the source to go", || async {
            match sources.get_opt(name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    pub async fn read(&self, name: &str) -> PolicySource {
        self.api::<PolicySource>().get(name).await.expect("the API server and git work")
    }

    pub async fn in_force(&self, commit: &str) -> PolicySource {
        until("the commit to be in force", || async {
            let source = self.read("policies").await;
            let applied =
                source.status.as_ref().and_then(|status| status.applied.clone()).unwrap_or_default();
            if applied.commit == commit && ready(&source).0 == "True" {
                Ok(source)
            } else {
                Err(shown(&source))
            }
        })
        .await
    }

    /// Waits for `Ready: False` with that reason and these words in the message.
    pub async fn refused(&self, name: &str, reason: &str, words: &[&str]) -> PolicySource {
        until(reason, || async {
            let source = self.read(name).await;
            let (status, found, message) = ready(&source);
            let fits =
                status == "False" && found == reason && words.iter().all(|word| message.contains(word));
            if fits { Ok(source) } else { Err(shown(&source)) }
        })
        .await
    }

    pub async fn weight(&self) -> Option<i32> {
        let split =
            self.api::<TrafficSplit>().get_opt("split").await.expect("the API server and git work")?;
        Some(split.spec.backends[0].weight)
    }

    pub async fn weight_is(&self, expected: Option<i32>) {
        until("the weight", || async {
            let found = self.weight().await;
            if found == expected { Ok(()) } else { Err(format!("{found:?}, not {expected:?}")) }
        })
        .await;
    }
}

pub fn ready(source: &PolicySource) -> (String, String, String) {
    let conditions = source.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    ready.map(|ready| (ready.status, ready.reason, ready.message)).unwrap_or_default()
}

pub fn shown(source: &PolicySource) -> String {
    serde_json::to_string(&source.status).expect("the API server and git work")
}

pub fn split(weight: i32) -> String {
    format!(
        "apiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata:\n  name: split\nspec:\n  \
         service: bookstore\n  backends:\n  - service: v1\n    weight: {weight}\n"
    )
}

pub fn target(namespace: &str) -> String {
    format!(
        "# who may call\napiVersion: access.smi-spec.io/v1alpha3\nkind: TrafficTarget\nmetadata: {{name: buyer, namespace: \
         {namespace}}}\nspec:\n  destination: {{kind: ServiceAccount, name: bookstore, namespace: {namespace}}}\n  \
         sources: [{{kind: ServiceAccount, name: buyer, namespace: {namespace}}}]\n"
    )
}
