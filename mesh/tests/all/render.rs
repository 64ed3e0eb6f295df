//! Goldens of rendered resources, and the names that are contracts.

use mesh::{Mesh, ResourceType, Snapshot, render, view};
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
    mesh.apply(pod("v3", "bookstore", "bookstore"));
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
