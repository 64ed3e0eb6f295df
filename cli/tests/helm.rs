//! The three ways to install: the command, kustomize and the Helm chart bring the same.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use gitops::yaml::{Format, documents};
use serde_json::Value;

use crate::api::kubeconfig;
use crate::{meshwright, stdout};

const NAMESPACE: &str = "meshwright-system";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Objects by kind, namespace and name; without the namespace, which Helm makes itself, and the mesh, which is a person's.
fn objects(printed: &str) -> BTreeMap<String, Value> {
    let parsed = documents(printed, Format::Yaml).unwrap();
    let mut objects = BTreeMap::new();
    for document in parsed {
        let mut object: Value = document.untyped().unwrap();
        one_kind_of_number(&mut object);
        let metadata = object["metadata"].as_object_mut().unwrap();
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            let kept = annotations.remove("helm.sh/resource-policy");
            assert!(kept.is_none_or(|policy| policy == "keep"));
        }
        metadata.retain(|_, value| *value != serde_json::json!({}));
        let name = format!("{}/{}", metadata.get("namespace").unwrap_or(&Value::Null), metadata["name"]);
        let kind = object["kind"].as_str().unwrap().to_owned();
        if !matches!(kind.as_str(), "Namespace" | "MeshConfig") {
            assert!(objects.insert(format!("{kind} {name}"), object).is_none());
        }
    }
    objects
}

/// To the API server 1.0 is 1; kustomize writes the one, we the other.
fn one_kind_of_number(value: &mut Value) {
    match value {
        Value::Number(number) => *value = number.as_f64().unwrap().into(),
        Value::Array(list) => list.iter_mut().for_each(one_kind_of_number),
        Value::Object(map) => map.values_mut().for_each(one_kind_of_number),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn kustomize(folder: &str) -> BTreeMap<String, Value> {
    let mut command = Command::new(root().join("tests/cluster/cluster"));
    command.env("KUBECONFIG", kubeconfig()).args(["kubectl", "--", "kustomize"]);
    objects(&stdout(&command.arg(root().join(folder)).output().unwrap()))
}

/// The chart's objects with some values, as an API server with these kinds would get them.
fn chart(arguments: &[&str]) -> BTreeMap<String, Value> {
    objects(&stdout(&helm(arguments).output().unwrap()))
}

fn helm(arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join("tests/helm"));
    command.args(["template", "mesh"]).arg(root().join("config/helm/meshwright"));
    command.args(["--namespace", NAMESPACE, "--set", "images.prefix=meshwright"]).args(arguments);
    command
}

fn refused(arguments: &[&str]) -> String {
    let output = helm(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_same(what: &str, one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) {
    let (keys, others): (Vec<_>, Vec<_>) = (one.keys().collect(), other.keys().collect());
    assert_eq!(keys, others, "{what}");
    for (key, object) in one {
        assert_eq!(object, &other[key], "{what}: {key}");
    }
}

#[test]
fn the_command_kustomize_and_the_chart_bring_the_same() {
    let command = meshwright(&["install", "--dry-run", "--output", "yaml", "--namespace", NAMESPACE]);
    let command = objects(&stdout(&{ command }.output().unwrap()));
    assert!(command.keys().any(|key| key.starts_with("Deployment ")), "{:?}", command.keys());
    assert_same("kustomize", &command, &kustomize("config/default"));
    assert_same("the chart", &command, &chart(&[]));
    // Where the API server can have them, the chart brings the fences too.
    const FENCES: &str = "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy";
    let mut with_fences = command;
    with_fences.extend(kustomize("config/admission"));
    assert_same("the chart and its fences", &with_fences, &chart(&["--api-versions", FENCES]));
    assert_same(
        "the chart without them",
        &chart(&[]),
        &chart(&["--api-versions", FENCES, "--set", "admission.install=false"]),
    );
}

#[test]
fn values_do_what_they_say() {
    let objects = chart(&[
        "--set",
        "crds.install=false",
        "--set",
        "images.prefix=registry.example/mesh/",
        "--set",
        "images.pullPolicy=Always",
        "--set",
        "images.pullSecrets[0].name=key",
        "--set",
        "operator.replicas=3",
        "--set",
        "operator.gitAllow={10.0.0.0/8,fd00::/8}",
        "--set",
        "operator.nodeSelector.zone=a",
        "--set",
        "operator.resources.limits.memory=1Gi",
        "--set",
        "operator.tolerations[0].operator=Exists",
    ]);
    assert!(!objects.keys().any(|key| key.starts_with("CustomResourceDefinition ")));
    let deployment = &objects[r#"Deployment "meshwright-system"/"meshwright-operator""#]["spec"];
    let pod = &deployment["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(deployment["replicas"], 3.0);
    assert_eq!(container["image"], concat!("registry.example/mesh/operator:", env!("CARGO_PKG_VERSION")));
    assert_eq!(container["env"][0]["value"], "registry.example/mesh/");
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["args"][1], "--git-allow=10.0.0.0/8,fd00::/8");
    assert_eq!(container["resources"]["limits"]["memory"], "1Gi");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "key");
    assert_eq!(pod["nodeSelector"]["zone"], "a");
    assert_eq!(pod["tolerations"][0]["operator"], "Exists");
}

#[test]
fn values_that_are_wrong_are_named() {
    assert!(refused(&["--set", "images.prefix="]).contains("images.prefix is needed"));
    for (value, named) in [
        ("operator.replicas=none", "/operator/replicas"),
        ("operator.replicas=0", "/operator/replicas"),
        ("operator.gitAllow={anywhere}", "/operator/gitAllow/0"),
        ("images.pullPolicy=Sometimes", "/images/pullPolicy"),
        ("image.prefix=x", "'image'"),
    ] {
        let said = refused(&["--set", value]);
        assert!(said.contains(named), "{value}: {said}");
    }
}

/// The operator takes releases from its own catalogue: the chart's numbers are this program's.
#[test]
fn the_charts_version_is_the_release() {
    let text = std::fs::read_to_string(root().join("config/helm/meshwright/Chart.yaml")).unwrap();
    let chart: Value = documents(&text, Format::Yaml).unwrap().remove(0).untyped().unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}
