//! Headless services: their clients dial one pod of their choice.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::outbound::{Sight, listed, peers};
use super::types::{Headless, ServicePort};
use crate::index::{Mesh, Space};
use crate::ingest::{Flavour, ServicePart, ServicePortPart};

/// What is dialed at a port of a headless service; `None` when it is none, or nothing is left to dial.
pub(super) fn headless(
    mesh: &Mesh,
    space: &Space,
    key: &ServicePort,
    service: &ServicePart,
    port: &ServicePortPart,
    sight: &Sight,
) -> Option<Headless> {
    if service.flavour != Flavour::Headless {
        return None;
    }
    let mut pods = addresses(mesh, space, key, &key.service, port);
    for (other, number) in earlier(space, key) {
        let Some(part) = space.services.get(other).and_then(|other| other.ports.get(&number)) else {
            continue;
        };
        pods = &pods - &addresses(mesh, space, key, other, part);
    }
    let peers = peers(mesh, &key.namespace, space, &key.service, sight);
    (!pods.is_empty() && !peers.is_empty()).then_some(Headless { protocol: port.protocol, peers, pods })
}

/// Addresses of the pods of a service of a port's namespace: those that are nobody else's.
fn addresses(
    mesh: &Mesh,
    space: &Space,
    key: &ServicePort,
    service: &str,
    port: &ServicePortPart,
) -> BTreeSet<SocketAddr> {
    let listed = listed(mesh, space, service, port).into_iter();
    let theirs = listed.filter(|(_, pod, _, address)| mesh.is_of_pod(&key.namespace, pod, address.ip()));
    theirs.map(|(_, _, _, address)| address).collect()
}

/// Ports of headless services that come before a port, by name and number: where they lead to the same port of the
/// same pods, these are theirs. To the pods it makes no difference.
fn earlier<'a>(space: &'a Space, key: &'a ServicePort) -> impl Iterator<Item = (&'a String, u16)> {
    let headless = space.services.iter().filter(|(_, service)| service.flavour == Flavour::Headless);
    let ports = headless.flat_map(|(name, service)| service.ports.keys().map(move |number| (name, *number)));
    ports.filter(|(name, number)| (*name, *number) < (&key.service, key.port))
}
