//! No object of a tenant brings anything down, or makes anything huge: the objects of `tests/corpus`, broken in many ways,
//! through ingest, view and render, to messages that Envoy's types can hold.
//!
//! A file of the corpus is a list of objects. What is found elsewhere to go wrong is added there and tried ever after.

use std::path::Path;

use crds::mesh_config::{Authorization, Egress, Mtls};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use mesh::decide::{Callee, Caller, Request, Stranger, StrangerTls};
use mesh::{Call, Mesh, Object, ResourceType, Snapshot, decide, render, view};
use prost::Message;
use serde_json::{Value, json};

use crate::world::*;

/// How often each file is broken.
const ROUNDS: u64 = 60;
/// Most bytes of a sidecar's configuration that a handful of objects may make.
const MOST: usize = 1 << 20;

/// Numbers that are the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }
}

/// The objects of the corpus, by file.
fn corpus() -> Vec<(String, Vec<Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let objects = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), objects)
    };
    let mut all: Vec<(String, Vec<Value>)> = files.map(read).collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(all.len() >= 4, "the corpus is there");
    all
}

/// An object as the API server would have let it through: of the shape of its kind, whatever it says.
fn object(value: Value) -> Option<Object> {
    fn typed<T: serde::de::DeserializeOwned + Into<Object>>(value: Value) -> Option<Object> {
        serde_json::from_value::<T>(value).ok().map(Into::into)
    }
    match value["kind"].as_str().unwrap_or_default() {
        "Namespace" => typed::<k8s_openapi::api::core::v1::Namespace>(value),
        "Pod" => typed::<k8s_openapi::api::core::v1::Pod>(value),
        "Service" => typed::<k8s_openapi::api::core::v1::Service>(value),
        "EndpointSlice" => typed::<k8s_openapi::api::discovery::v1::EndpointSlice>(value),
        "TrafficTarget" => typed::<crds::TrafficTarget>(value),
        "HTTPRouteGroup" => typed::<crds::HTTPRouteGroup>(value),
        "TCPRoute" => typed::<crds::TCPRoute>(value),
        "TrafficSplit" => typed::<crds::TrafficSplit>(value),
        "MeshPolicy" => typed::<crds::MeshPolicy>(value),
        "PolicySource" => typed::<crds::PolicySource>(value),
        "Egress" => typed::<crds::Egress>(value),
        "IngressBackend" => typed::<crds::IngressBackend>(value),
        "Retry" => typed::<crds::Retry>(value),
        "UpstreamTrafficSetting" => typed::<crds::UpstreamTrafficSetting>(value),
        _ => None,
    }
}

/// What a hostile author writes in a place of something else.
fn hostile(numbers: &mut Numbers) -> Value {
    let values = [
        Value::Null,
        json!(0),
        json!(-1),
        json!(65_536),
        json!(i64::MAX),
        json!(2_147_483_647),
        json!(1.5),
        json!(true),
        json!(""),
        json!("*"),
        json!("*.*"),
        json!("a|b/c\"d\n\0"),
        json!("..;/../%2e%2e"),
        json!("0.0.0.0/0"),
        json!("::/0"),
        json!("255.255.255.255/33"),
        json!("(((((((((a{99}){99}){99})"),
        json!("[[:^alpha:]\\pN\\Q\\E"),
        json!("\u{202e}é\u{10ffff}"),
        json!("x".repeat(5_000)),
        json!("999999999999999h"),
        json!("None"),
        json!("10.0.0.10"),
        json!("127.0.0.1"),
        json!(15001),
        json!([]),
        json!({}),
        json!([[], {}, null]),
        json!(vec!["a"; 2_000]),
        json!({"a": {"b": {"c": {"d": "e"}}}}),
    ];
    let place = numbers.below(values.len());
    values[place].clone()
}

/// Every place in a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            found.push(at.clone());
            places(value, &at, found);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| {
            let at = format!("{at}/{index}");
            found.push(at.clone());
            places(value, &at, found);
        }),
        _ => {}
    }
}

