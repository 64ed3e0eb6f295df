//! Events about a mesh and about the policies in it.

use crds::MeshConfig;
use crds::fleet::ProblemReport;
use crds::mesh_config::MeshConfigStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Resource};

use super::execute::Done;
use super::facts::Facts;
use crate::apply::Outcome;
use crate::context::Context;
use crate::events::Weight;

const ACTION: &str = "Reconcile";
/// Problems that are told per pass; the rest follow, because what was told is not told again.
const AT_ONCE: usize = 20;

/// Tells what changed with this pass.
pub async fn tell(ctx: &Context, mesh: &MeshConfig, facts: &Facts, after: &MeshConfigStatus, done: &Done) {
    let before = mesh.status.clone().unwrap_or_default();
    transitions(ctx, mesh, &before, after).await;
    for (key, outcome) in &done.written {
        // The first installation creates everything; that is one story, told by the conditions.
        if *outcome == Outcome::Changed && key.kind != "ConfigMap" {
            ctx.events
                .tell(mesh, Weight::Normal, "Applied", ACTION, &format!("{key} was brought in line"))
                .await;
        }
    }
    for key in &done.deleted {
        ctx.events.tell(mesh, Weight::Normal, "Deleted", ACTION, &format!("{key} is no longer wanted")).await;
    }
    for failure in &done.failures {
        let note = runtime::logging::chain(failure);
        ctx.events.tell(mesh, Weight::Warning, "ApplyFailed", ACTION, &note).await;
    }
    let problems = facts.fleet.iter().flat_map(|fleet| &fleet.problems);
    for problem in problems.take(AT_ONCE) {
        tell_problem(ctx, problem).await;
    }
}

/// Tells about conditions that changed their status or reason, and of a new release in effect.
async fn transitions(ctx: &Context, mesh: &MeshConfig, before: &MeshConfigStatus, after: &MeshConfigStatus) {
    let kinds = [
        "Ready",
        "Stalled",
        "ProxiesInSync",
        "PodsInjected",
        "NamespaceConflict",
        "RootRotation",
        "CertificatesIssued",
    ];
    for kind in kinds {
        let find = |status: &MeshConfigStatus| {
            let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
            condition.map(|c| (c.status.clone(), c.reason.clone(), c.message.clone()))
        };
        let (was, is) = (find(before), find(after));
        let Some((status, reason, message)) = is else { continue };
        if was.is_some_and(|(was, why, _)| (was, why) == (status.clone(), reason.clone())) {
            continue;
        }
        let weight = match (kind, status.as_str()) {
            ("Ready" | "RootRotation", "True") => Weight::Normal,
            ("Stalled" | "NamespaceConflict", "True") | ("CertificatesIssued" | "PodsInjected", "False") => {
                Weight::Warning
            }
            ("ProxiesInSync", "False") if reason == "Rejected" => Weight::Warning,
            _ => continue,
        };
        ctx.events.tell(mesh, weight, &reason, ACTION, &message).await;
    }
    let effective = |status: &MeshConfigStatus| status.version.clone().unwrap_or_default().effective;
    if effective(before) != effective(after) {
        let note = format!("release {} is in effect", effective(after));
        ctx.events.tell(mesh, Weight::Normal, "VersionEffective", ACTION, &note).await;
    }
}

/// Tells about a problem on the object that has it, so that `kubectl describe` shows it.
async fn tell_problem(ctx: &Context, problem: &ProblemReport) {
    let resource = match problem.kind.as_str() {
        "TrafficTarget" => ApiResource::erase::<crds::TrafficTarget>(&()),
        "HTTPRouteGroup" => ApiResource::erase::<crds::HTTPRouteGroup>(&()),
        "TCPRoute" => ApiResource::erase::<crds::TCPRoute>(&()),
        "TrafficSplit" => ApiResource::erase::<crds::TrafficSplit>(&()),
        "Egress" => ApiResource::erase::<crds::Egress>(&()),
        "IngressBackend" => ApiResource::erase::<crds::IngressBackend>(&()),
        "Retry" => ApiResource::erase::<crds::Retry>(&()),
        "UpstreamTrafficSetting" => ApiResource::erase::<crds::UpstreamTrafficSetting>(&()),
        "MeshPolicy" => ApiResource::erase::<crds::MeshPolicy>(&()),
        // The operator may read no others; PoliciesApplied names them.
        _ => return,
    };
    let mut reference = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        namespace: Some(problem.namespace.clone()),
        name: Some(problem.name.clone()),
        ..Default::default()
    };
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), &problem.namespace, &resource);
    if let Ok(Some(object)) = api.get_metadata_opt(&problem.name).await {
        // `kubectl describe` looks events up by uid.
        reference.uid = object.meta().uid.clone();
    }
    ctx.events.tell_about(&reference, Weight::Warning, &problem.reason, "Apply", &problem.message).await;
}
