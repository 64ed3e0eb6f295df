//! What is kept of OSM's kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crds::upstream_traffic_setting::LoadBalancingPolicy;
use serde::Serialize;

use super::net::Cidr;
use super::part::ServiceAccount;

/// What is kept of an Egress.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct EgressPart {
    /// Who may call; of the object's own namespace.
    pub sources: BTreeSet<ServiceAccount>,
    /// Names in lower case; `*.` may stand before one.
    pub hosts: BTreeSet<String>,
    /// What may be dialled; any when empty.
    pub ranges: BTreeSet<Cidr>,
    /// Ports and what is spoken there.
    pub ports: BTreeSet<(u16, EgressProtocol)>,
    /// HTTPRouteGroups that a request must fit one of; any request when `None`.
    pub groups: Option<BTreeSet<String>>,
    /// An UpstreamTrafficSetting.
    pub settings: Option<String>,
}

/// What is spoken outside the mesh.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EgressProtocol {
    /// HTTP without TLS: requests are told apart by their Host.
    Http,
    /// TLS: connections are told apart by the name that they ask for (SNI).
    Https,
    /// Bytes.
    Tcp,
}

/// What is kept of an IngressBackend.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct IngressPart {
    /// What is opened.
    pub backends: BTreeSet<BackendPart>,
    /// Ranges and services that calls may come from.
    pub from: Origins,
    /// Names in the caller's certificate, any of which will do. Not asked for when empty.
    pub principals: BTreeSet<Principal>,
    /// HTTPRouteGroups that a request must fit one of; any request when `None`.
    pub groups: Option<BTreeSet<String>>,
}

/// Where calls may come from.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins {
    /// Ranges.
    pub ranges: BTreeSet<Cidr>,
    /// Services whose pods may call: namespace and name.
    pub services: BTreeSet<(String, String)>,
}

impl Origins {
    /// Whether nothing is said: calls may come from anywhere.
    #[must_use]
    pub fn anywhere(&self) -> bool {
        self.ranges.is_empty() && self.services.is_empty()
    }
}

/// One port that an IngressBackend opens.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendPart {
    /// Service of the object's namespace.
    pub service: String,
    /// Port of its pods.
    pub port: u16,
    /// What callers speak.
    pub speaks: Speaks,
}

/// What callers from outside the mesh speak.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speaks {
    /// No TLS.
    Plaintext,
    /// TLS.
    Tls {
        /// Whether a certificate of the mesh is asked for.
        certificate: bool,
        /// Names to be asked for (SNI); any when empty.
        server_names: BTreeSet<String>,
    },
}

/// A name in a certificate.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// Any certificate of the mesh.
    Any,
    /// This name, as a URI or a DNS name.
    Named(String),
}

/// What is kept of a Retry.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct RetryPart {
    /// Whose calls; of the object's own namespace.
    pub source: ServiceAccount,
    /// Services that are called: namespace and name.
    pub destinations: BTreeSet<(String, String)>,
    /// When and how often.
    pub rules: RetryRules,
}

/// When and how often a call is tried again.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct RetryRules {
    /// Envoy's conditions.
    pub on: BTreeSet<String>,
    /// Retries after the first try.
    pub retries: u32,
    /// Longest time for one try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try: Option<Duration>,
    /// First pause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
}

/// What is kept of an UpstreamTrafficSetting.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct SettingPart {
    /// The host as it is written.
    pub host: String,
    /// The service of the object's namespace that the host may be.
    pub service: Option<String>,
    /// At the callers.
    pub callers: CallerSettings,
    /// At the pods of the service.
    pub limits: Limits,
}

/// Limits and choices at the callers of a service.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct CallerSettings {
    /// Limits by what is limited; none where left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub most: BTreeMap<Limited, u32>,
    /// Timeouts by what is timed; the usual where left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub timeouts: BTreeMap<Timed, Duration>,
    /// When a failing pod is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
    /// Which pod gets a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
}

impl CallerSettings {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What can be limited at a caller.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limited {
    /// Connections.
    Connections,
    /// Requests at a time.
    Requests,
    /// Requests on one connection.
    RequestsPerConnection,
    /// Requests that wait for a connection.
    Pending,
    /// Retries at a time.
    Retries,
}

/// What can be timed at a caller.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timed {
    /// Until a connection is made.
    Connect,
    /// A TCP connection that carries nothing.
    TcpIdle,
    /// A whole request.
    Request,
    /// A request that carries nothing.
    HttpIdle,
}

/// When a failing pod is left out.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Outliers {
    /// Failed calls in a row; never when 0.
    pub errors: u32,
    /// Pause between two looks.
    pub interval: Duration,
    /// How long the first time.
    pub ejection: Duration,
    /// Most pods at a time.
    pub most_percent: u32,
}

/// Which pod gets a call.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Balance {
    /// How it is chosen.
    pub policy: LoadBalancingPolicy,
    /// What is hashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hashed>,
}

/// What is hashed to choose a pod.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hashed {
    /// The value of a header.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
}

/// Limits at the pods of a service; each pod counts for itself.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// New connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Bucket>,
    /// Requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<HttpLimit>,
    /// Requests whose whole path fits an expression; the first counts, instead of `requests`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<(String, HttpLimit)>,
}

impl Limits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_none() && self.requests.is_none() && self.routes.is_empty()
    }
}

/// So many per time (token bucket).
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// How many, 1 or more.
    pub rate: u32,
    /// In how many seconds.
    pub seconds: u32,
    /// How many more at once after a pause.
    pub burst: u32,
}

/// So many requests per time, and the answer to the others.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HttpLimit {
    /// How many.
    pub bucket: Bucket,
    /// Status of the answer, one of [`STATUSES`].
    pub status: u16,
    /// Headers of the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// The statuses from 400 that Envoy knows (`envoy.type.v3.StatusCode`); it refuses a configuration with another.
pub const STATUSES: [u16; 37] = [
    400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423,
    424, 426, 428, 429, 431, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
];
