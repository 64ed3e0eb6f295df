//! What is wrong with OSM's kinds and only shows together with other objects.

use std::collections::BTreeSet;

use super::Mesh;
use super::problems::missing;
use crate::ingest::{
    EgressPart, EgressProtocol, IngressPart, PolicyPart, RetryPart, SettingPart, TargetPort,
};
use crate::object::{Kind, ObjectRef};
use crate::problem::{Problem, Reason};

/// HTTPRouteGroups that do not exist.
fn groups(mesh: &Mesh, key: &ObjectRef, groups: Option<&BTreeSet<String>>, found: &mut BTreeSet<Problem>) {
    for name in groups.into_iter().flatten() {
        if mesh.policies.get(Kind::HTTPRouteGroup, &key.namespace, name).is_none() {
            found.insert(missing(key, "spec.matches", Kind::HTTPRouteGroup, name));
        }
    }
}

pub(super) fn egress(mesh: &Mesh, key: &ObjectRef, part: &EgressPart, found: &mut BTreeSet<Problem>) {
    groups(mesh, key, part.groups.as_ref(), found);
    if let Some(name) = &part.settings
        && mesh.policies.get(Kind::UpstreamTrafficSetting, &key.namespace, name).is_none()
    {
        found.insert(missing(key, "spec.matches", Kind::UpstreamTrafficSetting, name));
    }
    let nothing = |field: &str, message: &str| Problem::new(key, field, Reason::OpensNothing, message);
    if part.sources.is_empty() {
        found
            .insert(nothing("spec.sources", "it has no sources, so it opens nothing; name service accounts"));
    }
    if part.ports.is_empty() {
        found.insert(nothing("spec.ports", "it has no ports, so it opens nothing; name some"));
    }
    if part.hosts.is_empty() && part.ports.iter().any(|(_, protocol)| *protocol == EgressProtocol::Http) {
        let message = "http goes by the name of the host and none is given; name hosts, or write tcp";
        found.insert(nothing("spec.hosts", message));
    }
    for (other_key, other) in mesh.policies.in_namespace(Kind::Egress, &key.namespace) {
        let PolicyPart::Egress(other) = other else { continue };
        if other_key >= key || !settings_clash(part, other) {
            continue;
        }
        let message = format!(
            "Egress {} has another UpstreamTrafficSetting for the same sources, hosts and ports; its settings count, \
             what both open adds up",
            other_key.name
        );
        found.insert(Problem::new(key, "spec.matches", Reason::Conflict, message));
    }
}

fn settings_clash(one: &EgressPart, other: &EgressPart) -> bool {
    let same = |(_, protocol): &(u16, EgressProtocol)| match protocol {
        EgressProtocol::Http | EgressProtocol::Https => !one.hosts.is_disjoint(&other.hosts),
        EgressProtocol::Tcp => true,
    };
    one.settings.is_some()
        && other.settings.is_some()
        && one.settings != other.settings
        && !one.sources.is_disjoint(&other.sources)
        && one.ports.intersection(&other.ports).any(same)
}

pub(super) fn ingress(mesh: &Mesh, key: &ObjectRef, part: &IngressPart, found: &mut BTreeSet<Problem>) {
    groups(mesh, key, part.groups.as_ref(), found);
    if part.backends.is_empty() {
        let message = "it has no backends, so it opens nothing; name a service and its port";
        found.insert(Problem::new(key, "spec.backends", Reason::OpensNothing, message));
    }
    for (namespace, name) in &part.from.services {
        if mesh.addresses_of(namespace, name).next().is_none() {
            let message = format!(
                "service {name} in namespace {namespace} has no pods, so nobody may call from there; start one or \
                 correct the name"
            );
            found.insert(Problem::new(key, "spec.sources", Reason::NotFound, message));
        }
    }
    let Some(space) = mesh.space(&key.namespace) else { return };
    for backend in &part.backends {
        let name = &backend.service;
        let message = match space.services.get(name) {
            None => format!("there is no service {name} in namespace {}; create it", key.namespace),
            Some(service) => {
                let numbered = service.ports.values().any(|port| match &port.target {
                    TargetPort::Number(number) => *number == backend.port,
                    TargetPort::Name(_) => {
                        mesh.behind(space, name).any(|(_, pod)| port.target.number(pod) == Some(backend.port))
                    }
                });
                if numbered {
                    continue;
                }
                format!(
                    "no port of service {name} leads to port {} of its pods; name a target port, not the port of the \
                     service",
                    backend.port
                )
            }
        };
        found.insert(Problem::new(key, "spec.backends", Reason::NotFound, message));
    }
}

