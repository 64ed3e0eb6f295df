//! Which services an audience can call, how, and where the calls go.
//!
//! A client only gets what it may call: a service is listed when a pod behind it (or behind a receiver of its
//! TrafficSplit) has a service account that a TrafficTarget opens to the client, or does not enforce TrafficTargets.
//! This is scope, not enforcement: the server's sidecar decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crds::mesh_config::{Authorization, Egress};

use super::headless::headless;
use super::inbound::{connects, group};
use super::types::{Destination, Otherwise, Outbound, Route, Service, ServicePort};
use super::upstream::{handling, retry};
use crate::audience::Families;
use crate::budget::{self, LeftOut};
use crate::index::{Mesh, Space};
use crate::ingest::{
    Carried, HttpMatch, PodPart, PolicyPart, Protocol, RetryRules, ServiceAccount, ServicePart,
    ServicePortPart, SplitPart,
};
use crate::object::{Kind, ObjectRef};
use crate::settings::Settings;

/// Everything of a caller that matters at one service: callers with equal sights get the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Sight {
    /// Service accounts behind the service that TrafficTargets open to the caller.
    opened: BTreeSet<String>,
    /// When the caller's calls to the service are tried again.
    retry: Option<RetryRules>,
    /// Whether the caller has no IPv4 address.
    only_six: bool,
}

impl Sight {
    /// `opened` is what is open to the caller in the service's namespace, `accounts` is who is behind the service.
    pub(crate) fn new(opened: &BTreeSet<String>, accounts: &BTreeSet<String>, families: Families) -> Self {
        let opened = opened.intersection(accounts).cloned().collect();
        Self { opened, retry: None, only_six: families == Families::V6 }
    }

    /// With what the caller's Retries say of its calls to the service.
    pub(crate) fn retrying(
        self,
        mesh: &Mesh,
        caller: &ServiceAccount,
        namespace: &str,
        service: &str,
    ) -> Self {
        Self { retry: retry(mesh, caller, namespace, service).cloned(), ..self }
    }

    /// Whether the caller may call a pod, as far as it must know.
    fn reaches(&self, mesh: &Mesh, namespace: &str, pod: &PodPart) -> bool {
        self.opened.contains(&pod.service_account)
            || mesh.modes(namespace, &pod.labels).1 != Authorization::Enforce
    }

    fn reaches_some(&self, mesh: &Mesh, namespace: &str, space: &Space, service: &str) -> bool {
        mesh.behind(space, service).any(|(_, pod)| self.reaches(mesh, namespace, pod))
    }
}

/// Service accounts of the pods behind a service and behind the receivers of its TrafficSplits.
pub(crate) fn accounts(mesh: &Mesh, namespace: &str, service: &str) -> BTreeSet<String> {
    let Some(space) = mesh.space(namespace) else { return BTreeSet::new() };
    let backends = splits(mesh, namespace, service).flat_map(|split| split.backends.keys());
    let services = backends.map(String::as_str).chain([service]);
    let pods = services.flat_map(|service| mesh.behind(space, service));
    pods.map(|(_, pod)| pod.service_account.clone()).collect()
}

/// No services, and what happens to calls to anything else.
pub(super) fn nothing(settings: &Settings) -> Outbound {
    let otherwise = match settings.egress {
        Egress::Allow => Otherwise::Passthrough,
        Egress::Deny => Otherwise::MeshOnly,
    };
    Outbound { otherwise, services: BTreeMap::new(), destinations: BTreeMap::new(), egress: BTreeMap::new() }
}

