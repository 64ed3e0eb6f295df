//! The parts of objects that the index keeps. A few hundred bytes for a pod.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crds::mesh_config::{Authorization, Mtls};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;

use super::osm_part::{EgressPart, IngressPart, RetryPart, SettingPart};
use crate::object::ObjectRef;

/// What is kept of an object.
#[derive(Serialize, Debug, Clone, PartialEq)]
pub enum Part {
    /// Of a Namespace.
    Namespace(NamespacePart),
    /// Of a Pod.
    Pod(PodPart),
    /// Of a Service.
    Service(ServicePart),
    /// Of an EndpointSlice.
    EndpointSlice(SlicePart),
    /// Of a policy object.
    Policy(PolicyPart),
    /// Of a PolicySource.
    PolicySource(SourcePart),
}

/// What is kept of a policy object, which may come from Git.
#[derive(Serialize, Debug, Clone, PartialEq)]
pub enum PolicyPart {
    /// Of a TrafficTarget.
    TrafficTarget(TargetPart),
    /// Of an HTTPRouteGroup or a TCPRoute.
    Routes(RoutesPart),
    /// Of a TrafficSplit.
    TrafficSplit(SplitPart),
    /// Of a MeshPolicy.
    MeshPolicy(ModePart),
    /// Of an Egress.
    Egress(EgressPart),
    /// Of an IngressBackend.
    IngressBackend(IngressPart),
    /// Of a Retry.
    Retry(RetryPart),
    /// Of an UpstreamTrafficSetting.
    UpstreamTrafficSetting(SettingPart),
}

/// What is kept of a Namespace.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct NamespacePart {
    /// The mesh that it is labelled as part of; may be empty.
    pub mesh: String,
}

/// What is kept of a Pod.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct PodPart {
    /// Uid of the object.
    pub uid: String,
    /// Service account that it runs as.
    pub service_account: String,
    /// The mesh whose injector put a sidecar into it; empty without one.
    pub mesh: String,
    /// Release of the sidecar; empty without one.
    pub revision: String,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it has run to its end.
    pub finished: bool,
    /// Whether it takes calls, by its own status.
    pub serving: Serving,
    /// Labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Named TCP ports of its containers.
    pub ports: BTreeMap<String, u16>,
    /// Its addresses; none before it has any.
    pub addresses: BTreeSet<IpAddr>,
}

/// Whether a pod takes calls, as its own status says.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// It is ready.
    Ready,
    /// It takes calls even while Kubernetes says that it isn't ready: it has two slots for its sidecar, one is being
    /// replaced, and everything else is ready.
    Swapping,
    /// It does not say so.
    Unready,
}

/// What is kept of a Service.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct ServicePart {
    /// Labels of its pods; empty for a service without a selector.
    pub selector: BTreeMap<String, String>,
    /// Cluster addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// How it is found.
    pub flavour: Flavour,
    /// TCP ports by number.
    pub ports: BTreeMap<u16, ServicePortPart>,
}

/// How a Service is found by its clients.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// By an address of its own.
    Address,
    /// Headless: by the addresses of its pods, of which the client picks one.
    Headless,
    /// ExternalName: by the name of something else. It has no ports and no pods.
    External,
}

/// One port of a Service.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct ServicePortPart {
    /// Name, by which slices refer to it; may be empty.
    pub name: String,
    /// Port of the pods.
    pub target: TargetPort,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A port of pods, by number or by name.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// The number.
    Number(u16),
    /// The name of a container port; the number may differ from pod to pod.
    Name(String),
}

/// What is spoken on a port.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.1 at the application.
    Http,
    /// HTTP/2 without TLS at the application, gRPC included.
    Http2,
    /// Bytes.
    Tcp,
    /// Nobody said: HTTP where it begins like HTTP, else bytes.
    Undeclared,
}

impl Protocol {
    /// Whether it carries this.
    #[must_use]
    pub fn carries(self, what: Carried) -> bool {
        match (self, what) {
            (Self::Undeclared, _)
            | (Self::Http | Self::Http2, Carried::Requests)
            | (Self::Tcp, Carried::Connections) => true,
            (Self::Http | Self::Http2, Carried::Connections) | (Self::Tcp, Carried::Requests) => false,
        }
    }

    /// Whether there is something that both carry, so that calls to one can be led to the other.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        [Carried::Requests, Carried::Connections]
            .into_iter()
            .any(|what| self.carries(what) && other.carries(what))
    }

    /// What is spoken at a port of which one service says this and a later one, by name, something else. Whoever may
    /// create a service must not turn a port whose requests are told apart into one whose bytes nobody reads: what
    /// carries requests wins over bytes. That one says nothing is no word against what another says of requests.
    #[must_use]
    pub fn both(self, later: Self) -> Self {
        match (self, later) {
            (Self::Tcp, other) | (Self::Undeclared, other @ (Self::Http | Self::Http2)) => other,
            (Self::Http | Self::Http2, _) | (Self::Undeclared, Self::Tcp | Self::Undeclared) => self,
        }
    }

    /// Whether two services may both lead to a port: they carry the same, or one of them says nothing and the other
    /// does not rule out requests.
    #[must_use]
    pub fn agrees(self, other: Self) -> bool {
        match (self, other) {
            (Self::Undeclared, other) | (other, Self::Undeclared) => other.carries(Carried::Requests),
            (one, other) => one == other,
        }
    }
}