pub(super) fn retry(mesh: &Mesh, key: &ObjectRef, part: &RetryPart, found: &mut BTreeSet<Problem>) {
    if part.destinations.is_empty() {
        let message = "it has no destinations, so it changes nothing; name a service";
        found.insert(Problem::new(key, "spec.destinations", Reason::OpensNothing, message));
    }
    for (namespace, name) in &part.destinations {
        let known = mesh.space(namespace).is_some_and(|space| space.services.contains_key(name));
        if !known {
            let message =
                format!("there is no service {name} in namespace {namespace} of the mesh; create it");
            found.insert(Problem::new(key, "spec.destinations", Reason::NotFound, message));
        }
    }
    for (other_key, other) in mesh.retries_of(&key.namespace).take_while(|(other, _)| *other < key) {
        let Some((_, service)) = other.destinations.intersection(&part.destinations).next() else { continue };
        if other.source == part.source {
            let message = format!(
                "Retry {} already is for calls to service {service}; that one counts",
                other_key.name
            );
            found.insert(Problem::new(key, "spec.destinations", Reason::Conflict, message));
        }
    }
}

pub(super) fn setting(mesh: &Mesh, key: &ObjectRef, part: &SettingPart, found: &mut BTreeSet<Problem>) {
    let space = mesh.space(&key.namespace);
    let service = part.service.as_deref();
    let known =
        service.is_some_and(|service| space.is_some_and(|space| space.services.contains_key(service)));
    let mut egresses = mesh.policies.in_namespace(Kind::Egress, &key.namespace);
    let named = egresses.any(
        |(_, other)| matches!(other, PolicyPart::Egress(other) if other.settings.as_ref() == Some(&key.name)),
    );
    if !known && !named {
        let message = format!(
            "there is no service {} in namespace {}, and no Egress names this object; create one or correct the host",
            part.host, key.namespace
        );
        found.insert(Problem::new(key, "spec.host", Reason::NotFound, message));
    }
    let (Some(service), Some(space)) = (service, space) else { return };
    let settings = mesh.settings_of(&key.namespace);
    match settings.get(service) {
        Some((first, _)) if *first != key => {
            let message =
                format!("UpstreamTrafficSetting {} already is for {service}; that one counts", first.name);
            found.insert(Problem::new(key, "spec.host", Reason::Conflict, message));
            return;
        }
        _ => {}
    }
    // Limits are counted at the pods' ports, which other services may lead to as well.
    let limited = settings
        .iter()
        .filter(|(name, (_, other))| **name < service && !other.limits.is_empty() && !part.limits.is_empty());
    for (other, (other_key, _)) in limited {
        let shared = mesh.behind(space, service).any(|(name, pod)| {
            let ports = |service: &str| -> BTreeSet<u16> {
                let ports =
                    space.services.get(service).into_iter().flat_map(|service| service.ports.values());
                ports.filter_map(|port| port.target.number(pod)).collect()
            };
            space.is_behind(other, name) && !ports(other).is_disjoint(&ports(service))
        });
        if shared {
            let message = format!(
                "service {other} leads to the same ports of the same pods, and the limits of UpstreamTrafficSetting \
                 {} count there",
                other_key.name
            );
            found.insert(Problem::new(key, "spec.rateLimit", Reason::Conflict, message));
        }
    }
}
