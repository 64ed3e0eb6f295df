//! Connections whose bytes nobody reads.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3 as state;
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3 as set_filter_state;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;

use super::Context;
use super::http::network_filter;
use super::listen::BYTES;
use super::log::{Of, access_log, would_be_denied};
use super::wire::{any, number, seconds};

/// Passes bytes to one of these clusters by weight, trying this many endpoints. Idle connections are the applications'
/// affair; TCP keep-alive finds dead ones.
pub(super) fn proxy(
    context: Context<'_>,
    stat_prefix: &str,
    to: &BTreeMap<String, u32>,
    attempts: u32,
) -> listener::Filter {
    network_filter("envoy.filters.network.tcp_proxy", any(&passing(context, stat_prefix, to, attempts)))
}

/// The same, where what would be denied is let through.
pub(super) fn audited_proxy(
    context: Context<'_>,
    stat_prefix: &str,
    to: &BTreeMap<String, u32>,
    attempts: u32,
) -> listener::Filter {
    let mut proxy = passing(context, stat_prefix, to, attempts);
    proxy.access_log.push(would_be_denied(Of::Connections));
    network_filter("envoy.filters.network.tcp_proxy", any(&proxy))
}

fn passing(
    context: Context<'_>,
    stat_prefix: &str,
    to: &BTreeMap<String, u32>,
    attempts: u32,
) -> tcp::TcpProxy {
    use tcp::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};
    let clusters = to.iter().map(|(name, weight)| ClusterWeight {
        name: name.clone(),
        weight: *weight,
        metadata_match: None,
    });
    let specifier = match to.first_key_value() {
        Some((only, _)) if to.len() == 1 => ClusterSpecifier::Cluster(only.clone()),
        _ => ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: clusters.collect() }),
    };
    tcp::TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        idle_timeout: seconds(0),
        max_connect_attempts: number(attempts),
        access_log: access_log(context, Of::Connections).into_iter().collect(),
        cluster_specifier: Some(specifier),
        ..Default::default()
    }
}

/// Says in the handshake with the other sidecar that bytes follow, whatever its cluster says for requests.
pub(super) fn announce() -> listener::Filter {
    use state::filter_state_value::{Key, Value};
    let value = state::FilterStateValue {
        key: Some(Key::ObjectKey("envoy.network.application_protocols".to_owned())),
        value: Some(Value::FormatString(core::SubstitutionFormatString {
            format: Some(core::substitution_format_string::Format::TextFormatSource(core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString(BYTES.to_owned())),
                ..Default::default()
            })),
            ..Default::default()
        })),
        ..Default::default()
    };
    let config = set_filter_state::Config { on_new_connection: vec![value], ..Default::default() };
    network_filter("envoy.filters.network.set_filter_state", any(&config))
}
