//! Objects and a small world that most tests share: the bookstore.
//!
//! ```text
//!  buyer, thief ──▶ bookstore (v1: sa bookstore, v2: sa bookstore) ──▶ warehouse (sa warehouse; tcp 5432)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_config::{Authorization, Egress, MeshConfigSpec, Mtls};
use mesh::decide::{Callee, Caller, Request};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Mesh, Object, ObjectRef, Settings};
use serde_json::{Value, json};

pub const NS: &str = "shop";

/// Names and values.
pub type Headers<'a> = &'a [(&'a str, &'a str)];

pub fn settings() -> Settings {
    let spec: MeshConfigSpec = serde_json::from_value(json!({"version": "0.1.0"})).unwrap();
    Settings::new("demo", &spec)
}

pub fn settings_with(mtls: Mtls, authorization: Authorization, egress: Egress) -> Settings {
    Settings { mtls, authorization, egress, ..settings() }
}

macro_rules! object {
    ($type:ty, $value:expr) => {
        Object::from(serde_json::from_value::<$type>($value).unwrap())
    };
}

pub fn namespace(name: &str, mesh: &str) -> Object {
    object!(
        k8s_openapi::api::core::v1::Namespace,
        json!({"metadata": {"name": name, "labels": {"meshwright.io/mesh": mesh}}})
    )
}

/// A pod with a sidecar.
pub fn pod(name: &str, account: &str, app: &str) -> Object {
    object!(k8s_openapi::api::core::v1::Pod, pod_value(name, account, app))
}

pub fn pod_value(name: &str, account: &str, app: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": NS, "uid": format!("uid-{name}"),
            "labels": {"app": app, "version": name, "meshwright.io/mesh": "demo", "meshwright.io/revision": "0.1.0"},
        },
        "spec": {
            "serviceAccountName": account,
            "containers": [
                {"name": "meshwright-proxy"},
                {"name": "app", "ports": [{"name": "web", "containerPort": 8080}, {"name": "udp", "containerPort": 53, "protocol": "UDP"}]},
            ],
        },
        "status": {"phase": "Running"},
    })
}

pub fn pod_of(value: Value) -> Object {
    object!(k8s_openapi::api::core::v1::Pod, value)
}

/// A service; each port is (name, port, target).
pub fn service(name: &str, address: &str, selector: Value, ports: &[(&str, i32, Value)]) -> Object {
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port, target)| json!({"name": name, "port": port, "targetPort": target}))
        .collect();
    object!(
        k8s_openapi::api::core::v1::Service,
        json!({
            "metadata": {"name": name, "namespace": NS},
            "spec": {"clusterIP": address, "selector": selector, "ports": ports},
        })
    )
}