/// What crosses a port.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carried {
    /// HTTP requests, which rules can tell apart.
    Requests,
    /// Connections whose bytes nobody reads.
    Connections,
}

/// What is kept of an EndpointSlice.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct SlicePart {
    /// The service that it belongs to.
    pub service: String,
    /// Who says which endpoints take calls.
    pub author: SliceAuthor,
    /// Port name of the service to port of the pods.
    pub ports: BTreeMap<String, u16>,
    /// Its endpoints.
    pub endpoints: BTreeSet<EndpointPart>,
    /// Addresses of all endpoints, those that take no calls included: they may still make some.
    pub addresses: BTreeSet<IpAddr>,
}

/// Who wrote a slice.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceAuthor {
    /// Kubernetes, which derives it from the pods: what it says of a pod is never newer than the pod itself.
    Kubernetes,
    /// Somebody else, who may have reasons of their own.
    Other,
}

/// One endpoint.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointPart {
    /// Address of the pod.
    pub address: IpAddr,
    /// Name of the pod; empty when a person wrote the address only.
    pub pod: String,
    /// Uid of the pod; empty when nobody said.
    pub uid: String,
    /// What the slice says of it.
    pub word: Word,
}

/// What a slice says of an endpoint.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// It takes calls.
    Ready,
    /// It takes none.
    Unready,
    /// It takes none and never will again: its pod is being deleted.
    Terminating,
}

/// A service account, which is what TrafficTargets and certificates speak of.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceAccount {
    /// Names a service account.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The identity in its certificates.
    #[must_use]
    pub fn spiffe_id(&self, trust_domain: &str) -> String {
        crds::labels::spiffe_id(trust_domain, &self.namespace, &self.name)
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is kept of a TrafficTarget.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct TargetPart {
    /// The service account that is called.
    pub destination: ServiceAccount,
    /// Who may call.
    pub sources: BTreeSet<ServiceAccount>,
    /// What is opened.
    pub rules: Vec<RuleRef>,
}

/// A rule of a TrafficTarget: a reference to routes in its namespace.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum RuleRef {
    /// Matches of an HTTPRouteGroup.
    Http {
        /// Name of the group.
        name: String,
        /// Names of matches; `None` means all.
        matches: Option<BTreeSet<String>>,
    },
    /// A TCPRoute.
    Tcp {
        /// Name of the route.
        name: String,
    },
}

/// What is kept of an HTTPRouteGroup or a TCPRoute.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub enum RoutesPart {
    /// Matches with their names.
    Http(Vec<(String, HttpMatch)>),
    /// Ports of the pods; every TCP port when empty.
    Tcp(BTreeSet<u16>),
}

/// One way an HTTP request can look like. All parts must fit; expressions match the whole text (RE2).
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// Path without the query; any when `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Methods; any when empty.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub methods: BTreeSet<String>,
    /// Header names (lower case, `:authority` for the host) and expressions.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub headers: BTreeSet<(String, String)>,
}

impl HttpMatch {
    /// What makes a path ambiguous: an empty segment, which many servers take for none, and a `.` or `..` with a
    /// parameter (`/public/..;/admin`), which some servers resolve after they have cut the parameter off (RFC 3986, 3.3,
    /// leaves parameters to them).
    pub(crate) const AMBIGUOUS: &str = r"(//|/\.{1,2};)";

    /// Whether it speaks of paths at all. Then it does not fit an ambiguous one: whoever gets the request might read
    /// another path than the rule does.
    pub(crate) fn tells_paths(&self) -> bool {
        self.path.as_ref().is_some_and(|path| path != ".*" && path != "/.*")
    }
}

/// What is kept of a TrafficSplit.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct SplitPart {
    /// The service that clients call.
    pub root: String,
    /// Service to weight; a service named twice has the sum.
    pub backends: BTreeMap<String, u32>,
    /// HTTPRouteGroups that a request must fit one of; `None` means every request.
    pub matches: Option<BTreeSet<String>>,
}

/// What is kept of a MeshPolicy.
#[derive(Serialize, Debug, Clone, PartialEq)]
pub struct ModePart {
    /// Pods that it is for; all of the namespace when `None`.
    pub selector: Option<LabelSelector>,
    /// Whether plaintext callers are accepted.
    pub mtls: Option<Mtls>,
    /// Whether TrafficTargets are enforced.
    pub authorization: Option<Authorization>,
}

/// What is kept of a PolicySource.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct SourcePart {
    /// Content hash of every object of the sealed commit; `None` before the first seal.
    pub inventory: Option<BTreeMap<ObjectRef, String>>,
}
