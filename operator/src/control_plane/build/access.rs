//! Bindings of each component's ServiceAccount to the roles that the installation brings (`config/rbac`).
//!
//! The operator may *bind* those roles by name and does not hold their rights itself: so it lets the controllers read
//! the root key while no request of its own returns it. (Taken over, it could bind the role to itself:
//! docs/security/model.md.)

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{Blueprint, Component, child};

/// ClusterRole with the cluster-wide rights of a component.
fn cluster_role(component: Component) -> &'static str {
    match component {
        Component::Controller => crds::labels::CONTROLLER,
        Component::Injector => crds::labels::INJECTOR,
    }
}

/// ClusterRole with its rights in the control plane's namespace, if it has any.
fn namespace_role(component: Component) -> Option<&'static str> {
    match component {
        Component::Controller => Some("meshwright-controller-namespace"),
        Component::Injector => None,
    }
}

pub(super) fn bindings(blueprint: &Blueprint<'_>, component: Component, version: &str) -> Vec<DynamicObject> {
    let name = component.name(version);
    let labels = blueprint.component_labels(component, version);
    let subjects = json!([{"kind": "ServiceAccount", "name": name, "namespace": blueprint.namespace()}]);
    let role =
        |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    let binding = |kind: &str, metadata: Value, role: Value| {
        child(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": metadata,
            "subjects": subjects,
            "roleRef": role,
        }))
    };
    // Cluster-scoped names hold the mesh: two meshes may run the same release.
    let wide = format!(
        "meshwright-{}-{}-{}",
        component.word(),
        blueprint.mesh_name(),
        crds::labels::dashed(version)
    );
    let mut all = vec![binding(
        "ClusterRoleBinding",
        blueprint.metadata(&wide, None, &labels),
        role(cluster_role(component)),
    )];
    if let Some(narrow) = namespace_role(component) {
        let metadata = blueprint.metadata(&name, Some(blueprint.namespace()), &labels);
        all.push(binding("RoleBinding", metadata, role(narrow)));
    }
    all
}
