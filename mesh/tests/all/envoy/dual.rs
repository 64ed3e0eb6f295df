//! A store with addresses of both families, called by sidecars of either, through two real Envoys.

use std::net::SocketAddr;

use envoys::{Config, Envoy, Identities, VERSIONS, free_port};
use mesh::{Mesh, Object};
use serde_json::{Value, json};

use super::apps::app;
use super::live::config;
use super::outside::{exchange, meant_for, virtual_outbound};
use crate::world::*;

fn at(name: &str, account: &str, addresses: Value) -> Object {
    let mut value = pod_value(name, account, account);
    value["status"] = json!({"phase": "Running", "podIPs": addresses});
    pod_of(value)
}

fn world(port: u16) -> Mesh {
    let service = json!({
        "metadata": {"name": "store", "namespace": NS},
        "spec": {
            "clusterIP": "10.0.0.40", "clusterIPs": ["10.0.0.40", "fd00:10::40"], "selector": {"app": "store"},
            "ports": [{"name": "http", "port": 80, "targetPort": port}],
        },
    });
    let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(service).unwrap();
    let slice = |family: &str, address: &str| {
        let slice = json!({
            "metadata": {
                "name": format!("store-{}", family.to_lowercase()), "namespace": NS,
                "labels": {"kubernetes.io/service-name": "store"},
            },
            "addressType": family, "ports": [{"name": "http", "port": port}],
            "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "store-0"}}],
        });
        let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(slice).unwrap();
        Object::from(slice)
    };
    mesh([
        namespace(NS, "demo"),
        at("old", "buyer", json!([{"ip": "10.1.0.7"}])),
        at("both", "buyer", json!([{"ip": "10.1.0.8"}, {"ip": "fd00::8"}])),
        at("new", "buyer", json!([{"ip": "fd00::9"}])),
        at("store-0", "store", json!([{"ip": "10.1.0.1"}, {"ip": "fd00::1"}])),
        service.into(),
        slice("IPv4", "10.1.0.1"),
        slice("IPv6", "fd00::1"),
        policy("HTTPRouteGroup", "all", json!({"matches": [{"name": "all"}]})),
        target("t", "store", &["buyer"], http("all")),
    ])
}

/// The loopback address of the same family.
fn here(endpoint: SocketAddr) -> SocketAddr {
    match endpoint {
        SocketAddr::V4(_) => SocketAddr::from(([127, 0, 0, 1], endpoint.port())),
        SocketAddr::V6(_) => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], endpoint.port())),
    }
}

#[test]
fn both_addresses_of_a_service_lead_to_its_pods_whatever_the_caller_has() {
    for version in VERSIONS {
        let port = free_port();
        let mesh = world(port);
        assert_eq!(mesh.problems(), vec![]);
        let identities = Identities::new();
        let secrets = identities.issue(NS, "store");
        let mut server = config(&mesh, "store-0", &secrets);
        server.listen_everywhere("inbound", port);
        server.lead("inbound", app());
        let _server = Envoy::start(version, &server, port);
        let secrets = identities.issue(NS, "buyer");
        for caller in ["old", "both", "new"] {
            let view = mesh::view(&mesh, &mesh.audience(NS, caller).unwrap());
            let snapshot = mesh::render::render_with(&view, secrets.path().to_str().unwrap());
            let mut config = Config::of(&snapshot).inlined_at(&snapshot, here);
            config.lead("inbound", 1);
            config.lead("meshpassthrough", 1);
            let outbound = virtual_outbound(&mut config);
            let _caller = Envoy::start(version, &config, outbound);
            for (dialed, host) in [
                ("10.0.0.40:80", "store"),
                ("[fd00:10::40]:80", "[fd00:10::40]"),
                ("[fd00:10::40]:80", "store:80"),
            ] {
                let mut bytes = meant_for(dialed.parse().unwrap());
                bytes.extend(
                    format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").into_bytes(),
                );
                let (status, body) = exchange(outbound, &bytes).unwrap_or_default();
                assert_eq!(status, 200, "{version}: {caller} calls {dialed}");
                assert!(body.contains("sa/buyer"), "{version}: {caller} calls {dialed} as it is: {body}");
            }
        }
    }
}
