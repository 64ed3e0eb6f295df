//! Connections whose bytes nobody reads.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;

use super::Context;
use super::http::network_filter;
use super::log::access_log;
use super::wire::{any, number, seconds};

/// Passes bytes to one of these clusters by weight, trying this many endpoints. Idle connections are the applications'
/// affair; TCP keep-alive finds dead ones.
pub(super) fn proxy(
    context: Context<'_>,
    stat_prefix: &str,
    to: &BTreeMap<String, u32>,
    attempts: u32,
) -> listener::Filter {
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
    let proxy = tcp::TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        idle_timeout: seconds(0),
        max_connect_attempts: number(attempts),
        access_log: access_log(context, false).into_iter().collect(),
        cluster_specifier: Some(specifier),
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", any(&proxy))
}
