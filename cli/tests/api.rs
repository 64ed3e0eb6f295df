//! Against a real API server: `MESHWRIGHT_TEST_KUBECONFIG` names the kubeconfig of a cluster that may be written to
//! (`tests/cluster/cluster up --tier api`). No pods run there, so nothing waits for readiness.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crds::labels;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::{Discovery, verbs};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use crate::verbs::BOOKS;
use crate::{meshwright, stdout};

const VARIABLE: &str = "MESHWRIGHT_TEST_KUBECONFIG";
/// Much longer than anything takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(300);

pub fn kubeconfig() -> String {
    std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!("{VARIABLE} is not set; start a cluster with: tests/cluster/cluster up --tier api --name test")
    })
}

pub fn with_cluster(arguments: &[&str]) -> Command {
    let mut command = meshwright(arguments);
    command.env("KUBECONFIG", kubeconfig());
    command
}

pub async fn client() -> Client {
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
    let deadline = Instant::now() + DEADLINE;
    let discovery = loop {
        match Discovery::new(client.clone()).run().await {
            Ok(discovery) => break discovery,
            // A group that is going just now: still named, and not there when asked.
            Err(kube::Error::Api(status)) if status.code == 404 && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
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
    let deadline = Instant::now() + DEADLINE;
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

/// Waits until a namespace has what Kubernetes itself puts into each, a moment after it was made.
async fn furnished(client: &Client, namespace: &str) {
    let deadline = Instant::now() + DEADLINE;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    while maps.get_opt("kube-root-ca.crt").await.unwrap().is_none() {
        assert!(Instant::now() < deadline, "namespace {namespace} has no certificates of the API server");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until the operator's Deployment has made all its pods, which never start here.
async fn operators_are_made(client: &Client) {
    let deadline = Instant::now() + DEADLINE;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let wanted = deployments.get(labels::OPERATOR).await.unwrap().spec.unwrap().replicas.unwrap_or(1);
    let pods: Api<Pod> = Api::namespaced(client.clone(), labels::SYSTEM_NAMESPACE);
    let of_operators = ListParams::default().labels(&format!("{}={}", labels::NAME, labels::OPERATOR));
    while pods.list(&of_operators).await.unwrap().items.len() < usize::try_from(wanted).unwrap() {
        assert!(Instant::now() < deadline, "not all pods were made of the operator's Deployment");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Install and uninstall are about the whole cluster: one test after another.
pub static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A role of somebody else with a name like ours.
const THEIR_ROLE: &str = "meshwright-dashboards";

/// A cluster without anything of ours, and what is in it.
pub async fn clean(client: &Client) -> BTreeSet<String> {
    // What an earlier, interrupted run left.
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.delete_collection(&now(), &ListParams::default().labels(labels::MESH)).await.unwrap();
    let bundles: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let _ = bundles.delete(labels::TRUST_BUNDLE, &now()).await;
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let _ = roles.delete(THEIR_ROLE, &now()).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let _ = namespaces.delete(BOOKS, &now()).await;
    gone(&namespaces, BOOKS).await;
    let unlabel = json!({"metadata": {"labels": {labels::MESH: null}}});
    namespaces.patch("default", &Default::default(), &Patch::Merge(unlabel)).await.unwrap();
    stdout(&with_cluster(&UNINSTALL_ALL).output().unwrap());
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in crds::all() {
        let _ = definitions.delete(&definition.name_any(), &now()).await;
        gone(&definitions, &definition.name_any()).await;
    }
    let _ = namespaces.delete("meshwright-system", &now()).await;
    gone(&namespaces, "meshwright-system").await;
    objects(client).await
}

const UNINSTALL_ALL: [&str; 5] = ["uninstall", "--yes", "--force", "--with-root", "--with-policies"];
pub const INSTALL: [&str; 4] = ["install", "--watch", "default", "--wait=false"];

fn now() -> DeleteParams {
    DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }
}

fn apply() -> PatchParams {
    PatchParams::apply("somebody").force()
}

pub fn stderr(output: &Output) -> String {
    assert!(!output.status.success(), "it should have failed: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn install_and_uninstall_leave_nothing_behind() {
    let _alone = ALONE.lock().await;
    let client = client().await;
    let before = clean(&client).await;

    stdout(&with_cluster(&["install", "--dry-run", "-o", "yaml"]).output().unwrap());
    assert_eq!(objects(&client).await, before, "--dry-run changed something");

    stdout(&with_cluster(&INSTALL).output().unwrap());
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
    // And not a second mesh beside it, which would only stall.
    let second = stderr(&with_cluster(&["install", "--mesh", "other", "--wait=false"]).output().unwrap());
    assert!(second.contains("add --mesh meshwright"), "{second}");

    let status = with_cluster(&["status"]).output().unwrap();
    assert_eq!(status.status.code(), Some(1), "it is not ready");
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.starts_with("MESH "), "{status}");
    assert!(status.contains("has not looked at this mesh yet"), "{status}");

    // What the operator would have made, and a finalizer that nobody is left to act on.
    let patch = json!({"metadata": {"finalizers": ["meshwright.io/cleanup"]}});
    meshes.patch("meshwright", &Default::default(), &Patch::Merge(patch)).await.unwrap();
    label_default(&client).await;

    let listed = stdout(&with_cluster(&["uninstall", "--dry-run", "--with-policies"]).output().unwrap());
    assert!(listed.contains("labels of Namespace default"), "{listed}");
    stdout(&with_cluster(&["uninstall", "--yes", "--with-policies"]).output().unwrap());
    same_again(&client, &before).await;
    let again = stdout(&with_cluster(&["uninstall", "--yes"]).output().unwrap());
    assert_eq!(again, "There is nothing of Meshwright in this cluster.\n");
}

/// As the operator labels a namespace, and copies the roots into it.
async fn label_default(client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let patch = json!({"metadata": {
        "labels": {labels::MESH: "meshwright", labels::REVISION: "0.2.0"},
        "annotations": {labels::LABELLED_BY: "meshwright"},
    }});
    namespaces.patch("default", &Default::default(), &Patch::Merge(patch)).await.unwrap();
    bundle(client, json!({labels::MANAGED_BY: labels::MANAGER})).await;
}

async fn bundle(client: &Client, labels: serde_json::Value) {
    let bundles: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let bundle = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": labels::TRUST_BUNDLE, "labels": labels},
        "data": {"ca.crt": "x"}
    });
    bundles.patch(labels::TRUST_BUNDLE, &apply(), &Patch::Apply(bundle)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn uninstall_leaves_what_is_not_ours() {
    let _alone = ALONE.lock().await;
    let client = client().await;
    clean(&client).await;
    // Names of ours on things of somebody else.
    let theirs = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "meshwright-system"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine", "namespace": "meshwright-system"}}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": THEIR_ROLE}, "rules": []}),
        foreign_definition("v1alpha3"),
    ];
    for object in &theirs {
        write(&client, object).await;
    }
    bundle(&client, json!({})).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let by_hand = json!({"metadata": {"labels": {labels::MESH: "meshwright"}}});
    namespaces.patch("default", &Default::default(), &Patch::Merge(by_hand)).await.unwrap();
    furnished(&client, "meshwright-system").await;
    let before = objects(&client).await;

    let install = with_cluster(&INSTALL).output().unwrap();
    stdout(&install);
    let said = String::from_utf8_lossy(&install.stderr).into_owned();
    assert!(said.contains("traffictargets.access.smi-spec.io is somebody else's and stays"), "{said}");
    assert!(said.contains(".schema.openAPIV3Schema"), "what is different is said: {said}");
    assert!(said.contains("namespace meshwright-system was there"), "{said}");
    let left = stdout(&with_cluster(&["uninstall", "--yes", "--with-policies"]).output().unwrap());
    assert!(left.contains("Left:\n") && left.contains("traffictargets.access.smi-spec.io"), "{left}");
    same_again(&client, &before).await;

    // Without being asked, not even the policies' definitions that came with the mesh go.
    stdout(&with_cluster(&INSTALL).output().unwrap());
    stdout(&with_cluster(&["uninstall", "--yes"]).output().unwrap());
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    assert!(definitions.get_opt("httproutegroups.specs.smi-spec.io").await.unwrap().is_some());
    assert!(definitions.get_opt("meshconfigs.meshwright.io").await.unwrap().is_none());
    for name in ["httproutegroups.specs.smi-spec.io"] {
        definitions.get(name).await.unwrap();
    }
    let after = json!({"metadata": {"labels": {labels::MESH: null}}});
    namespaces.patch("default", &Default::default(), &Patch::Merge(after)).await.unwrap();
    for object in theirs.iter().rev() {
        remove(&client, object).await;
    }
    let bundles: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    bundles.delete(labels::TRUST_BUNDLE, &now()).await.unwrap();
    // The rest of the policies' definitions, which are ours.
    stdout(&with_cluster(&INSTALL).output().unwrap());
    clean(&client).await;
}

/// SMI's TrafficTarget as somebody else may have installed it.
fn foreign_definition(version: &str) -> serde_json::Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "traffictargets.access.smi-spec.io"},
        "spec": {
            "group": "access.smi-spec.io", "scope": "Namespaced",
            "names": {"kind": "TrafficTarget", "plural": "traffictargets", "singular": "traffictarget"},
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object", "x-kubernetes-preserve-unknown-fields": true
                }},
            }],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_of_somebody_else_are_overwritten_only_if_asked() {
    let _alone = ALONE.lock().await;
    let client = client().await;
    clean(&client).await;
    write(&client, &foreign_definition("v1alpha1")).await;
    let before = objects(&client).await;
    let refused = stderr(&with_cluster(&INSTALL).output().unwrap());
    assert!(refused.contains("spec.versions[v1alpha3]: is not served"), "{refused}");
    assert!(refused.contains("--force-conflicts"), "{refused}");
    same_again(&client, &before).await;

    let mut forced = INSTALL.to_vec();
    forced.push("--force-conflicts");
    let output = with_cluster(&forced).output().unwrap();
    stdout(&output);
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let now_is = definitions.get("traffictargets.access.smi-spec.io").await.unwrap();
    assert!(now_is.spec.versions.iter().any(|version| version.name == "v1alpha3" && version.served));
    stdout(&with_cluster(&["uninstall", "--yes", "--with-policies"]).output().unwrap());
    definitions.get("traffictargets.access.smi-spec.io").await.expect("it was never ours");
    remove(&client, &foreign_definition("v1alpha1")).await;
}