/// Puts something else into a place of a value, or what it has many times.
fn spoil(value: &mut Value, numbers: &mut Numbers) {
    let mut all = Vec::new();
    places(value, "", &mut all);
    all.retain(|at| at != "/kind");
    let at = all[numbers.below(all.len())].clone();
    let other = all[numbers.below(all.len())].clone();
    let copy = value.pointer(&other).cloned();
    let Some(place) = value.pointer_mut(&at) else { return };
    match (numbers.below(4), &mut *place) {
        (0, Value::Array(items)) if !items.is_empty() => {
            let many = 1 + numbers.below(300);
            *items = items.iter().cycle().take(many).cloned().collect();
        }
        (1, _) => *place = copy.unwrap_or_default(),
        (_, _) => *place = hostile(numbers),
    }
}

/// All of a sidecar's configuration can be read by whoever it is for.
fn check(snapshot: &Snapshot) -> usize {
    let mut bytes = 0;
    for kind in ResourceType::ALL {
        for (name, resource) in snapshot.of(kind) {
            bytes += resource.body.len();
            let whole = Resource::decode(resource.body.clone()).unwrap();
            assert_eq!(*name, whole.name);
            let message = whole.resource.unwrap();
            let read = match kind {
                ResourceType::Cluster => Cluster::decode(message.value.as_slice()).map(|one| one.name),
                ResourceType::Endpoint => {
                    ClusterLoadAssignment::decode(message.value.as_slice()).map(|one| one.cluster_name)
                }
                ResourceType::Listener => Listener::decode(message.value.as_slice()).map(|one| one.name),
                ResourceType::Route => {
                    RouteConfiguration::decode(message.value.as_slice()).map(|one| one.name)
                }
            };
            assert_eq!(read.unwrap(), *name);
        }
    }
    bytes
}

fn calls() -> Vec<Call> {
    let tls = StrangerTls { name: Some("spiffe://cluster.local/x".to_owned()), server_name: None };
    let from = [
        Caller::Pod { namespace: NS.to_owned(), name: "buyer-1".to_owned() },
        Caller::Plaintext,
        Caller::Outside(Stranger { address: "192.168.0.1".parse().unwrap(), tls: Some(tls) }),
        Caller::Outside(Stranger { address: "192.168.0.1".parse().unwrap(), tls: None }),
    ];
    let to = [
        Callee::Pod { namespace: NS.to_owned(), name: "v1".to_owned(), port: 8080 },
        Callee::Service { namespace: NS.to_owned(), name: "bookstore".to_owned(), port: 80 },
        Callee::Outside {
            host: Some("api.example.com".to_owned()),
            address: "10.1.2.3".parse().ok(),
            port: 80,
        },
    ];
    let http = Request::Http { method: "GET".to_owned(), path: "/books".to_owned(), headers: [].into() };
    let pairs = from.iter().flat_map(|from| to.iter().map(move |to| (from, to)));
    let all = pairs.flat_map(|(from, to)| {
        [http.clone(), Request::Tcp].map(|request| Call { from: from.clone(), to: to.clone(), request })
    });
    all.collect()
}

fn pass(what: &str, mesh: &mut Mesh, values: &[Value]) {
    for value in values {
        if let Some(object) = object(value.clone()) {
            mesh.apply(object);
        }
    }
    mesh.synced();
    drop(mesh.problems());
    for call in calls() {
        drop(decide(mesh, &call));
    }
    let pods: Vec<_> = mesh.pods().map(|(namespace, pod)| (namespace.to_owned(), pod.to_owned())).collect();
    for (namespace, pod) in pods {
        let Ok(audience) = mesh.audience(&namespace, &pod) else { continue };
        let bytes = check(&render(&view(mesh, &audience)));
        assert!(bytes < MOST, "{what}: {bytes} bytes for {pod}: {values:?}");
    }
}

#[test]
fn no_object_brings_anything_down() {
    let settings = settings_with(Mtls::Permissive, Authorization::Enforce, Egress::Allow);
    let calm = mesh_of(settings, bookstore());
    for (file, values) in corpus() {
        assert!(values.iter().all(|value| object(value.clone()).is_some()), "{file} holds objects");
        pass(&file, &mut calm.clone(), &values);
        for seed in 1..=ROUNDS {
            let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut spoilt = values.clone();
            for _ in 0..=numbers.below(3) {
                let place = numbers.below(spoilt.len());
                spoil(&mut spoilt[place], &mut numbers);
            }
            pass(&format!("{file} {seed}"), &mut calm.clone(), &spoilt);
        }
    }
}
