//! Listeners and routes that a running Envoy takes from files, as one snapshot after the other says.

use std::path::{Path, PathBuf};

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::google::protobuf::Any;
use mesh::{ResourceType, Snapshot};
use prost::{Message, Name};

use crate::{Config, any, decode};

/// File of the listeners.
const LISTENERS: &str = "listeners.pb";

impl Config {
    /// Makes the Envoy take its listeners and their routes from a folder, where this puts them. To be called again,
    /// with the same folder, for each snapshot.
    pub fn follow(&mut self, snapshot: &Snapshot, folder: &Path) {
        for (name, config) in decode::<route::RouteConfiguration>(snapshot, ResourceType::Route) {
            write(&folder.join(file_of(&name)), vec![any(&config)]);
        }
        for listener in &mut self.listeners {
            for filter in listener.filter_chains.iter_mut().flat_map(|chain| &mut chain.filters) {
                routes_from(filter, folder);
            }
        }
        write(&folder.join(LISTENERS), self.listeners.iter().map(any).collect());
        self.followed = Some(folder.to_owned());
    }

    /// Where the listeners come from.
    pub(crate) fn listeners_from(&self) -> Option<core::ConfigSource> {
        self.followed.as_ref().map(|folder| file(&folder.join(LISTENERS), folder))
    }
}

fn file_of(route: &str) -> String {
    format!("{}.pb", route.replace(['|', '/'], "_"))
}

/// Replaced by renaming, which is what Envoy looks for.
fn write(path: &PathBuf, resources: Vec<Any>) {
    let temporary = path.with_extension("next");
    std::fs::write(&temporary, DiscoveryResponse { resources, ..Default::default() }.encode_to_vec())
        .unwrap();
    std::fs::rename(temporary, path).unwrap();
}

fn file(path: &Path, folder: &Path) -> core::ConfigSource {
    let watched = core::WatchedDirectory { path: folder.display().to_string(), ..Default::default() };
    let source = core::PathConfigSource {
        path: path.display().to_string(),
        watched_directory: Some(watched),
        ..Default::default()
    };
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::PathConfigSource(source)),
        ..Default::default()
    }
}

fn routes_from(filter: &mut listener::Filter, folder: &Path) {
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else { return };
    if config.type_url != hcm::HttpConnectionManager::type_url() {
        return;
    }
    let mut manager = hcm::HttpConnectionManager::decode(config.value.as_slice()).unwrap();
    if let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
        rds.config_source = Some(file(&folder.join(file_of(&rds.route_config_name)), folder));
    }
    *config = any(&manager);
}
