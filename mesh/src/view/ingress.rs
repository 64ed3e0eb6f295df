//! Who outside the mesh may call the ports of a pod, and how many calls they take: IngressBackends and the limits of
//! UpstreamTrafficSettings. Closed unless an IngressBackend opens it.

use std::collections::BTreeSet;

use serde::Serialize;

use super::inbound::{Kept, group};
use super::types::{PolicyName, Requests};
use crate::audience::Audience;
use crate::budget;
use crate::index::Mesh;
use crate::ingest::{
    BackendPart, Carried, Cidr, HttpLimit, HttpMatch, IngressPart, Limits, Principal, Protocol, Speaks,
};

/// What callers outside the mesh may do at a port: what these grant together, and nothing else.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// To callers without TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plaintext: Vec<IngressGrant>,
    /// To callers with TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<IngressGrant>,
}

impl Ingress {
    /// Whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plaintext.is_empty() && self.tls.is_empty()
    }

    /// Whether some callers need no certificate.
    #[must_use]
    pub fn certless(&self) -> bool {
        self.tls.iter().any(|grant| grant.certificate == Certificate::Unneeded)
    }

    /// The names that certificates may have.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.tls.iter().flat_map(|grant| match &grant.certificate {
            Certificate::Named(names) => names.iter().collect(),
            Certificate::Unneeded | Certificate::Any => Vec::new(),
        })
    }

    /// Those of them that no member of the trust domain has.
    pub(crate) fn outside_names(&self, trust_domain: &str) -> impl Iterator<Item = &str> {
        self.names().map(String::as_str).filter(move |name| !is_member(name, trust_domain))
    }

    /// Whether a certificate with this name is taken: one of the trust domain is, one that is named here, and any where
    /// none is needed.
    pub(crate) fn takes(&self, name: &str, trust_domain: &str) -> bool {
        self.certless() || is_member(name, trust_domain) || self.names().any(|other| other == name)
    }

    /// Whether a caller's TLS name (SNI) makes a difference.
    #[must_use]
    pub fn by_server_name(&self) -> bool {
        self.tls.iter().any(|grant| !grant.server_names.is_empty())
    }
}

/// What one IngressBackend grants at one port.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IngressGrant {
    /// The IngressBackend.
    pub name: PolicyName,
    /// Where calls may come from; anywhere when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<BTreeSet<Cidr>>,
    /// What certificate the caller needs.
    pub certificate: Certificate,
    /// Names that the caller may ask for (SNI); any when empty.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub server_names: BTreeSet<String>,
    /// What may be asked for.
    pub requests: Requests,
}

/// Whether a name in a certificate is a SPIFFE id of a trust domain (SPIFFE-ID, section 2).
pub(crate) fn is_member(name: &str, trust_domain: &str) -> bool {
    let path = name.strip_prefix("spiffe://").and_then(|rest| rest.strip_prefix(trust_domain));
    path.is_some_and(|path| path.starts_with('/'))
}

/// What certificate a caller needs.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// None.
    Unneeded,
    /// One of the trust domain of the mesh.
    Any,
    /// One that the mesh's root vouches for, with one of these names: as a URI or, without a URI, as a DNS name.
    Named(BTreeSet<String>),
}

/// What IngressBackends grant at a port of an audience.
pub(super) fn ingress(
    mesh: &Mesh,
    audience: &Audience,
    port: u16,
    protocol: Protocol,
    kept: &Kept<'_>,
) -> Ingress {
    let services = audience.services.iter().filter(|(_, ports)| ports.contains(&port));
    let services: BTreeSet<&str> = services.map(|(service, _)| service.as_str()).collect();
    let mut ingress = Ingress::default();
    if services.is_empty() {
        return ingress;
    }
    for (key, part) in mesh.ingress_of(&audience.namespace).filter(|(key, _)| kept.contains(key)) {
        let backends = part.backends.iter();
        let mut backends = backends
            .filter(|backend| backend.port == port && services.contains(backend.service.as_str()))
            .peekable();
        if backends.peek().is_none() {
            continue;
        }
        let Some(addresses) = addresses(mesh, part) else { continue };
        let Some(requests) = requests(mesh, &audience.namespace, part, protocol) else { continue };
        for backend in backends {
            let grant = |certificate, server_names| IngressGrant {
                name: PolicyName { namespace: key.namespace.clone(), name: key.name.clone() },
                addresses: addresses.clone(),
                certificate,
                server_names,
                requests: requests.clone(),
            };
            match &backend.speaks {
                Speaks::Plaintext => {
                    ingress.plaintext.push(grant(Certificate::Unneeded, BTreeSet::new()));
                }
                Speaks::Tls { certificate, server_names } => {
                    let certificate = match certificate {
                        true => certificate_of(mesh, &part.principals),
                        false => Certificate::Unneeded,
                    };
                    ingress.tls.push(grant(certificate, server_names.clone()));
                }
            }
        }
    }
    ingress
}

