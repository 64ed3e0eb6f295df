//! What each component must not be able to do, tried with its own service account at a real API server: the server is
//! asked (SelfSubjectAccessReview), and then it is done.
//!
//! What they must be able to do is what all other tests of the API tier do with the same accounts.

use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};

use crate::cluster::{FENCE, OPERATOR_USER, client, control_plane_namespace, namespace, with_operator};

const SYSTEM: &str = "rights-system";
const TENANT: &str = "rights-tenant";
const CONTROLLER_USER: &str = "system:serviceaccount:rights-system:meshwright-controller-0-2-0";
const INJECTOR_USER: &str = "system:serviceaccount:rights-system:meshwright-injector-0-2-0";

/// One thing to try.
struct Attempt {
    what: &'static str,
    method: Method,
    /// Path below the API server.
    path: String,
    body: Value,
    /// As SelfSubjectAccessReview has it.
    review: Value,
}

fn attempt(
    what: &'static str,
    (method, verb): (Method, &str),
    (group, version): (&str, &str),
    namespace: Option<&str>,
    resource: &str,
    name: Option<&str>,
    body: Value,
) -> Attempt {
    let mut path =
        if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    if let Some(namespace) = namespace {
        path.push_str(&format!("/namespaces/{namespace}"));
    }
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    path.push_str(&format!("/{resource}"));
    if let Some(name) = name {
        path.push_str(&format!("/{name}"));
    }
    if !subresource.is_empty() {
        path.push_str(&format!("/{subresource}"));
    }
    let review = json!({
        "verb": verb, "group": group, "resource": resource, "subresource": subresource,
        "namespace": namespace.unwrap_or_default(), "name": name.unwrap_or_default(),
    });
    Attempt { what, method, path, body, review }
}

const CORE: (&str, &str) = ("", "v1");
const APPS: (&str, &str) = ("apps", "v1");
const RBAC: (&str, &str) = ("rbac.authorization.k8s.io", "v1");
const WEBHOOKS: (&str, &str) = ("admissionregistration.k8s.io", "v1");

fn named(kind: &str, version: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}})
}

/// What nobody of the three may do.
fn nobody() -> Vec<Attempt> {
    let get = |what, namespace, resource, name| {
        attempt(what, (Method::GET, "get"), CORE, namespace, resource, name, Value::Null)
    };
    let list = |what, namespace, resource| {
        attempt(what, (Method::GET, "list"), CORE, namespace, resource, None, Value::Null)
    };
    let create = |what, api: (&str, &str), namespace, resource, body| {
        attempt(what, (Method::POST, "create"), api, namespace, resource, None, body)
    };
    let delete = |what, api, namespace, resource, name| {
        attempt(what, (Method::DELETE, "delete"), api, namespace, resource, Some(name), Value::Null)
    };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mine"},
        "spec": {"containers": [{"name": "c", "image": "none"}]},
    });
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["x"]}});
    vec![
        list("read the Secrets of all", None, "secrets"),
        list("read a tenant's Secrets", Some(TENANT), "secrets"),
        list("read the control plane's Secrets", Some(SYSTEM), "secrets"),
        get("read a tenant's Secret", Some(TENANT), "secrets", Some("theirs")),
        get("read the cluster's Secret", Some("kube-system"), "secrets", Some("any")),
        create(
            "put a Secret into a tenant's namespace",
            CORE,
            Some(TENANT),
            "secrets",
            named("Secret", "v1", "s"),
        ),
        create("start a pod", CORE, Some(TENANT), "pods", pod.clone()),
        create("start a pod beside the control plane", CORE, Some(SYSTEM), "pods", pod),
        delete("delete a pod", CORE, Some(TENANT), "pods", "theirs"),
        create(
            "make a service account",
            CORE,
            Some(TENANT),
            "serviceaccounts",
            named("ServiceAccount", "v1", "s"),
        ),
        create(
            "make a Service",
            CORE,
            Some(TENANT),
            "services",
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]},
            }),
        ),
        delete("take a tenant's Service away", CORE, Some(TENANT), "services", "theirs"),
        delete("take a tenant's Deployment away", APPS, Some(TENANT), "deployments", "theirs"),
        create(
            "make a Deployment",
            APPS,
            Some(TENANT),
            "deployments",
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
                "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}},
            }),
        ),
        create("make a namespace", CORE, None, "namespaces", named("Namespace", "v1", "rights-new")),
        delete("delete a namespace", CORE, None, "namespaces", TENANT),
        attempt(
            "ask for another account's token",
            (Method::POST, "create"),
            CORE,
            Some(TENANT),
            "serviceaccounts/token",
            Some("default"),
            token,
        ),
        create("write a role", RBAC, None, "clusterroles", named("ClusterRole", RBAC_V1, "rights-mine")),
        delete("delete a role", RBAC, None, "clusterroles", "cluster-admin"),
        create(
            "become cluster-admin",
            RBAC,
            None,
            "clusterrolebindings",
            binding("ClusterRoleBinding", "cluster-admin"),
        ),
        create(
            "own a tenant's namespace",
            RBAC,
            Some(TENANT),
            "rolebindings",
            binding("RoleBinding", "admin"),
        ),
        create(
            "own the control plane's namespace",
            RBAC,
            Some(SYSTEM),
            "rolebindings",
            binding("RoleBinding", "admin"),
        ),
        create(
            "read the root key of every namespace",
            RBAC,
            None,
            "clusterrolebindings",
            binding("ClusterRoleBinding", "meshwright-controller-namespace"),
        ),
        create(
            "read a tenant's Secret of the root's name",
            RBAC,
            Some(TENANT),
            "rolebindings",
            binding("RoleBinding", "meshwright-controller-namespace"),
        ),
        attempt(
            "change a MeshConfig",
            (Method::DELETE, "delete"),
            ("meshwright.io", "v1alpha1"),
            None,
            "meshconfigs",
            Some("any"),
            Value::Null,
        ),
        get("look at nodes", None, "nodes", Some("any")),
    ]
}

