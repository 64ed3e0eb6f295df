//! `config/admission`: what the operator's rights would allow, and the API server refuses it all the same, where it can have
//! such fences (Kubernetes 1.30 and newer). That they do not hinder the operator is what all other tests here show: they
//! run behind them.

use http::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::cluster::{
    FENCE, OPERATOR_USER, client, control_plane_namespace, default_account, has_fences, namespace, until,
    with_operator,
};

const SYSTEM: &str = "fences-system";
const TENANT: &str = "fences-tenant";
const RBAC: &str = "rbac.authorization.k8s.io";

async fn create(client: &Client, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let request = Request::post(path).header("content-type", "application/json");
    client.request(request.body(serde_json::to_vec(body).unwrap()).unwrap()).await
}

fn binding(name: &str, role: &str, account: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": SYSTEM}],
    })
}

fn webhook(name: &str, service: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [{
            "name": "hook.meshwright.io", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "failurePolicy": "Ignore",
            "clientConfig": {"service": {"name": service, "namespace": SYSTEM, "path": "/"}},
            // Nothing is ever asked of it.
            "rules": [{"apiGroups": ["fences.example"], "apiVersions": ["v1"], "operations": ["CREATE"],
                       "resources": ["nothing"]}],
        }],
    })
}

fn deployment(name: &str, account: &str, volumes: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"serviceAccountName": account, "containers": [{"name": "c", "image": "none"}],
                     "volumes": volumes}}},
    })
}

fn named(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}})
}

/// Path, object, and what is said about it.
fn forbidden() -> Vec<(String, Value, &'static str)> {
    let bindings = format!("/apis/{RBAC}/v1/clusterrolebindings");
    let webhooks = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations".to_owned();
    let deployments = format!("/apis/apps/v1/namespaces/{SYSTEM}/deployments");
    let core = |resource: &str| format!("/api/v1/namespaces/{SYSTEM}/{resource}");
    let controller = "meshwright-controller-9-9-9";
    let host = json!([{"name": "host", "hostPath": {"path": "/"}}]);
    let secret = json!([{"name": "root", "secret": {"secretName": "meshwright-root-ca"}}]);
    vec![
        (bindings.clone(), binding("fences", "meshwright-controller", controller), "bindings of its own"),
        (bindings, binding(controller, "meshwright-controller", "default"), "accounts of its own component"),
        (webhooks.clone(), webhook("fences", "meshwright-injector-9-9-9"), "Meshwright's webhooks only"),
        (webhooks, webhook("meshwright-fences", "somebody"), "call its injectors only"),
        (deployments.clone(), deployment("fences", controller, &json!([])), "of the control plane only"),
        (deployments.clone(), deployment(controller, "default", &json!([])), "runs as its own account"),
        (deployments.clone(), deployment(controller, controller, &host), "without the host"),
        (deployments, deployment(controller, controller, &secret), "without Secrets"),
        (core("secrets"), named("Secret", "fences"), "Secrets of the root"),
        (core("configmaps"), named("ConfigMap", "fences"), "copies of the trust bundle only"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operators_rights_would_allow_is_refused_where_the_server_has_fences() {
    let admin = with_operator().await;
    if !has_fences() {
        println!(
            "this API server has no ValidatingAdmissionPolicy: docs/security/model.md says what is lost"
        );
        return;
    }
    control_plane_namespace(&admin, SYSTEM).await;
    namespace(&admin, TENANT).await;
    let operator = client(Some(OPERATOR_USER)).await;
    for (path, object, says) in forbidden() {
        // A server takes a moment to put a new policy in force: a dry run leaves nothing behind until then.
        until(&format!("{path} to be refused: {says}"), || async {
            match create(&operator, &format!("{path}?dryRun=All"), &object).await {
                Err(kube::Error::Api(status))
                    if status.message.contains(FENCE) && status.message.contains(says) =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"},
        "spec": {"containers": [{"name": "app", "image": "app:1"}, {"name": "meshwright-proxy", "image": "proxy:1"}]},
    });
    default_account(&admin, TENANT).await;
    create(&admin, &format!("/api/v1/namespaces/{TENANT}/pods"), &pod).await.unwrap();
    let image = async |container: &str, how: &str| {
        let body = json!({"spec": {"containers": [{"name": container, "image": "other:2"}]}});
        let request = Request::patch(format!("/api/v1/namespaces/{TENANT}/pods/app{how}"))
            .header("content-type", "application/strategic-merge-patch+json");
        operator.request::<Value>(request.body(serde_json::to_vec(&body).unwrap()).unwrap()).await
    };
    until("the image of an app to be refused", || async {
        match image("app", "?dryRun=All").await {
            Err(error) if error.to_string().contains("the image of a sidecar only") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let said = image("app", "").await.unwrap_err().to_string();
    assert!(said.contains("the image of a sidecar only"), "{said}");
    image("meshwright-proxy", "").await.unwrap();
}