/// A slice of a service; each endpoint is (pod, address, ready).
pub fn slice(service: &str, ports: &[(&str, i32)], endpoints: &[(&str, &str, bool)]) -> Object {
    let ports: Vec<_> = ports.iter().map(|(name, port)| json!({"name": name, "port": port})).collect();
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(pod, address, ready)| {
            json!({"addresses": [address], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}})
        })
        .collect();
    object!(
        k8s_openapi::api::discovery::v1::EndpointSlice,
        json!({
            "metadata": {"name": format!("{service}-1"), "namespace": NS, "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        })
    )
}

/// A policy object of a kind that `spec` fits.
pub fn policy(kind: &str, name: &str, spec: Value) -> Object {
    policy_with(kind, name, NS, &json!({}), spec)
}

pub fn policy_with(kind: &str, name: &str, namespace: &str, labels: &Value, spec: Value) -> Object {
    let value = json!({
        "apiVersion": "x/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": labels}, "spec": spec,
    });
    match kind {
        "TrafficTarget" => object!(crds::TrafficTarget, value),
        "HTTPRouteGroup" => object!(crds::HTTPRouteGroup, value),
        "TCPRoute" => object!(crds::TCPRoute, value),
        "TrafficSplit" => object!(crds::TrafficSplit, value),
        "MeshPolicy" => object!(crds::MeshPolicy, value),
        "Egress" => object!(crds::Egress, value),
        "IngressBackend" => object!(crds::IngressBackend, value),
        "Retry" => object!(crds::Retry, value),
        "UpstreamTrafficSetting" => object!(crds::UpstreamTrafficSetting, value),
        other => panic!("{other}"),
    }
}

/// A TrafficTarget in [`NS`].
pub fn target(name: &str, destination: &str, sources: &[&str], rules: Value) -> Object {
    policy("TrafficTarget", name, target_spec(destination, sources, rules))
}

pub fn target_spec(destination: &str, sources: &[&str], rules: Value) -> Value {
    let sources: Vec<_> =
        sources.iter().map(|name| json!({"kind": "ServiceAccount", "name": name, "namespace": NS})).collect();
    json!({
        "destination": {"kind": "ServiceAccount", "name": destination, "namespace": NS},
        "sources": sources, "rules": rules,
    })
}

pub fn http(name: &str) -> Value {
    json!([{"kind": "HTTPRouteGroup", "name": name}])
}

pub fn tcp(name: &str) -> Value {
    json!([{"kind": "TCPRoute", "name": name}])
}

/// Everything but policies.
pub fn workloads() -> Vec<Object> {
    vec![
        namespace(NS, "demo"),
        pod("buyer-1", "buyer", "buyer"),
        pod("thief-1", "thief", "thief"),
        pod("v1", "bookstore", "bookstore"),
        pod("v2", "bookstore", "bookstore"),
        pod("warehouse-1", "warehouse", "warehouse"),
        service("bookstore", "10.0.0.10", json!({"app": "bookstore"}), &[("http", 80, json!(8080))]),
        service("bookstore-v1", "10.0.0.11", json!({"version": "v1"}), &[("http", 80, json!(8080))]),
        service("bookstore-v2", "10.0.0.12", json!({"version": "v2"}), &[("http", 80, json!(8080))]),
        service("warehouse", "10.0.0.13", json!({"app": "warehouse"}), &[("tcp", 5432, json!(5432))]),
        slice("bookstore", &[("http", 8080)], &[("v1", "10.1.0.1", true), ("v2", "10.1.0.2", true)]),
        slice("bookstore-v1", &[("http", 8080)], &[("v1", "10.1.0.1", true)]),
        slice("bookstore-v2", &[("http", 8080)], &[("v2", "10.1.0.2", true)]),
        slice("warehouse", &[("tcp", 5432)], &[("warehouse-1", "10.1.0.3", true)]),
    ]
}

/// The bookstore's policies: the buyer may read books, the bookstore may use the warehouse.
pub fn policies() -> Vec<Object> {
    vec![
        policy(
            "HTTPRouteGroup",
            "books",
            json!({"matches": [
                {"name": "read", "pathRegex": "/books(/[0-9]+)?", "methods": ["GET", "HEAD"]},
                {"name": "buy", "pathRegex": "/buy", "methods": ["POST"], "headers": [{"X-Client": "buyer-.*"}]},
            ]}),
        ),
        target("buy", "bookstore", &["buyer"], http("books")),
        policy("TCPRoute", "any", json!({"matches": {"ports": []}})),
        target("store", "warehouse", &["bookstore"], tcp("any")),
        policy(
            "TrafficSplit",
            "canary",
            json!({"service": "bookstore", "backends": [
                {"service": "bookstore-v1", "weight": 90}, {"service": "bookstore-v2", "weight": 10},
            ]}),
        ),
    ]
}

pub fn mesh(objects: impl IntoIterator<Item = Object>) -> Mesh {
    mesh_of(settings(), objects)
}

/// Gives pods that have no address those that slices say that they have, as a kubelet would have given them.
pub fn addressed(objects: impl IntoIterator<Item = Object>) -> Vec<Object> {
    use k8s_openapi::api::core::v1::PodIP;
    let mut objects: Vec<Object> = objects.into_iter().collect();
    let mut listed: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for object in &objects {
        let Object::EndpointSlice(slice) = object else { continue };
        for endpoint in &slice.endpoints {
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
            let of = (object.reference().namespace, pod.unwrap_or_default());
            listed.entry(of).or_default().extend(endpoint.addresses.first().cloned());
        }
    }
    for object in &mut objects {
        let ObjectRef { namespace, name, .. } = object.reference();
        let Object::Pod(pod) = object else { continue };
        let status = pod.status.get_or_insert_default();
        if status.pod_ip.is_none() && status.pod_ips.is_none() {
            let listed = listed.get(&(namespace, name)).into_iter().flatten();
            status.pod_ips = Some(listed.map(|ip| PodIP { ip: ip.clone() }).collect());
        }
    }
    objects
}

pub fn mesh_of(settings: Settings, objects: impl IntoIterator<Item = Object>) -> Mesh {
    let mut mesh = Mesh::new(settings);
    for object in addressed(objects) {
        mesh.apply(object);
    }
    mesh
}

pub fn bookstore() -> Vec<Object> {
    workloads().into_iter().chain(policies()).collect()
}

/// An HTTP call from a service account to port 8080 of a pod.
pub fn request(from: &str, to: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Call {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Call {
        from: Caller::ServiceAccount(ServiceAccount::new(NS, from)),
        to: Callee::Pod { namespace: NS.to_owned(), name: to.to_owned(), port: 8080 },
        request: Request::Http { method: method.to_owned(), path: path.to_owned(), headers },
    }
}

/// A connection from a service account to a port of a pod.
pub fn connection(from: &str, to: &str, port: u16) -> Call {
    Call {
        from: Caller::ServiceAccount(ServiceAccount::new(NS, from)),
        to: Callee::Pod { namespace: NS.to_owned(), name: to.to_owned(), port },
        request: Request::Tcp,
    }
}

/// OSM's kinds, several of which speak of the same thing. An IngressBackend opens the bookstore to the gateway, whose
/// pods are not part of the mesh.
pub fn outside() -> Vec<Object> {
    let egress = |name: &str, account: &str, host: &str, more: Value| {
        let mut spec = json!({
            "sources": [{"kind": "ServiceAccount", "name": account}], "hosts": [host],
            "ports": [{"number": 80, "protocol": "http"}, {"number": 443, "protocol": "https"}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        policy("Egress", name, spec)
    };
    let ingress = |name: &str, port: i32, protocol: &str, sources: Value| {
        let backend = json!({"name": "bookstore", "port": {"number": port, "protocol": protocol}});
        policy("IngressBackend", name, json!({"backends": [backend], "sources": sources}))
    };
    let retry = |name: &str, account: &str, on: &str| {
        let source = json!({"kind": "ServiceAccount", "name": account});
        let destinations =
            json!([{"kind": "Service", "name": "bookstore"}, {"kind": "Service", "name": "bookstore-v1"}]);
        policy(
            "Retry",
            name,
            json!({"source": source, "destinations": destinations, "retryPolicy": {"retryOn": on}}),
        )
    };
    let setting = |name: &str, host: &str, limit: u32| {
        let spec = json!({
            "host": host,
            "connectionSettings": {"tcp": {"maxConnections": limit}, "http": {"requestTimeout": format!("{limit}s")}},
            "rateLimit": {"local": {"http": {"requests": limit, "unit": "second"}}},
            "loadBalancing": {"policy": "ConsistentHash", "hashHeader": format!("x-{limit}")},
        });
        policy("UpstreamTrafficSetting", name, spec)
    };
    let group = |name: &str| json!({"matches": [{"kind": "HTTPRouteGroup", "name": name}]});
    vec![
        egress("e1", "buyer", "books.example.com", group("books")),
        egress("e2", "buyer", "books.example.com", json!({"ipAddresses": ["10.9.0.0/16"]})),
        egress(
            "e3",
            "buyer",
            "*.example.com",
            json!({"matches": [{"kind": "UpstreamTrafficSetting", "name": "u1"}]}),
        ),
        egress("e3", "thief", "other.example.com", group("gone")),
        egress(
            "e4",
            "buyer",
            "x",
            json!({"ports": [{"number": 80, "protocol": "tcp"}], "ipAddresses": ["10.8.0.0/24"]}),
        ),
        ingress("i1", 8080, "http", json!([{"kind": "Service", "name": "gateway", "namespace": "ingress"}])),
        ingress(
            "i2",
            8080,
            "https",
            json!([{"kind": "AuthenticatedPrincipal", "name": "gateway.ingress.cluster.local"}]),
        ),
        ingress("i2", 8080, "http", json!([{"kind": "IPRange", "name": "192.168.0.0/16"}])),
        gateway(&["192.0.2.1"]),
        retry("r1", "buyer", "5xx"),
        retry("r2", "buyer", "unavailable"),
        retry("r2", "thief", "5xx"),
        setting("u1", "bookstore", 1),
        setting("u2", "bookstore.shop.svc.cluster.local", 2),
        setting("u2", "warehouse", 3),
        setting("u3", "bookstore-v1", 4),
    ]
}

/// The pods of the gateway.
pub fn gateway(addresses: &[&str]) -> Object {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    object!(
        k8s_openapi::api::discovery::v1::EndpointSlice,
        json!({
            "metadata": {"name": "gateway-1", "namespace": "ingress", "labels": {"kubernetes.io/service-name": "gateway"}},
            "addressType": "IPv4", "ports": [], "endpoints": endpoints,
        })
    )
}
