//! Copies of the public roots for the sidecars of each namespace of the mesh.

use crds::labels;
use kube::api::DynamicObject;
use serde_json::json;

use super::{Blueprint, child};

pub(super) fn copies(blueprint: &Blueprint<'_>) -> Vec<DynamicObject> {
    let Some(bundle) = blueprint.trust_bundle else { return Vec::new() };
    let copy = |namespace: &String| {
        child(json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": blueprint.metadata(labels::TRUST_BUNDLE, Some(namespace), &json!({})),
            "data": {labels::TRUST_BUNDLE_KEY: bundle},
        }))
    };
    blueprint.members.iter().map(copy).collect()
}