pub async fn write(client: &Client, object: &serde_json::Value) {
    let typed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    api(client, &typed).patch(&typed.name_any(), &apply(), &Patch::Apply(object)).await.unwrap();
}

pub async fn remove(client: &Client, object: &serde_json::Value) {
    let typed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    let api = api(client, &typed);
    api.delete(&typed.name_any(), &now()).await.unwrap();
    gone(&api, &typed.name_any()).await;
}

fn api(client: &Client, object: &DynamicObject) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
    let resource = ApiResource::from_gvk(&gvk);
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

async fn gone<K>(api: &Api<K>, name: &str)
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let deadline = Instant::now() + DEADLINE;
    // Without its definition, the API server knows no such path.
    let is_there = || async {
        match api.get_opt(name).await {
            Err(kube::Error::Api(status)) if status.code == 404 => false,
            answer => answer.unwrap().is_some(),
        }
    };
    while is_there().await {
        assert!(Instant::now() < deadline, "{name} is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A pod with a sidecar, which never starts here.
async fn sidecar(client: &Client, name: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = json!({
        "metadata": {"name": name, "labels": {labels::MESH: "meshwright", labels::REVISION: "0.2.0"}},
        "spec": {"automountServiceAccountToken": false, "containers": [
            {"name": labels::PROXY_CONTAINER, "image": "none"}, {"name": "app", "image": "none"},
        ]},
    });
    pods.create(&Default::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
}

fn root_secret(owner: Option<&crds::MeshConfig>) -> Secret {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    let owners = owner.map(|mesh| {
        json!([{"apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "name": mesh.name_any(), "uid": mesh.uid()}])
    });
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {
            "name": labels::ROOT_SECRET, "annotations": {labels::ROOT_GENERATION: "1"}, "ownerReferences": owners,
        },
        "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
    }))
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn uninstall_refuses_while_sidecars_run_and_by_force_leaves_their_root() {
    let _alone = ALONE.lock().await;
    let client = client().await;
    clean(&client).await;
    stdout(&with_cluster(&INSTALL).output().unwrap());
    let meshes: Api<crds::MeshConfig> = Api::all(client.clone());
    let mesh = meshes.get("meshwright").await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "meshwright-system");
    // As an operator of an older release made it: the garbage collector would take it with the MeshConfig.
    let made = secrets.create(&Default::default(), &root_secret(Some(&mesh))).await.unwrap();
    sidecar(&client, "shop").await;
    furnished(&client, "meshwright-system").await;
    operators_are_made(&client).await;
    let before = objects(&client).await;

    let refused = stderr(&with_cluster(&["uninstall", "--yes"]).output().unwrap());
    assert!(refused.contains("default/shop") && refused.contains("--force"), "{refused}");
    assert_eq!(objects(&client).await, before, "nothing was touched");

    let forced = stdout(&with_cluster(&["uninstall", "--yes", "--force"]).output().unwrap());
    assert!(forced.contains("lose their control plane") && forced.contains("default/shop"), "{forced}");
    let kept = secrets.get(labels::ROOT_SECRET).await.expect("the sidecar trusts it");
    assert_eq!((kept.uid(), kept.data.as_ref()), (made.uid(), made.data.as_ref()));
    assert_eq!(kept.owner_references(), []);
    gone(&meshes, "meshwright").await;

    stdout(&with_cluster(&INSTALL).output().unwrap());
    assert_eq!(secrets.get(labels::ROOT_SECRET).await.unwrap().uid(), made.uid(), "a new mesh finds it");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    pods.delete("shop", &now()).await.unwrap();
    gone(&pods, "shop").await;
    stdout(&with_cluster(&["uninstall", "--yes", "--with-policies"]).output().unwrap());
    assert!(secrets.get_opt(labels::ROOT_SECRET).await.unwrap().is_none(), "nobody trusts it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn install_takes_the_owner_off_the_root_of_an_older_release() {
    let _alone = ALONE.lock().await;
    let client = client().await;
    clean(&client).await;
    stdout(&with_cluster(&INSTALL).output().unwrap());
    let meshes: Api<crds::MeshConfig> = Api::all(client.clone());
    let mesh = meshes.get("meshwright").await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "meshwright-system");
    let made = secrets.create(&Default::default(), &root_secret(Some(&mesh))).await.unwrap();
    stdout(&with_cluster(&INSTALL).output().unwrap());
    let now_is = secrets.get(labels::ROOT_SECRET).await.unwrap();
    assert_eq!(now_is.owner_references(), []);
    assert_eq!((now_is.uid(), now_is.data), (made.uid(), made.data));
    clean(&client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_comes_back_after_its_namespace_was_lost() {
    let _alone = ALONE.lock().await;
    let client = client().await;
    clean(&client).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("root.yaml");
    let file = file.to_str().unwrap();
    let none = stderr(&with_cluster(&["root", "backup", file]).output().unwrap());
    assert!(none.contains("no root of trust"), "{none}");

    stdout(&with_cluster(&INSTALL).output().unwrap());
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "meshwright-system");
    let made = secrets.create(&Default::default(), &root_secret(None)).await.unwrap();
    let backup = with_cluster(&["root", "backup", file]).output().unwrap();
    stdout(&backup);
    let said =
        String::from_utf8_lossy(&backup.stderr).into_owned() + &String::from_utf8_lossy(&backup.stdout);
    assert!(said.contains("saved") && !said.contains("PRIVATE KEY"), "{said}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    stdout(&with_cluster(&["root", "restore", file]).output().unwrap());
    assert_eq!(
        secrets.get(labels::ROOT_SECRET).await.unwrap().uid(),
        made.uid(),
        "it is there: nothing to do"
    );

    // The whole namespace is lost, and held by a source whose operator is gone.
    let sources: Api<crds::PolicySource> = Api::namespaced(client.clone(), "meshwright-system");
    let git = json!({"git": {"url": "https://git.example.org/policies.git"}});
    let mut source = crds::PolicySource::new("policies", serde_json::from_value(git).unwrap());
    source.metadata.finalizers = Some(vec![labels::SOURCE_FINALIZER.to_owned()]);
    sources.create(&Default::default(), &source).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.delete("meshwright-system", &now()).await.unwrap();
    let restored = with_cluster(&["root", "restore", file]).output().unwrap();
    stdout(&restored);
    let said = String::from_utf8_lossy(&restored.stderr).into_owned();
    assert!(said.contains("PolicySource policies is let go"), "{said}");
    assert!(sources.get_opt("policies").await.unwrap().is_none());
    let back = secrets.get(labels::ROOT_SECRET).await.unwrap();
    assert_eq!((back.data.as_ref(), back.type_.as_deref()), (made.data.as_ref(), Some("kubernetes.io/tls")));
    assert_eq!(back.annotations()[labels::ROOT_GENERATION], "1");
    stdout(&with_cluster(&INSTALL).output().unwrap());
    assert_eq!(secrets.get(labels::ROOT_SECRET).await.unwrap().uid(), back.uid());

    // Another root has taken its place.
    secrets.delete(labels::ROOT_SECRET, &now()).await.unwrap();
    let other = secrets.create(&Default::default(), &root_secret(None)).await.unwrap();
    let refused = stderr(&with_cluster(&["root", "restore", file]).output().unwrap());
    assert!(refused.contains("another root of trust") && refused.contains("--force"), "{refused}");
    assert_eq!(secrets.get(labels::ROOT_SECRET).await.unwrap().data, other.data);
    stdout(&with_cluster(&["root", "restore", file, "--force"]).output().unwrap());
    assert_eq!(secrets.get(labels::ROOT_SECRET).await.unwrap().data, made.data);
    clean(&client).await;
}
