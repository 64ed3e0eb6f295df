//! Everything wrong with objects that people wrote, computed when asked for: references may be right a moment later.

use std::collections::{BTreeMap, BTreeSet};

use super::astray::lies;
use super::budget_problems::too_large;
use super::mode::below_floor;
use super::{Mesh, Space, osm_problems, seal_problems};
use crate::ingest::{ModePart, PolicyPart, Protocol, RoutesPart, RuleRef, SplitPart, TargetPart};
use crate::object::{Kind, ObjectRef};
use crate::problem::{Problem, Reason};

pub(super) fn problems(mesh: &Mesh) -> Vec<Problem> {
    let mut found: BTreeSet<Problem> = mesh.refused.values().cloned().collect();
    for (key, part) in mesh.policies.all() {
        match part {
            PolicyPart::TrafficTarget(part) => target(mesh, key, part, &mut found),
            PolicyPart::TrafficSplit(part) => split(mesh, key, part, &mut found),
            PolicyPart::MeshPolicy(part) => mode(mesh, key, part, &mut found),
            PolicyPart::Egress(part) => osm_problems::egress(mesh, key, part, &mut found),
            PolicyPart::IngressBackend(part) => osm_problems::ingress(mesh, key, part, &mut found),
            PolicyPart::Retry(part) => osm_problems::retry(mesh, key, part, &mut found),
            PolicyPart::UpstreamTrafficSetting(part) => osm_problems::setting(mesh, key, part, &mut found),
            PolicyPart::Routes(_) => {}
        }
    }
    seal_problems::all(mesh, &mut found);
    for (namespace, space) in mesh.spaces() {
        protocols(mesh, namespace, space, &mut found);
    }
    addresses(mesh, &mut found);
    lies(mesh, &mut found);
    too_large(mesh, &mut found);
    found.into_iter().collect()
}

fn target(mesh: &Mesh, key: &ObjectRef, part: &TargetPart, found: &mut BTreeSet<Problem>) {
    if part.sources.is_empty() {
        let message = "it has no sources, so it opens nothing; name the service accounts that may call";
        found.insert(Problem::new(key, "spec.sources", Reason::OpensNothing, message));
    }
    if part.rules.is_empty() {
        let message = "it has no rules, so it opens nothing; name an HTTPRouteGroup or a TCPRoute";
        found.insert(Problem::new(key, "spec.rules", Reason::OpensNothing, message));
    }
    for (index, rule) in part.rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        match rule {
            RuleRef::Http { name, matches } => {
                let routes = mesh.policies.get(Kind::HTTPRouteGroup, &key.namespace, name);
                let Some(PolicyPart::Routes(RoutesPart::Http(known))) = routes else {
                    found.insert(missing(key, &format!("{field}.name"), Kind::HTTPRouteGroup, name));
                    continue;
                };
                for one in matches.iter().flatten().filter(|one| !known.iter().any(|(name, _)| name == *one))
                {
                    let shown: String = one.chars().take(64).collect();
                    let message =
                        format!("HTTPRouteGroup {name} has no match {shown:?}; add it or correct the name");
                    found.insert(Problem::new(key, &format!("{field}.matches"), Reason::NotFound, message));
                }
                if known.is_empty() {
                    let message = format!("HTTPRouteGroup {name} has no matches, so the rule opens nothing");
                    found.insert(Problem::new(key, &field, Reason::OpensNothing, message));
                }
            }
            RuleRef::Tcp { name } => {
                if mesh.policies.get(Kind::TCPRoute, &key.namespace, name).is_none() {
                    found.insert(missing(key, &format!("{field}.name"), Kind::TCPRoute, name));
                }
            }
        }
    }
}

pub(super) fn missing(key: &ObjectRef, field: &str, kind: Kind, name: &str) -> Problem {
    let message =
        format!("there is no {kind} {name} in namespace {}; create it or correct the name", key.namespace);
    Problem::new(key, field, Reason::NotFound, message)
}

fn split(mesh: &Mesh, key: &ObjectRef, part: &SplitPart, found: &mut BTreeSet<Problem>) {
    let Some(space) = mesh.space(&key.namespace) else { return };
    for name in part.matches.iter().flatten() {
        if mesh.policies.get(Kind::HTTPRouteGroup, &key.namespace, name).is_none() {
            found.insert(missing(key, "spec.matches", Kind::HTTPRouteGroup, name));
        }
    }
    let others = mesh.policies.in_namespace(Kind::TrafficSplit, &key.namespace);
    let first = others.take_while(|(other, _)| *other < key).find(|(_, other)| {
        matches!(other, PolicyPart::TrafficSplit(other) if other.root == part.root && other.matches.is_none())
    });
    if let (None, Some((other, _))) = (&part.matches, first) {
        let message =
            format!("TrafficSplit {} already splits service {}; this one is ignored", other.name, part.root);
        found.insert(Problem::new(key, "spec.service", Reason::Conflict, message));
    }
    if !space.services.contains_key(&part.root) {
        let message = format!("there is no service {} in namespace {}", part.root, key.namespace);
        found.insert(Problem::new(key, "spec.service", Reason::NotFound, message));
        return;
    }
    for (name, weight) in &part.backends {
        if *weight > 0 {
            followed(mesh, key, &part.root, name, found);
            backend(mesh, key, space, &part.root, name, found);
        }
    }
}

