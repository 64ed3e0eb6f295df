//! ServiceAccounts: one per component and release, so that each has only its own rights.

use kube::api::DynamicObject;
use serde_json::json;

use super::{Blueprint, Component, child};

pub(super) fn service_account(
    blueprint: &Blueprint<'_>,
    component: Component,
    version: &str,
) -> DynamicObject {
    let labels = blueprint.component_labels(component, version);
    child(json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": blueprint.metadata(&component.name(version), Some(blueprint.namespace()), &labels),
    }))
}
