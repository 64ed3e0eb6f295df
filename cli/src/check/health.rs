//! Whether the meshes of a cluster are well, by what their status says.

use crds::MeshConfig;
use crds::mesh_config::MeshConfigStatus;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client, ResourceExt};

use super::{Check, Finding};
use crate::cluster;
use crate::install::OPERATOR;

/// A root that ends sooner than this is said to.
const ROOT_ENDS: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Reads what is there and judges it.
pub async fn look(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for mesh in cluster::meshes(client).await? {
        let api: Api<Deployment> = Api::namespaced(client.clone(), &mesh.spec.namespace);
        let deployment = api.get_opt(OPERATOR).await?;
        let status = deployment.and_then(|deployment| deployment.status).unwrap_or_default();
        findings.push(operator(&mesh.spec.namespace, status.ready_replicas.unwrap_or(0)));
        findings.extend(judge(&mesh, Timestamp::now()));
    }
    Ok(findings)
}

fn operator(namespace: &str, ready: i32) -> Finding {
    match ready {
        0 => Finding::failed(
            Check::Operator,
            format!("no replica is ready in {namespace}"),
            format!("kubectl describe deployment -n {namespace} {OPERATOR}"),
        ),
        ready => Finding::passed(Check::Operator, format!("{ready} ready in {namespace}")),
    }
}

/// What the status of a mesh says, at a time.
fn judge(mesh: &MeshConfig, now: Timestamp) -> Vec<Finding> {
    let name = mesh.name_any();
    let none = MeshConfigStatus::default();
    let status = mesh.status.as_ref().unwrap_or(&none);
    if status.observed_generation != mesh.metadata.generation {
        let next = format!("kubectl logs -n {} deployment/{OPERATOR}", mesh.spec.namespace);
        return vec![Finding::failed(
            Check::Mesh,
            format!("the operator has not looked at the newest {name} yet"),
            next,
        )];
    }
    let mut findings = conditions(&name, status);
    findings.push(sidecars(status));
    findings.extend(root(status, now));
    for source in status.policy_sources.iter().filter(|source| source.applied != source.attempted) {
        findings.push(Finding::failed(
            Check::Policies,
            format!("{}: {}", source.name, source.message),
            "meshwright sources",
        ));
    }
    findings
}

fn conditions(name: &str, status: &MeshConfigStatus) -> Vec<Finding> {
    let next = format!("kubectl describe meshconfig {name}");
    let busy = status.conditions.iter().any(|one| one.type_ == "Reconciling" && one.status == "True");
    let says = |one: &Condition| format!("{name}: {}: {}", one.reason, one.message);
    let mut findings = Vec::new();
    for condition in &status.conditions {
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Reconciling", "True") => {
                findings.push(Finding::warning(Check::Mesh, says(condition), "meshwright upgrade status"));
            }
            ("Stalled", "True") => findings.push(Finding::failed(Check::Mesh, says(condition), &next)),
            ("Reconciling" | "Stalled" | "Ready", _) | (_, "True") => {}
            // While something is on its way, that it is not there yet is no failure.
            (_, _) if busy => findings.push(Finding::warning(Check::Mesh, says(condition), &next)),
            (_, _) => findings.push(Finding::failed(Check::Mesh, says(condition), &next)),
        }
    }
    match status.conditions.iter().find(|one| one.type_ == "Ready") {
        Some(ready) if ready.status == "True" => {
            findings.push(Finding::passed(Check::Mesh, format!("{name} is ready")));
        }
        Some(ready) => findings.push(Finding::failed(Check::Mesh, says(ready), "meshwright status")),
        None => findings.push(Finding::failed(Check::Mesh, format!("{name} says nothing of itself"), next)),
    }
    findings
}

fn sidecars(status: &MeshConfigStatus) -> Finding {
    let proxies = status.proxies.clone().unwrap_or_default();
    if proxies.rejected > 0 {
        let says = format!("{} refuse some of their configuration", proxies.rejected);
        return Finding::failed(Check::Sidecars, says, "kubectl describe meshconfig; meshwright proxies");
    }
    if proxies.connected < proxies.total {
        let says = format!("{} of {} are connected", proxies.connected, proxies.total);
        return Finding::warning(Check::Sidecars, says, "meshwright proxies");
    }
    Finding::passed(Check::Sidecars, format!("all {} are connected", proxies.total))
}

