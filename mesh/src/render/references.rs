//! Which clusters a message names: they must be in place before it, and stay for as long as it does.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use prost::{Message, Name};

/// A message that may name clusters.
pub(super) trait References {
    /// The clusters that it names.
    fn clusters(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}

impl References for Cluster {}

impl References for ClusterLoadAssignment {}

impl References for route::RouteConfiguration {
    fn clusters(&self) -> BTreeSet<String> {
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        let actions = routes.filter_map(|route| match &route.action {
            Some(route::route::Action::Route(action)) => action.cluster_specifier.as_ref(),
            _ => None,
        });
        actions.flat_map(of_action).collect()
    }
}

fn of_action(specifier: &route::route_action::ClusterSpecifier) -> Vec<String> {
    use route::route_action::ClusterSpecifier;
    match specifier {
        ClusterSpecifier::Cluster(name) => vec![name.clone()],
        ClusterSpecifier::WeightedClusters(weighted) => {
            weighted.clusters.iter().map(|one| one.name.clone()).collect()
        }
        // Nothing of ours looks clusters up.
        _ => Vec::new(),
    }
}

impl References for listener::Listener {
    /// Requests name their clusters in route configurations.
    fn clusters(&self) -> BTreeSet<String> {
        let chains = self.filter_chains.iter().chain(&self.default_filter_chain);
        chains.flat_map(|chain| &chain.filters).flat_map(of_filter).collect()
    }
}

fn of_filter(filter: &listener::Filter) -> Vec<String> {
    use tcp_proxy::ClusterSpecifier;
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
        return Vec::new();
    };
    if config.type_url != TcpProxy::type_url() {
        return Vec::new();
    }
    let proxy = TcpProxy::decode(config.value.as_slice()).unwrap_or_default();
    match proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![name],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted.clusters.into_iter().map(|one| one.name).collect()
        }
        None => Vec::new(),
    }
}
