//! Who still needs a revision of the control plane.

use crate::facts::Observed;

/// Who uses a revision, in order: namespaces by their label, pods by their sidecar (also while they end: their
/// sidecars drain).
#[must_use]
pub fn users(observed: &Observed, version: &str) -> Vec<String> {
    let mut users = Vec::new();
    for (name, namespace) in &observed.namespaces {
        if namespace.revision.as_deref() == Some(version) && !namespace.terminating {
            users.push(format!("namespace {name}"));
        }
        for (pod, state) in namespace.workloads.values().flat_map(|workload| &workload.pods) {
            let serving = state.slots.as_ref().and_then(|slots| slots.serving.as_deref());
            if state.revision.as_deref() == Some(version) || serving == Some(version) {
                users.push(format!("pod {pod} in {name}"));
            }
        }
    }
    let strays = observed.strays.iter().filter(|stray| stray.revision == version);
    users.extend(strays.map(|stray| format!("pod {} in {}", stray.pod, stray.namespace)));
    users
}
