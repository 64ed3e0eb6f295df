//! What the operator makes for itself: a PodDisruptionBudget. It is no file of `config/operator` because no one version
//! of its API is served by all the servers that we support (`policy/v1beta1` until 1.24, `policy/v1` from 1.21).

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::apply::MANAGER;
use crate::context::{Context, OPERATOR};
use crate::control_plane::facts::BudgetApi;

/// Makes the budget. Without it the operator works as well, so that what fails is only logged; the next leader tries
/// again.
pub async fn guard(ctx: &Context) {
    if let Err(error) = try_guard(ctx).await {
        tracing::warn!(error = format!("{error:#}"), "the operator has no PodDisruptionBudget");
    }
}

async fn try_guard(ctx: &Context) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(ctx.client.clone(), &ctx.namespace);
    // It goes with its Deployment. Run by hand, outside of a cluster, there is none and nothing to guard.
    let Some(deployment) = deployments.get_metadata_opt(OPERATOR).await? else { return Ok(()) };
    let budgets = crate::control_plane::budget_api(&ctx.client).await?;
    ctx.writer.apply(MANAGER, &budget(&ctx.namespace, &deployment, budgets)?).await?;
    Ok(())
}

fn budget(
    namespace: &str,
    deployment: &PartialObjectMeta<Deployment>,
    api: BudgetApi,
) -> Result<DynamicObject, serde_json::Error> {
    serde_json::from_value(json!({
        "apiVersion": api.version(),
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": OPERATOR,
            "namespace": namespace,
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "Deployment", "name": OPERATOR, "uid": deployment.uid().unwrap_or_default(),
            }],
        },
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {crds::labels::NAME: OPERATOR}}},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It selects the pods that `config/operator` makes, in either version of the API, and goes with the Deployment.
    #[test]
    fn the_budget_is_of_the_operators_pods() {
        let text = include_str!("../../config/operator/deployment.yaml");
        let manifest = gitops::yaml::documents(text, gitops::yaml::Format::Yaml).unwrap().remove(0);
        let manifest: serde_json::Value = manifest.untyped().unwrap();
        let deployment = PartialObjectMeta::<Deployment> {
            metadata: kube::api::ObjectMeta { uid: Some("17".to_owned()), ..Default::default() },
            ..Default::default()
        };
        for (api, version) in [(BudgetApi::V1beta1, "policy/v1beta1"), (BudgetApi::V1, "policy/v1")] {
            let budget = budget("meshwright-system", &deployment, api).unwrap();
            assert_eq!(budget.types.as_ref().unwrap().api_version, version);
            assert_eq!(budget.owner_references()[0].uid, "17");
            let selected = &budget.data["spec"]["selector"]["matchLabels"];
            let labels = &manifest["spec"]["template"]["metadata"]["labels"];
            for (name, value) in selected.as_object().unwrap() {
                assert_eq!(&labels[name], value);
            }
        }
    }
}
