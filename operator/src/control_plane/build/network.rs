//! NetworkPolicies: who may open a connection to which port of the control plane. (What a port then answers is decided
//! by certificates and tokens; this keeps strangers from trying, where the cluster's network enforces such policies.)
//!
//! ```text
//!  sidecars and injectors of the mesh, the operator ──▶ controller:15012
//!  anybody (the API server has no label)            ──▶ injector:9443
//!  namespaces that ask for metrics                  ──▶ both:9090      (the kubelet's probes come from the node, and
//!                                                                       are never kept out)
//! ```

use crds::labels;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{Blueprint, Component, child};
use crate::context::OPERATOR;

pub(super) fn policy(blueprint: &Blueprint<'_>, component: Component, version: &str) -> DynamicObject {
    let labels = blueprint.component_labels(component, version);
    let work = match component {
        Component::Controller => json!({
            "ports": [port(labels::CONTROLLER_PORT)],
            "from": [
                // Every pod with a sidecar, and the injectors, carry the mesh's name, in whichever namespace they are.
                {"namespaceSelector": {}, "podSelector": {"matchLabels": {labels::MESH: blueprint.mesh_name()}}},
                {"namespaceSelector": {}, "podSelector": {"matchLabels": {labels::NAME: OPERATOR}}},
            ],
        }),
        Component::Injector => json!({"ports": [port(labels::WEBHOOK_PORT)]}),
    };
    let metrics = json!({
        "ports": [port(labels::ADMIN_PORT)],
        "from": [{"namespaceSelector": {"matchLabels": {labels::SCRAPES: "true"}}}],
    });
    child(json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": blueprint.metadata(&component.name(version), Some(blueprint.namespace()), &labels),
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Ingress"],
            "ingress": [work, metrics],
        },
    }))
}

fn port(number: u16) -> Value {
    json!({"protocol": "TCP", "port": number})
}
