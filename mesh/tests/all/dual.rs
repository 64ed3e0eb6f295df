//! Addresses of both families, ports that are not TCP, and names below another domain.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh::{Mesh, Object, render, view};
use serde_json::{Value, json};

use crate::world::*;

macro_rules! object {
    ($type:ty, $value:expr) => {
        Object::from(serde_json::from_value::<$type>($value).unwrap())
    };
}

fn at(name: &str, account: &str, addresses: &[&str]) -> Object {
    let mut value = pod_value(name, account, account);
    let listed: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    value["status"] = json!({"phase": "Running", "podIP": addresses[0], "podIPs": listed});
    pod_of(value)
}

fn store(spec: Value) -> Object {
    let metadata = json!({"name": "store", "namespace": NS});
    object!(k8s_openapi::api::core::v1::Service, json!({"metadata": metadata, "spec": spec}))
}

/// Kubernetes makes one slice for each family.
fn slice_of(family: &str, endpoints: &[(&str, &str)]) -> Object {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(pod, address)| {
            json!({"addresses": [address], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": pod}})
        })
        .collect();
    let labels = json!({"kubernetes.io/service-name": "store"});
    object!(
        k8s_openapi::api::discovery::v1::EndpointSlice,
        json!({
            "metadata": {"name": format!("store-{}", family.to_ascii_lowercase()), "namespace": NS, "labels": labels},
            "addressType": family, "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        })
    )
}

/// A store of three pods: of both families, and of each alone.
fn dual() -> Mesh {
    mesh([
        namespace(NS, "demo"),
        at("old", "old", &["10.1.0.7"]),
        at("both", "both", &["10.1.0.8", "fd00::8"]),
        at("new", "new", &["fd00::9"]),
        at("store-0", "store", &["10.1.0.1", "fd00::1"]),
        at("store-1", "store", &["10.1.0.2"]),
        at("store-2", "store", &["fd00::3"]),
        store(json!({
            "clusterIP": "10.0.0.40", "clusterIPs": ["10.0.0.40", "fd00:10::40"], "selector": {"app": "store"},
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
        })),
        slice_of("IPv4", &[("store-0", "10.1.0.1"), ("store-1", "10.1.0.2")]),
        slice_of("IPv6", &[("store-0", "fd00::1"), ("store-2", "fd00::3")]),
        policy("HTTPRouteGroup", "all", json!({"matches": [{"name": "all"}]})),
        target("t", "store", &["old", "both", "new"], http("all")),
    ])
}

#[test]
fn callers_of_either_family_reach_every_pod_once() {
    let mesh = dual();
    assert_eq!(mesh.problems(), vec![]);
    let four = ["10.1.0.1:8080", "10.1.0.2:8080", "[fd00::3]:8080"];
    let six = ["10.1.0.2:8080", "[fd00::1]:8080", "[fd00::3]:8080"];
    for (caller, expected) in [("old", four), ("both", four), ("new", six)] {
        let view = view(&mesh, &mesh.audience(NS, caller).unwrap());
        let service = view.outbound.services.values().next().unwrap();
        let both: BTreeSet<IpAddr> = ["10.0.0.40", "fd00:10::40"].map(|one| one.parse().unwrap()).into();
        assert_eq!(service.addresses, both, "{caller}: dialed by both addresses of the service");
        let destination = view.outbound.destinations.values().next().unwrap();
        let endpoints: Vec<_> = destination.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(endpoints, expected, "{caller}");
    }
}

#[test]
fn what_is_not_tcp_is_left_alone() {
    let mut mesh = dual();
    let udp = json!({"name": "dns", "port": 53, "targetPort": 8053, "protocol": "UDP"});
    let tcp = json!({"name": "tcp-dns", "port": 53, "targetPort": 8053, "protocol": "TCP"});
    let sctp = json!({"name": "sctp", "port": 99, "targetPort": 8099, "protocol": "SCTP"});
    let with =
        |ports: Value| store(json!({"clusterIP": "10.0.0.40", "selector": {"app": "store"}, "ports": ports}));
    let ports = |mesh: &Mesh| -> BTreeSet<u16> {
        view(mesh, &mesh.audience(NS, "store-0").unwrap()).inbound.ports.into_keys().collect()
    };
    mesh.apply(with(json!([udp, sctp])));
    assert_eq!(mesh.problems(), vec![]);
    assert_eq!(ports(&mesh), BTreeSet::new(), "nobody calls a sidecar there");
    let caller = view(&mesh, &mesh.audience(NS, "old").unwrap());
    assert!(caller.outbound.services.is_empty());
    // The same number for both: DNS.
    mesh.apply(with(json!([udp, tcp])));
    assert_eq!(ports(&mesh), BTreeSet::from([8053]));
}

/// Nothing that a sidecar gets holds the domain of the cluster, so any will do.
#[test]
fn no_resource_depends_on_the_domain_of_the_cluster() {
    let settings = |domain: &str| {
        policy(
            "UpstreamTrafficSetting",
            "s",
            json!({
                "host": format!("store.shop.svc.{domain}"),
                "connectionSettings": {"tcp": {"maxConnections": 7}},
            }),
        )
    };
    let mut usual = dual();
    usual.apply(settings("cluster.local"));
    let mut own = dual();
    own.apply(settings("k8s.example.com"));
    assert_eq!(own.problems(), vec![]);
    let of = |mesh: &Mesh| render(&view(mesh, &mesh.audience(NS, "old").unwrap()));
    assert_eq!(of(&usual), of(&own));
    let mut none = dual();
    none.apply(settings("cluster.local"));
    none.delete(&settings("cluster.local").reference());
    assert_ne!(of(&usual), of(&none), "the setting counts");
    for resources in of(&own).resources.values() {
        for resource in resources.values() {
            let text = String::from_utf8_lossy(&resource.body).into_owned();
            // Identities are below the trust domain, which is another thing.
            let text = text.replace("spiffe://cluster.local/", "");
            assert!(!text.contains("cluster.local"), "{}", resource.name);
        }
    }
}
