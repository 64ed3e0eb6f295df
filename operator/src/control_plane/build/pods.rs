//! What the pods of both components have in common: restricted, spread, probed, and gently ended.

use crds::labels;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{Blueprint, Component, child};

/// User of the images (their Dockerfiles say the same).
const USER: i64 = 65532;

/// What differs between the components.
pub(super) struct Parts {
    pub(super) args: Vec<String>,
    pub(super) port: Value,
    pub(super) mounts: Vec<Value>,
    pub(super) volumes: Vec<Value>,
    /// Seconds from SIGTERM to SIGKILL, with the pause before.
    pub(super) grace: i64,
}

pub(super) fn deployment(
    blueprint: &Blueprint<'_>,
    component: Component,
    version: &str,
    parts: &Parts,
) -> DynamicObject {
    let labels = blueprint.component_labels(component, version);
    let mut pod_labels = labels.clone();
    // An injector that waits for an injector would wait for ever.
    pod_labels[labels::INJECT] = json!("false");
    child(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": blueprint.metadata(&component.name(version), Some(blueprint.namespace()), &labels),
        "spec": {
            "replicas": blueprint.mesh.spec.control_plane.replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": 600,
            "selector": {"matchLabels": labels},
            // Never fewer replicas than asked for, and one new at a time.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {
                    "labels": pod_labels,
                    "annotations": {
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": labels::ADMIN_PORT.to_string(),
                    },
                },
                "spec": pod(blueprint, component, version, &labels, parts),
            },
        },
    }))
}

fn pod(
    blueprint: &Blueprint<'_>,
    component: Component,
    version: &str,
    labels: &Value,
    parts: &Parts,
) -> Value {
    let term = json!({"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"});
    json!({
        "serviceAccountName": component.name(version),
        "terminationGracePeriodSeconds": parts.grace,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": {"podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}],
        }},
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": labels},
        }],
        "containers": [container(blueprint, component, version, parts)],
        "volumes": parts.volumes,
    })
}

fn container(blueprint: &Blueprint<'_>, component: Component, version: &str, parts: &Parts) -> Value {
    let resources = match &blueprint.mesh.spec.control_plane.resources {
        Some(resources) => json!(resources),
        None => json!({"requests": {"cpu": "50m", "memory": "64Mi"}}),
    };
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |path: &str, period: i32, failures: i32| {
        json!({
            "httpGet": {"path": path, "port": "admin"},
            "periodSeconds": period,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    json!({
        "name": component.word(),
        "image": blueprint.image(component.word(), version),
        "imagePullPolicy": "IfNotPresent",
        "args": parts.args,
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_UID", "metadata.uid"),
            field("POD_IP", "status.podIP"),
        ],
        "ports": [
            parts.port,
            {"name": "admin", "containerPort": labels::ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": resources,
        "readinessProbe": probe("/readyz", 3, 2),
        "livenessProbe": probe("/livez", 10, 3),
        // Time for endpoints to leave every kube-proxy and API server before the port closes.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": parts.mounts,
    })
}
