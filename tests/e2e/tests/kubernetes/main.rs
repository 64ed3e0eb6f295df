//! A cluster that grows older: what the API server of the oldest Kubernetes that we support has stored, the newest reads.
//!
//! `make test-floor` runs this; it makes a cluster of its own (tier api) and takes it away.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::collections::BTreeMap;

use e2e::cluster::Cluster;
use e2e::shell::{output, root};
use serde_json::Value;

const NAME: &str = "test-stored";
/// One object of each kind whose definition we install.
const OBJECTS: &str = include_str!("objects.yaml");

/// Takes the cluster away whatever happens.
struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = Cluster::stop(NAME, true);
    }
}

fn kubectl(cluster: &Cluster, args: &[&str]) -> String {
    output(cluster.kubectl().current_dir(root()).args(args)).unwrap()
}

/// The second number of the API server's version.
fn minor(cluster: &Cluster) -> u32 {
    let version: Value = serde_json::from_str(&kubectl(cluster, &["version", "-o", "json"])).unwrap();
    version["serverVersion"]["minor"].as_str().unwrap().parse().unwrap()
}

/// The kinds of ours: plural and group, as kubectl takes them.
fn kinds(cluster: &Cluster) -> Vec<String> {
    let ours = "app.kubernetes.io/managed-by=meshwright";
    let definitions = cluster.list(&["customresourcedefinitions", "-l", ours]).unwrap();
    definitions.iter().map(|one| one["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// Every object of ours: what it is, and what it says.
fn stored(cluster: &Cluster) -> BTreeMap<String, (Value, Value)> {
    let mut all = BTreeMap::new();
    for kind in kinds(cluster) {
        for object in cluster.list(&[&kind, "--all-namespaces"]).unwrap() {
            let metadata = &object["metadata"];
            let key = format!("{kind} {}/{}", metadata["namespace"], metadata["name"]);
            all.insert(key, (metadata["uid"].clone(), object["spec"].clone()));
        }
    }
    all
}

#[test]
fn what_the_oldest_kubernetes_stored_the_newest_reads_and_writes() {
    Cluster::stop(NAME, true).unwrap();
    let _ends = Ends;
    let old = Cluster::start_api(NAME, "oldest").unwrap();
    kubectl(&old, &["apply", "-k", "config/crd"]);
    kubectl(&old, &["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    old.apply(OBJECTS).unwrap();
    let (before, minor_before) = (stored(&old), minor(&old));
    let without: Vec<_> = kinds(&old)
        .into_iter()
        .filter(|kind| !before.keys().any(|object| object.starts_with(&format!("{kind} "))))
        .collect();
    assert_eq!(without, Vec::<String>::new(), "objects.yaml has no object of these kinds");

    Cluster::stop(NAME, false).unwrap();
    let new = Cluster::start_api(NAME, "newest").unwrap();
    assert!(minor(&new) > minor_before, "another Kubernetes: 1.{}", minor(&new));
    assert_eq!(stored(&new), before, "the same objects, field by field");

    // And they can be written again, with the definitions as they are brought by an upgrade of ours.
    kubectl(&new, &["apply", "-k", "config/crd"]);
    new.apply(OBJECTS).unwrap();
    assert_eq!(stored(&new), before);
    // What the newest has written is not given to the oldest.
    Cluster::stop(NAME, false).unwrap();
    Cluster::start_api(NAME, "oldest").unwrap_err();
}
