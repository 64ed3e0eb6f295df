//! What is ours, told by marks: labels, annotations, field managers. Pure.

use crds::labels;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::core::ObjectMeta;

use crate::cluster::MANAGER;

/// Annotation of a namespace that an installation made.
pub use crds::labels::CREATED_BY;
/// Field manager of the revision label, as the operator has it.
pub use crds::labels::REVISION_MANAGER;

/// Whether an object carries the label of everything that we make.
pub fn is_marked(metadata: &ObjectMeta) -> bool {
    let label = metadata.labels.as_ref().and_then(|labels| labels.get(labels::MANAGED_BY));
    label.is_some_and(|value| value == labels::MANAGER)
}

/// Whether a definition is of our own group.
pub fn is_own_kind(definition: &str) -> bool {
    definition.strip_suffix(labels::GROUP).is_some_and(|plural| plural.ends_with('.'))
}

/// Whether we made a definition of SMI or OSM. Releases that applied over other people's definitions marked them too, but
/// then somebody else still applies part of the spec.
pub fn is_made_by_us(metadata: &ObjectMeta) -> bool {
    let owners = spec_managers(metadata);
    let shared = owners.contains(&MANAGER) && owners.iter().any(|owner| *owner != MANAGER);
    is_marked(metadata) && !shared
}

/// Managers of fields of `spec`.
fn spec_managers(metadata: &ObjectMeta) -> Vec<&str> {
    let entries = metadata.managed_fields.iter().flatten();
    let of_spec = entries
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some()));
    of_spec.filter_map(|entry| entry.manager.as_deref()).collect()
}

/// Whether a field manager owns anything of an object.
pub fn has_manager(metadata: &ObjectMeta, manager: &str) -> bool {
    metadata.managed_fields.iter().flatten().any(|entry| entry.manager.as_deref() == Some(manager))
}

/// Whether an installation made a namespace. Without the mark it is somebody's, and stays.
pub fn is_created(metadata: &ObjectMeta) -> bool {
    metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(CREATED_BY))
}

/// Whether a pod still runs with a sidecar.
pub fn has_live_sidecar(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|one| one.name.as_str())
    });
    !over && pod.labels().contains_key(labels::MESH) && has_proxy(containers)
}

fn has_proxy<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| [labels::PROXY_CONTAINER, labels::PROXY_CONTAINER_B].contains(&name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn metadata(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_name_is_no_mark() {
        assert!(!is_marked(&metadata(json!({"name": "meshwright-operator"}))));
        assert!(is_marked(&metadata(json!({"labels": {"app.kubernetes.io/managed-by": "meshwright"}}))));
        assert!(!is_marked(&metadata(json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}}))));
        assert!(is_own_kind("meshconfigs.meshwright.io"));
        assert!(!is_own_kind("traffictargets.access.smi-spec.io"));
    }

    #[test]
    fn a_definition_that_others_apply_too_is_theirs() {
        let definition = |label: &str, managers: &[&str]| {
            let fields = json!({"f:spec": {"f:group": {}}});
            let entries: Vec<_> = managers
                .iter()
                .map(|manager| json!({"manager": manager, "operation": "Apply", "fieldsV1": fields}))
                .collect();
            is_made_by_us(&metadata(json!({
                "labels": {"app.kubernetes.io/managed-by": label}, "managedFields": entries
            })))
        };
        assert!(definition("meshwright", &[MANAGER]));
        assert!(
            definition("meshwright", &["kubectl-client-side-apply"]),
            "of kubectl apply -k config/default"
        );
        assert!(!definition("meshwright", &["helm", MANAGER]), "what an older release applied over");
        assert!(!definition("Helm", &["helm"]));
    }

    #[test]
    fn a_sidecar_is_told_by_its_container_and_only_while_it_runs() {
        let pod = |mesh: bool, native: bool, phase: &str| {
            let labels = if mesh { json!({"meshwright.io/mesh": "m"}) } else { json!({}) };
            let proxy = json!([{"name": "meshwright-proxy", "image": "p"}]);
            let app = json!([{"name": "app", "image": "a"}]);
            let spec = if native {
                json!({"containers": app, "initContainers": proxy})
            } else {
                json!({"containers": proxy})
            };
            let pod = json!({"metadata": {"labels": labels}, "spec": spec, "status": {"phase": phase}});
            has_live_sidecar(&serde_json::from_value(pod).unwrap())
        };
        assert!(pod(true, false, "Running") && pod(true, true, "Pending"));
        assert!(!pod(true, false, "Succeeded") && !pod(false, false, "Running"));
        let controller = json!({
            "metadata": {"labels": {"meshwright.io/mesh": "m"}}, "spec": {"containers": [{"name": "controller"}]}
        });
        assert!(!has_live_sidecar(&serde_json::from_value(controller).unwrap()));
    }
}
