//! What a sidecar gets: encoded Envoy resources by type and name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

/// The types, in the order in which additions are sent; removals go the other way round (make before break).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoint,
    /// `envoy.config.listener.v3.Listener`.
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`.
    Route,
}

impl ResourceType {
    /// Every type, in order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// The type as a delta discovery request writes it.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// The type of a discovery request.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether Envoy subscribes to all resources of the type at once.
    #[must_use]
    pub fn wildcard(self) -> bool {
        match self {
            Self::Cluster | Self::Listener => true,
            Self::Endpoint | Self::Route => false,
        }
    }

    /// A short name for reports, as in `crds::fleet::Rejection`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Endpoint => "Endpoint",
            Self::Listener => "Listener",
            Self::Route => "Route",
        }
    }
}

/// One resource, encoded once and shared by everybody who holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// Hash of its content: equal on every replica, different when Envoy must be told.
    pub version: String,
    /// An encoded `envoy.service.discovery.v3.Resource` (name, version and the typed message), ready to be put into
    /// a `DeltaDiscoveryResponse`.
    pub body: Bytes,
    /// The clusters that it names: calls fail while it is there without them.
    pub clusters: Arc<[Arc<str>]>,
}

/// Everything that the sidecars of one audience hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// By type, then by name. Every type is present.
    pub resources: BTreeMap<ResourceType, BTreeMap<String, Resource>>,
}

impl Snapshot {
    /// The resources of one type.
    #[must_use]
    pub fn of(&self, kind: ResourceType) -> &BTreeMap<String, Resource> {
        static NONE: BTreeMap<String, Resource> = BTreeMap::new();
        self.resources.get(&kind).unwrap_or(&NONE)
    }
}
