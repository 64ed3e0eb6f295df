//! PodDisruptionBudgets: a node drain takes one replica at a time, and never blocks for ever on a single replica.

use kube::api::DynamicObject;
use serde_json::json;

use super::{Blueprint, Component, child};

pub(super) fn budget(blueprint: &Blueprint<'_>, component: Component, version: &str) -> DynamicObject {
    let labels = blueprint.component_labels(component, version);
    child(json!({
        "apiVersion": blueprint.server.budgets.version(),
        "kind": "PodDisruptionBudget",
        "metadata": blueprint.metadata(&component.name(version), Some(blueprint.namespace()), &labels),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
    }))
}
