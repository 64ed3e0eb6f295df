//! What needs no cluster.

use std::fs;
use std::path::Path;

use crate::{meshwright, stdout};

#[test]
fn dry_run_prints_objects_that_kubectl_can_apply() {
    let arguments = ["install", "--mesh", "books", "--watch", "bookstore", "--watch", "bookbuyer"];
    let output =
        meshwright(&arguments).args(["--version", "0.1.0", "--dry-run", "-o", "yaml"]).output().unwrap();
    let text = stdout(&output);
    let documents = gitops::yaml::documents(&text, gitops::yaml::Format::Yaml).unwrap();
    let objects: Vec<_> = documents.iter().map(|document| document.untyped().unwrap()).collect();
    for object in &objects {
        assert!(object["apiVersion"].is_string() && object["kind"].is_string(), "{object}");
        assert!(object["metadata"]["name"].is_string(), "{object}");
    }
    let last = objects.last().unwrap();
    assert_eq!(
        *last,
        serde_json::json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "books"},
            "spec": {
                "version": "0.1.0", "namespace": "meshwright-system",
                "watchedNamespaces": {"names": ["bookstore", "bookbuyer"]},
                "traffic": {"floor": {"mtls": "Strict", "authorization": "Enforce"}}
            }
        })
    );
    let again =
        meshwright(&arguments).args(["--version", "0.1.0", "--dry-run", "-o", "yaml"]).output().unwrap();
    assert_eq!(stdout(&again), text, "the same flags give the same text");
}

#[test]
fn an_unknown_version_is_refused_before_anything_else() {
    let output = meshwright(&["install", "--version", "9.9.9"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("9.9.9") && error.contains("0.2.0") && error.contains("next: "), "{error}");
}

#[test]
fn without_a_cluster_the_error_says_what_to_do() {
    let output = meshwright(&["status"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("KUBECONFIG"), "{error}");
    // What is named is meant, wherever this runs.
    let output = meshwright(&["status", "--kubeconfig", "/no/such/file"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("no such cluster") && error.contains("/no/such/file"), "{error}");
}

#[test]
fn validate_names_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policies")).unwrap();
    fs::write(folder.path().join("policies/good.yaml"), GOOD).unwrap();
    let path = folder.path().to_str().unwrap();
    let good = stdout(&meshwright(&["validate", path]).output().unwrap());
    assert_eq!(good, "1 policies are good\n  TCPRoute bookstore/tcp\n");

    fs::write(folder.path().join("policies/bad.yaml"), "# head\nkind: [\n").unwrap();
    fs::write(folder.path().join("policies/pod.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n")
        .unwrap();
    let output = meshwright(&["validate", path]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("policies/bad.yaml:2: ") || text.contains("policies/bad.yaml:3: "), "{text}");
    assert!(text.contains("policies/pod.yaml:"), "{text}");
}

const GOOD: &str = "apiVersion: specs.smi-spec.io/v1alpha4\nkind: TCPRoute\n\
                    metadata: {name: tcp, namespace: bookstore}\nspec: {matches: {ports: [8080]}}\n";

#[test]
fn inject_explains_every_object_of_a_file() {
    let pod = Path::new(env!("CARGO_MANIFEST_DIR")).join("../injector/tests/pods/host-network.yaml");
    let text = stdout(&meshwright(&["inject", "--explain", "-f", pod.to_str().unwrap()]).output().unwrap());
    assert!(text.contains("Pod agent is skipped, HostNetwork: "), "{text}");
    let pod = Path::new(env!("CARGO_MANIFEST_DIR")).join("../injector/tests/pods/group-collision.yaml");
    let output = meshwright(&["inject", "-f", pod.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("GroupCollision"));
}

#[test]
fn completion_and_version_need_nothing() {
    assert!(stdout(&meshwright(&["completion", "bash"]).output().unwrap()).contains("meshwright"));
    let version = stdout(&meshwright(&["version", "--client", "-o", "json"]).output().unwrap());
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}
