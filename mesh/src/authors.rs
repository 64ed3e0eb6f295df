//! Which objects of people a resource was made from: who must be told when an Envoy refuses it.

use std::collections::BTreeSet;

use crate::index::Mesh;
use crate::ingest::{PolicyPart, RuleRef, ServiceAccount};
use crate::object::{Kind, ObjectRef};
use crate::snapshot::ResourceType;

/// The objects that shape a resource of the sidecars of a service account; none when only the MeshConfig does.
/// Names of resources are a contract (docs/ARCHITECTURE.md).
#[must_use]
pub fn authors(mesh: &Mesh, kind: ResourceType, name: &str, owner: &ServiceAccount) -> BTreeSet<ObjectRef> {
    let mut parts = name.split('|');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("out"), Some(namespace), Some(service)) => called(mesh, kind, namespace, service),
        (Some("in"), Some(_), None) | (Some("inbound"), None, None) if is_policy(kind) => rules(mesh, owner),
        _ => BTreeSet::new(),
    }
}

fn is_policy(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Listener | ResourceType::Route)
}

/// A service that is called: its TrafficSplits for what is routed, and itself.
fn called(mesh: &Mesh, kind: ResourceType, namespace: &str, service: &str) -> BTreeSet<ObjectRef> {
    let mut authors = BTreeSet::from([ObjectRef::new(Kind::Service, namespace, service)]);
    let splits = mesh.policies().in_namespace(Kind::TrafficSplit, namespace);
    for (key, part) in splits.filter(|_| is_policy(kind)) {
        if let PolicyPart::TrafficSplit(split) = part
            && split.root == service
        {
            authors.insert(key.clone());
            let groups = split.matches.iter().flatten();
            authors.extend(groups.map(|group| ObjectRef::new(Kind::HTTPRouteGroup, namespace, group)));
        }
    }
    authors
}

/// The TrafficTargets that open a service account, and the routes that they name.
fn rules(mesh: &Mesh, owner: &ServiceAccount) -> BTreeSet<ObjectRef> {
    let mut authors = BTreeSet::new();
    for (key, part) in mesh.policies().in_namespace(Kind::TrafficTarget, &owner.namespace) {
        let PolicyPart::TrafficTarget(target) = part else { continue };
        if target.destination != *owner {
            continue;
        }
        authors.insert(key.clone());
        authors.extend(target.rules.iter().map(|rule| match rule {
            RuleRef::Http { name, .. } => ObjectRef::new(Kind::HTTPRouteGroup, &owner.namespace, name),
            RuleRef::Tcp { name } => ObjectRef::new(Kind::TCPRoute, &owner.namespace, name),
        }));
    }
    authors
}
