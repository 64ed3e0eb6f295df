//! What a pod's JSON says of its containers, wherever they stand: a sidecar is a container beside the app, or one that
//! starts before it (Kubernetes 1.29 and newer: an init container that is restarted always).

use serde_json::Value;

/// The name of the first sidecar slot.
pub const SIDECAR: &str = "meshwright-proxy";

fn both<'a>(pod: &'a Value, place: &str, fields: [&str; 2]) -> Vec<&'a Value> {
    fields.iter().filter_map(|field| pod[place][field].as_array()).flatten().collect()
}

/// Containers and init containers.
#[must_use]
pub fn containers(pod: &Value) -> Vec<&Value> {
    both(pod, "spec", ["containers", "initContainers"])
}

/// How containers and init containers are.
#[must_use]
pub fn statuses(pod: &Value) -> Vec<&Value> {
    both(pod, "status", ["containerStatuses", "initContainerStatuses"])
}

/// Whether its sidecar starts before the app's own init containers, so that those are of the mesh too.
#[must_use]
pub fn is_native(pod: &Value) -> bool {
    has_sidecar(pod)
        && !pod["spec"]["containers"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["name"] == SIDECAR))
}

/// Whether it has a sidecar.
#[must_use]
pub fn has_sidecar(pod: &Value) -> bool {
    containers(pod).iter().any(|container| container["name"] == SIDECAR)
}
