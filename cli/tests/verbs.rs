//! The verbs that look and steer, against a real API server with a mesh in it. No operator runs: what it would have
//! written is written here.

use std::process::Output;

use crds::{MeshUpgrade, labels};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::api::{ALONE, INSTALL, clean, client, kubeconfig, remove, stderr, with_cluster, write};
use crate::{meshwright, stdout};

pub const BOOKS: &str = "t-cli-books";
const UPGRADE: &str = "meshwright-0-1-0-to-0-2-0";

fn run(arguments: &[&str]) -> Output {
    with_cluster(arguments).output().unwrap()
}

fn denied(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": BOOKS, "labels": {labels::MESH: "meshwright"}}})
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": BOOKS})
}

/// A pod as the injector and the kubelet leave it; `native` has its sidecar among the init containers.
async fn pod(client: &Client, name: &str, account: &str, address: &str, sidecar: Option<bool>) {
    let container = |name: &str| json!({"name": name, "image": "none", "ports": [{"containerPort": 8080, "protocol": "TCP"}]});
    let mut spec = json!({
        "serviceAccountName": account, "automountServiceAccountToken": false, "containers": [container("app")],
    });
    let ready = |name: &str| json!({"name": name, "ready": true, "image": "none", "imageID": "none", "restartCount": 0});
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let mut status = json!({
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "containerStatuses": [ready("app")],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
    });
    let mut metadata = meta(name);
    metadata["labels"] = json!({"app": account});
    if let Some(native) = sidecar {
        metadata["labels"] = json!({"app": account, labels::MESH: "meshwright", labels::REVISION: "0.2.0"});
        metadata["annotations"] = json!({labels::INJECTION: "injected"});
        let (containers, statuses) = if native {
            ("initContainers", "initContainerStatuses")
        } else {
            ("containers", "containerStatuses")
        };
        for (map, key, value) in [
            (&mut spec, containers, json!({"name": labels::PROXY_CONTAINER, "image": "none"})),
            (&mut status, statuses, ready(labels::PROXY_CONTAINER)),
        ] {
            match map[key].as_array_mut() {
                Some(list) => list.push(value),
                None => map[key] = json!([value]),
            }
        }
    }
    write(client, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), BOOKS);
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await.unwrap();
}

/// That `store-1` is ready, by its pod's own address. Kubernetes itself makes no slices here: no node has the pods.
async fn slice(client: &Client) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), BOOKS);
    let uid = pods.get("store-1").await.unwrap().metadata.uid;
    let discovery = kube::discovery::group(client, "discovery.k8s.io").await.unwrap();
    let (resource, _) = discovery.recommended_kind("EndpointSlice").unwrap(); // v1beta1 before Kubernetes 1.21
    let object = json!({
        "apiVersion": resource.api_version, "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "store-1", "namespace": BOOKS, "labels": {
            "kubernetes.io/service-name": "store", "endpointslice.kubernetes.io/managed-by": "test",
        }},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": ["10.99.0.2"], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": "store-1", "namespace": BOOKS, "uid": uid},
        }],
    });
    write(client, &object).await;
}