/// The ports of a service that can be dialed; `None` when the caller may call nobody behind it, whatever its ports.
pub(crate) fn dialed(
    mesh: &Mesh,
    namespace: &str,
    name: &str,
    sight: &Sight,
) -> Option<BTreeMap<ServicePort, Service>> {
    let space = mesh.space(namespace)?;
    let service = space.services.get(name)?;
    let listed = sight.reaches_some(mesh, namespace, space, name)
        || splits(mesh, namespace, name)
            .flat_map(|split| split.backends.keys())
            .any(|backend| sight.reaches_some(mesh, namespace, space, backend));
    if !listed {
        return None;
    }
    let ports = service.ports.iter().filter_map(|(number, port)| {
        let key = ServicePort { namespace: namespace.to_owned(), service: name.to_owned(), port: *number };
        let dialed = dialed_port(mesh, space, &key, service, port, sight)?;
        Some((key, dialed))
    });
    Some(ports.collect())
}

fn dialed_port(
    mesh: &Mesh,
    space: &Space,
    key: &ServicePort,
    service: &ServicePart,
    port: &ServicePortPart,
    sight: &Sight,
) -> Option<Service> {
    let ServicePort { namespace, service: name, port: number } = key;
    let routes_of = |carried| routes(mesh, namespace, space, name, *number, carried);
    let routes = routes_of(Carried::Requests);
    let mut connections = routes_of(Carried::Connections).pop().map(|route| route.to).unwrap_or_default();
    if port.protocol == Protocol::Undeclared && !open_to_bytes(mesh, namespace, space, connections.keys()) {
        connections.clear();
    }
    let mut addresses = service.addresses.clone();
    addresses.retain(|address| mesh.owns(namespace, name, *address, *number));
    let headless = headless(mesh, space, key, service, port, sight);
    let nowhere = routes.is_empty() && connections.is_empty();
    if nowhere || (addresses.is_empty() && headless.is_none()) {
        return None;
    }
    let protocol = |receiver: &ServicePort| part_of(space, receiver).map(|part| part.protocol);
    let announced = connections.keys().any(|receiver| protocol(receiver) == Some(Protocol::Undeclared));
    let handling = handling(mesh, namespace, sight.retry.as_ref(), name, &routes);
    Some(Service { addresses, headless, routes, connections, announced, handling })
}

fn part_of<'a>(space: &'a Space, key: &ServicePort) -> Option<&'a ServicePortPart> {
    space.services.get(&key.service)?.ports.get(&key.port)
}

/// Whether every pod behind these lets somebody connect with something that is not a request. Only then is what a
/// caller sends looked at: what can only be requests is never mistaken for something else.
fn open_to_bytes<'a>(
    mesh: &Mesh,
    namespace: &str,
    space: &Space,
    receivers: impl Iterator<Item = &'a ServicePort>,
) -> bool {
    let mut pods = receivers.flat_map(|receiver| {
        let part = part_of(space, receiver);
        let behind = mesh.behind(space, &receiver.service);
        behind.filter_map(move |(_, pod)| Some((pod, part?.target.number(pod)?, part?.protocol)))
    });
    pods.all(|(pod, port, protocol)| {
        mesh.modes(namespace, &pod.labels).1 != Authorization::Enforce
            || connects(mesh, &ServiceAccount::new(namespace, &pod.service_account), port, protocol)
    })
}

/// Who may answer at a service: those of its pods that the caller may call; all of them when it may call none, so that
/// it is told so (403) by a sidecar that counts it.
pub(super) fn wanted(
    mesh: &Mesh,
    namespace: &str,
    space: &Space,
    service: &str,
    sight: &Sight,
) -> impl Fn(&PodPart) -> bool {
    let some = sight.reaches_some(mesh, namespace, space, service);
    move |pod: &PodPart| !some || sight.reaches(mesh, namespace, pod)
}

/// The service accounts of those.
pub(super) fn peers(
    mesh: &Mesh,
    namespace: &str,
    space: &Space,
    service: &str,
    sight: &Sight,
) -> BTreeSet<ServiceAccount> {
    let wanted = wanted(mesh, namespace, space, service, sight);
    let pods = mesh.behind(space, service).filter(|(_, pod)| wanted(pod));
    pods.map(|(_, pod)| ServiceAccount::new(namespace, &pod.service_account)).collect()
}

