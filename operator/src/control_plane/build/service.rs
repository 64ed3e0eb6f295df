//! Services: the names in the components' certificates.

use crds::labels;
use kube::api::DynamicObject;
use serde_json::json;

use super::{Blueprint, Component, child};

pub(super) fn service(blueprint: &Blueprint<'_>, component: Component, version: &str) -> DynamicObject {
    let labels = blueprint.component_labels(component, version);
    let port = match component {
        // The protocol is part of the key of the list: kube-apiserver 1.20 does not fill it in before it merges.
        // The name's prefix tells meshes and load balancers that this is no plain HTTP.
        Component::Controller => {
            json!({"name": "tls-xds", "port": labels::CONTROLLER_PORT, "targetPort": "xds", "protocol": "TCP"})
        }
        Component::Injector => {
            json!({"name": "https-webhook", "port": 443, "targetPort": "webhook", "protocol": "TCP"})
        }
    };
    child(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": blueprint.metadata(&component.name(version), Some(blueprint.namespace()), &labels),
        "spec": {"type": "ClusterIP", "selector": labels, "ports": [port]},
    }))
}
