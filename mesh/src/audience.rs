//! An audience: everything that may make the configuration of two sidecars differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crds::mesh_config::{Authorization, Mtls};
use serde::Serialize;

use crate::ingest::Protocol;

/// Sidecars of one audience hold the same configuration.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Audience {
    /// Namespace of the pods.
    pub namespace: String,
    /// Their service account.
    pub service_account: String,
    /// Which addresses the pods have.
    pub families: Families,
    /// Ports of the pods that a service leads to, with their protocol.
    pub ports: BTreeMap<u16, Protocol>,
    /// Services behind which the pods are and of which an IngressBackend or a limit speaks, with the pods' ports.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, BTreeSet<u16>>,
    /// Whether they accept plaintext callers.
    pub mtls: Mtls,
    /// Whether TrafficTargets are enforced at them.
    pub authorization: Authorization,
}

/// Families of IP addresses.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Families {
    /// IPv4 only, or not known yet.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// The families of these addresses.
    #[must_use]
    pub fn of(addresses: &BTreeSet<IpAddr>) -> Self {
        match (addresses.iter().any(IpAddr::is_ipv4), addresses.iter().any(IpAddr::is_ipv6)) {
            (true, true) => Self::Dual,
            (false, true) => Self::V6,
            (_, false) => Self::V4,
        }
    }

    /// Whether IPv6 is among them.
    #[must_use]
    pub fn six(self) -> bool {
        match self {
            Self::V4 => false,
            Self::V6 | Self::Dual => true,
        }
    }
}

/// Why a pod gets no configuration.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum NotOurs {
    /// Not in the cache.
    UnknownPod,
    /// Its namespace is not labelled `meshwright.io/mesh: <this mesh>`.
    NamespaceNotInMesh,
    /// The injector has not put a sidecar of this mesh into it.
    NoSidecar,
    /// It has run to its end.
    Finished,
}

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownPod => "no such pod is known",
            Self::NamespaceNotInMesh => "its namespace is not part of this mesh",
            Self::NoSidecar => "it has no sidecar of this mesh",
            Self::Finished => "it has run to its end",
        })
    }
}

/// What the index knows of a pod.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PodFacts {
    /// Uid of the pod object.
    pub uid: String,
    /// Service account that it runs as.
    pub service_account: String,
    /// Release of its sidecar; empty without one.
    pub revision: String,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Why it gets no configuration, if so.
    pub not_ours: Option<NotOurs>,
}
