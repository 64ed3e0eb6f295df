//! Reviews as an API server writes them.

use mesh::Object;
use serde_json::{Value, json};

/// Namespace of the pods.
pub const NAMESPACE: &str = bench::world::NAMESPACE;

fn container(number: usize) -> Value {
    json!({
        "name": format!("app-{number}"), "image": "registry.example/shop/bookstore:1.4.2", "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": 8000 + number, "protocol": "TCP"}],
        "env": [{"name": "DATABASE", "value": "postgres://books.shop.svc:5432/books"},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "livenessProbe": {"httpGet": {"path": "/livez", "port": 8000 + number, "scheme": "HTTP"}, "periodSeconds": 10,
                          "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 5,
                           "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
        "volumeMounts": [{"name": "kube-api-access-x7k2p", "readOnly": true,
                          "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    })
}

/// What a pod is called in tables.
pub fn called(containers: usize) -> String {
    if containers == 1 { "1 container".to_owned() } else { format!("{containers} containers") }
}

/// A review of a pod that is about to be created.
pub fn bytes(containers: usize) -> bytes::Bytes {
    let containers: Vec<_> = (0..containers).map(container).collect();
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "bookstore-7d9f6c5b48-", "labels": {"app": "bookstore", "pod-template-hash": "7d9f6c5b48"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "bookstore-7d9f6c5b48",
                                 "uid": "6f0c1c3e-0000-4000-8000-000000000001", "controller": true,
                                 "blockOwnerDeletion": true}],
        },
        "spec": {
            "serviceAccountName": "bookstore", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "priority": 0,
            "volumes": [{"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": sources}}],
            "containers": containers,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                             "tolerationSeconds": 300}],
        },
    });
    let resource = json!({"group": "", "version": "v1", "resource": "pods"});
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "0c9a8d74-5a5e-4a55-8d6f-3f7d0d7a2f11", "kind": kind, "requestKind": kind, "resource": resource,
            "requestResource": resource, "namespace": NAMESPACE, "operation": "CREATE", "dryRun": false,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": pod, "oldObject": null, "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    });
    review.to_string().into()
}

/// The injector's own pod, so that the controller gives it a certificate.
pub fn injector_pod(name: &str) -> anyhow::Result<Object> {
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": crds::labels::SYSTEM_NAMESPACE, "uid": name},
        "spec": {"serviceAccountName": name, "containers": [{"name": "injector"}]},
        "status": {"phase": "Running"},
    }))?;
    Ok(pod.into())
}
