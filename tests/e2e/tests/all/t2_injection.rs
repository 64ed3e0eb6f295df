//! "Pods of watched namespaces get a sidecar; those that don't say why." "What you break comes back."

use std::time::Duration;

use e2e::cluster::Cluster;
use e2e::pod::has_sidecar;
use e2e::shell::{output, until};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

fn bare_pod(cluster: &Cluster, name: &str, namespace: &str, metadata: &Value, spec: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
                 "containers": [{"name": "app", "image": "meshwright/bookstore:1", "args": ["idle"]}]}});
    merge(&mut pod["metadata"], metadata);
    merge(&mut pod["spec"], spec);
    cluster.apply(&pod.to_string()).unwrap();
    let seen = cluster.get(&["pod", "-n", namespace, name]).unwrap();
    output(cluster.kubectl().args(["delete", "pod", "-n", namespace, name, "--wait=false"])).unwrap();
    seen
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

#[test]
fn pods_that_get_no_sidecar_say_why() {
    let cluster = crate::cluster();
    let plain = bare_pod(&cluster, "plain", "bookthief", &json!({}), &json!({}));
    assert!(has_sidecar(&plain), "{plain}");

    let host = bare_pod(&cluster, "on-host", "bookthief", &json!({}), &json!({"hostNetwork": true}));
    assert!(!has_sidecar(&host));
    assert_eq!(host["metadata"]["annotations"]["meshwright.io/injection"], "skipped: HostNetwork");

    let annotations = json!({"annotations": {"meshwright.io/inject": "false"}});
    let opted_out = bare_pod(&cluster, "opted-out", "bookthief", &annotations, &json!({}));
    assert!(!has_sidecar(&opted_out));
    assert_eq!(opted_out["metadata"]["annotations"]["meshwright.io/injection"], "skipped: OptedOut");

    let unwatched = bare_pod(&cluster, "unwatched", "default", &json!({}), &json!({}));
    assert!(!has_sidecar(&unwatched));
}

#[test]
fn children_that_are_deleted_or_edited_by_hand_come_back() {
    let cluster = crate::cluster();
    let mesh = cluster.get(&["meshconfig", e2e::story::MESH]).unwrap();
    let version = mesh["status"]["version"]["effective"].as_str().unwrap().replace('.', "-");
    let name = format!("meshwright-controller-{version}");
    let in_system = |kind: &str| cluster.get(&[kind, "-n", "meshwright-system", &name]);

    let before = in_system("service").unwrap()["metadata"]["uid"].clone();
    output(cluster.kubectl().args(["delete", "service", "-n", "meshwright-system", &name])).unwrap();
    until("the deleted Service to come back", MINUTE, || {
        Ok((in_system("service")?["metadata"]["uid"] != before).then_some(()))
    })
    .unwrap();

    let port = json!({"spec": {"ports": [{"name": "xds", "port": 15012, "targetPort": 1}]}});
    cluster.patch(&["service", "-n", "meshwright-system", &name], &port).unwrap();
    until("the edited Service to be put right", MINUTE, || {
        let ports = in_system("service")?["spec"]["ports"].clone();
        Ok((ports.as_array().is_some_and(|all| all.iter().all(|port| port["targetPort"] != 1))).then_some(()))
    })
    .unwrap();

    let replicas = json!({"spec": {"replicas": 1}});
    cluster.patch(&["deployment", "-n", "meshwright-system", &name], &replicas).unwrap();
    until("the edited Deployment to be put right", MINUTE, || {
        Ok((in_system("deployment")?["spec"]["replicas"] == 2).then_some(()))
    })
    .unwrap();
    cluster.rolled_out("meshwright-system", &name, 2 * MINUTE).unwrap();
}

#[test]
fn no_pod_has_a_secret_of_its_own_and_keys_stay_in_pods() {
    let cluster = crate::cluster();
    for namespace in e2e::story::NAMESPACES {
        for secret in cluster.list(&["secrets", "-n", namespace]).unwrap() {
            assert_eq!(
                secret["type"], "kubernetes.io/service-account-token",
                "{namespace}: {}",
                secret["metadata"]["name"]
            );
        }
    }
}
