//! A namespace that is being deleted and holds a source, against a real API server.

use std::time::{Duration, Instant};

use crds::{PolicySource, labels};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{ALONE, INSTALL, clean, client, stderr, with_cluster};
use crate::stdout;
use crate::verbs::BOOKS;

/// The source of a team whose operator runs elsewhere is that operator's to let go: it takes back what came from Git.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_operator_runs_elsewhere_is_left_to_it() {
    let _alone = ALONE.lock().await;
    let client = client().await;
    clean(&client).await;
    stdout(&with_cluster(&INSTALL).output().unwrap());
    // Nobody runs it here, and that is the bad day: an operator that starts.
    let pods: Api<Pod> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let of_operators = ListParams::default().labels(&format!("{}={}", labels::NAME, labels::OPERATOR));
    let deadline = Instant::now() + Duration::from_secs(60);
    while pods.list(&of_operators).await.unwrap().items.is_empty() {
        assert!(Instant::now() < deadline, "no pod was made of the operator's Deployment");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let team = serde_json::from_value(json!({"metadata": {"name": BOOKS}})).unwrap();
    namespaces.create(&Default::default(), &team).await.unwrap();
    let sources: Api<PolicySource> = Api::namespaced(client.clone(), BOOKS);
    let git = json!({"git": {"url": "https://git.example.org/policies.git"}});
    let mut source = PolicySource::new("policies", serde_json::from_value(git).unwrap());
    source.metadata.finalizers = Some(vec![labels::SOURCE_FINALIZER.to_owned()]);
    sources.create(&Default::default(), &source).await.unwrap();
    namespaces.delete(BOOKS, &Default::default()).await.unwrap();

    let there = ["install", "--mesh", "books", "--namespace", BOOKS, "--wait=false", "--timeout", "2s"];
    let refused = stderr(&with_cluster(&there).output().unwrap());
    assert!(refused.contains("the operator in meshwright-system is waited for"), "{refused}");
    assert!(refused.contains(&format!("namespace {BOOKS} is still being deleted")), "{refused}");
    let left = sources.get("policies").await.unwrap();
    assert_eq!(left.finalizers(), [labels::SOURCE_FINALIZER]);

    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    sources.patch("policies", &PatchParams::default(), &none).await.unwrap();
    clean(&client).await;
}
