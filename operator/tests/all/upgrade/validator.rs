//! The webhook that judges policies, when nobody answers it: what the operator has judged itself must not wait for it.

use crds::TrafficSplit;
use k8s_openapi::api::admissionregistration::v1::{
    RuleWithOperations, ValidatingWebhook, ValidatingWebhookConfiguration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use kube::api::{DeleteParams, PostParams};
use kube::{Api, Resource};

use super::*;
use crate::cluster::{has_fences, kubectl};

fn split(name: &str) -> TrafficSplit {
    let spec = json!({"service": "s", "backends": [{"service": "v1", "weight": 1}]});
    TrafficSplit::new(name, serde_json::from_value(spec).unwrap())
}

/// The same webhook, for one namespace, with nobody behind it, and fails closed, so that whoever asks it is refused.
fn unanswered(hook: &ValidatingWebhook, namespace: &str) -> ValidatingWebhook {
    let mut hook = hook.clone();
    hook.failure_policy = Some("Fail".to_owned());
    hook.timeout_seconds = Some(1);
    hook.client_config.service = None;
    hook.client_config.url = Some("https://127.0.0.1:1/validate".to_owned());
    // What has no namespace, no selector leaves out: other tests' meshes.
    let splits = |rule: &RuleWithOperations| {
        rule.resources.iter().flatten().any(|resource| *resource == TrafficSplit::plural(&()))
    };
    let rules = hook.rules.take().into_iter().flatten().filter(splits);
    hook.rules =
        Some(rules.map(|rule| RuleWithOperations { scope: Some("Namespaced".to_owned()), ..rule }).collect());
    let only = ("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
    hook.namespace_selector =
        Some(LabelSelector { match_labels: Some([only].into()), ..LabelSelector::default() });
    hook
}

#[tokio::test]
async fn what_the_operator_writes_is_not_judged_twice() {
    let scene = Scene::new("u-judge", &["a"]).await;
    let namespace = scene.namespaces[0].as_str();
    let hooks: Api<ValidatingWebhookConfiguration> = Api::all(scene.client.clone());
    let ours = until("the validator", || async {
        let name = format!("meshwright-validator-{}", scene.mesh);
        hooks.get(&name).await.map_err(|error| error.to_string())
    })
    .await;
    let hook = ours.webhooks.unwrap().remove(0);
    if !has_fences() {
        assert_eq!(hook.match_conditions, None, "such a server does not know it");
        scene.remove().await;
        return;
    }
    let name = format!("{}-unanswered", scene.mesh);
    let mut strict = ValidatingWebhookConfiguration::default();
    strict.metadata.name = Some(name.clone());
    strict.webhooks = Some(vec![unanswered(&hook, namespace)]);
    hooks.create(&PostParams::default(), &strict).await.unwrap();

    let splits = |client: Client| Api::<TrafficSplit>::namespaced(client, namespace);
    let (person, operator) = (splits(scene.client.clone()), splits(scene.ctx.client.clone()));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    until("the webhook to count", || async {
        match person.create(&dry, &split("mine")).await {
            Err(kube::Error::Api(status)) if status.message.contains("failed calling webhook") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let written = operator.create(&PostParams::default(), &split("ours")).await;
    // A tenant's account of the same name is not spared.
    let tenant = format!("system:serviceaccount:{namespace}:meshwright-operator");
    kubectl(&[
        "create",
        "rolebinding",
        "all",
        "-n",
        namespace,
        "--clusterrole=cluster-admin",
        "--user",
        &tenant,
    ]);
    let tenants = splits(client(Some(&tenant)).await);
    let other = until("the tenant's rights to count", || async {
        match tenants.create(&dry, &split("theirs")).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => Err(status.message),
            answer => Ok(answer),
        }
    })
    .await;
    hooks.delete(&name, &DeleteParams::default()).await.unwrap();
    written.unwrap();
    let refused = other.unwrap_err().to_string();
    assert!(refused.contains("failed calling webhook"), "{refused}");
    scene.remove().await;
}
