//! Who may do what at the ports of a pod: the union of the TrafficTargets to its service account.
//!
//! * A rule with an HTTPRouteGroup opens requests at the HTTP ports, and no TCP port.
//! * A rule with a TCPRoute opens the ports that it names, whatever they speak: naming an HTTP port opens it for every
//!   request. A TCPRoute without ports opens every TCP port, and no HTTP port.
//! * A port whose protocol nobody declared is an HTTP port: rules with an HTTPRouteGroup open requests. It is open to
//!   other bytes only where a TCPRoute names it, for what begins like HTTP and what does not is guesswork, and a guess
//!   must not open what a rule for requests keeps shut.
//! * Rules and TrafficTargets add up. A reference to what does not exist opens nothing.

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_config::Authorization;

use super::ingress::{ingress, ingress_size, limits, limits_size};
use super::types::{Access, Grant, Inbound, InboundPort, PolicyName, Requests};
use crate::audience::Audience;
use crate::budget::{self, LeftOut};
use crate::index::Mesh;
use crate::ingest::{
    Carried, HttpMatch, PolicyPart, Protocol, RoutesPart, RuleRef, ServiceAccount, TargetPart,
};
use crate::object::{Kind, ObjectRef};

pub(crate) fn inbound(mesh: &Mesh, audience: &Audience) -> Inbound {
    let (kept, _) = fitting(mesh, audience);
    let access = |port, protocol, carried| {
        let grants = || grants(mesh, audience, At { port, protocol, carried }, &kept);
        match audience.authorization {
            Authorization::AllowAll => Access::Everyone,
            Authorization::Enforce => Access::Only(grants()),
            Authorization::Audit => Access::Audited(grants()),
        }
    };
    let mut limited = 0;
    let ports = audience.ports.iter().filter_map(|(port, protocol)| {
        let limits = limits(mesh, audience, *port);
        // A port without its limits would take more calls than it should: it takes none.
        limited += limits.as_ref().map_or(0, limits_size);
        if limited > budget::RULES {
            return None;
        }
        let carried = if *protocol == Protocol::Tcp { Carried::Connections } else { Carried::Requests };
        let connections = (*protocol == Protocol::Undeclared)
            .then(|| access(*port, *protocol, Carried::Connections))
            .filter(|access| *access != Access::Only(BTreeMap::new()));
        let access = access(*port, *protocol, carried);
        let ingress = ingress(mesh, audience, *port, *protocol, &kept);
        Some((*port, InboundPort { protocol: *protocol, access, connections, ingress, limits }))
    });
    Inbound { mtls: audience.mtls, ports: ports.collect() }
}

/// The TrafficTargets and IngressBackends of which an audience is told, and those that are too large for it.
pub(crate) fn fitting<'a>(mesh: &'a Mesh, audience: &Audience) -> (Kept<'a>, LeftOut<&'a ObjectRef>) {
    let mut targets: Vec<_> = targets(mesh, audience).collect();
    let mut left_out = LeftOut::new();
    if targets.len() > budget::MOST_OBJECTS {
        let size = |part: &TargetPart| (part.sources.len() + part.rules.len()) as u64 * budget::ENTRY;
        targets.sort_unstable_by_key(|(key, part)| (size(part), *key));
        left_out.extend(targets.drain(budget::MOST_OBJECTS..).map(|(key, part)| (key, size(part))));
    }
    let targets = targets.into_iter().map(|(key, part)| (target_size(mesh, audience, part), key));
    let backends = mesh.ingress_of(&audience.namespace);
    let backends = backends.map(|(key, part)| (ingress_size(mesh, audience, part), key));
    let (kept, more) = budget::within(targets.chain(backends), budget::RULES);
    left_out.extend(more);
    (kept, left_out)
}

/// The objects that fit.
pub(crate) type Kept<'a> = BTreeSet<&'a ObjectRef>;

/// The TrafficTargets that may open something to somebody.
fn targets<'a>(mesh: &'a Mesh, audience: &Audience) -> impl Iterator<Item = (&'a ObjectRef, &'a TargetPart)> {
    let targets = mesh.policies().in_namespace(Kind::TrafficTarget, &audience.namespace);
    targets.filter_map(|(key, part)| match part {
        PolicyPart::TrafficTarget(target) => {
            let ours = target.destination.name == audience.service_account && !target.sources.is_empty();
            ours.then_some((key, target))
        }
        _ => None,
    })
}

