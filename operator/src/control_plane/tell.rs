//! Events about a mesh and about the policies in it.

use crds::fleet::ProblemReport;
use crds::mesh_config::MeshConfigStatus;
use crds::{MeshConfig, PolicyKind};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::DynamicObject;
use kube::{Api, Resource, ResourceExt};

use super::execute::Done;
use super::facts::Facts;
use super::report::ESCAPED_NEXT;
use crate::apply::Outcome;
use crate::context::Context;
use crate::events::{Told, Weight};

const ACTION: &str = "Reconcile";
/// Problems, and pods that escaped, that are told per pass; what was told does not count, so the rest follow with the next
/// passes.
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
    tell_escaped(ctx, mesh, facts, after).await;
    let problems = facts.fleet.iter().flat_map(|fleet| &fleet.problems);
    let mut told = 0;
    for problem in problems {
        if tell_problem(ctx, problem).await == Told::Now {
            told += 1;
        }
        if told >= AT_ONCE {
            break;
        }
    }
}

/// Tells each pod that escaped its sidecar, so that `kubectl describe` shows it, and counts them.
async fn tell_escaped(ctx: &Context, mesh: &MeshConfig, facts: &Facts, after: &MeshConfigStatus) {
    let members = after.namespaces.iter().cloned().collect();
    let escaped: Vec<_> = facts.escaped(&members).collect();
    ctx.metrics.escaped(&mesh.name_any(), escaped.len());
    let mut told = 0;
    for (pod, missed) in escaped {
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(pod.uid.clone()),
            ..Default::default()
        };
        let note = format!("it runs without a sidecar: {}. {ESCAPED_NEXT}", missed.explanation());
        if ctx.events.say(&reference, Weight::Warning, "WithoutSidecar", "Inject", &note).await == Told::Now {
            told += 1;
        }
        if told >= AT_ONCE {
            break;
        }
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
async fn tell_problem(ctx: &Context, problem: &ProblemReport) -> Told {
    // The operator may read no others; PoliciesApplied names them.
    let Some(kind) = PolicyKind::from_name(&problem.kind) else { return Told::Before };
    let resource = kind.resource();
    let mut reference = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        namespace: Some(problem.namespace.clone()),
        name: Some(problem.name.clone()),
        ..Default::default()
    };
    // By name, so that what is known costs no request.
    let by_name = reference.clone();
    if ctx.events.is_known(&by_name, &problem.reason, &problem.message) {
        return Told::Before;
    }
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), &problem.namespace, &resource);
    if let Ok(Some(object)) = api.get_metadata_opt(&problem.name).await {
        // `kubectl describe` looks events up by uid.
        reference.uid = object.meta().uid.clone();
    }
    let told = ctx.events.say(&reference, Weight::Warning, &problem.reason, "Apply", &problem.message).await;
    if told != Told::Failed {
        ctx.events.said(&by_name, &problem.reason, &problem.message);
    }
    told
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::Event;
    use kube::api::ListParams;
    use serde_json::json;

    use super::super::facts::BarePod;
    use super::*;
    use crate::fleet::FleetView;
    use crate::testing::{ApiServer, context};

    /// Names of the objects that Events are about.
    async fn told(server: &ApiServer, reason: &str) -> BTreeSet<String> {
        let events: Api<Event> = Api::namespaced(server.client(), "shop");
        let events = events.list(&ListParams::default()).await.unwrap();
        let about = events.items.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
        about.filter_map(|event| event.involved_object.name).collect()
    }

    #[tokio::test]
    async fn every_problem_and_every_escaped_pod_gets_its_event_a_few_with_each_pass() {
        let server = ApiServer::default();
        let ctx = context(&server);
        let name = |kind: &str, n: usize| format!("{kind}-{n:02}");
        let problem = |n| {
            let report = json!({"kind": "TrafficTarget", "namespace": "shop", "name": name("target", n),
                "reason": "Bad", "message": "it is"});
            serde_json::from_value::<ProblemReport>(report).unwrap()
        };
        let pod =
            |n| BarePod { namespace: "shop".into(), name: name("pod", n), uid: n.to_string(), made: None };
        let facts = Facts {
            fleet: Some(FleetView { problems: (0..50).map(problem).collect(), ..Default::default() }),
            bare: (0..50).map(pod).collect(),
            ..Default::default()
        };
        let after = MeshConfigStatus { namespaces: vec!["shop".to_owned()], ..Default::default() };
        let spec = serde_json::from_value(json!({"version": "0.1.0"})).unwrap();
        let mesh = MeshConfig::new("m", spec);
        for expected in [20, 40, 50, 50] {
            tell(&ctx, &mesh, &facts, &after, &Done::default()).await;
            assert_eq!(told(&server, "Bad").await.len(), expected);
            assert_eq!(told(&server, "WithoutSidecar").await.len(), expected);
        }
    }
}
