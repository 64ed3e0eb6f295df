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

use super::ingress::{ingress, limits};
use super::types::{Access, Grant, Inbound, InboundPort, PolicyName, Requests};
use crate::audience::Audience;
use crate::index::Mesh;
use crate::ingest::{
    Carried, HttpMatch, PolicyPart, Protocol, RoutesPart, RuleRef, ServiceAccount, TargetPart,
};
use crate::object::Kind;

pub(crate) fn inbound(mesh: &Mesh, audience: &Audience) -> Inbound {
    let access = |port, protocol, carried| {
        let grants = || grants(mesh, audience, At { port, protocol, carried });
        match audience.authorization.0 {
            Authorization::AllowAll => Access::Everyone,
            Authorization::Enforce => Access::Only(grants()),
            Authorization::Audit => Access::Audited(grants()),
        }
    };
    let ports = audience.ports.iter().map(|(port, protocol)| {
        let carried = if *protocol == Protocol::Tcp { Carried::Connections } else { Carried::Requests };
        let connections = (*protocol == Protocol::Undeclared)
            .then(|| access(*port, *protocol, Carried::Connections))
            .filter(|access| *access != Access::Only(BTreeMap::new()));
        let access = access(*port, *protocol, carried);
        let ingress = ingress(mesh, audience, *port, *protocol);
        let limits = limits(mesh, audience, *port);
        (*port, InboundPort { protocol: *protocol, access, connections, ingress, limits })
    });
    Inbound { mtls: audience.mtls.0, ports: ports.collect() }
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

fn grants(mesh: &Mesh, audience: &Audience, at: At) -> BTreeMap<PolicyName, Grant> {
    let targets = mesh.policies().in_namespace(Kind::TrafficTarget, &audience.namespace);
    let granted = targets.filter_map(|(key, part)| {
        let PolicyPart::TrafficTarget(target) = part else { return None };
        if target.destination.name != audience.service_account || target.sources.is_empty() {
            return None;
        }
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
