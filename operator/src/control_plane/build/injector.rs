//! The injector's Deployment.

use crds::labels;
use kube::api::DynamicObject;
use serde_json::json;

use super::pods::{self, Parts};
use super::{Blueprint, Component};

/// Admission requests take at most ten seconds.
const GRACE_SECONDS: i64 = 30;

pub(super) fn deployment(blueprint: &Blueprint<'_>, version: &str) -> DynamicObject {
    let flag = |name: &str, value: &str| format!("--{name}={value}");
    let controller = format!(
        "{}.{}.svc.{}:{}",
        labels::controller_name(version),
        blueprint.namespace(),
        blueprint.cluster_domain,
        labels::CONTROLLER_PORT
    );
    let parts = Parts {
        args: vec![
            flag("mesh", &blueprint.mesh_name()),
            flag("namespace", blueprint.namespace()),
            flag("revision", version),
            flag("controller", &controller),
            flag("image", &blueprint.image("proxy", version)),
            flag("cluster-domain", blueprint.cluster_domain),
        ],
        port: json!({"name": "webhook", "containerPort": labels::WEBHOOK_PORT, "protocol": "TCP"}),
        mounts: vec![
            json!({"name": "token", "mountPath": labels::TOKEN_DIR, "readOnly": true}),
            json!({"name": "trust", "mountPath": labels::TRUST_DIR, "readOnly": true}),
        ],
        volumes: vec![
            json!({"name": "token", "projected": {"sources": [{"serviceAccountToken": {
                "audience": labels::audience(&blueprint.mesh_name()),
                "expirationSeconds": 3600,
                "path": "token",
            }}]}}),
            // The controllers publish it once they run; until then the injector waits.
            json!({"name": "trust", "configMap": {"name": labels::TRUST_BUNDLE, "optional": true}}),
        ],
        grace: GRACE_SECONDS,
    };
    pods::deployment(blueprint, Component::Injector, version, &parts)
}
