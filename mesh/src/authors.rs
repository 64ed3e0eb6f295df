//! Which objects of people a resource was made from: who must be told when an Envoy refuses it.

use std::collections::BTreeSet;

use crate::index::{Mesh, Space};
use crate::ingest::{PodPart, PolicyPart, RuleRef, ServiceAccount, SplitPart};
use crate::object::{Kind, ObjectRef};
use crate::resource_name::ResourceName;
use crate::snapshot::ResourceType;

/// The objects that shape a resource of the sidecars of a service account; none when only the MeshConfig does.
/// Names of resources are a contract (docs/ARCHITECTURE.md).
#[must_use]
pub fn authors(mesh: &Mesh, kind: ResourceType, name: &str, owner: &ServiceAccount) -> BTreeSet<ObjectRef> {
    let Ok(name) = name.parse() else { return BTreeSet::new() };
    match name {
        ResourceName::Service(to) | ResourceName::Pod(to, _) | ResourceName::Dialed(to) => {
            called(mesh, kind, &to.namespace, &to.service, owner)
        }
        ResourceName::Port(port) | ResourceName::PortPlaintext(port) => answered(mesh, Some(port), owner),
        ResourceName::Inbound if kind == ResourceType::Listener => answered(mesh, None, owner),
        ResourceName::EgressHost(host, port) => left(mesh, kind, port, Some(&host), owner),
        ResourceName::Egress(port) | ResourceName::EgressRange(port, _) => {
            left(mesh, kind, port, None, owner)
        }
        ResourceName::Inbound
        | ResourceName::InboundHttp2
        | ResourceName::Outbound
        | ResourceName::Passthrough
        | ResourceName::MeshPassthrough => BTreeSet::new(),
    }
}

fn is_policy(kind: ResourceType) -> bool {
    matches!(kind, ResourceType::Listener | ResourceType::Route)
}

/// A service that is called: its TrafficSplits and the caller's Retries for what is routed; what is said of how it is
/// called; and itself.
fn called(
    mesh: &Mesh,
    kind: ResourceType,
    namespace: &str,
    service: &str,
    caller: &ServiceAccount,
) -> BTreeSet<ObjectRef> {
    let mut authors = BTreeSet::from([ObjectRef::new(Kind::Service, namespace, service)]);
    let mut services = BTreeSet::from([service]);
    if is_policy(kind) {
        for (key, split) in splits(mesh, namespace, service) {
            authors.insert(key.clone());
            let groups = split.matches.iter().flatten();
            authors.extend(groups.map(|group| ObjectRef::new(Kind::HTTPRouteGroup, namespace, group)));
            // What the receivers hash is said in the routes.
            services.extend(split.backends.keys().map(String::as_str));
        }
        let called = (namespace.to_owned(), service.to_owned());
        let retries = mesh.retries_of(&caller.namespace);
        let own = retries.filter(|(_, part)| part.source == *caller && part.destinations.contains(&called));
        authors.extend(own.map(|(key, _)| key.clone()));
    }
    let settings = mesh.settings_of(namespace);
    authors.extend(services.iter().filter_map(|service| Some(settings.get(service)?.0.clone())));
    authors
}

fn splits<'a>(
    mesh: &'a Mesh,
    namespace: &str,
    root: &'a str,
) -> impl Iterator<Item = (&'a ObjectRef, &'a SplitPart)> {
    mesh.policies().in_namespace(Kind::TrafficSplit, namespace).filter_map(move |(key, part)| match part {
        PolicyPart::TrafficSplit(split) if split.root == root => Some((key, split)),
        _ => None,
    })
}

/// A port of a service account's pods, or all of them: the TrafficTargets that open it and the IngressBackends and
/// limits of the services in front of it.
fn answered(mesh: &Mesh, port: Option<u16>, owner: &ServiceAccount) -> BTreeSet<ObjectRef> {
    let mut authors = rules(mesh, owner);
    let Some(space) = mesh.space(&owner.namespace) else { return authors };
    let services = in_front(space, port, &owner.name);
    for (key, part) in mesh.ingress_of(&owner.namespace) {
        let mut backends = part.backends.iter();
        let of_port = |number| port.is_none_or(|port| port == number);
        if backends.any(|backend| of_port(backend.port) && services.contains(backend.service.as_str())) {
            authors.insert(key.clone());
            authors.extend(groups(&owner.namespace, part.groups.as_ref()));
        }
    }
    for (service, (key, part)) in mesh.settings_of(&owner.namespace) {
        if !part.limits.is_empty() && services.contains(service) {
            authors.insert(key.clone());
        }
    }
    authors
}

/// The services that lead to a port of a service account's pods, or to any.
fn in_front<'a>(space: &'a Space, port: Option<u16>, account: &str) -> BTreeSet<&'a str> {
    let pods: Vec<(&String, &PodPart)> =
        space.pods.iter().filter(|(_, pod)| pod.service_account == account).collect();
    let leads = |name: &str, pod: &(&String, &PodPart)| {
        let ports = space.services.get(name).into_iter().flat_map(|service| service.ports.values());
        let mut targets = ports.filter_map(|one| one.target.number(pod.1));
        space.is_behind(name, pod.0) && targets.any(|target| port.is_none_or(|port| port == target))
    };
    let names = space.services.keys().map(String::as_str);
    names.filter(|name| pods.iter().any(|pod| leads(name, pod))).collect()
}

fn groups<'a>(
    namespace: &'a str,
    names: Option<&'a BTreeSet<String>>,
) -> impl Iterator<Item = ObjectRef> + use<'a> {
    names.into_iter().flatten().map(move |name| ObjectRef::new(Kind::HTTPRouteGroup, namespace, name))
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

/// What leaves the mesh by a port (and to a host): the Egresses of the caller, what they match, and how it is called.
fn left(
    mesh: &Mesh,
    kind: ResourceType,
    port: u16,
    host: Option<&str>,
    caller: &ServiceAccount,
) -> BTreeSet<ObjectRef> {
    let mut authors = BTreeSet::new();
    for (key, part) in mesh.policies().in_namespace(Kind::Egress, &caller.namespace) {
        let PolicyPart::Egress(part) = part else { continue };
        let opens = part.sources.contains(caller)
            && part.ports.iter().any(|(number, _)| *number == port)
            && host.is_none_or(|host| part.hosts.contains(host));
        if !opens {
            continue;
        }
        authors.insert(key.clone());
        if is_policy(kind) {
            authors.extend(groups(&caller.namespace, part.groups.as_ref()));
        }
        let settings = part.settings.iter();
        authors.extend(
            settings.map(|name| ObjectRef::new(Kind::UpstreamTrafficSetting, &caller.namespace, name)),
        );
    }
    authors
}
