//! Live holders of certificates: pods whose sidecar runs, and injectors. Listed in full only during a rotation.

use crds::labels;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

/// Namespace and name of every live holder, sorted.
///
/// # Errors
/// When the pods cannot be listed.
pub async fn holders(client: &Client, mesh: &str) -> Result<Vec<(String, String)>, kube::Error> {
    let api: Api<Pod> = Api::all(client.clone());
    let running = ListParams::default()
        .labels(&format!("{}={mesh}", labels::MESH))
        .fields("status.phase!=Succeeded,status.phase!=Failed");
    let now = Timestamp::now();
    let pods = api.list(&running).await?;
    let name = |pod: &Pod| Some((pod.namespace()?, pod.name_any()));
    let mut all: Vec<_> = pods.iter().filter(|pod| holds(pod, now)).filter_map(name).collect();
    all.sort();
    Ok(all)
}

/// Whether a pod holds a certificate now, or may hold one any moment. A sidecar that has not been started will ask
/// for its first certificate then; a pod whose time to end is over is gone, whether its node says so or not.
fn holds(pod: &Pod, now: Timestamp) -> bool {
    let over = pod.metadata.deletion_timestamp.as_ref().is_some_and(|end| end.0 <= now);
    let injector = pod.labels().get(labels::COMPONENT).is_some_and(|component| component == "injector");
    let sidecar = pod.labels().contains_key(labels::REVISION);
    if over || !(injector || sidecar) {
        return false;
    }
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let named =
        |container: &&ContainerStatus| injector || container.name.starts_with(labels::PROXY_CONTAINER);
    let known: Vec<_> = containers.filter(named).collect();
    if known.is_empty() {
        // Nobody has said anything of the container: it runs if the pod does.
        return status.phase.as_deref() == Some("Running");
    }
    known.iter().any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(labels: &Value, status: &Value, deleted: Option<&str>) -> Pod {
        let mut pod = json!({"metadata": {"labels": labels}, "status": status});
        if let Some(deleted) = deleted {
            pod["metadata"]["deletionTimestamp"] = json!(deleted);
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn who_holds_a_certificate() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let sidecar = || json!({labels::REVISION: "0.2.0"});
        let container = |name: &str, state: &str| json!({"name": name, "state": {state: {}}, "image": "", "imageID": "", "ready": false, "restartCount": 0});
        let running =
            json!({"phase": "Running", "containerStatuses": [container("meshwright-proxy", "running")]});
        let cases = [
            (sidecar(), running.clone(), None, true),
            (sidecar(), running.clone(), Some("2026-11-23T12:00:30Z"), true),
            (sidecar(), running.clone(), Some("2026-11-23T11:59:59Z"), false),
            (sidecar(), json!({"phase": "Running"}), None, true),
            (sidecar(), json!({"phase": "Pending"}), None, false),
            // A native sidecar runs before the pod does.
            (
                sidecar(),
                json!({"phase": "Pending", "initContainerStatuses": [container("meshwright-proxy", "running")]}),
                None,
                true,
            ),
            (
                sidecar(),
                json!({"phase": "Running", "containerStatuses": [container("meshwright-proxy", "waiting"), container("app", "running")]}),
                None,
                false,
            ),
            (json!({labels::COMPONENT: "injector"}), json!({"phase": "Running"}), None, true),
            (json!({labels::COMPONENT: "controller"}), json!({"phase": "Running"}), None, false),
            (json!({}), running, None, false),
        ];
        for (index, (labels, status, deleted, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(holds(&pod(&labels, &status, deleted), now), wanted, "case {index}");
        }
    }
}