/// Where calls to a receiver go. `sight` is that of the receiver.
pub(crate) fn destination(mesh: &Mesh, receiver: &ServicePort, sight: &Sight) -> Option<Destination> {
    let ServicePort { namespace, service, port } = receiver;
    let space = mesh.space(namespace)?;
    let port = space.services.get(service)?.ports.get(port)?;
    let wanted = wanted(mesh, namespace, space, service, sight);
    let peers = peers(mesh, namespace, space, service, sight);
    let endpoints = endpoints(mesh, space, service, port).into_iter().filter(|(_, pod, _)| wanted(pod));
    (!peers.is_empty()).then_some(Destination {
        protocol: port.protocol,
        peers,
        endpoints: one_family(endpoints, sight.only_six),
        settings: mesh.setting_of(namespace, service).map(|part| part.callers.clone()).unwrap_or_default(),
    })
}

/// A pod that has addresses of both families is called by one of them, or it would get twice its share: by IPv4, but
/// for callers that have no such address.
fn one_family<'a>(
    endpoints: impl Iterator<Item = (&'a str, &'a PodPart, SocketAddr)>,
    six: bool,
) -> BTreeSet<SocketAddr> {
    let (wanted, others): (Vec<_>, Vec<_>) = endpoints.partition(|(_, _, address)| address.is_ipv6() == six);
    let pods: BTreeSet<&str> = wanted.iter().map(|(pod, ..)| *pod).collect();
    let others = others.into_iter().filter(|(pod, ..)| !pods.contains(pod));
    others.chain(wanted.iter().copied()).map(|(_, _, address)| address).collect()
}

/// The endpoints of a service port that take calls and have a sidecar: pod and address.
pub(crate) fn endpoints<'a>(
    mesh: &'a Mesh,
    space: &'a Space,
    service: &str,
    port: &ServicePortPart,
) -> Vec<(&'a str, &'a PodPart, SocketAddr)> {
    let all = listed(mesh, space, service, port).into_iter();
    let ready = all.filter(|(takes_calls, ..)| *takes_calls);
    ready.map(|(_, name, pod, address)| (name, pod, address)).collect()
}

/// The endpoints of a service port that have a sidecar: whether it takes calls, pod and address.
pub(super) fn listed<'a>(
    mesh: &'a Mesh,
    space: &'a Space,
    service: &str,
    port: &ServicePortPart,
) -> Vec<(bool, &'a str, &'a PodPart, SocketAddr)> {
    let pods: BTreeMap<&str, &PodPart> = mesh.behind(space, service).collect();
    let slices = space.slices_of(service);
    let slices = slices.filter_map(|slice| Some((slice, *slice.ports.get(&port.name)?)));
    let endpoints =
        slices.flat_map(|(slice, number)| slice.endpoints.iter().map(move |one| (slice, one, number)));
    let meshed = endpoints.filter_map(|(slice, endpoint, number)| {
        let (name, pod) = space.pod_of(endpoint)?;
        let ours = pods.contains_key(name);
        ours.then(|| (slice.takes_calls(endpoint, pod), name, pod, SocketAddr::new(endpoint.address, number)))
    });
    meshed.collect()
}

/// The TrafficSplits of a service that count: those with matches by name, then the first without.
fn splits<'a>(mesh: &'a Mesh, namespace: &str, root: &str) -> impl Iterator<Item = &'a SplitPart> + use<'a> {
    fitting_splits(mesh, namespace, root).0.into_iter()
}

