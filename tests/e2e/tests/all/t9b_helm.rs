//! The Helm chart on a real node: install, change, go back, uninstall; policies hold and nobody's request fails meanwhile.

use std::process::Command;
use std::time::Duration;

use e2e::cluster::condition;
use e2e::shell::{output, root, stream, until};
use e2e::story::{MESH, NAMESPACES, Story};
use serde_json::json;

const RELEASE: &str = "meshwright";
const SYSTEM: &str = "meshwright-system";
const MINUTE: Duration = Duration::from_secs(60);

/// Helm with our chart's place where its name is expected.
fn helm(story: &Story, arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join("tests/helm"));
    let kubectl = story.cluster.kubectl();
    let kubeconfig = kubectl.get_envs().find(|(name, _)| *name == "KUBECONFIG").and_then(|(_, value)| value);
    command.env("KUBECONFIG", kubeconfig.expect("the cluster's own")).current_dir(root()).args(arguments);
    command
}

fn chart(story: &Story, arguments: &[&str]) -> Command {
    let mut command = helm(story, arguments);
    command.args(["config/helm/meshwright", "--namespace", SYSTEM, "--set", "images.prefix=meshwright"]);
    command.args(["--wait", "--timeout", "3m"]);
    command
}

/// How many operators there shall be and are, once those of before are gone: Helm waits for the new ones only.
fn operators(story: &Story) -> (i64, i64) {
    story.cluster.rolled_out(SYSTEM, "meshwright-operator", 3 * MINUTE).unwrap();
    let deployment = story.cluster.get(&["deployment", "-n", SYSTEM, "meshwright-operator"]).unwrap();
    let number = |value: &serde_json::Value| value.as_i64().unwrap_or_default();
    (number(&deployment["spec"]["replicas"]), number(&deployment["status"]["readyReplicas"]))
}

fn ready(story: &Story) {
    until("the mesh to be ready", 4 * MINUTE, || {
        let mesh = story.cluster.get(&["meshconfig", MESH])?;
        Ok(condition(&mesh, "Ready").filter(|ready| ready["status"] == "True").map(drop))
    })
    .unwrap();
}

#[test]
fn the_chart_installs_changes_goes_back_and_leaves_what_it_must() {
    let mut story = Story::new(crate::cluster()).unwrap();
    story.clean().unwrap();
    stream(&mut chart(&story, &["install", RELEASE, "--create-namespace"])).unwrap();
    assert_eq!(operators(&story), (2, 2));
    let fences = output(story.cluster.kubectl().args(["api-resources", "-o", "name"])).unwrap();
    if fences.contains("validatingadmissionpolicies.") {
        story.cluster.get(&["validatingadmissionpolicy", "meshwright-operator-bindings"]).unwrap();
    }
    // What is one in a cluster has one owner.
    let mut second = helm(&story, &["install", "second", "config/helm/meshwright", "--namespace", "second"]);
    second.args(["--create-namespace", "--set", "images.prefix=meshwright"]);
    let refused = output(&mut second).unwrap_err().to_string();
    assert!(refused.contains("exists and cannot be imported"), "{refused}");

    // What its notes say.
    let spec = json!({"version": "0.1.0", "namespace": SYSTEM, "watchedNamespaces": {"names": NAMESPACES},
        "traffic": {"floor": {"mtls": "Strict", "authorization": "Enforce"}}});
    let mesh = json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": MESH}, "spec": spec});
    story.cluster.apply(&mesh.to_string()).unwrap();
    ready(&story);
    story.start_applications().unwrap();
    story.connect_git().unwrap();
    story.allow_buyer().unwrap();

    let follower = story.start_load().unwrap();
    let one = ["--set", "operator.replicas=1", "--set", "operator.resources.requests.memory=65Mi"];
    stream(chart(&story, &["upgrade", RELEASE]).args(one)).unwrap();
    assert_eq!(operators(&story), (1, 1));
    ready(&story);
    stream(&mut helm(
        &story,
        &["rollback", RELEASE, "1", "--namespace", SYSTEM, "--wait", "--timeout", "3m"],
    ))
    .unwrap();
    assert_eq!(operators(&story), (2, 2));
    ready(&story);
    assert_eq!((story.status("bookbuyer").unwrap(), story.status("bookthief").unwrap()), (200, 403));
    let totals = story.end("load", &follower).unwrap();
    assert!(totals.sent > 1000, "{totals:?}");
    assert_eq!(totals.failed, 0, "{totals:?}");

    // As the notes say: the mesh first, while its operator runs.
    let mut delete = story.cluster.kubectl();
    output(delete.args(["delete", "namespace", "git"]).args(NAMESPACES)).unwrap();
    output(story.cluster.kubectl().args(["delete", "meshconfig", MESH, "--timeout=120s"])).unwrap();
    stream(&mut helm(&story, &["uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "3m"]))
        .unwrap();
    // What belonged to the mesh is Kubernetes' garbage, which it collects in its own time.
    until("nothing of ours to be left", MINUTE, || {
        let kinds = ["get", "clusterroles,deployments", "-A", "-o", "name"];
        let left = output(story.cluster.kubectl().args(kinds))?;
        let ours: Vec<_> = left.lines().filter(|line| line.contains("meshwright")).collect();
        anyhow::ensure!(ours.is_empty(), "{ours:?}");
        Ok(Some(()))
    })
    .unwrap();
    let kept = output(story.cluster.kubectl().args(["get", "crd", "-o", "name"])).unwrap();
    assert!(
        kept.contains("traffictargets.access.smi-spec.io"),
        "definitions stay, and policies with them: {kept}"
    );
}
