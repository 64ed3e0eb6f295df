//! The objects that a mesh is made of, and how to name one.

use std::fmt;

use crds::PolicyKind;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::{Deserialize, Serialize};

/// A kind that the index knows.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io` EndpointSlice.
    EndpointSlice,
    /// `access.smi-spec.io` TrafficTarget.
    TrafficTarget,
    /// `specs.smi-spec.io` HTTPRouteGroup.
    HTTPRouteGroup,
    /// `specs.smi-spec.io` TCPRoute.
    TCPRoute,
    /// `split.smi-spec.io` TrafficSplit.
    TrafficSplit,
    /// `meshwright.io` MeshPolicy.
    MeshPolicy,
    /// `meshwright.io` PolicySource.
    PolicySource,
    /// `policy.openservicemesh.io` Egress.
    Egress,
    /// `policy.openservicemesh.io` IngressBackend.
    IngressBackend,
    /// `policy.openservicemesh.io` Retry.
    Retry,
    /// `policy.openservicemesh.io` UpstreamTrafficSetting.
    UpstreamTrafficSetting,
}

impl Kind {
    /// The kind as Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::PolicySource => "PolicySource",
            Self::TrafficTarget => PolicyKind::TrafficTarget.name(),
            Self::HTTPRouteGroup => PolicyKind::HTTPRouteGroup.name(),
            Self::TCPRoute => PolicyKind::TCPRoute.name(),
            Self::TrafficSplit => PolicyKind::TrafficSplit.name(),
            Self::MeshPolicy => PolicyKind::MeshPolicy.name(),
            Self::Egress => PolicyKind::Egress.name(),
            Self::IngressBackend => PolicyKind::IngressBackend.name(),
            Self::Retry => PolicyKind::Retry.name(),
            Self::UpstreamTrafficSetting => PolicyKind::UpstreamTrafficSetting.name(),
        }
    }

    /// Whether it is a policy: may come from Git, and is sealed.
    #[must_use]
    pub fn is_policy(self) -> bool {
        PolicyKind::ALL.into_iter().any(|kind| Self::from(kind) == self)
    }
}

impl From<PolicyKind> for Kind {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::TrafficTarget => Self::TrafficTarget,
            PolicyKind::HTTPRouteGroup => Self::HTTPRouteGroup,
            PolicyKind::TCPRoute => Self::TCPRoute,
            PolicyKind::TrafficSplit => Self::TrafficSplit,
            PolicyKind::MeshPolicy => Self::MeshPolicy,
            PolicyKind::Egress => Self::Egress,
            PolicyKind::IngressBackend => Self::IngressBackend,
            PolicyKind::Retry => Self::Retry,
            PolicyKind::UpstreamTrafficSetting => Self::UpstreamTrafficSetting,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for a Namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Names an object.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// An object as the API server (or a file) gave it: untrusted until ingested.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// See [`Kind::Namespace`].
    Namespace(Box<Namespace>),
    /// See [`Kind::Pod`].
    Pod(Box<Pod>),
    /// See [`Kind::Service`].
    Service(Box<Service>),
    /// See [`Kind::EndpointSlice`]. A v1beta1 slice is converted by the caller.
    EndpointSlice(Box<EndpointSlice>),
    /// See [`Kind::TrafficTarget`].
    TrafficTarget(Box<crds::TrafficTarget>),
    /// See [`Kind::HTTPRouteGroup`].
    HTTPRouteGroup(Box<crds::HTTPRouteGroup>),
    /// See [`Kind::TCPRoute`].
    TCPRoute(Box<crds::TCPRoute>),
    /// See [`Kind::TrafficSplit`].
    TrafficSplit(Box<crds::TrafficSplit>),
    /// See [`Kind::MeshPolicy`].
    MeshPolicy(Box<crds::MeshPolicy>),
    /// See [`Kind::PolicySource`].
    PolicySource(Box<crds::PolicySource>),
    /// See [`Kind::Egress`].
    Egress(Box<crds::Egress>),
    /// See [`Kind::IngressBackend`].
    IngressBackend(Box<crds::IngressBackend>),
    /// See [`Kind::Retry`].
    Retry(Box<crds::Retry>),
    /// See [`Kind::UpstreamTrafficSetting`].
    UpstreamTrafficSetting(Box<crds::UpstreamTrafficSetting>),
}

macro_rules! kinds {
    ($($kind:ident($type:ty)),* $(,)?) => {
        $(impl From<$type> for Object {
            fn from(object: $type) -> Self {
                Self::$kind(Box::new(object))
            }
        })*

        impl Kind {
            /// All of them, in a fixed order.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];
        }

        impl Object {
            /// Which object this is.
            #[must_use]
            pub fn reference(&self) -> ObjectRef {
                let (kind, meta) = match self {
                    $(Self::$kind(object) => (Kind::$kind, &object.metadata),)*
                };
                ObjectRef {
                    kind,
                    namespace: meta.namespace.clone().unwrap_or_default(),
                    name: meta.name.clone().unwrap_or_default(),
                }
            }

            /// Its labels.
            #[must_use]
            pub fn label(&self, key: &str) -> Option<&str> {
                let meta = match self { $(Self::$kind(object) => &object.metadata,)* };
                meta.labels.as_ref()?.get(key).map(String::as_str)
            }
        }
    };
}

kinds!(
    Namespace(Namespace),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
    TrafficTarget(crds::TrafficTarget),
    HTTPRouteGroup(crds::HTTPRouteGroup),
    TCPRoute(crds::TCPRoute),
    TrafficSplit(crds::TrafficSplit),
    MeshPolicy(crds::MeshPolicy),
    PolicySource(crds::PolicySource),
    Egress(crds::Egress),
    IngressBackend(crds::IngressBackend),
    Retry(crds::Retry),
    UpstreamTrafficSetting(crds::UpstreamTrafficSetting),
);
