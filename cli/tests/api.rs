//! Against a real API server: `MESHWRIGHT_TEST_KUBECONFIG` names the kubeconfig of a cluster that may be written to
//! (`tests/cluster/cluster up --tier api`). No pods run there, so nothing waits for readiness.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::{Discovery, verbs};
use kube::{Api, Client, Config, ResourceExt};

use crate::{meshwright, stdout};

const VARIABLE: &str = "MESHWRIGHT_TEST_KUBECONFIG";

fn kubeconfig() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!("{VARIABLE} is not set; start a cluster with: tests/cluster/cluster up --tier api --name test")
    })
}

fn with_cluster(arguments: &[&str]) -> Command {
    let mut command = meshwright(arguments);
    command.env("KUBECONFIG", kubeconfig());
    command
}

async fn client() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let file = Kubeconfig::read_from(kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Kinds that change by themselves.
fn is_noise(resource: &ApiResource) -> bool {
    matches!(resource.kind.as_str(), "Event" | "Lease" | "Endpoints" | "EndpointSlice" | "APIService" | "ComponentStatus")
        // Made anew in each namespace by the controller-manager, whenever it gets to it.
        || matches!(resource.kind.as_str(), "ServiceAccount" | "Secret")
}

/// `kind namespace/name labels` of everything that the API server holds.
async fn objects(client: &Client) -> BTreeSet<String> {
    let discovery = Discovery::new(client.clone()).run().await.unwrap();
    let mut found = BTreeSet::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if !capabilities.supports_operation(verbs::LIST) || is_noise(&resource) {
                continue;
            }
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let Ok(list) = api.list(&ListParams::default()).await else { continue };
            for object in list {
                let namespace = object.namespace().unwrap_or_default();
                let labels = object.labels();
                found.insert(format!("{} {namespace}/{} {labels:?}", resource.kind, object.name_any()));
            }
        }
    }
    found
}

/// Waits until the two sets are the same; some controllers of Kubernetes tidy up a moment later.
async fn same_again(client: &Client, before: &BTreeSet<String>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let after = objects(client).await;
        if after == *before {
            return;
        }
        let left: Vec<_> = after.symmetric_difference(before).collect();
        assert!(Instant::now() < deadline, "different: {left:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// One test, because install and uninstall are about the whole cluster.
#[tokio::test(flavor = "multi_thread")]
async fn install_and_uninstall_leave_nothing_behind() {
    let client = client().await;
    // What an earlier, interrupted run left.
    stdout(&with_cluster(&["uninstall", "--yes"]).output().unwrap());
    let before = objects(&client).await;

    stdout(&with_cluster(&["install", "--dry-run", "-o", "yaml"]).output().unwrap());
    assert_eq!(objects(&client).await, before, "--dry-run changed something");

    let install = ["install", "--watch", "default", "--wait=false"];
    stdout(&with_cluster(&install).output().unwrap());
    let installed = objects(&client).await;
    for wanted in [
        "Deployment meshwright-system/meshwright-operator",
        "MeshConfig /meshwright",
        "Namespace /meshwright-system",
    ] {
        assert!(installed.iter().any(|object| object.starts_with(wanted)), "{wanted} is missing");
    }

    // Again, without --watch and --version: nothing that was not asked for changes.
    stdout(&with_cluster(&["install", "--wait=false"]).output().unwrap());
    let meshes: Api<crds::MeshConfig> = Api::all(client.clone());
    let mesh = meshes.get("meshwright").await.unwrap();
    assert_eq!(mesh.spec.watched_namespaces.names, ["default"]);
    assert_eq!(mesh.metadata.generation, Some(1));

    let status = stdout(&with_cluster(&["status"]).output().unwrap());
    assert!(status.starts_with("MESH "), "{status}");
    assert!(status.contains("has not looked at this mesh yet"), "{status}");

    // What the operator would have made, and a finalizer that nobody is left to act on.
    let patch = serde_json::json!({"metadata": {"finalizers": ["meshwright.io/cleanup"]}});
    meshes.patch("meshwright", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    label_default(&client).await;

    let listed = stdout(&with_cluster(&["uninstall", "--dry-run"]).output().unwrap());
    assert!(listed.contains("labels of Namespace default"), "{listed}");
    stdout(&with_cluster(&["uninstall", "--yes"]).output().unwrap());
    same_again(&client, &before).await;
    let again = stdout(&with_cluster(&["uninstall", "--yes"]).output().unwrap());
    assert_eq!(again, "There is nothing of Meshwright in this cluster.\n");
}

async fn label_default(client: &Client) {
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let patch = serde_json::json!({"metadata": {"labels": {
        crds::labels::MESH: "meshwright", crds::labels::REVISION: "0.2.0",
    }}});
    namespaces.patch("default", &Default::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    let bundles: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client.clone(), "default");
    let bundle = serde_json::from_value(serde_json::json!({
        "metadata": {"name": crds::labels::TRUST_BUNDLE}, "data": {"ca.crt": "x"}
    }));
    bundles.create(&Default::default(), &bundle.unwrap()).await.unwrap();
}
