//! What listeners look at before a connection is anybody's: where it was going, and what it begins with.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::listener as filters;
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use envoy_types::pb::google::protobuf::Any;

use super::wire::{any, number, socket_address};
use crate::audience::Families;

/// What the inspector calls the protocols of requests.
const REQUESTS: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

/// What a sidecar that hands on bytes says to the other sidecar in the handshake, where the port could be HTTP too.
pub(super) const BYTES: &str = "meshwright-bytes";

/// Finds out where a redirected connection was going.
pub(super) fn original_dst() -> listener::ListenerFilter {
    let config = filters::original_dst::v3::OriginalDst::default();
    filter("envoy.filters.listener.original_dst", any(&config))
}

/// Tells TLS from plaintext, and reads what is offered in the handshake.
pub(super) fn tls_inspector() -> listener::ListenerFilter {
    filter("envoy.filters.listener.tls_inspector", any(&filters::tls_inspector::v3::TlsInspector::default()))
}

/// Tells HTTP from other plaintext.
pub(super) fn http_inspector() -> listener::ListenerFilter {
    filter(
        "envoy.filters.listener.http_inspector",
        any(&filters::http_inspector::v3::HttpInspector::default()),
    )
}

fn filter(name: &str, config: Any) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// A filter that looks at connections to these ports only.
pub(super) fn only_at(
    mut filter: listener::ListenerFilter,
    ports: impl IntoIterator<Item = u16>,
) -> listener::ListenerFilter {
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let predicate = |rule| listener::ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let one = |port: u16| {
        let port = i32::from(port);
        predicate(Rule::DestinationPortRange(Int32Range { start: port, end: port + 1 }))
    };
    let mut rules: Vec<_> = ports.into_iter().map(one).collect();
    // Envoy wants two at least in a set.
    rules.extend((rules.len() == 1).then(|| one(0)));
    let any_of = predicate(Rule::OrMatch(MatchSet { rules }));
    filter.filter_disabled = Some(predicate(Rule::NotMatch(Box::new(any_of))));
    filter
}

/// Makes a chain the one for requests, beside one for everything else.
pub(super) fn for_requests(mut chain: listener::FilterChain) -> listener::FilterChain {
    let matching = chain.filter_chain_match.get_or_insert_default();
    matching.application_protocols = REQUESTS.map(str::to_owned).to_vec();
    chain
}

/// A socket on every address that the pod has.
pub(super) fn everywhere(
    families: Families,
    port: u16,
) -> (Option<core::Address>, Vec<listener::AdditionalAddress>) {
    let six = families.six().then(|| listener::AdditionalAddress {
        address: Some(socket_address("::", port)),
        ..Default::default()
    });
    (Some(socket_address("0.0.0.0", port)), six.into_iter().collect())
}

/// A chain for a port whose connections are closed: Envoy closes what has no filters.
pub(super) fn closed(port: u16) -> listener::FilterChain {
    listener::FilterChain {
        name: "closed".to_owned(),
        filter_chain_match: Some(listener::FilterChainMatch {
            destination_port: number(u32::from(port)),
            ..Default::default()
        }),
        ..Default::default()
    }
}
