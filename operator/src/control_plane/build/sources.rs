//! `policySources` of the MeshConfig as PolicySource objects of the control plane's namespace.

use crds::PolicySource;
use kube::Resource;
use kube::api::DynamicObject;
use serde_json::json;

use super::{Blueprint, child};

pub(super) fn policy_sources(blueprint: &Blueprint<'_>) -> Vec<DynamicObject> {
    let source = |entry: &crds::mesh_config::NamedPolicySource| {
        child(json!({
            "apiVersion": PolicySource::api_version(&()),
            "kind": PolicySource::kind(&()),
            "metadata": blueprint.metadata(&entry.name, Some(blueprint.namespace()), &json!({})),
            "spec": entry.source,
        }))
    };
    blueprint.mesh.spec.policy_sources.iter().map(source).collect()
}
