//! The controller's Deployment.

use crds::labels;
use kube::api::DynamicObject;
use serde_json::json;

use super::pods::{self, Parts};
use super::{Blueprint, Component};

/// Streams are told to go one after another while the pod drains.
const GRACE_SECONDS: i64 = 45;

pub(super) fn deployment(blueprint: &Blueprint<'_>, version: &str) -> DynamicObject {
    let flag = |name: &str, value: &str| format!("--{name}={value}");
    let parts = Parts {
        args: vec![
            flag("mesh", &blueprint.mesh_name()),
            flag("namespace", blueprint.namespace()),
            flag("revision", version),
            flag("cluster-domain", blueprint.cluster_domain),
        ],
        port: json!({"name": "xds", "containerPort": labels::CONTROLLER_PORT, "protocol": "TCP"}),
        mounts: Vec::new(),
        volumes: Vec::new(),
        grace: GRACE_SECONDS,
    };
    pods::deployment(blueprint, Component::Controller, version, &parts)
}
