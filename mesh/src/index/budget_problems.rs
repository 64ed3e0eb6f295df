//! What was left out because it is too large ([`crate::budget`]).

use std::collections::{BTreeMap, BTreeSet};

use super::{Mesh, Space};
use crate::budget::{self, text};
use crate::ingest::{PolicyPart, RoutesPart, RuleRef, ServiceAccount, TargetPart};
use crate::object::{Kind, ObjectRef};
use crate::problem::{Problem, Reason};
use crate::view::{fitting, fitting_splits, large, limits_size, openings};

pub(super) fn too_large(mesh: &Mesh, found: &mut BTreeSet<Problem>) {
    for (namespace, space) in mesh.spaces() {
        services(mesh, namespace, found);
        splits(mesh, namespace, found);
        for account in large(mesh, namespace) {
            for (key, size) in openings(mesh, &account).left_out {
                found.insert(problem(
                    &key,
                    size,
                    &format!("what service account {account} may call outside"),
                ));
            }
        }
        rules(mesh, namespace, space, found);
    }
}

fn problem(key: &ObjectRef, size: u64, what: &str) -> Problem {
    let message = format!(
        "too large for {what} beside the others: about {size} bytes, counted at every port. The largest objects are left \
         out, and this one is: it opens nothing. Name fewer sources, hosts, ranges, matches or ports in it"
    );
    Problem::new(key, "spec", Reason::TooLarge, message)
}

fn services(mesh: &Mesh, namespace: &str, found: &mut BTreeSet<Problem>) {
    for (name, size) in mesh.weights.get(namespace).into_iter().flat_map(|weights| weights.left_out()) {
        let key = ObjectRef::new(Kind::Service, namespace, name);
        let message = format!(
            "the services of namespace {namespace} are too many or too large together, and this one, of about {size} \
             bytes, is left out: no sidecar knows it. Have fewer ports, or move services to other namespaces"
        );
        found.insert(Problem::new(&key, "spec.ports", Reason::TooLarge, message));
    }
}

fn splits(mesh: &Mesh, namespace: &str, found: &mut BTreeSet<Problem>) {
    let all = mesh.policies.in_namespace(Kind::TrafficSplit, namespace);
    let roots: BTreeSet<&str> = all
        .filter_map(|(_, part)| match part {
            PolicyPart::TrafficSplit(split) => Some(split.root.as_str()),
            _ => None,
        })
        .collect();
    for root in roots {
        for (key, size) in fitting_splits(mesh, namespace, root).1 {
            let message = format!(
                "too large for the routes of service {root} beside the others: about {size} bytes. It is left out, and \
                 its requests go where they would go without it. Name fewer matches or backends in it"
            );
            found.insert(Problem::new(key, "spec", Reason::TooLarge, message));
        }
    }
}

/// Only those audiences are looked at whose rules could be too large.
fn rules(mesh: &Mesh, namespace: &str, space: &Space, found: &mut BTreeSet<Problem>) {
    let mut targets: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for (_, part) in mesh.policies.in_namespace(Kind::TrafficTarget, namespace) {
        if let PolicyPart::TrafficTarget(target) = part {
            let sum = targets.entry(target.destination.name.as_str()).or_default();
            *sum = (sum.0 + 1, sum.1 + written(mesh, namespace, target));
        }
    }
    let backends: u64 = mesh
        .ingress_of(namespace)
        .map(|(_, part)| {
            let pods: usize =
                part.from.services.iter().map(|(space, name)| mesh.addresses_of(space, name).count()).sum();
            let addresses = (pods + part.from.ranges.len() + 1) as u64 * budget::ENTRY;
            let names: u64 = part.principals.iter().map(crate::ingest::Principal::size).sum();
            // A backend may ask for as many names as there can be beside each match.
            let groups = part.groups.iter().flatten();
            let requests: u64 = groups.map(|name| group(mesh, namespace, name)).sum();
            part.backends.len() as u64 * (addresses + names + requests.saturating_mul(budget::ENTRY))
        })
        .fold(0, u64::saturating_add);
    let settings = mesh.settings_of(namespace).into_values();
    let largest = settings.map(|(key, part)| (limits_size(&part.limits), key)).max();
    let mut seen = BTreeSet::new();
    for (name, pod) in &space.pods {
        let (count, written) = targets.get(pod.service_account.as_str()).copied().unwrap_or_default();
        let ports: usize = space.fronts(name).map(|service| service.ports.len()).sum();
        if let Some((size, key)) = largest
            && size.saturating_mul(ports as u64) > budget::RULES
        {
            let message = format!(
                "its limits, of about {size} bytes, are too large to stand at every port of its pods; ports for which \
                 there is no room left are closed. Name fewer routes and headers in it"
            );
            found.insert(Problem::new(key, "spec.rateLimit", Reason::TooLarge, message));
        }
        let most = (written.saturating_add(backends)).saturating_mul(2 * ports as u64);
        if count <= budget::MOST_OBJECTS && most <= budget::RULES {
            continue;
        }
        let Ok(audience) = mesh.audience(namespace, name) else { continue };
        if !seen.insert(audience.clone()) {
            continue;
        }
        let account = ServiceAccount::new(namespace, &pod.service_account);
        for (key, size) in fitting(mesh, &audience).1 {
            found.insert(problem(key, size, &format!("the rules of service account {account}")));
        }
    }
}

fn written(mesh: &Mesh, namespace: &str, target: &TargetPart) -> u64 {
    let rules = target.rules.iter().map(|rule| match rule {
        RuleRef::Http { name, .. } => group(mesh, namespace, name),
        RuleRef::Tcp { name } => text(name),
    });
    target.sources.iter().map(ServiceAccount::size).chain(rules).fold(0, u64::saturating_add)
}

fn group(mesh: &Mesh, namespace: &str, name: &str) -> u64 {
    match mesh.policies.get(Kind::HTTPRouteGroup, namespace, name) {
        Some(PolicyPart::Routes(RoutesPart::Http(matches))) => {
            matches.iter().map(|(_, one)| one.size()).sum()
        }
        _ => 0,
    }
}
