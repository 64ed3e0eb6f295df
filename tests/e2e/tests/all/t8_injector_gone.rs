//! "Without an injector, pods outside the mesh start as ever, and none of the mesh starts without its sidecar."

use std::time::Duration;

use e2e::cluster::{Cluster, ready};
use e2e::shell::{output, until};
use serde_json::json;

const MINUTE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "meshwright-system";

fn scale(cluster: &Cluster, component: &str, replicas: u32) {
    let selector = format!("app.kubernetes.io/component={component}");
    let mut scale = cluster.kubectl();
    scale.args(["scale", "deployment", "-n", SYSTEM, "-l", &selector, &format!("--replicas={replicas}")]);
    output(&mut scale).unwrap();
    until(format!("{replicas} replicas of the {component}"), 2 * MINUTE, || {
        let pods = cluster.list(&["pods", "-n", SYSTEM, "-l", &selector])?;
        Ok((pods.len() == replicas as usize && pods.iter().all(ready)).then_some(()))
    })
    .unwrap();
}

fn create(cluster: &Cluster, namespace: &str) -> anyhow::Result<String> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "namespace": namespace},
        "spec": {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                 "containers": [{"name": "app", "image": "meshwright/bookstore:1", "args": ["idle"]}]}});
    cluster.apply(&pod.to_string())
}

#[test]
fn pods_of_the_mesh_wait_for_the_injector_and_others_do_not() {
    let cluster = crate::cluster();
    // Without the operator nobody puts the injector back.
    scale(&cluster, "operator", 0);
    scale(&cluster, "injector", 0);
    let (outside, inside) = (create(&cluster, "default"), create(&cluster, "bookthief"));
    scale(&cluster, "operator", 2);
    outside.unwrap();
    let refused = inside.unwrap_err().to_string();
    println!("  {refused}");
    assert!(refused.contains("meshwright-injector"), "it names who does not answer: {refused}");
    until("the injector to be back and the pod to be let in", 2 * MINUTE, || {
        Ok(create(&cluster, "bookthief").is_ok().then_some(()))
    })
    .unwrap();
    let pod = cluster.get(&["pod", "-n", "bookthief", "late"]).unwrap();
    assert!(e2e::pod::has_sidecar(&pod), "with its sidecar");
    for namespace in ["default", "bookthief"] {
        output(cluster.kubectl().args(["delete", "pod", "-n", namespace, "late", "--wait=false"])).unwrap();
    }
}
