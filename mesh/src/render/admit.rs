//! Who gets as far as a connection.
//!
//! With TLS: whoever shows a certificate of this trust domain, or one that an IngressBackend names. Envoy asks its rules about a connection when the first byte comes from the caller. A server that speaks first, as
//! many databases do, has told its name and version by then, to whoever called. So a chain that carries bytes admits
//! only those to whom its rules grant something: by their name in the handshake or, without TLS, by their address.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;

use super::Context;
use super::wire::number;
use crate::ingest::Cidr;
use crate::view::{Access, Certificate, Ingress, IngressGrant};

/// Whose certificate is taken. A root of trust may have signed certificates of other trust domains, and certificates
/// that name nobody: neither is one of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// Every member of the trust domain.
    Member,
    /// Whoever has exactly this name: a URI, or a DNS name.
    Exactly(String),
}

/// Those whose certificate is taken for requests, which rules then decide about one by one.
pub(super) fn for_requests(context: Context<'_>, ingress: &Ingress) -> BTreeSet<Holder> {
    let outside = ingress.outside_names(&context.view.trust_domain);
    outside.map(|name| Holder::Exactly(name.to_owned())).chain([Holder::Member]).collect()
}

/// Those whose certificate is taken for bytes.
pub(super) fn for_bytes(context: Context<'_>, access: &Access, ingress: &Ingress) -> BTreeSet<Holder> {
    let any = |grant: &IngressGrant| grant.certificate == Certificate::Any;
    let Access::Only(grants) = access else { return for_requests(context, ingress) };
    if ingress.certless() || ingress.tls.iter().any(any) {
        return for_requests(context, ingress);
    }
    let sources = grants.values().flat_map(|grant| &grant.sources);
    let sources = sources.map(|source| source.spiffe_id(&context.view.trust_domain));
    sources.chain(ingress.names().cloned()).map(Holder::Exactly).collect()
}

/// Where callers without TLS come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admitted {
    /// From anywhere.
    All,
    /// From these ranges, if any.
    Only(BTreeSet<Cidr>),
}

impl Admitted {
    /// Whether nobody is admitted.
    fn nobody(&self) -> bool {
        matches!(self, Self::Only(some) if some.is_empty())
    }
}

/// Addresses of callers without TLS, whom no rule of the mesh can name.
pub(super) fn over_plaintext(access: &Access, ingress: &Ingress, permissive: bool) -> Admitted {
    if permissive && !matches!(access, Access::Only(_)) {
        return Admitted::All;
    }
    let mut ranges = BTreeSet::new();
    for grant in &ingress.plaintext {
        match &grant.addresses {
            None => return Admitted::All,
            Some(addresses) => ranges.extend(addresses),
        }
    }
    Admitted::Only(ranges)
}

/// A chain as one for these callers, if there are any; Envoy closes the connections of others, for whom there is none.
pub(super) fn only(mut chain: listener::FilterChain, admitted: &Admitted) -> Option<listener::FilterChain> {
    if let Admitted::Only(ranges) = admitted {
        let ranges = ranges.iter().map(|range| core::CidrRange {
            address_prefix: range.address.to_string(),
            prefix_len: number(u32::from(range.prefix)),
        });
        chain.filter_chain_match.get_or_insert_default().direct_source_prefix_ranges = ranges.collect();
    }
    (!admitted.nobody()).then_some(chain)
}
