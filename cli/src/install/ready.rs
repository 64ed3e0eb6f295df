//! Waits until the mesh is ready, and says what it waits for.

use std::time::Instant;

use crds::MeshConfig;
use crds::mesh_config::MeshConfigStatus;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::OPERATOR;
use crate::cluster::LOOK;
use crate::manifests::Options;
use crate::output::advise;
use crate::progress::Progress;

/// Waits until the status says Ready and the control plane that it is about runs.
///
/// # Errors
/// When that is not so at the deadline, with what is missing.
pub async fn wait(
    client: &Client,
    options: &Options,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let api: Api<MeshConfig> = Api::all(client.clone());
    loop {
        let state = match api.get(&options.mesh).await {
            Ok(mesh) if is_ready(&mesh) => match missing(client, &mesh).await {
                // The status may be of a time before the control plane was lost.
                Some(missing) => Some(missing),
                None => {
                    progress.done(&format!("mesh {} is ready", options.mesh));
                    return Ok(());
                }
            },
            Ok(mesh) => said(mesh.status.as_ref()),
            Err(error) => Some(error.to_string()),
        };
        let state = match state {
            Some(state) => state,
            None => operator(client, &options.namespace).await,
        };
        progress.waiting(&state);
        if Instant::now() >= deadline {
            let next =
                format!("kubectl logs -n {} deployment/{OPERATOR}; meshwright status", options.namespace);
            return Err(advise(format!("the mesh is not ready in time: {state}"), next));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the status is about the newest spec and says Ready.
pub fn is_ready(mesh: &MeshConfig) -> bool {
    mesh.status.as_ref().is_some_and(|status| {
        let ready = status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        ready && status.observed_generation == mesh.metadata.generation
    })
}

/// What of the control plane that the status is about does not run.
async fn missing(client: &Client, mesh: &MeshConfig) -> Option<String> {
    let version = &mesh.status.as_ref()?.version.as_ref()?.effective;
    let api: Api<Deployment> = Api::namespaced(client.clone(), &mesh.spec.namespace);
    for name in [crds::labels::controller_name(version), crds::labels::injector_name(version)] {
        let ready = match api.get_opt(&name).await {
            Ok(Some(deployment)) => deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0),
            Ok(None) => return Some(format!("{name} is not there")),
            Err(error) => return Some(format!("{name}: {error}")),
        };
        if ready == 0 {
            return Some(format!("{name}: no replica is ready"));
        }
    }
    None
}

/// What the operator says of the mesh; `None` before it has looked at it.
fn said(status: Option<&MeshConfigStatus>) -> Option<String> {
    let ready = status?.conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some(format!("{}: {}", ready.reason, ready.message))
}

/// Why the operator has not looked at the mesh yet, as far as its Deployment and pods tell.
async fn operator(client: &Client, namespace: &str) -> String {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let status =
        deployments.get(OPERATOR).await.ok().and_then(|deployment| deployment.status).unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or(0);
    if ready > 0 {
        return "the operator runs and has not looked at the MeshConfig yet".to_owned();
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let stuck = pods.iter().filter(|pod| pod.name_any().starts_with(OPERATOR)).find_map(waiting_reason);
    format!("the operator starts ({})", stuck.unwrap_or_else(|| "no pod of it is ready".to_owned()))
}

fn waiting_reason(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        Some(format!("{}: {}", waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
    });
    waiting.or_else(|| {
        let unscheduled =
            status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
        unscheduled.message.clone()
    })
}
