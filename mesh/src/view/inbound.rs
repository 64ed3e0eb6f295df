//! Who may do what at the ports of a pod: the union of the TrafficTargets to its service account.
//!
//! * A rule with an HTTPRouteGroup opens requests at the HTTP ports, and no TCP port.
//! * A rule with a TCPRoute opens the ports that it names, whatever they speak: naming an HTTP port opens it for every
//!   request. A TCPRoute without ports opens every TCP port, and no HTTP port.
//! * Rules and TrafficTargets add up. A reference to what does not exist opens nothing.

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_config::Authorization;

use super::ingress::{ingress, limits};
use super::types::{Access, Grant, Inbound, InboundPort, PolicyName, Requests};
use crate::audience::Audience;
use crate::index::Mesh;
use crate::ingest::{HttpMatch, PolicyPart, Protocol, RoutesPart, RuleRef, TargetPart};
use crate::object::Kind;

pub(crate) fn inbound(mesh: &Mesh, audience: &Audience) -> Inbound {
    let ports = audience.ports.iter().map(|(port, protocol)| {
        let access = match audience.authorization.0 {
            Authorization::AllowAll => Access::Everyone,
            Authorization::Enforce => Access::Only(grants(mesh, audience, *port, *protocol)),
            Authorization::Audit => Access::Audited(grants(mesh, audience, *port, *protocol)),
        };
        let ingress = ingress(mesh, audience, *port, *protocol);
        let limits = limits(mesh, audience, *port);
        (*port, InboundPort { protocol: *protocol, access, ingress, limits })
    });
    Inbound { mtls: audience.mtls.0, ports: ports.collect() }
}

fn grants(mesh: &Mesh, audience: &Audience, port: u16, protocol: Protocol) -> BTreeMap<PolicyName, Grant> {
    let targets = mesh.policies().in_namespace(Kind::TrafficTarget, &audience.namespace);
    let granted = targets.filter_map(|(key, part)| {
        let PolicyPart::TrafficTarget(target) = part else { return None };
        if target.destination.name != audience.service_account || target.sources.is_empty() {
            return None;
        }
        let requests = opened(mesh, &audience.namespace, target, port, protocol)?;
        let name = PolicyName { namespace: key.namespace.clone(), name: key.name.clone() };
        Some((name, Grant { sources: target.sources.clone(), requests }))
    });
    granted.collect()
}

/// What the rules of a TrafficTarget open at a port together; `None` is nothing.
fn opened(
    mesh: &Mesh,
    namespace: &str,
    target: &TargetPart,
    port: u16,
    protocol: Protocol,
) -> Option<Requests> {
    let mut matches: BTreeSet<HttpMatch> = BTreeSet::new();
    for rule in &target.rules {
        match rule {
            RuleRef::Http { name, matches: picked } if protocol.is_http() => {
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
                if ports.contains(&port) || (ports.is_empty() && !protocol.is_http()) {
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
