//! "A caller without a certificate is refused where the mesh is Strict", and bytes pass only where a TCPRoute says so.

use std::time::Duration;

use anyhow::Context as _;
use e2e::cluster::{Cluster, ready};
use e2e::shell::{output, root, until};
use e2e::story::{BOOKS, MESH, Story};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);
const RESTOCK: [&str; 3] = ["http://warehouse.bookstore:8080/restock", "--method", "POST"];

/// A pod outside of the mesh that only waits; `call` speaks from it.
fn outsider(cluster: &Cluster) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "outsider", "namespace": "default"},
        "spec": {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                 "containers": [{"name": "app", "image": "meshwright/bookstore:1", "args": ["idle"]}]}});
    cluster.apply(&pod.to_string()).unwrap();
    until("the outsider to run", MINUTE, || {
        let pod = cluster.get(&["pod", "-n", "default", "outsider"])?;
        assert!(!e2e::pod::has_sidecar(&pod), "it has no sidecar");
        Ok(ready(&pod).then_some(()))
    })
    .unwrap();
}

fn call(cluster: &Cluster, call: &[&str]) -> anyhow::Result<Value> {
    let said = cluster.exec("default", "outsider", "app", &[&["bookstore", "call"], call].concat())?;
    Ok(serde_json::from_str(&said)?)
}

/// Waits until the warehouse answers the outsider so; meanwhile and afterwards the store does not.
fn warehouse_says(cluster: &Cluster, status: &str, why: &str) {
    until(format!("the warehouse to answer {status}: {why}"), MINUTE, || {
        let answer = call(cluster, &RESTOCK)?;
        anyhow::ensure!(answer["statuses"] == json!({status: 1}), "{answer}");
        Ok(Some(()))
    })
    .unwrap();
    refused(cluster, &[BOOKS]);
}

/// Not even an answer: the connection is cut.
fn refused(cluster: &Cluster, to: &[&str]) {
    let answer = call(cluster, &[to, &["--count", "3"]].concat()).unwrap();
    assert_eq!(answer["statuses"], json!({}), "{to:?}: {answer}");
    let errors: u64 = answer["errors"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(errors, 3, "{answer}");
}

fn mesh_policy(cluster: &Cluster, authorization: &str) {
    let policy = json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "MeshPolicy",
        "metadata": {"name": "open-warehouse", "namespace": "bookstore"},
        "spec": {"selector": {"matchLabels": {"app": "warehouse"}}, "mtls": "Permissive", "authorization": authorization}});
    cluster.apply(&policy.to_string()).unwrap();
}

#[test]
fn a_plaintext_caller_reaches_only_what_a_policy_opens() {
    let cluster = crate::cluster();
    outsider(&cluster);
    refused(&cluster, &[BOOKS]);
    refused(&cluster, &RESTOCK);

    let floor = cluster.get(&["meshconfig", MESH]).unwrap()["spec"]["traffic"]["floor"].clone();
    assert_eq!(floor, json!({"mtls": "Strict", "authorization": "Enforce"}), "as `install` makes it");
    mesh_policy(&cluster, "AllowAll");
    until("the policy to be said to be below the floor", MINUTE, || {
        let mesh = cluster.get(&["meshconfig", MESH])?;
        Ok(mesh["status"].to_string().contains("open-warehouse").then_some(()))
    })
    .unwrap();
    refused(&cluster, &RESTOCK);

    let lower = json!({"spec": {"traffic": {"floor": {"mtls": "Permissive", "authorization": "AllowAll"}}}});
    cluster.patch(&["meshconfig", MESH], &lower).unwrap();
    warehouse_says(&cluster, "200", "Permissive and open");
    mesh_policy(&cluster, "Enforce");
    warehouse_says(&cluster, "403", "Permissive, but no TrafficTarget can name who has no certificate");

    cluster.patch(&["meshconfig", MESH], &json!({"spec": {"traffic": {"floor": floor}}})).unwrap();
    output(cluster.kubectl().args(["delete", "meshpolicy", "-n", "bookstore", "open-warehouse"])).unwrap();
    until("the warehouse to be shut again", MINUTE, || {
        Ok((call(&cluster, &RESTOCK)?["statuses"] == json!({})).then_some(()))
    })
    .unwrap();
    output(cluster.kubectl().args(["delete", "pod", "-n", "default", "outsider", "--wait=false"])).unwrap();
}

/// How many of five bytes come back to a caller from port 9000 of the echo.
fn echoed(story: &Story, caller: &str) -> anyhow::Result<u64> {
    let pod = story.cluster.pod(caller, caller)?;
    let said = story.cluster.exec(caller, &pod, caller, &["bookstore", "say", "echo.bookstore:9000"])?;
    let said: Value = serde_json::from_str(&said)?;
    said["echoed"].as_u64().with_context(|| said.to_string())
}

fn until_echoed(story: &Story, bytes: u64) {
    until(format!("the buyer to get {bytes} bytes back"), MINUTE, || {
        Ok((echoed(story, "bookbuyer")? == bytes).then_some(()))
    })
    .unwrap();
    assert_eq!(echoed(story, "bookthief").unwrap(), 0, "no policy names the thief");
}

#[test]
fn a_tcp_route_allows_and_denies_bytes() {
    let story = Story::new(crate::cluster()).unwrap();
    let cluster = &story.cluster;
    // Without those that talk all the time: the upgrades after this one need not wait for them.
    let all = std::fs::read_to_string(root().join("config/demo/app/streams.yaml")).unwrap();
    let echo: Vec<_> = all.split("\n---\n").filter(|object| !object.contains("[talk, ")).collect();
    cluster.apply(&echo.join("\n---\n")).unwrap();
    cluster.rolled_out("bookstore", "echo", 3 * MINUTE).unwrap();

    until_echoed(&story, 5);
    let ports = |port: u16| {
        let edit = json!({"spec": {"matches": {"ports": [port]}}});
        cluster.patch(&["tcproute", "-n", "bookstore", "echo"], &edit).unwrap();
    };
    ports(9001);
    until_echoed(&story, 0);
    ports(9000);
    until_echoed(&story, 5);
    let target = ["traffictarget", "-n", "bookstore", "bookbuyer-to-echo"];
    output(cluster.kubectl().arg("delete").args(target)).unwrap();
    until_echoed(&story, 0);
    output(cluster.kubectl().args(["delete", "deployment", "-n", "bookstore", "echo"])).unwrap();
}