const RBAC_V1: &str = "rbac.authorization.k8s.io/v1";

/// A binding of a ClusterRole to the default account of the tenant.
fn binding(kind: &str, role: &str) -> Value {
    json!({
        "apiVersion": RBAC_V1, "kind": kind, "metadata": {"name": "rights-mine"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": TENANT}],
    })
}

/// What controllers and injectors may not do either.
fn neither_controller_nor_injector() -> Vec<Attempt> {
    let delete = |what, api, namespace, resource, name| {
        attempt(what, (Method::DELETE, "delete"), api, namespace, resource, Some(name), Value::Null)
    };
    let labels = json!({"metadata": {"labels": {"meshwright.io/mesh": "mine"}}});
    vec![
        delete("take a webhook away", WEBHOOKS, None, "mutatingwebhookconfigurations", "any"),
        delete("take a webhook away", WEBHOOKS, None, "validatingwebhookconfigurations", "any"),
        attempt(
            "change a webhook",
            (Method::PATCH, "patch"),
            WEBHOOKS,
            None,
            "validatingwebhookconfigurations",
            Some("any"),
            labels.clone(),
        ),
        attempt(
            "label a namespace",
            (Method::PATCH, "patch"),
            CORE,
            None,
            "namespaces",
            Some(TENANT),
            labels.clone(),
        ),
        attempt("change a pod", (Method::PATCH, "patch"), CORE, Some(TENANT), "pods", Some("theirs"), labels),
        delete("take a bundle away", CORE, Some(TENANT), "configmaps", "meshwright-trust-bundle"),
        delete("take the root away", CORE, Some(SYSTEM), "secrets", "meshwright-root-ca"),
        attempt(
            "write a policy",
            (Method::POST, "create"),
            ("access.smi-spec.io", "v1alpha3"),
            Some(TENANT),
            "traffictargets",
            None,
            named("TrafficTarget", "access.smi-spec.io/v1alpha3", "mine"),
        ),
        attempt("list accounts", (Method::GET, "list"), CORE, None, "serviceaccounts", None, Value::Null),
        attempt(
            "list ConfigMaps",
            (Method::GET, "list"),
            CORE,
            Some(SYSTEM),
            "configmaps",
            None,
            Value::Null,
        ),
    ]
}

/// Asks whether it may, then does it; both must say no.
async fn refused(client: &Client, user: &str, attempt: &Attempt) {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attempt.review},
    });
    let ask = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&review).unwrap())
        .unwrap();
    let said: Value = client.request(ask).await.unwrap();
    // Writing bindings is allowed; what they may grant is judged when one is written.
    let is_binding = attempt.path.contains("bindings");
    if !is_binding {
        assert_ne!(said["status"]["allowed"], true, "{user} is told that it may {}", attempt.what);
    }
    let content =
        if attempt.method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let body = if attempt.body.is_null() { Vec::new() } else { serde_json::to_vec(&attempt.body).unwrap() };
    let request = Request::builder()
        .method(attempt.method.clone())
        .uri(&attempt.path)
        .header("content-type", content)
        .body(body)
        .unwrap();
    match client.request::<Value>(request).await {
        Err(kube::Error::Api(status)) if status.code == 403 && status.reason == "Forbidden" => {}
        // The fences of config/admission come before what a binding may grant is judged.
        Err(kube::Error::Api(status)) if is_binding && status.message.contains(FENCE) => {}
        other => panic!("{user} may {} ({}): {other:?}", attempt.what, attempt.path),
    }
}

