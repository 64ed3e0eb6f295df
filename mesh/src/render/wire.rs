//! Encoding. Maps need care: prost's hash maps would be written in another order each time, so a message with more
//! than one entry in a map is declared here again, with an ordered map and the same tags.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use prost::{Message, Name};
use sha2::{Digest, Sha256};

use super::references::{Clusters, References};
use crate::resource_name::ResourceName;
use crate::snapshot::{Resource, ResourceType, Snapshot};

/// The resources of a snapshot while it is made.
#[derive(Default)]
pub(super) struct Resources(BTreeMap<ResourceType, BTreeMap<String, Resource>>);

impl Resources {
    pub(super) fn add<M: Message + Name + References>(
        &mut self,
        kind: ResourceType,
        name: &ResourceName,
        message: &M,
    ) {
        let content = any(message);
        let digest = Sha256::digest(&content.value);
        let version = hex::encode(digest.get(..12).unwrap_or(&digest));
        let resource = discovery::Resource {
            name: name.to_string(),
            version,
            resource: Some(content),
            ..Default::default()
        };
        let body = resource.encode_to_vec().into();
        let discovery::Resource { name, version, .. } = resource;
        let mut clusters = Clusters::default();
        message.clusters(&mut clusters);
        let resource = Resource { name: name.clone(), version, body, clusters: clusters.shared() };
        self.0.entry(kind).or_default().insert(name, resource);
    }

    pub(super) fn snapshot(self) -> Snapshot {
        Snapshot { resources: self.0 }
    }
}

pub(super) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// A message that is declared again here, as the type that it stands for.
pub(super) fn any_as<M: Message>(type_name: &str, message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{type_name}"), value: message.encode_to_vec() }
}

pub(super) fn yes() -> Option<BoolValue> {
    Some(BoolValue { value: true })
}

pub(super) fn no() -> Option<BoolValue> {
    Some(BoolValue { value: false })
}

pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

pub(super) fn milliseconds(milliseconds: i32) -> Option<Duration> {
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    Some(Duration { seconds: i64::from(seconds), nanos: rest * 1_000_000 })
}

pub(super) fn socket_address(address: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    }
}

/// Seconds that Envoy waits for a cluster's endpoints before it goes on without.
const ENDPOINTS: i64 = 5;
/// Seconds that Envoy waits for a listener's routes: without them it answers 404, so it must outlast a controller that dies
/// after it sent the listener. Not for ever: a route may be withheld, and the sidecar has others.
const ROUTES: i64 = 60;

/// A cluster's endpoints, over the stream that the cluster came by.
pub(super) fn endpoints() -> core::ConfigSource {
    ads(ENDPOINTS)
}

/// A listener's routes, over the stream that the listener came by.
pub(super) fn routes() -> core::ConfigSource {
    ads(ROUTES)
}

/// The timeout lets Envoy go on without a resource that does not come; 0 would hold it up for ever.
fn ads(timeout: i64) -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        initial_fetch_timeout: seconds(timeout),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..Default::default()
    }
}

/// `envoy.config.rbac.v3.RBAC`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Rules {
    #[prost(enumeration = "rbac::rbac::Action", tag = "1")]
    pub(super) action: i32,
    #[prost(btree_map = "string, message", tag = "2")]
    pub(super) policies: BTreeMap<String, rbac::Policy>,
}

/// `envoy.extensions.filters.http.rbac.v3.RBAC`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpRbac {
    #[prost(message, optional, tag = "1")]
    pub(super) rules: Option<Rules>,
    #[prost(message, optional, tag = "2")]
    pub(super) shadow_rules: Option<Rules>,
    #[prost(string, tag = "3")]
    pub(super) shadow_rules_stat_prefix: String,
}

/// `envoy.extensions.filters.http.rbac.v3.RBACPerRoute`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpRbacPerRoute {
    #[prost(message, optional, tag = "2")]
    pub(super) rbac: Option<HttpRbac>,
}

/// `envoy.extensions.filters.network.rbac.v3.RBAC`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NetworkRbac {
    #[prost(message, optional, tag = "1")]
    pub(super) rules: Option<Rules>,
    #[prost(message, optional, tag = "2")]
    pub(super) shadow_rules: Option<Rules>,
    #[prost(string, tag = "3")]
    pub(super) stat_prefix: String,
    #[prost(string, tag = "5")]
    pub(super) shadow_rules_stat_prefix: String,
}

/// `google.protobuf.Struct`, of texts only.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Texts {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(super) fields: BTreeMap<String, Text>,
}

/// `google.protobuf.Value`, when it is a text.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Text {
    #[prost(string, tag = "3")]
    pub(super) text: String,
}

/// `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct JsonFormat {
    #[prost(message, optional, tag = "2")]
    pub(super) json_format: Option<Texts>,
}

/// `envoy.extensions.access_loggers.stream.v3.StdoutAccessLog`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StdoutLog {
    #[prost(message, optional, tag = "1")]
    pub(super) log_format: Option<JsonFormat>,
}
