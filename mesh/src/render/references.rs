//! Which clusters a message names: they must be in place before it, and stay for as long as it does.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use prost::{Message, Name};

/// A message that may name clusters.
pub(super) trait References {
    /// Adds the clusters that it names.
    fn clusters(&self, _found: &mut Clusters) {}
}

/// Names of clusters.
#[derive(Default)]
pub(super) struct Clusters(Vec<Arc<str>>);

impl Clusters {
    /// What a message names it mostly names several times in a row.
    fn add(&mut self, name: &str) {
        if self.0.last().is_none_or(|last| **last != *name) {
            self.0.push(name.into());
        }
    }

    /// Each once, in order.
    pub(super) fn shared(mut self) -> Arc<[Arc<str>]> {
        if self.0.is_empty() {
            return Arc::default();
        }
        self.0.sort_unstable();
        self.0.dedup();
        self.0.into()
    }
}

impl References for Cluster {}

impl References for ClusterLoadAssignment {}

impl References for route::RouteConfiguration {
    fn clusters(&self, found: &mut Clusters) {
        use route::route_action::ClusterSpecifier;
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        let actions = routes.filter_map(|route| match &route.action {
            Some(route::route::Action::Route(action)) => action.cluster_specifier.as_ref(),
            _ => None,
        });
        for action in actions {
            match action {
                ClusterSpecifier::Cluster(name) => found.add(name),
                ClusterSpecifier::WeightedClusters(weighted) => {
                    weighted.clusters.iter().for_each(|one| found.add(&one.name));
                }
                // Nothing of ours looks clusters up.
                _ => {}
            }
        }
    }
}

impl References for listener::Listener {
    /// Requests name their clusters in route configurations.
    fn clusters(&self, found: &mut Clusters) {
        let chains = self.filter_chains.iter().chain(&self.default_filter_chain);
        for filter in chains.flat_map(|chain| &chain.filters) {
            of_filter(filter, found);
        }
    }
}

fn of_filter(filter: &listener::Filter, found: &mut Clusters) {
    use tcp_proxy::ClusterSpecifier;
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &filter.config_type else { return };
    if config.type_url != TcpProxy::type_url() {
        return;
    }
    let proxy = TcpProxy::decode(config.value.as_slice()).unwrap_or_default();
    match &proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => found.add(name),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted.clusters.iter().for_each(|one| found.add(&one.name));
        }
        None => {}
    }
}
