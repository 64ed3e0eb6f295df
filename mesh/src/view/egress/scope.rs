//! What is open at one port outside the mesh, by the addresses that are dialled.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use crate::ingest::{CallerSettings, Cidr, HttpMatch};

/// What may be called at one port.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EgressPort {
    /// By the most specific range that holds the address that was dialled; `any` for all other addresses.
    pub scopes: Vec<EgressScope>,
    /// Whether an Egress was left out that might keep requests to some hosts back: nothing else leaves the mesh by this
    /// port, whatever the mesh says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shut: bool,
    /// Where calls go, and how they are made.
    pub targets: BTreeMap<Target, CallerSettings>,
}

/// A range of addresses, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope(pub Option<Cidr>);

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(range) => serializer.collect_str(range),
            None => serializer.serialize_str("any"),
        }
    }
}

/// What is open at the addresses of some ranges.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EgressScope {
    /// The ranges. Never empty; `any` is alone.
    pub at: BTreeSet<Scope>,
    /// HTTP, by what may be asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<EgressHosts>,
    /// TLS: name that is asked for to where it goes; the empty name is every other.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub https: BTreeMap<String, Target>,
    /// Whether every connection is open.
    pub tcp: bool,
}

/// Hosts of which the same may be asked for.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct EgressHosts {
    /// Names. Never empty.
    pub hosts: BTreeSet<String>,
    /// What may be asked for, first match first.
    pub routes: Vec<EgressRoute>,
}

/// Some requests and where they go.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct EgressRoute {
    /// A request must fit one of them; any when empty.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub matches: BTreeSet<HttpMatch>,
    /// Where they go.
    pub to: Target,
}

/// Where calls outside the mesh go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// To this host, as the sidecar looks it up.
    Host(String),
    /// To the address that the application dialled.
    Dialled,
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Host(host) => host,
            Self::Dialled => "as dialled",
        })
    }
}
