//! Two Envoys with what `mesh` renders for a buyer and a store, but for addresses.

use envoys::{Config, Envoy, Identities, free_port};
use mesh::{Mesh, Object};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Path;

fn object<T: DeserializeOwned + Into<Object>>(value: Value) -> Object {
    serde_json::from_value::<T>(value).unwrap().into()
}

fn pod(name: &str, address: &str) -> Object {
    object::<k8s_openapi::api::core::v1::Pod>(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name,
                     "labels": {"app": name, "meshwright.io/mesh": "demo", "meshwright.io/revision": "0.1.0"}},
        "spec": {"serviceAccountName": name, "containers": [{"name": "meshwright-proxy"}]},
        "status": {"phase": "Running", "podIP": address},
    }))
}

fn policy<T>(name: &str, spec: &Value) -> Object
where
    T: DeserializeOwned + Into<Object> + kube::Resource<DynamicType = ()>,
{
    object::<T>(json!({
        "apiVersion": T::api_version(&()), "kind": T::kind(&()),
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec,
    }))
}

/// A buyer that may read the books of a store whose port is `port` and speaks `protocol`.
fn mesh(port: u16, protocol: &str) -> Mesh {
    let spec = serde_json::from_value(json!({"version": "0.1.0"})).unwrap();
    let mut mesh = Mesh::new(mesh::Settings::new("demo", &spec));
    let (rule, routes) = match protocol {
        "tcp" => ("TCPRoute", policy::<crds::TCPRoute>("books", &json!({"matches": {"ports": [port]}}))),
        _ => (
            "HTTPRouteGroup",
            policy::<crds::HTTPRouteGroup>(
                "books",
                &json!({"matches": [{"name": "read", "pathRegex": "/books", "methods": ["GET"]}]}),
            ),
        ),
    };
    let account = |name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": "shop"});
    let target = json!({"destination": account("bookstore"), "sources": [account("buyer")],
                        "rules": [{"kind": rule, "name": "books"}]});
    let objects = [
        object::<k8s_openapi::api::core::v1::Namespace>(
            json!({"metadata": {"name": "shop", "labels": {"meshwright.io/mesh": "demo"}}}),
        ),
        pod("buyer", "10.1.0.2"),
        pod("bookstore", "10.1.0.1"),
        object::<k8s_openapi::api::core::v1::Service>(json!({
            "metadata": {"name": "bookstore", "namespace": "shop"},
            "spec": {"clusterIP": "10.0.0.10", "selector": {"app": "bookstore"},
                     "ports": [{"name": protocol, "port": 80, "targetPort": port}]},
        })),
        object::<k8s_openapi::api::discovery::v1::EndpointSlice>(json!({
            "metadata": {"name": "bookstore-1", "namespace": "shop",
                         "labels": {"kubernetes.io/service-name": "bookstore"}},
            "addressType": "IPv4", "ports": [{"name": protocol, "port": port}],
            "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": true},
                           "targetRef": {"kind": "Pod", "name": "bookstore"}}],
        })),
        routes,
        policy::<crds::TrafficTarget>("buyer", &target),
    ];
    for object in objects {
        mesh.apply(object);
    }
    mesh.synced();
    assert!(mesh.problems().is_empty(), "{:?}", mesh.problems());
    mesh
}

fn config(mesh: &Mesh, pod: &str, secrets: &TempDir) -> Config {
    let view = mesh::view(mesh, &mesh.audience("shop", pod).unwrap());
    let snapshot = mesh::render::render_with(&view, secrets.path().to_str().unwrap());
    Config::of(&snapshot).inlined(&snapshot)
}

/// Starts both.
pub fn start(version: &str, identities: &Identities, app: u16, protocol: &str) -> Path {
    let (buyer, store) = (identities.issue("shop", "buyer"), identities.issue("shop", "bookstore"));
    let (inbound, outbound) = (free_port(), free_port());
    let mesh = mesh(inbound, protocol);
    let mut callee = config(&mesh, "bookstore", &store);
    callee.listen("inbound", &[inbound]);
    callee.lead("inbound", app);
    let mut caller = config(&mesh, "buyer", &buyer);
    caller.listen("out|shop|bookstore|80", &[outbound]);
    caller.lead("inbound", 1);
    caller.lead("meshpassthrough", 1);
    let envoys = vec![Envoy::start(version, &callee, inbound), Envoy::start(version, &caller, outbound)];
    Path { port: outbound, envoys, _secrets: vec![buyer, store] }
}