fn root(status: &MeshConfigStatus, now: Timestamp) -> Option<Finding> {
    let root = status.certificate_authority.as_ref()?;
    let guide = "docs/certificates.md says how a root is rotated";
    Some(match root.not_after.parse::<Timestamp>() {
        Ok(end) if end <= now => {
            Finding::failed(Check::Root, format!("it ended at {}", root.not_after), guide)
        }
        Ok(end) if end.duration_since(now) < ROOT_ENDS => {
            Finding::warning(Check::Root, format!("it ends at {}", root.not_after), guide)
        }
        Ok(_) => Finding::passed(Check::Root, format!("good until {}", root.not_after)),
        Err(_) => Finding::warning(Check::Root, format!("its end is not known: {:?}", root.not_after), guide),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::check::State;

    fn mesh(status: &Value) -> MeshConfig {
        serde_json::from_value(json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig",
            "metadata": {"name": "books", "generation": 2}, "spec": {"version": "0.2.0"}, "status": status,
        }))
        .unwrap()
    }

    fn condition(type_: &str, status: &str) -> Value {
        json!({"type": type_, "status": status, "reason": "Because", "message": format!("{type_} is {status}"),
               "lastTransitionTime": "2026-11-23T00:00:00Z"})
    }

    fn found(status: &Value) -> Vec<(Check, State)> {
        let findings = judge(&mesh(status), "2026-11-25T00:00:00Z".parse().unwrap());
        findings.iter().map(|finding| (finding.check, finding.state)).collect()
    }

    #[test]
    fn a_mesh_that_is_well_passes() {
        let status = json!({
            "observedGeneration": 2, "proxies": {"total": 3, "connected": 3, "rejected": 0},
            "conditions": [condition("Ready", "True"), condition("Stalled", "False"), condition("Reconciling", "False")],
        });
        assert_eq!(found(&status), [(Check::Mesh, State::Passed), (Check::Sidecars, State::Passed)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_do() {
        let root = json!({
            "step": "Stable", "generation": 1, "serial": 1, "signing": "c", "trusted": ["c"], "secret": "s",
            "since": "2026-11-23T00:00:00Z", "notAfter": "2026-11-30T00:00:00Z", "message": "",
        });
        let status = json!({
            "observedGeneration": 2, "proxies": {"total": 3, "connected": 2, "rejected": 1},
            "conditions": [condition("Ready", "False"), condition("Stalled", "True"), condition("Injector", "False")],
            "certificateAuthority": root,
            "policySources": [{"name": "shop", "applied": "a", "attempted": "b", "message": "not YAML"}],
        });
        let findings = judge(&mesh(&status), "2026-11-25T00:00:00Z".parse().unwrap());
        let states: Vec<_> = findings.iter().map(|finding| (finding.check, finding.state)).collect();
        assert_eq!(
            states,
            [
                (Check::Mesh, State::Failed),
                (Check::Mesh, State::Failed),
                (Check::Mesh, State::Failed),
                (Check::Sidecars, State::Failed),
                (Check::Root, State::Warning),
                (Check::Policies, State::Failed)
            ]
        );
        assert!(findings.iter().all(|finding| !finding.next.is_empty()), "{findings:?}");
    }

    #[test]
    fn what_is_on_its_way_is_a_warning_and_a_stale_status_is_no_answer() {
        let status = json!({
            "observedGeneration": 2, "proxies": {"total": 3, "connected": 2, "rejected": 0},
            "conditions": [condition("Ready", "True"), condition("Reconciling", "True"), condition("Injector", "False")],
        });
        assert_eq!(
            found(&status),
            [
                (Check::Mesh, State::Warning),
                (Check::Mesh, State::Warning),
                (Check::Mesh, State::Passed),
                (Check::Sidecars, State::Warning)
            ]
        );
        assert_eq!(found(&json!({"observedGeneration": 1})), [(Check::Mesh, State::Failed)]);
    }
}
