//! Who gets as far as a connection that carries bytes.
//!
//! Envoy asks its rules about a connection when the first byte comes from the caller. A server that speaks first, as
//! many databases do, has told its name and version by then, to whoever called. So a chain that carries bytes admits
//! only those to whom its rules grant something: by their name in the handshake or, without TLS, by their address.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;

use super::Context;
use super::wire::number;
use crate::ingest::Cidr;
use crate::view::{Access, Certificate, Ingress};

/// Who is admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admitted<T> {
    /// Everybody that the chain is for; the rules decide.
    All,
    /// These, if any.
    Only(BTreeSet<T>),
}

impl<T> Admitted<T> {
    /// Whether nobody is.
    pub(super) fn nobody(&self) -> bool {
        matches!(self, Self::Only(some) if some.is_empty())
    }
}

/// Names in the certificates of callers with TLS.
pub(super) fn over_tls(context: Context<'_>, access: &Access, ingress: &Ingress) -> Admitted<String> {
    let Access::Only(grants) = access else { return Admitted::All };
    let sources = grants.values().flat_map(|grant| &grant.sources);
    let mut names: BTreeSet<_> = sources.map(|source| source.spiffe_id(&context.view.trust_domain)).collect();
    for grant in &ingress.tls {
        match &grant.certificate {
            Certificate::Unneeded | Certificate::Any => return Admitted::All,
            Certificate::Named(more) => names.extend(more.iter().cloned()),
        }
    }
    Admitted::Only(names)
}

/// Addresses of callers without TLS, whom no rule of the mesh can name.
pub(super) fn over_plaintext(access: &Access, ingress: &Ingress, permissive: bool) -> Admitted<Cidr> {
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
pub(super) fn only(
    mut chain: listener::FilterChain,
    admitted: &Admitted<Cidr>,
) -> Option<listener::FilterChain> {
    if let Admitted::Only(ranges) = admitted {
        let ranges = ranges.iter().map(|range| core::CidrRange {
            address_prefix: range.address.to_string(),
            prefix_len: number(u32::from(range.prefix)),
        });
        chain.filter_chain_match.get_or_insert_default().direct_source_prefix_ranges = ranges.collect();
    }
    (!admitted.nobody()).then_some(chain)
}