/// The same, and the TrafficSplits that are too large for the service's routes.
pub(crate) fn fitting_splits<'a>(
    mesh: &'a Mesh,
    namespace: &str,
    root: &str,
) -> (Vec<&'a SplitPart>, LeftOut<&'a ObjectRef>) {
    let all = mesh.policies().in_namespace(Kind::TrafficSplit, namespace);
    let all = all.filter_map(|(key, part)| match part {
        PolicyPart::TrafficSplit(split) if split.root == root => Some((key, split)),
        _ => None,
    });
    let (matching, rest): (Vec<_>, Vec<_>) = all.partition(|(_, split)| split.matches.is_some());
    let counting: Vec<_> = matching.into_iter().chain(rest.into_iter().take(1)).collect();
    if counting.is_empty() {
        return (Vec::new(), LeftOut::new());
    }
    let sizes = counting.iter().map(|(key, split)| (split_size(mesh, namespace, split), *key));
    let (kept, left_out) = budget::within(sizes, budget::SPLITS);
    let counting = counting.into_iter().filter(|(key, _)| kept.contains(key));
    (counting.map(|(_, split)| split).collect(), left_out)
}

/// Bytes that a TrafficSplit becomes at one port: each match has a route, which names all receivers.
fn split_size(mesh: &Mesh, namespace: &str, split: &SplitPart) -> u64 {
    let backends: u64 = split.backends.keys().map(|name| 2 * budget::text(name)).sum();
    match &split.matches {
        None => backends,
        Some(groups) => {
            let matches = groups.iter().flat_map(|name| group(mesh, namespace, name));
            matches.map(|(_, one)| one.size() + backends).fold(0, u64::saturating_add)
        }
    }
}

/// Where requests or connections to a service port go. A receiver that cannot take calls (no such service or port, another protocol,
/// no ready pod with a sidecar) gets none, and the others share; a split of which nothing is left is as if it were
/// not there. Empty when nobody is behind the service.
pub(crate) fn routes(
    mesh: &Mesh,
    namespace: &str,
    space: &Space,
    root: &str,
    number: u16,
    carried: Carried,
) -> Vec<Route> {
    let port = space.services.get(root).and_then(|service| service.ports.get(&number));
    if !port.is_some_and(|port| port.protocol.carries(carried)) {
        return Vec::new();
    }
    let key = |service: &str| ServicePort {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        port: number,
    };
    let takes_calls = |backend: &str| {
        let other = space.services.get(backend).and_then(|service| service.ports.get(&number));
        other.is_some_and(|other| {
            other.protocol.carries(carried) && !endpoints(mesh, space, backend, other).is_empty()
        })
    };
    let mut routes = Vec::new();
    for split in splits(mesh, namespace, root) {
        let receivers =
            split.backends.iter().filter(|(backend, weight)| **weight > 0 && takes_calls(backend));
        let to: BTreeMap<_, _> = receivers.map(|(backend, weight)| (key(backend), *weight)).collect();
        let matches: Vec<HttpMatch> = match &split.matches {
            None => Vec::new(),
            Some(groups) => {
                let all = groups.iter().flat_map(|name| group(mesh, namespace, name));
                all.map(|(_, one)| one.clone()).collect::<BTreeSet<_>>().into_iter().collect()
            }
        };
        // No match at all is not every request; and a connection has no requests to match.
        let applies = split.matches.is_none() || (!matches.is_empty() && carried == Carried::Requests);
        if applies && !to.is_empty() {
            routes.push(Route { matches, to });
        }
    }
    let unmatched = routes.last().is_some_and(|route| route.matches.is_empty());
    if !unmatched && mesh.behind(space, root).next().is_some() {
        routes.push(Route { matches: Vec::new(), to: BTreeMap::from([(key(root), 1)]) });
    }
    routes
}

impl Mesh {
    /// Whether any pod behind a service takes calls at any of its ports.
    pub(crate) fn takes_calls(&self, space: &Space, service: &str) -> bool {
        let ports = space.services.get(service).into_iter().flat_map(|service| service.ports.values());
        ports.into_iter().any(|port| !endpoints(self, space, service, port).is_empty())
    }
}