/// The rights of a release's controller and injector, as the operator binds them.
async fn bind_components(admin: &Client) {
    let subject = |name: &str| json!([{"kind": "ServiceAccount", "name": name, "namespace": SYSTEM}]);
    let role =
        |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
    let bindings = [
        ("ClusterRoleBinding", "meshwright-controller", "meshwright-controller-0-2-0"),
        ("RoleBinding", "meshwright-controller-namespace", "meshwright-controller-0-2-0"),
        ("ClusterRoleBinding", "meshwright-injector", "meshwright-injector-0-2-0"),
    ];
    for (kind, granted, account) in bindings {
        let path = match kind {
            "RoleBinding" => format!("/apis/{RBAC_V1}/namespaces/{SYSTEM}/rolebindings/rights-{granted}"),
            _ => format!("/apis/{RBAC_V1}/clusterrolebindings/rights-{granted}"),
        };
        let body = json!({
            "apiVersion": RBAC_V1, "kind": kind, "metadata": {"name": format!("rights-{granted}")},
            "roleRef": role(granted), "subjects": subject(account),
        });
        let request = Request::patch(format!("{path}?fieldManager=test&force=true"))
            .header("content-type", "application/apply-patch+yaml")
            .body(serde_json::to_vec(&body).unwrap())
            .unwrap();
        admin.request::<Value>(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_component_is_refused_what_it_must_not_do() {
    let admin = with_operator().await;
    control_plane_namespace(&admin, SYSTEM).await;
    namespace(&admin, TENANT).await;
    bind_components(&admin).await;
    for user in [OPERATOR_USER, CONTROLLER_USER, INJECTOR_USER] {
        let client = client(Some(user)).await;
        for attempt in nobody() {
            refused(&client, user, &attempt).await;
        }
        if user != OPERATOR_USER {
            for attempt in neither_controller_nor_injector() {
                refused(&client, user, &attempt).await;
            }
        }
    }
    // Only the controller reads the root, and the operator does not.
    let root = attempt(
        "read the root key",
        (Method::GET, "get"),
        CORE,
        Some(SYSTEM),
        "secrets",
        Some("meshwright-root-ca"),
        Value::Null,
    );
    for user in [OPERATOR_USER, INJECTOR_USER] {
        refused(&client(Some(user)).await, user, &root).await;
    }
}

/// A namespace's owners see and write its policies by the roles that Kubernetes gives them, and nothing of the mesh.
#[tokio::test(flavor = "multi_thread")]
async fn owners_of_a_namespace_write_its_policies() {
    let admin = with_operator().await;
    namespace(&admin, TENANT).await;
    for (user, role) in [("rights-viewer", "view"), ("rights-editor", "edit"), ("rights-owner", "admin")] {
        let body = json!({
            "apiVersion": RBAC_V1, "kind": "RoleBinding", "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": user}],
        });
        let path =
            format!("/apis/{RBAC_V1}/namespaces/{TENANT}/rolebindings/{user}?fieldManager=test&force=true");
        let request = Request::patch(path)
            .header("content-type", "application/apply-patch+yaml")
            .body(serde_json::to_vec(&body).unwrap())
            .unwrap();
        admin.request::<Value>(request).await.unwrap();
    }
    let table = [
        ("rights-viewer", "list", "access.smi-spec.io", "traffictargets", true),
        ("rights-viewer", "create", "access.smi-spec.io", "traffictargets", false),
        ("rights-viewer", "get", "meshwright.io", "meshpolicies", true),
        ("rights-viewer", "get", "meshwright.io", "meshconfigs", false),
        ("rights-editor", "create", "split.smi-spec.io", "trafficsplits", true),
        ("rights-editor", "create", "policy.openservicemesh.io", "retries", true),
        ("rights-editor", "create", "access.smi-spec.io", "traffictargets", false),
        ("rights-editor", "create", "policy.openservicemesh.io", "egresses", false),
        ("rights-owner", "create", "access.smi-spec.io", "traffictargets", true),
        ("rights-owner", "delete", "policy.openservicemesh.io", "ingressbackends", true),
        ("rights-owner", "patch", "meshwright.io", "policysources", true),
        ("rights-owner", "patch", "meshwright.io", "meshconfigs", false),
        ("rights-owner", "patch", "meshwright.io", "meshupgrades", false),
    ];
    for (user, verb, group, resource, allowed) in table {
        let client = client(Some(user)).await;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": TENANT}},
        });
        // The controller that adds roles up works in its own time.
        crate::cluster::until(&format!("{user}: {verb} {resource} = {allowed}"), || async {
            let ask = Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
                .header("content-type", "application/json")
                .body(serde_json::to_vec(&review).unwrap())
                .unwrap();
            let said: Value = client.request(ask).await.map_err(|error| error.to_string())?;
            if said["status"]["allowed"] == allowed { Ok(()) } else { Err(said["status"].to_string()) }
        })
        .await;
    }
}