/// A split is not followed by another, so splits cannot go round in circles.
fn followed(mesh: &Mesh, key: &ObjectRef, root: &str, name: &str, found: &mut BTreeSet<Problem>) {
    let mut splits = mesh.policies.in_namespace(Kind::TrafficSplit, &key.namespace);
    let own = splits.find(|(_, part)| matches!(part, PolicyPart::TrafficSplit(split) if split.root == name));
    if let Some((own, _)) = own.filter(|_| name != root) {
        let message = format!(
            "service {name} is split too, by TrafficSplit {}; a split is not followed by another, its share goes to \
             the pods of {name} itself",
            own.name
        );
        found.insert(Problem::new(key, "spec.backends", Reason::Conflict, message));
    }
}

/// Why a receiver of a split gets no calls.
fn backend(
    mesh: &Mesh,
    key: &ObjectRef,
    space: &Space,
    root: &str,
    name: &str,
    found: &mut BTreeSet<Problem>,
) {
    let gone = |what: String| {
        let message = format!("{what}; until then its share goes to the other backends");
        Problem::new(key, "spec.backends", Reason::NotFound, message)
    };
    let Some(backend) = space.services.get(name) else {
        found.insert(gone(format!("there is no service {name} in namespace {}; create it", key.namespace)));
        return;
    };
    let root_ports = space.services.get(root).into_iter().flat_map(|service| &service.ports);
    for (number, port) in root_ports {
        match backend.ports.get(number) {
            None => found.insert(gone(format!("service {name} has no port {number} as {root} has; add it"))),
            Some(other) if !other.protocol.meets(port.protocol) => {
                let message = format!("port {number} of {name} speaks another protocol than that of {root}");
                found.insert(Problem::new(key, "spec.backends", Reason::ProtocolConflict, message))
            }
            Some(_) => false,
        };
    }
    if !mesh.takes_calls(space, name) {
        found.insert(gone(format!("no pod with a sidecar is ready behind service {name}; start one")));
    }
}

fn mode(mesh: &Mesh, key: &ObjectRef, part: &ModePart, found: &mut BTreeSet<Problem>) {
    below_floor(mesh, key, part, found);
    let others =
        mesh.policies.in_namespace(Kind::MeshPolicy, &key.namespace).take_while(|(other, _)| *other < key);
    for (other, one) in others {
        let PolicyPart::MeshPolicy(one) = one else { continue };
        if one.selector != part.selector {
            continue;
        }
        let mtls = one.mtls.zip(part.mtls).is_some_and(|(a, b)| a != b);
        if mtls || one.authorization.zip(part.authorization).is_some_and(|(a, b)| a != b) {
            let message =
                format!("MeshPolicy {} says otherwise for the same pods; the stricter one wins", other.name);
            found.insert(Problem::new(key, "spec", Reason::Conflict, message));
        }
    }
}

/// Services that disagree about one port of one pod.
fn protocols(mesh: &Mesh, namespace: &str, space: &Space, found: &mut BTreeSet<Problem>) {
    let mut first: BTreeMap<(&str, u16), (Protocol, &str)> = BTreeMap::new();
    for (name, service) in &space.services {
        for (number, port) in &service.ports {
            for (pod, part) in mesh.behind(space, name) {
                let Some(target) = port.target.number(part) else { continue };
                let (protocol, other) = first.entry((pod, target)).or_insert((port.protocol, name));
                if !protocol.agrees(port.protocol) {
                    let key = ObjectRef::new(Kind::Service, namespace, name);
                    let message = format!(
                        "service {other} says that port {target} of the same pods speaks another protocol; until both \
                         say the same it is taken for one of requests if either says so. Set the same appProtocol on \
                         both"
                    );
                    found.insert(Problem::new(
                        &key,
                        &format!("spec.ports[{number}]"),
                        Reason::ProtocolConflict,
                        message,
                    ));
                }
            }
        }
    }
}

/// Services with one address: the API server allows none, so one of them is about to go.
fn addresses(mesh: &Mesh, found: &mut BTreeSet<Problem>) {
    let mut first = BTreeMap::new();
    for (namespace, space) in mesh.spaces() {
        for (name, service) in &space.services {
            for address in &service.addresses {
                let (other_namespace, other) = first.entry(address).or_insert((namespace, name));
                if (*other_namespace, *other) != (namespace, name) {
                    let key = ObjectRef::new(Kind::Service, namespace, name);
                    let message = format!(
                        "service {other_namespace}/{other} has the address {address} too and gets its calls"
                    );
                    found.insert(Problem::new(&key, "spec.clusterIP", Reason::Conflict, message));
                }
            }
        }
    }
}