async fn populate(client: &Client) {
    write(client, &namespace()).await;
    for account in ["buyer", "thief", "store"] {
        write(client, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(account)}))
            .await;
    }
    pod(client, "buyer-1", "buyer", "10.99.0.1", Some(false)).await;
    pod(client, "store-1", "store", "10.99.0.2", Some(true)).await;
    pod(client, "thief-1", "thief", "10.99.0.3", None).await;
    let objects = [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta("store"),
            "spec": {"selector": {"app": "store"}, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]},
        }),
        json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "metadata": meta("books"),
            "spec": {"matches": [{"name": "read", "methods": ["GET"], "pathRegex": ".*"}]},
        }),
        json!({
            "apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget", "metadata": meta("buyers"),
            "spec": {
                "destination": {"kind": "ServiceAccount", "name": "store", "namespace": BOOKS},
                "sources": [{"kind": "ServiceAccount", "name": "buyer", "namespace": BOOKS}],
                "rules": [{"kind": "HTTPRouteGroup", "name": "books"}],
            },
        }),
        json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "PolicySource", "metadata": meta("policies"),
            "spec": {"git": {"url": "http://git.example/p.git", "ref": {"branch": "main"}}},
        }),
        json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshUpgrade", "metadata": {"name": UPGRADE},
            "spec": {"mesh": "meshwright", "from": "0.1.0", "to": "0.2.0"},
        }),
    ];
    for object in &objects {
        write(client, object).await;
    }
    slice(client).await;
    let sources: Api<crds::PolicySource> = Api::namespaced(client.clone(), BOOKS);
    let status = json!({"status": {
        "applied": {"commit": "a".repeat(40)}, "attempted": {"commit": "b".repeat(40)},
        "problems": [{"file": "x.yaml", "line": 3, "message": "cannot be read"}],
    }});
    sources.patch_status("policies", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let upgrades: Api<MeshUpgrade> = Api::all(client.clone());
    let status = json!({"status": {"phase": "Moving", "progress": "1/3 pods", "waitingOn": "pod buyer-1"}});
    upgrades.patch_status(UPGRADE, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    let meshes: Api<crds::MeshConfig> = Api::all(client.clone());
    let status =
        json!({"status": {"upgrade": UPGRADE, "version": {"desired": "0.2.0", "effective": "0.1.0"}}});
    meshes.patch_status("meshwright", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_about_a_mesh_are_answered_from_the_cluster() {
    let _alone = ALONE.lock().await;
    let client = client().await;
    clean(&client).await;
    check_before();
    stdout(&run(&INSTALL));
    populate(&client).await;
    check();
    why();
    proxies();
    sources();
    where_and_as_whom();
    upgrade(&client).await;
    remove(&client, &namespace()).await;
    clean(&client).await;
}

/// Whether a cluster without a mesh can take one, and whether a user who may nothing can install it.
fn check_before() {
    let said = stdout(&run(&["check", "--pre", "--watch", "default", "-o", "json"]));
    let findings: Vec<Value> = serde_json::from_str(&said).unwrap();
    for check in ["kubernetes", "rights", "definitions", "other-meshes", "pod-security"] {
        let found = findings.iter().find(|finding| finding["check"] == check).unwrap();
        assert_eq!(found["state"], "Passed", "{found}");
    }
    // What cannot be read is not said to be good.
    let output = run(&["check", "--pre", "--as", "nobody-at-all", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    for check in ["rights", "definitions", "nodes", "other-meshes", "pod-security"] {
        let found = findings.iter().find(|finding| finding["check"] == check).unwrap();
        assert_ne!(found["state"], "Passed", "{found}");
    }
    let advice = run(&["check"]);
    assert_eq!(advice.status.code(), Some(1));
    assert!(stderr(&advice).contains("meshwright install"), "{}", stderr(&advice));
}

/// No operator runs here, and what would is said.
fn check() {
    let output = run(&["check"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("no replica is ready in meshwright-system"), "{table}");
    assert!(table.contains("kubectl describe deployment"), "{table}");
}

fn why() {
    let (buyer, thief, store) = ("t-cli-books/buyer", "t-cli-books/thief-1", "t-cli-books/store");
    let allowed = stdout(&run(&["why", buyer, store]));
    assert!(
        allowed.starts_with("allowed\n") && allowed.contains("TrafficTarget t-cli-books/buyers"),
        "{allowed}"
    );
    let refused = denied(&["why", buyer, store, "--method", "DELETE"]);
    assert!(refused.starts_with("denied\n") && refused.contains("t-cli-books/buyers"), "{refused}");
    assert!(denied(&["why", thief, store]).starts_with("denied\n"));
    assert!(denied(&["why", "-", store]).contains("mTLS is Strict"), "somebody without an identity");

    // What is not there is no verdict.
    for (from, to, what, meant) in [
        ("t-cli-books/buyr", store, "no pod and no service account t-cli-books/buyr", "t-cli-books/buyer"),
        ("t-cli-boks/buyer", store, "no namespace t-cli-boks", "t-cli-books"),
        ("default/store-1", store, "no pod and no service account default/store-1", "t-cli-books/store-1"),
        (buyer, "t-cli-books/stroe:8080", "no service and no pod t-cli-books/stroe", "t-cli-books/store"),
        (buyer, "t-cli-books/store:9090", "service t-cli-books/store has no port 9090", "8080"),
    ] {
        let output = run(&["why", from, to]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
        let error = stderr(&output);
        assert!(error.contains(what) && error.contains(meant), "{error}");
    }
}

fn proxies() {
    let rows = stdout(&run(&["proxies", "-n", BOOKS, "-o", "json"]));
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    let row = |pod: &str| rows.iter().find(|row| row["pod"] == pod).unwrap();
    for injected in ["buyer-1", "store-1"] {
        assert_eq!(
            (&row(injected)["injection"], &row(injected)["ready"]),
            (&json!("Injected"), &json!(true))
        );
        assert_eq!(row(injected)["version"], "0.2.0");
    }
    assert_eq!(row("thief-1")["injection"], "NotInjected");
    let why = row("thief-1")["why"].as_str().unwrap();
    assert!(why.contains("made after its namespace got the label"), "{why}");
}

fn sources() {
    let table = stdout(&run(&["sources", "-n", BOOKS]));
    assert!(table.contains("aaaaaaaaaaaa") && table.contains("bbbbbbbbbbbb"), "{table}");
    assert!(table.contains("x.yaml:3: cannot be read"), "{table}");
}

/// The flags that kubectl has too, before and after the verb.
fn where_and_as_whom() {
    let file = kubeconfig();
    let elsewhere = |arguments: &[&str]| meshwright(arguments).output().unwrap();
    for arguments in
        [["--kubeconfig", &file, "sources", "-n", BOOKS], ["sources", "-n", BOOKS, "--kubeconfig", &file]]
    {
        let table = stdout(&elsewhere(&arguments));
        assert!(table.contains("aaaaaaaaaaaa"), "{table}");
    }
    for (arguments, says) in [
        (&["sources", "--as", "nobody-at-all"][..], "nobody-at-all"),
        (&["sources", "--context", "no-such-context"], "no-such-context"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

async fn upgrade(client: &Client) {
    let status = stdout(&run(&["upgrade", "status"]));
    assert!(
        status.contains("Moving") && status.contains("1/3 pods") && status.contains("pod buyer-1"),
        "{status}"
    );
    let unknown = stderr(&run(&["upgrade", "--version", "9.9.9"]));
    assert!(unknown.contains("9.9.9") && unknown.contains("0.2.0"), "{unknown}");
    let plan = stdout(&run(&["upgrade", "plan", "--version", "0.2.0"]));
    assert!(plan.contains("0.1.0 -> 0.2.0"), "{plan}");
    let upgrades: Api<MeshUpgrade> = Api::all(client.clone());
    for (verb, expected) in [
        ("approve", (true, false, false)),
        ("pause", (true, true, false)),
        ("resume", (true, false, false)),
        ("abort", (true, false, true)),
    ] {
        stdout(&run(&["upgrade", verb]));
        let spec = upgrades.get(UPGRADE).await.unwrap().spec;
        assert_eq!((spec.approved, spec.paused, spec.abort), expected, "{verb}");
    }
    let object =
        json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "MeshUpgrade", "metadata": {"name": UPGRADE}});
    remove(client, &object).await;
}
