//! The two messages of the delta protocol, with resources as bytes.
//!
//! The response has `repeated bytes` where Envoy's definition has `repeated Resource`: the same on the wire
//! (protobuf, length-delimited), so resources that are encoded once are never encoded again. The request declares
//! only the fields that are read; the long list of extensions in Envoy's node is skipped without being stored.

use bytes::Bytes;

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaResponse {
    /// Informative: the generation of the audience's state.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// Encoded `Resource` messages.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub resources: Vec<Bytes>,
    /// Type of the resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Unique in the stream.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that do not exist (any more).
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaRequest {
    /// On the first request of a stream only.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// Type of the resources.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names to add to the subscription.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names to take from the subscription.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// On the first request of a type in a stream: what the client holds from before.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: std::collections::BTreeMap<String, String>,
    /// The response that this request acknowledges or refuses; empty when it does neither.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Why the response was refused.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Envoy's own words.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `envoy.config.core.v3.Node`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// `<pod>.<namespace>`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// `<service account>.<namespace>`.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// `pod_uid` and `revision`.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<envoy_types::pb::google::protobuf::Struct>,
    /// Envoy's version.
    #[prost(message, optional, tag = "8")]
    pub user_agent_build_version: Option<BuildVersion>,
}

/// `envoy.config.core.v3.BuildVersion`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildVersion {
    /// The numbers.
    #[prost(message, optional, tag = "1")]
    pub version: Option<SemanticVersion>,
}

/// `envoy.type.v3.SemanticVersion`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SemanticVersion {
    /// As in 1.x.x.
    #[prost(uint32, tag = "1")]
    pub major: u32,
    /// As in x.36.x.
    #[prost(uint32, tag = "2")]
    pub minor: u32,
    /// As in x.x.4.
    #[prost(uint32, tag = "3")]
    pub patch: u32,
}

impl std::fmt::Display for SemanticVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Node {
    /// Envoy's version, when it says.
    #[must_use]
    pub fn envoy(&self) -> Option<SemanticVersion> {
        self.user_agent_build_version.as_ref().and_then(|build| build.version)
    }

    /// A text field of the metadata; empty when it is not there.
    #[must_use]
    pub fn metadata_text(&self, key: &str) -> &str {
        use envoy_types::pb::google::protobuf::value::Kind;
        let value = self.metadata.as_ref().and_then(|metadata| metadata.fields.get(key));
        match value.and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(text)) => text,
            _ => "",
        }
    }
}
