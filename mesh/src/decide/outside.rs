//! Calls that leave the mesh (Egress) and calls that enter it (IngressBackend).

use std::net::IpAddr;

use crds::mesh_config::{Egress, Mtls};

use super::types::{Because, Denial, Request, Stranger, Verdict};
use super::{at_pod, opens};
use crate::index::Mesh;
use crate::ingest::{Carried, EgressProtocol, Protocol, ServiceAccount, host_fits};
use crate::object::{Kind, ObjectRef};
use crate::view::{Access, Certificate, IngressGrant, inbound, is_member, openings};

/// Whether a service account may call something outside the mesh.
pub(super) fn leaving(
    mesh: &Mesh,
    caller: &ServiceAccount,
    host: Option<&str>,
    address: Option<IpAddr>,
    port: u16,
    request: &Request,
) -> Verdict {
    let mut openings = openings(mesh, caller);
    let shut = openings.shut.contains(&port);
    let openings = openings.open.remove(&port).unwrap_or_default();
    let host = host.map(str::to_ascii_lowercase);
    let (mut granting, mut near, mut told_apart) = (Vec::new(), Vec::new(), false);
    for opening in &openings {
        let named = host.as_deref().is_some_and(|host| opening.opens(host));
        let ranges = &opening.part.ranges;
        let in_range = ranges.is_empty()
            || address.is_some_and(|address| ranges.iter().any(|range| range.contains(address)));
        let (host_fits, request_fits) = match (opening.protocol, request) {
            (EgressProtocol::Http, Request::Http { .. }) => (named, opens(&opening.requests, request)),
            (EgressProtocol::Https, Request::Tls { server_name }) => {
                let name = server_name.as_ref().map(|name| name.to_ascii_lowercase());
                let named = name.is_some_and(|name| opening.opens(&name));
                (opening.part.hosts.is_empty() || named, true)
            }
            (EgressProtocol::Tcp, _) => (true, true),
            _ => (false, false),
        };
        told_apart |= host_fits && in_range && opening.protocol == EgressProtocol::Http;
        let name = ObjectRef::new(Kind::Egress, &opening.name.namespace, &opening.name.name);
        if host_fits && in_range && request_fits {
            granting.push(name);
        } else if host_fits {
            near.push(name);
        }
    }
    // Where everything may leave, a host that is opened for some requests is still closed for all others.
    match (granting.is_empty(), mesh.settings().egress) {
        (false, _) => Verdict::Allowed(Because::Policies(granting)),
        (true, Egress::Allow) if !told_apart && !shut => Verdict::Allowed(Because::EgressAllowed),
        (true, _) => Verdict::Denied(Denial::NoEgress { near }),
    }
}

/// Whether somebody without a sidecar may call a port of a pod.
pub(super) fn entering(
    mesh: &Mesh,
    stranger: &Stranger,
    namespace: &str,
    pod: &str,
    port: u16,
    request: &Request,
) -> Verdict {
    let audience = match mesh.audience(namespace, pod) {
        Ok(audience) => audience,
        Err(reason) => return Verdict::Denied(Denial::CalleeNotOurs(reason)),
    };
    let inbound = inbound(mesh, &audience);
    let Some(at) = inbound.ports.get(&port) else { return Verdict::Denied(Denial::NoSuchPort) };
    let bytes = !matches!(request, Request::Http { .. });
    if bytes && !at.protocol.carries(Carried::Connections) {
        return Verdict::Denied(Denial::OnlyRequests);
    }
    let trust_domain = &mesh.settings().trust_domain;
    let grants = if stranger.tls.is_some() { &at.ingress.tls } else { &at.ingress.plaintext };
    // Where the protocol is not declared, whatever is granted to callers from outside is granted to their requests.
    let carried = !bytes || at.protocol == Protocol::Tcp;
    let shown = stranger.tls.as_ref().and_then(|tls| tls.name.as_deref());
    let taken = shown.is_none_or(|name| at.ingress.takes(name, trust_domain));
    let (granting, near): (Vec<_>, Vec<_>) = grants.iter().partition(|grant| {
        carried && taken && admits(grant, stranger, trust_domain) && opens(&grant.requests, request)
    });
    let names = |grants: Vec<&IngressGrant>| {
        let names = grants.into_iter().map(|grant| &grant.name);
        names.map(|name| ObjectRef::new(Kind::IngressBackend, &name.namespace, &name.name)).collect()
    };
    if !granting.is_empty() {
        return Verdict::Allowed(Because::Policies(names(granting)));
    }
    let open = match &at.access {
        Access::Everyone => Some(Because::AllowAll),
        Access::Audited(_) => Some(Because::Audited),
        Access::Only(_) => None,
    };
    let shut = || Verdict::Denied(Denial::NoIngress { near: names(near) });
    match &stranger.tls {
        // A certificate of the mesh is worth here what it is worth for a pod.
        Some(_) => match shown.filter(|name| is_member(name, trust_domain)) {
            Some(name) => match account(name, trust_domain) {
                Some(member) => at_pod(mesh, Some(&member), namespace, pod, port, request),
                None => open.map_or_else(shut, Verdict::Allowed),
            },
            None => shut(),
        },
        None if inbound.mtls == Mtls::Strict && grants.is_empty() => {
            Verdict::Denied(Denial::PlaintextRefused)
        }
        None => open.filter(|_| inbound.mtls == Mtls::Permissive).map_or_else(shut, Verdict::Allowed),
    }
}

fn admits(grant: &IngressGrant, stranger: &Stranger, trust_domain: &str) -> bool {
    let from = grant.addresses.as_ref();
    let from = from.is_none_or(|ranges| ranges.iter().any(|range| range.contains(stranger.address)));
    let Some(tls) = &stranger.tls else { return from };
    let certificate = match &grant.certificate {
        Certificate::Unneeded => true,
        Certificate::Any => tls.name.as_ref().is_some_and(|name| is_member(name, trust_domain)),
        Certificate::Named(names) => tls.name.as_ref().is_some_and(|name| names.contains(name)),
    };
    let asked = tls.server_name.as_deref().unwrap_or_default();
    let asked = grant.server_names.is_empty() || grant.server_names.iter().any(|name| host_fits(name, asked));
    from && certificate && asked
}

/// The service account that a SPIFFE id of the mesh names.
fn account(id: &str, trust_domain: &str) -> Option<ServiceAccount> {
    let path = id.strip_prefix("spiffe://")?.strip_prefix(trust_domain)?;
    let (namespace, name) = path.strip_prefix("/ns/")?.split_once("/sa/")?;
    Some(ServiceAccount::new(namespace, name))
}
