//! Goldens of rendered resources, and the names that are contracts.

use mesh::{Mesh, ResourceName, ResourceType, Snapshot, render, view};
use prost::Message;

use crate::world::*;

fn of(mesh: &Mesh, pod: &str) -> Snapshot {
    render(&view(mesh, &mesh.audience(NS, pod).unwrap()))
}

#[test]
fn names_are_the_contract() {
    let mesh = mesh(bookstore());
    let names: Vec<_> = ["buyer-1", "v1"]
        .into_iter()
        .map(|pod| {
            let snapshot = of(&mesh, pod);
            let names = ResourceType::ALL.map(|kind| {
                format!(
                    "{}: {}",
                    kind.as_str(),
                    snapshot.of(kind).keys().cloned().collect::<Vec<_>>().join(" ")
                )
            });
            format!("{pod}\n  {}", names.join("\n  "))
        })
        .collect();
    insta::assert_snapshot!(names.join("\n"));
}

#[test]
fn a_resource_is_ready_to_embed_and_its_version_is_its_content() {
    use envoy_types::pb::envoy::service::discovery::v3::Resource;
    let mesh = mesh(bookstore());
    let snapshot = of(&mesh, "buyer-1");
    let mut seen = 0;
    for kind in ResourceType::ALL {
        for (name, resource) in snapshot.of(kind) {
            let decoded = Resource::decode(resource.body.clone()).unwrap();
            assert_eq!((&decoded.name, &decoded.version), (name, &resource.version));
            assert_eq!(decoded.resource.unwrap().type_url, kind.type_url());
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// A sidecar waits for exactly these before it is told of a listener or route.
#[test]
fn every_cluster_that_a_resource_names_is_said_and_exists() {
    let mesh = mesh(bookstore().into_iter().chain(outside()));
    let mut seen = Vec::new();
    for pod in ["buyer-1", "v1"] {
        let snapshot = of(&mesh, pod);
        for kind in ResourceType::ALL {
            for (name, resource) in snapshot.of(kind) {
                assert_eq!(name.parse::<ResourceName>().map(|name| name.to_string()).as_ref(), Ok(name));
                let text = String::from_utf8_lossy(&resource.body);
                for cluster in snapshot.of(ResourceType::Cluster).keys() {
                    let said = resource.clusters.iter().any(|one| **one == **cluster);
                    let policy = matches!(kind, ResourceType::Listener | ResourceType::Route);
                    assert!(!said || text.contains(cluster.as_str()), "{name} {cluster}");
                    assert!(said || !policy || !names(&resource.body, kind, cluster), "{name} {cluster}");
                    seen.extend(said.then(|| format!("{} {name}: {cluster}", kind.as_str())));
                }
                let there = |cluster: &str| snapshot.of(ResourceType::Cluster).contains_key(cluster);
                assert!(resource.clusters.iter().all(|cluster| there(cluster)), "{name}");
            }
        }
    }
    for known in [
        "Listener outbound: meshpassthrough",
        "Route in|8080: inbound",
        "Route out|shop|bookstore|80: out|shop|bookstore-v1|80",
    ] {
        assert!(seen.iter().any(|one| one == known), "{known}: {seen:#?}");
    }
    assert!(seen.iter().any(|one| one.starts_with("Listener egress|")), "{seen:#?}");
}

/// Whether a message names a cluster, by its text alone: as JSON would show it.
fn names(body: &bytes::Bytes, kind: ResourceType, cluster: &str) -> bool {
    use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
    use envoy_types::pb::envoy::service::discovery::v3::Resource;
    let any = Resource::decode(body.clone()).unwrap().resource.unwrap();
    kind == ResourceType::Route && {
        let config = RouteConfiguration::decode(any.value.as_slice()).unwrap();
        let text = format!("{:?}", config.virtual_hosts);
        text.contains(&format!("Cluster({cluster:?})"))
            || text.contains(&format!("name: {cluster:?}, weight"))
    }
}

/// Adding an endpoint touches one load assignment; a changed rule touches one route.
#[test]
fn changes_are_small() {
    let mut mesh = mesh(bookstore());
    let (buyer, store) = (of(&mesh, "buyer-1"), of(&mesh, "v1"));
    let changed = |old: &Snapshot, new: &Snapshot| -> Vec<String> {
        ResourceType::ALL
            .into_iter()
            .flat_map(|kind| new.of(kind).iter().map(move |(name, one)| (kind, name, one)))
            .filter(|(kind, name, one)| old.of(*kind).get(*name) != Some(*one))
            .map(|(kind, name, _)| format!("{} {name}", kind.as_str()))
            .collect()
    };
    let mut third = pod_value("v3", "bookstore", "bookstore");
    third["status"]["podIP"] = serde_json::json!("10.1.0.9");
    mesh.apply(pod_of(third));
    mesh.apply(slice(
        "bookstore",
        &[("http", 8080)],
        &[("v1", "10.1.0.1", true), ("v2", "10.1.0.2", true), ("v3", "10.1.0.9", true)],
    ));
    assert_eq!(
        changed(&buyer, &of(&mesh, "buyer-1")),
        Vec::<String>::new(),
        "the split hides the root's own pods"
    );
    mesh.apply(target("more", "bookstore", &["thief"], http("books")));
    assert_eq!(changed(&store, &of(&mesh, "v1")), ["Route in|8080"]);
    assert_eq!(changed(&buyer, &of(&mesh, "buyer-1")), Vec::<String>::new());
}
