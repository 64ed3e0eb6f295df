//! A mesh of N sidecars and S services in which everybody may call everybody.

use mesh::Object;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The one namespace.
pub const NAMESPACE: &str = "bench";
/// Service accounts that the sidecars are spread over: replicas of one share their configuration.
const ACCOUNTS: usize = 10;

fn object<T: DeserializeOwned + Into<Object>>(value: Value) -> anyhow::Result<Object> {
    Ok(serde_json::from_value::<T>(value)?.into())
}

/// Name of a client's pod.
pub fn pod(client: usize) -> String {
    format!("client-{client}")
}

/// Service account of a client's pod.
pub fn account(client: usize) -> String {
    format!("account-{}", client % ACCOUNTS)
}

/// SPIFFE id of a client.
pub fn spiffe_id(client: usize) -> String {
    crds::labels::spiffe_id("cluster.local", NAMESPACE, &account(client))
}

/// Name of a service's cluster, listener, route and endpoints.
pub fn resource(service: usize) -> String {
    format!("out|{NAMESPACE}|service-{service}|80")
}

/// The MeshConfig.
pub fn settings() -> anyhow::Result<mesh::Settings> {
    let spec = json!({"version": "0.1.0", "traffic": {"authorization": "AllowAll"}});
    Ok(mesh::Settings::new("bench", &serde_json::from_value(spec)?))
}

/// The endpoints of a service; `round` makes them different.
pub fn slice(service: usize, round: usize) -> anyhow::Result<Object> {
    let address = |n: usize| format!("10.{}.{}.{n}", service / 250, service % 250);
    let endpoints: Vec<_> = [1, 2, 3, 4 + round % 200]
        .map(|n| json!({"addresses": [address(n)], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": server(service)}}))
        .into();
    object::<k8s_openapi::api::discovery::v1::EndpointSlice>(json!({
        "metadata": {"name": format!("service-{service}-1"), "namespace": NAMESPACE,
                     "labels": {"kubernetes.io/service-name": format!("service-{service}")}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    }))
}

fn server(service: usize) -> String {
    format!("server-{service}")
}

fn sidecar(name: &str, account: &str, app: &str) -> anyhow::Result<Object> {
    object::<k8s_openapi::api::core::v1::Pod>(json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": name,
                     "labels": {"app": app, "meshwright.io/mesh": "bench", "meshwright.io/revision": "0.1.0"}},
        "spec": {"serviceAccountName": account, "containers": [{"name": "meshwright-proxy"}]},
        "status": {"phase": "Running"},
    }))
}

/// All objects.
pub fn objects(clients: usize, services: usize) -> anyhow::Result<Vec<Object>> {
    let labels = json!({"meshwright.io/mesh": "bench"});
    let mut all = vec![object::<k8s_openapi::api::core::v1::Namespace>(
        json!({"metadata": {"name": NAMESPACE, "labels": labels}}),
    )?];
    for client in 0..clients {
        all.push(sidecar(&pod(client), &account(client), "client")?);
    }
    for service in 0..services {
        let app = format!("server-{service}");
        all.push(sidecar(&server(service), &app, &app)?);
        all.push(object::<k8s_openapi::api::core::v1::Service>(json!({
            "metadata": {"name": format!("service-{service}"), "namespace": NAMESPACE},
            "spec": {"clusterIP": format!("172.16.{}.{}", service / 250, service % 250), "selector": {"app": app},
                     "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        }))?);
        all.push(slice(service, 0)?);
    }
    Ok(all)
}
