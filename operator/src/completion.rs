//! Pods that shall end, such as a Job's: tells the sidecar when the app has ended, by an annotation that the kubelet
//! passes on into the pod. Nothing inside a pod shows it, and without this such a pod would run for ever.
//!
//! Only for sidecars that are plain containers; a native one is ended by the kubelet.

use std::sync::Arc;
use std::time::Duration;

use crds::labels;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::Context;

const MANAGER: &str = "meshwright-operator-completion";
const FAILED: Duration = Duration::from_secs(3);

/// Runs until the context's shutdown begins.
///
/// # Errors
/// None; what fails is tried again.
pub async fn run(ctx: Arc<Context>) -> anyhow::Result<()> {
    let stopping = ctx.shutdown.stopping.clone();
    let pods: Api<Pod> = Api::all(ctx.client.clone());
    let ending = watcher::Config::default()
        .labels(labels::MESH)
        .fields("spec.restartPolicy!=Always,status.phase!=Succeeded,status.phase!=Failed");
    Controller::new(pods, ending)
        .graceful_shutdown_on(async move { stopping.cancelled().await })
        .run(reconcile, failed, ctx)
        .for_each(|_| futures::future::ready(()))
        .await;
    Ok(())
}

#[allow(clippy::needless_pass_by_value)] // The signature is kube's.
fn failed(_: Arc<Pod>, error: &kube::Error, ctx: Arc<Context>) -> Action {
    ctx.metrics.reconciled("completion", false);
    tracing::warn!(
        error = runtime::logging::chain(error),
        "a sidecar could not be told that its app has ended"
    );
    Action::requeue(FAILED)
}

async fn reconcile(pod: Arc<Pod>, ctx: Arc<Context>) -> Result<Action, kube::Error> {
    if has_ended(&pod) {
        tell(&ctx, &pod).await?;
        ctx.metrics.reconciled("completion", true);
    }
    Ok(Action::await_change())
}

async fn tell(ctx: &Context, pod: &Pod) -> Result<(), kube::Error> {
    let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    // With its uid, so that a new pod of the same name is not told what an old one did.
    let annotations = json!({labels::APPS_ENDED: "true"});
    let body = json!({"metadata": {"uid": pod.metadata.uid, "annotations": annotations}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    match pods.patch(&name, &params, &Patch::Merge(body)).await {
        Ok(_) => {
            tracing::info!(pod = name, namespace, "the app has ended; its sidecar is told");
            Ok(())
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether every container but the sidecar has ended and will not be started again, and the sidecar still runs and
/// has not been told.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return false };
    let is_sidecar = |name: &str| name == labels::PROXY_CONTAINER;
    let started_again = |exit_code: i32| match spec.restart_policy.as_deref() {
        Some("Never") => false,
        Some("OnFailure") => exit_code != 0,
        _ => true,
    };
    let ended = |name: &str| {
        let statuses = status.container_statuses.iter().flatten();
        let terminated = |status: &ContainerStatus| status.state.as_ref()?.terminated.clone();
        statuses
            .filter(|status| status.name == name)
            .find_map(terminated)
            .is_some_and(|end| !started_again(end.exit_code))
    };
    let told = pod.annotations().contains_key(labels::APPS_ENDED);
    let mut apps = spec.containers.iter().filter(|container| !is_sidecar(&container.name)).peekable();
    let meshed = spec.containers.iter().any(|container| is_sidecar(&container.name));
    !told && meshed && apps.peek().is_some() && apps.all(|container| ended(&container.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str, containers: &[(&str, Option<i32>)]) -> Pod {
        let names: Vec<_> = containers.iter().map(|(name, _)| json!({"name": name})).collect();
        let statuses: Vec<_> = containers
            .iter()
            .map(|(name, exit)| {
                let state = match exit {
                    Some(code) => json!({"terminated": {"exitCode": code}}),
                    None => json!({"running": {}}),
                };
                json!({"name": name, "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0})
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"restartPolicy": policy, "containers": names},
            "status": {"containerStatuses": statuses},
        }))
        .unwrap()
    }

    const PROXY: (&str, Option<i32>) = (labels::PROXY_CONTAINER, None);

    #[test]
    fn the_app_has_ended_when_no_container_of_it_will_run_again() {
        assert!(has_ended(&pod("Never", &[PROXY, ("app", Some(0))])));
        assert!(has_ended(&pod("Never", &[PROXY, ("app", Some(1))])), "it is not started again");
        assert!(has_ended(&pod("OnFailure", &[PROXY, ("app", Some(0)), ("other", Some(0))])));
        assert!(!has_ended(&pod("OnFailure", &[PROXY, ("app", Some(1))])), "it is started again");
        assert!(!has_ended(&pod("Never", &[PROXY, ("app", Some(0)), ("other", None)])));
        assert!(!has_ended(&pod("Always", &[PROXY, ("app", Some(0))])));
    }

    #[test]
    fn pods_without_a_sidecar_or_told_already_are_left_alone() {
        assert!(!has_ended(&pod("Never", &[("app", Some(0))])));
        assert!(!has_ended(&pod("Never", &[PROXY])));
        let mut told = pod("Never", &[PROXY, ("app", Some(0))]);
        told.annotations_mut().insert(labels::APPS_ENDED.to_owned(), "true".to_owned());
        assert!(!has_ended(&told));
        assert!(!has_ended(&Pod::default()));
    }
}
