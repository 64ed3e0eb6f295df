//! "The root of trust outlives mistakes": the control plane's whole namespace is lost under load, and comes back with
//! the same root; sidecars that run never notice.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, ready};
use e2e::load::Follower;
use e2e::node::identity;
use e2e::shell::{output, stream, until};
use e2e::story::{BOOKS, MESH, Story};
use serde_json::{Value, json};

use crate::t5_root_rotation::{authority, until_stable};
use crate::t6_hot_swap::{lives, pods};

const MINUTE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "meshwright-system";

/// A backup in a file of its own; returned is its place.
fn backup(cluster: &Cluster) -> PathBuf {
    let file = std::env::temp_dir().join(format!("meshwright-root-{}.yaml", std::process::id()));
    let _ = std::fs::remove_file(&file);
    stream(cluster.meshwright().args(["root", "backup"]).arg(&file)).unwrap();
    file
}

/// The namespace does not go: its source waits for the operator, which went with it.
fn lose(cluster: &Cluster) {
    output(cluster.kubectl().args(["delete", "namespace", SYSTEM, "--wait=false"])).unwrap();
    until("every pod of the namespace to be gone", 5 * MINUTE, || {
        Ok(cluster.list(&["pods", "-n", SYSTEM])?.is_empty().then_some(()))
    })
    .unwrap();
    assert!(!cluster.list(&["policysources", "-n", SYSTEM]).unwrap().is_empty(), "nobody let it go");
}

/// As docs/root-backup.md says: first the root, then the mesh. What holds the namespace is let go by the first.
fn bring_back(cluster: &Cluster, file: &PathBuf) {
    stream(cluster.meshwright().args(["root", "restore"]).arg(file)).unwrap();
    stream(cluster.meshwright().arg("install")).unwrap();
    for deployment in cluster.list(&["deployments", "-n", SYSTEM]).unwrap() {
        let ready = deployment["status"]["readyReplicas"].as_i64().unwrap_or_default();
        assert!(ready > 0, "install has said that the mesh is ready: {}", deployment["metadata"]["name"]);
    }
}

/// The certificate of each sidecar.
fn certificates(story: &Story) -> anyhow::Result<BTreeMap<String, Value>> {
    let one = |pod: Value| {
        let process = story.cluster.processes(&pod, "meshwright-proxy")?[0];
        Ok((pod["metadata"]["name"].to_string(), identity(process)?["certificate_chain"].clone()))
    };
    pods(story).into_iter().map(one).collect()
}

/// Somebody new, with a certificate of the root that came back, is let in by those who run.
fn a_newcomer_is_let_in(cluster: &Cluster) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "newcomer", "namespace": "bookbuyer"},
        "spec": {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                 "serviceAccountName": "bookbuyer",
                 "containers": [{"name": "app", "image": "meshwright/bookstore:1", "args": ["idle"]}]}});
    until("a new pod to be made", MINUTE, || cluster.apply(&pod.to_string()).map(Some)).unwrap();
    until("the new pod to be ready", 2 * MINUTE, || {
        Ok(ready(&cluster.get(&["pod", "-n", "bookbuyer", "newcomer"])?).then_some(()))
    })
    .unwrap();
    let said =
        cluster.exec("bookbuyer", "newcomer", "app", &["bookstore", "call", "--count", "5", BOOKS]).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["statuses"], json!({"200": 5}), "{said}");
    output(cluster.kubectl().args(["delete", "pod", "-n", "bookbuyer", "newcomer", "--timeout=60s"]))
        .unwrap();
}

/// What is written into the cluster binds the sidecars that run, both ways.
fn policies_bind(story: &Story) {
    let account = |name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": name});
    let target = json!({"apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget",
        "metadata": {"name": "thief-for-a-while", "namespace": "bookstore"},
        "spec": {"destination": account("bookstore"), "sources": [account("bookthief")],
                 "rules": [{"kind": "HTTPRouteGroup", "name": "bookstore", "matches": ["look"]}]}});
    story.cluster.apply(&target.to_string()).unwrap();
    let until_thief = |status: u16| {
        until(format!("the thief to get {status}"), MINUTE, || {
            Ok((story.status("bookthief")? == status).then_some(()))
        })
        .unwrap();
    };
    until_thief(200);
    let name = ["-n", "bookstore", "thief-for-a-while"];
    output(story.cluster.kubectl().args(["delete", "traffictarget"]).args(name)).unwrap();
    until_thief(403);
}

fn report(load: &Follower, start: Instant, what: &str) {
    let totals = load.totals();
    let seconds = start.elapsed().as_secs();
    println!(
        "  {seconds:>4} s  {what}  [sent {} failed {} {:?}]",
        totals.sent, totals.failed, totals.failures
    );
}

/// Every sidecar gets a certificate of the next root, which the one that came back hands over to.
fn all_renew(story: &Story) {
    let held = certificates(story).unwrap();
    let next = authority(story)["generation"].as_i64().unwrap() + 1;
    let edit = json!({"spec": {"certificateAuthority": {"rootGeneration": next}}});
    story.cluster.patch(&["meshconfig", MESH], &edit).unwrap();
    until_stable(story, "the next root to be the only one", |now| now["generation"] == next);
    let now = certificates(story).unwrap();
    let new = |(pod, old): (&String, &Value)| now.get(pod).is_some_and(|certificate| certificate != old);
    assert!(held.iter().all(new), "every sidecar has another certificate now");
}

#[test]
fn the_namespace_is_lost_and_comes_back_with_the_same_root() {
    let mut story = Story::new(crate::cluster()).unwrap();
    let cluster = story.cluster.clone();
    let load = story.start_load().unwrap();
    let spec = cluster.get(&["meshconfig", MESH]).unwrap()["spec"].clone();
    let (start, before, root) = (Instant::now(), lives(&story), authority(&story));
    let file = backup(&cluster);

    lose(&cluster);
    report(&load, start, "the control plane is gone");
    bring_back(&cluster, &file);
    std::fs::remove_file(&file).unwrap();
    report(&load, start, "the mesh is back");
    let after = authority(&story);
    assert_eq!((&after["signing"], &after["trusted"]), (&root["signing"], &root["trusted"]));
    assert_eq!(cluster.get(&["meshconfig", MESH]).unwrap()["spec"], spec, "nobody edited the mesh");

    a_newcomer_is_let_in(&cluster);
    policies_bind(&story);
    report(&load, start, "a newcomer is let in, and policies bind");
    all_renew(&story);
    report(&load, start, "every certificate is renewed");
    assert_eq!(lives(&story), before, "the same pods, and no app was restarted");
    let totals = story.end("load", &load).unwrap();
    assert_eq!(totals.failed, 0, "of {}: {:?}", totals.sent, totals.failures);
    assert!(totals.sent > 1000, "a load: {}", totals.sent);
}
