//! "Uninstall leaves nothing behind", and the way in without the CLI.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::cluster::{Cluster, condition};
use e2e::shell::{output, root, stream, until};
use e2e::story::NAMESPACES;

/// Names of everything in the cluster that speaks of Meshwright.
fn traces(cluster: &Cluster) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for kind in [
        "crd",
        "clusterroles",
        "clusterrolebindings",
        "mutatingwebhookconfigurations",
        "validatingwebhookconfigurations",
        "namespaces",
        "configmaps",
        "roles",
        "rolebindings",
        "leases",
    ] {
        let names = output(cluster.kubectl().args(["get", kind, "-A", "-o", "name"])).unwrap();
        let ours = |name: &&str| ["meshwright", "smi-spec.io"].iter().any(|word| name.contains(word));
        found.extend(names.lines().filter(ours).map(str::to_owned));
    }
    for namespace in cluster.list(&["namespaces"]).unwrap() {
        if namespace["metadata"]["labels"].to_string().contains("meshwright.io/") {
            found.insert(format!("labels of namespace {}", namespace["metadata"]["name"]));
        }
    }
    found
}

#[test]
fn uninstall_leaves_nothing_behind() {
    let cluster = crate::cluster();
    assert!(!traces(&cluster).is_empty(), "a mesh is installed");
    // The applications still run with their sidecars.
    let refused = output(cluster.meshwright().args(["uninstall", "--yes"])).unwrap_err().to_string();
    assert!(refused.contains("sidecars still run"), "{refused}");
    let everything = ["uninstall", "--yes", "--force", "--with-root", "--with-policies"];
    stream(cluster.meshwright().args(everything)).unwrap();
    assert_eq!(traces(&cluster), BTreeSet::new());
}

#[test]
fn uninstall_then_kustomize_does_the_same_as_the_cli() {
    let cluster = crate::cluster();
    let mut delete = cluster.kubectl();
    output(delete.args(["delete", "namespace", "--ignore-not-found", "git"]).args(NAMESPACES)).unwrap();
    // Twice, as the README says: the second time the API server knows the kinds of the first.
    let apply = || output(cluster.kubectl().args(["apply", "-k"]).arg(root().join("config/default")));
    until("kubectl apply -k", Duration::from_secs(60), || apply().map(Some)).unwrap();
    until("the MeshConfig to be ready", Duration::from_secs(480), || {
        let meshes = cluster.list(&["meshconfigs"])?;
        let ready = |mesh| condition(mesh, "Ready").is_some_and(|ready| ready["status"] == "True");
        Ok((!meshes.is_empty() && meshes.iter().all(ready)).then_some(()))
    })
    .unwrap();
    stream(cluster.meshwright().args(["uninstall", "--yes", "--with-policies"])).unwrap();
    assert_eq!(traces(&cluster), BTreeSet::new());
}