/// Bytes that a TrafficTarget becomes at all ports together.
fn target_size(mesh: &Mesh, audience: &Audience, target: &TargetPart) -> u64 {
    let sources: u64 = target.sources.iter().map(ServiceAccount::size).sum();
    let mut requests = 0_u64;
    let mut routes = Vec::new();
    for rule in &target.rules {
        match rule {
            RuleRef::Http { name, matches } => {
                let group = group(mesh, &audience.namespace, name);
                let picked = group.filter(|(name, _)| named(matches.as_ref(), name));
                requests += picked.map(|(_, one)| one.size()).sum::<u64>();
            }
            RuleRef::Tcp { name } => {
                if let Some(PolicyPart::Routes(RoutesPart::Tcp(ports))) =
                    mesh.policies().get(Kind::TCPRoute, &audience.namespace, name)
                {
                    routes.push(ports);
                }
            }
        }
    }
    let at = |port: u16, protocol: Protocol, carried: Carried| {
        let any = routes
            .iter()
            .any(|ports| ports.contains(&port) || (ports.is_empty() && protocol == Protocol::Tcp));
        match (any, carried) {
            (true, _) => sources + budget::ENTRY,
            (false, Carried::Requests) if requests > 0 => sources + requests,
            (false, _) => 0,
        }
    };
    let sizes = audience.ports.iter().map(|(port, protocol)| {
        let kinds = [Carried::Requests, Carried::Connections].into_iter();
        kinds
            .filter(|carried| protocol.carries(*carried))
            .map(|carried| at(*port, *protocol, carried))
            .sum::<u64>()
    });
    sizes.fold(0, u64::saturating_add)
}

/// Something that can be opened.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) carried: Carried,
}

/// Whether TrafficTargets let anybody connect to a port of pods of a service account.
pub(super) fn connects(mesh: &Mesh, to: &ServiceAccount, port: u16, protocol: Protocol) -> bool {
    let at = At { port, protocol, carried: Carried::Connections };
    let mut targets = mesh.policies().in_namespace(Kind::TrafficTarget, &to.namespace);
    targets.any(|(_, part)| match part {
        PolicyPart::TrafficTarget(target) => {
            target.destination == *to
                && !target.sources.is_empty()
                && opened(mesh, &to.namespace, target, at).is_some()
        }
        _ => false,
    })
}

fn grants(mesh: &Mesh, audience: &Audience, at: At, kept: &Kept<'_>) -> BTreeMap<PolicyName, Grant> {
    let granted =
        targets(mesh, audience).filter(|(key, _)| kept.contains(key)).filter_map(|(key, target)| {
            let requests = opened(mesh, &audience.namespace, target, at)?;
            let name = PolicyName { namespace: key.namespace.clone(), name: key.name.clone() };
            Some((name, Grant { sources: target.sources.clone(), requests }))
        });
    granted.collect()
}

/// What the rules of a TrafficTarget open together; `None` is nothing.
fn opened(mesh: &Mesh, namespace: &str, target: &TargetPart, at: At) -> Option<Requests> {
    let mut matches: BTreeSet<HttpMatch> = BTreeSet::new();
    for rule in &target.rules {
        match rule {
            RuleRef::Http { name, matches: picked } if at.carried == Carried::Requests => {
                matches.extend(
                    group(mesh, namespace, name)
                        .filter(|(name, _)| named(picked.as_ref(), name))
                        .map(|(_, one)| one.clone()),
                );
            }
            RuleRef::Http { .. } => {}
            RuleRef::Tcp { name } => {
                let routes = mesh.policies().get(Kind::TCPRoute, namespace, name);
                let Some(PolicyPart::Routes(RoutesPart::Tcp(ports))) = routes else { continue };
                if ports.contains(&at.port) || (ports.is_empty() && at.protocol == Protocol::Tcp) {
                    return Some(Requests::Any);
                }
            }
        }
    }
    (!matches.is_empty()).then_some(Requests::Matching(matches))
}

fn named(picked: Option<&BTreeSet<String>>, name: &str) -> bool {
    picked.is_none_or(|picked| picked.contains(name))
}

/// The matches of an HTTPRouteGroup with their names; none when it does not exist.
pub(super) fn group<'a>(
    mesh: &'a Mesh,
    namespace: &str,
    name: &str,
) -> impl Iterator<Item = &'a (String, HttpMatch)> + use<'a> {
    let matches = match mesh.policies().get(Kind::HTTPRouteGroup, namespace, name) {
        Some(PolicyPart::Routes(RoutesPart::Http(matches))) => matches.as_slice(),
        _ => &[],
    };
    matches.iter()
}
