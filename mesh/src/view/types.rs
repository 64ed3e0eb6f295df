//! The view as a value: printable, comparable, ordered.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crds::mesh_config::{AccessLog, Mtls};
use serde::{Serialize, Serializer};

use super::egress::EgressPort;
use super::ingress::Ingress;
use super::upstream::Handling;
use crate::audience::Families;
use crate::ingest::{CallerSettings, HttpMatch, Limits, Protocol, ServiceAccount};

/// What the sidecars of one audience do.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Access log of the sidecars.
    pub access_log: AccessLog,
    /// Which addresses the pods have.
    pub families: Families,
    /// Calls that the application makes.
    pub outbound: Outbound,
    /// Calls that the application gets.
    pub inbound: Inbound,
}

/// Calls that the application makes.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Outbound {
    /// Calls to anything else than `services`.
    pub otherwise: Otherwise,
    /// Services that the application can dial.
    pub services: BTreeMap<ServicePort, Service>,
    /// Where their calls go. Holds every receiver that a route names.
    pub destinations: BTreeMap<ServicePort, Destination>,
    /// What the application can call outside the mesh, by port.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub egress: BTreeMap<u16, EgressPort>,
}

/// Calls to anything else than the services that may be called.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// Go where they were sent to, untouched (egress `Allow`).
    Passthrough,
    /// Go where they were sent to with our identity, and only to a member of the mesh, whose sidecar then decides
    /// (egress `Deny`).
    MeshOnly,
}

/// A port of a service. Its text is the name of the xDS resources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Namespace of the service.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Port of the service.
    pub port: u16,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "out|{}|{}|{}", self.namespace, self.service, self.port)
    }
}

impl Serialize for ServicePort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A service port that the application can dial.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Addresses that the application dials; none for a headless service.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub addresses: BTreeSet<IpAddr>,
    /// What the application dials instead, when the service is headless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headless: Option<Headless>,
    /// Where requests go, first match first. Empty where only connections are told apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Where connections go: receivers and their weights. Empty where everything is a request. Where both go
    /// somewhere, what a connection begins with decides.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<ServicePort, u32>,
    /// Whether a receiver of `connections` could take them for requests, and must be told.
    #[serde(skip_serializing_if = "is_false")]
    pub announced: bool,
    /// How they are handled.
    #[serde(skip_serializing_if = "Handling::is_empty")]
    pub handling: Handling,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_false(yes: &bool) -> bool {
    !yes
}

/// The pods of a headless service. What goes to the service itself goes to the pod that was dialed: its client has
/// picked it, as a member of a StatefulSet is picked by its name.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Headless {
    /// What is spoken.
    pub protocol: Protocol,
    /// Who may answer. Never empty.
    pub peers: BTreeSet<ServiceAccount>,
    /// The pods, ready or not: which of them are called is the client's choice.
    pub pods: BTreeSet<SocketAddr>,
}

/// The pods behind a service port.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// What is spoken.
    pub protocol: Protocol,
    /// Who may answer. Never empty: Envoy takes no names for any name.
    pub peers: BTreeSet<ServiceAccount>,
    /// Those that take calls now.
    pub endpoints: BTreeSet<SocketAddr>,
    /// Limits and choices of the caller.
    #[serde(skip_serializing_if = "CallerSettings::is_empty")]
    pub settings: CallerSettings,
}

impl Destination {
    /// Whether only the endpoints may differ, which are a resource of their own.
    pub(crate) fn same_cluster(&self, other: &Self) -> bool {
        let Self { protocol, peers, endpoints: _, settings } = self;
        *protocol == other.protocol && *peers == other.peers && *settings == other.settings
    }
}

/// Where some requests go.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// A request must fit one of them; any when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    /// Receivers and their weights (more than 0). Never empty.
    pub to: BTreeMap<ServicePort, u32>,
}

/// Calls that the application gets.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// Whether plaintext callers are accepted.
    pub mtls: Mtls,
    /// By port of the pod. Anything else is refused.
    pub ports: BTreeMap<u16, InboundPort>,
}

/// One port of the pods.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct InboundPort {
    /// What is spoken.
    pub protocol: Protocol,
    /// Who may do what: requests, or connections where nobody reads the bytes.
    pub access: Access,
    /// What callers outside the mesh may do.
    #[serde(skip_serializing_if = "Ingress::is_empty")]
    pub ingress: Ingress,
    /// How many calls it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Who may connect with something that is not HTTP, where the port's protocol is not declared and anybody may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Access>,
}

/// Who may do what at a port.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody everything (`AllowAll`).
    Everyone,
    /// What these grant together, and nothing else (`Enforce`).
    Only(BTreeMap<PolicyName, Grant>),
    /// Everything; what these would not have granted is counted (`Audit`).
    Audited(BTreeMap<PolicyName, Grant>),
}

/// A TrafficTarget. Its text is the name of the policy in Envoy's statistics and logs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PolicyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What one TrafficTarget grants at one port.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Grant {
    /// Who may call. Never empty.
    pub sources: BTreeSet<ServiceAccount>,
    /// What they may do.
    pub requests: Requests,
}

/// What may be done at a port.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum Requests {
    /// Every connection and request.
    Any,
    /// Requests that fit one of these. Never empty.
    Matching(BTreeSet<HttpMatch>),
}