/// Bytes that an IngressBackend becomes at all ports together.
pub(super) fn ingress_size(mesh: &Mesh, audience: &Audience, part: &IngressPart) -> u64 {
    let here = |backend: &&BackendPart| {
        let ports = audience.services.get(&backend.service);
        ports.is_some_and(|ports| ports.contains(&backend.port))
    };
    let mut backends = part.backends.iter().filter(here).peekable();
    if backends.peek().is_none() {
        return 0;
    }
    let services = part.from.services.iter();
    let pods: u64 = services.map(|(namespace, name)| mesh.addresses_of(namespace, name).count() as u64).sum();
    let addresses = (pods + part.from.ranges.len() as u64).saturating_mul(budget::ENTRY);
    let names: u64 = part.principals.iter().map(Principal::size).sum();
    let groups = part.groups.iter().flatten().flat_map(|name| group(mesh, &audience.namespace, name));
    let requests: u64 = groups.map(|(_, one)| one.size()).sum();
    let sizes = backends.map(|backend| {
        let server_names: u64 = match &backend.speaks {
            Speaks::Plaintext => 0,
            // They are asked for beside each match.
            Speaks::Tls { server_names, .. } => server_names.iter().map(|name| budget::text(name)).sum(),
        };
        let matches = requests / budget::ENTRY + 1;
        let names = names.saturating_add(server_names.saturating_mul(matches));
        addresses.saturating_add(names).saturating_add(requests + budget::ENTRY)
    });
    sizes.fold(0, u64::saturating_add)
}

/// Bytes that limits become.
pub(crate) fn limits_size(limits: &Limits) -> u64 {
    let one = |limit: &HttpLimit| -> u64 {
        let headers = limit.headers.iter().map(|(name, value)| budget::text(name) + value.len() as u64);
        4 * budget::ENTRY + headers.sum::<u64>()
    };
    let routes: u64 = limits.routes.iter().map(|(path, limit)| budget::text(path) + one(limit)).sum();
    budget::ENTRY + routes + limits.requests.as_ref().map_or(0, one)
}

/// Where calls may come from: `Some(None)` is anywhere, `None` nowhere (its services have no pods).
#[allow(clippy::option_option)]
fn addresses(mesh: &Mesh, part: &IngressPart) -> Option<Option<BTreeSet<Cidr>>> {
    if part.from.anywhere() {
        return Some(None);
    }
    let services = part.from.services.iter();
    let pods = services.flat_map(|(namespace, name)| mesh.addresses_of(namespace, name)).map(Cidr::single);
    let addresses: BTreeSet<Cidr> = part.from.ranges.iter().copied().chain(pods).collect();
    (!addresses.is_empty()).then_some(Some(addresses))
}

/// What may be asked for; `None` is nothing. A connection has no requests to match.
fn requests(mesh: &Mesh, namespace: &str, part: &IngressPart, protocol: Protocol) -> Option<Requests> {
    let Some(groups) = &part.groups else { return Some(Requests::Any) };
    if !protocol.carries(Carried::Requests) {
        return None;
    }
    let matches: BTreeSet<HttpMatch> =
        groups.iter().flat_map(|name| group(mesh, namespace, name)).map(|(_, one)| one.clone()).collect();
    (!matches.is_empty()).then_some(Requests::Matching(matches))
}

fn certificate_of(mesh: &Mesh, principals: &BTreeSet<Principal>) -> Certificate {
    if principals.is_empty() || principals.contains(&Principal::Any) {
        return Certificate::Any;
    }
    let trust_domain = &mesh.settings().trust_domain;
    let names = principals.iter().flat_map(|principal| match principal {
        Principal::Any => Vec::new(),
        Principal::Named(name) => {
            [Some(name.clone()), spiffe_id(name, trust_domain)].into_iter().flatten().collect()
        }
    });
    Certificate::Named(names.collect())
}

/// The identity that OSM's `<service account>.<namespace>.<trust domain>` stands for.
fn spiffe_id(name: &str, trust_domain: &str) -> Option<String> {
    let rest = name.strip_suffix(trust_domain)?.strip_suffix('.')?;
    let (account, namespace) = rest.rsplit_once('.')?;
    let written = !account.is_empty() && !namespace.is_empty() && !name.contains('/');
    written.then(|| crds::labels::spiffe_id(trust_domain, namespace, account))
}

/// The limits at a port: those of the first of its services that has some.
pub(super) fn limits(mesh: &Mesh, audience: &Audience, port: u16) -> Option<Limits> {
    let mut services = audience.services.iter().filter(|(_, ports)| ports.contains(&port)).peekable();
    services.peek()?;
    let settings = mesh.settings_of(&audience.namespace);
    let mut limits = services.filter_map(|(service, _)| settings.get(service.as_str()));
    limits.find_map(|(_, part)| (!part.limits.is_empty()).then(|| part.limits.clone()))
}
