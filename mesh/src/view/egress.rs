//! What an audience may call outside the mesh: the union of the Egresses that name its service account.
//!
//! * Ranges are enforced for every protocol. A host that is named without ranges is looked up by the sidecar itself, so
//!   that a Host header or a TLS name that lies leads nowhere else; a host below `*.`, which cannot be looked up, and
//!   what is pinned to ranges go where they were sent to.
//! * Envoy takes the most specific range that holds an address, and looks no further. So each range (and "any address")
//!   carries all that is open there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, Serializer};

use super::inbound::group;
use super::types::{PolicyName, Requests};
use crate::index::Mesh;
use crate::ingest::{
    CallerSettings, Cidr, EgressPart, EgressProtocol, HttpMatch, PolicyPart, ServiceAccount, host_fits,
};
use crate::object::Kind;

/// What one Egress opens at one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    /// The Egress.
    pub(crate) name: PolicyName,
    /// What is spoken.
    pub(crate) protocol: EgressProtocol,
    /// Names that may be called; for HTTPS any when empty.
    pub(crate) hosts: BTreeSet<String>,
    /// What may be dialled; any when empty.
    pub(crate) ranges: BTreeSet<Cidr>,
    /// What may be asked for over HTTP.
    pub(crate) requests: Requests,
    /// How the hosts are called.
    settings: Option<CallerSettings>,
}

impl Opening {
    /// Whether it opens a host (or all that a pattern stands for).
    pub(crate) fn opens(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| covers(pattern, host))
    }

    fn in_scope(&self, scope: Option<&Cidr>) -> bool {
        self.ranges.is_empty()
            || scope.is_some_and(|scope| self.ranges.iter().any(|range| range.covers(scope)))
    }

    /// Where calls to a host go that this opens.
    fn target(&self, host: &str) -> Target {
        if self.ranges.is_empty() && self.hosts.contains(host) && !host.starts_with('*') {
            Target::Host(host.to_owned())
        } else {
            Target::Dialled
        }
    }
}

/// Whether a pattern holds a host, or all that another pattern holds.
fn covers(pattern: &str, host: &str) -> bool {
    pattern == host || host_fits(pattern, host)
}

/// What may be called at one port.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EgressPort {
    /// By the most specific range that holds the address that was dialled; `any` for all other addresses.
    pub scopes: BTreeMap<Scope, EgressScope>,
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

/// What is open at the addresses of one range.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct EgressScope {
    /// HTTP: host to what may be asked for, first match first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub http: BTreeMap<String, Vec<EgressRoute>>,
    /// TLS: name that is asked for to where it goes; the empty name is every other.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub https: BTreeMap<String, Target>,
    /// Whether every connection is open.
    pub tcp: bool,
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

/// What Egresses open to a service account, by port.
pub(crate) fn openings(mesh: &Mesh, me: &ServiceAccount) -> BTreeMap<u16, Vec<Opening>> {
    let mut openings: BTreeMap<u16, Vec<Opening>> = BTreeMap::new();
    for (key, part) in mesh.policies().in_namespace(Kind::Egress, &me.namespace) {
        let PolicyPart::Egress(part) = part else { continue };
        if !part.sources.contains(me) {
            continue;
        }
        let name = PolicyName { namespace: key.namespace.clone(), name: key.name.clone() };
        for (port, protocol) in &part.ports {
            let Some(requests) = requests(mesh, &me.namespace, part, *protocol) else { continue };
            if *protocol == EgressProtocol::Http && part.hosts.is_empty() {
                continue;
            }
            openings.entry(*port).or_default().push(Opening {
                name: name.clone(),
                protocol: *protocol,
                hosts: part.hosts.clone(),
                ranges: part.ranges.clone(),
                requests,
                settings: settings(mesh, &me.namespace, part),
            });
        }
    }
    openings
}

/// What may be asked for; `None` is nothing: groups that do not exist open nothing.
fn requests(mesh: &Mesh, namespace: &str, part: &EgressPart, protocol: EgressProtocol) -> Option<Requests> {
    let Some(groups) = part.groups.as_ref().filter(|_| protocol == EgressProtocol::Http) else {
        return Some(Requests::Any);
    };
    let matches: BTreeSet<HttpMatch> =
        groups.iter().flat_map(|name| group(mesh, namespace, name)).map(|(_, one)| one.clone()).collect();
    (!matches.is_empty()).then_some(Requests::Matching(matches))
}

fn settings(mesh: &Mesh, namespace: &str, part: &EgressPart) -> Option<CallerSettings> {
    match mesh.policies().get(Kind::UpstreamTrafficSetting, namespace, part.settings.as_ref()?) {
        Some(PolicyPart::UpstreamTrafficSetting(setting)) => Some(setting.callers.clone()),
        _ => None,
    }
}

pub(super) fn egress(mesh: &Mesh, me: &ServiceAccount) -> BTreeMap<u16, EgressPort> {
    let ports = openings(mesh, me).into_iter().map(|(port, openings)| (port, egress_port(&openings)));
    ports.collect()
}

fn egress_port(openings: &[Opening]) -> EgressPort {
    let ranges = openings.iter().flat_map(|opening| &opening.ranges);
    let scopes: BTreeSet<Scope> = ranges.map(|range| Scope(Some(*range))).chain([Scope(None)]).collect();
    let mut port = EgressPort::default();
    for scope in scopes {
        let here: Vec<&Opening> =
            openings.iter().filter(|opening| opening.in_scope(scope.0.as_ref())).collect();
        if !here.is_empty() {
            port.scopes.insert(scope, egress_scope(&here));
        }
    }
    for target in port.scopes.values().flat_map(targets).collect::<BTreeSet<_>>() {
        let mut with = openings.iter().filter(|opening| match &target {
            Target::Host(host) => opening.ranges.is_empty() && opening.hosts.contains(host),
            Target::Dialled => {
                !opening.ranges.is_empty()
                    || opening.hosts.is_empty()
                    || opening.hosts.iter().any(|host| host.starts_with('*'))
            }
        });
        let settings = with.find_map(|opening| opening.settings.clone());
        port.targets.insert(target, settings.unwrap_or_default());
    }
    port
}

fn targets(scope: &EgressScope) -> Vec<Target> {
    let http = scope.http.values().flatten().map(|route| &route.to);
    let dialled = scope.tcp.then_some(&Target::Dialled);
    http.chain(scope.https.values()).chain(dialled).cloned().collect()
}

fn egress_scope(here: &[&Opening]) -> EgressScope {
    let of = |protocol| here.iter().copied().filter(move |opening: &&Opening| opening.protocol == protocol);
    let hosts = |protocol| -> BTreeSet<&String> { of(protocol).flat_map(|opening| &opening.hosts).collect() };
    let mut scope = EgressScope { tcp: of(EgressProtocol::Tcp).next().is_some(), ..Default::default() };
    for host in hosts(EgressProtocol::Http) {
        let mut open: BTreeMap<Target, Requests> = BTreeMap::new();
        for opening in of(EgressProtocol::Http).filter(|opening| opening.opens(host)) {
            let target = opening.target(host);
            let sum = match (open.remove(&target), opening.requests.clone()) {
                (Some(Requests::Matching(mut one)), Requests::Matching(other)) => {
                    one.extend(other);
                    Requests::Matching(one)
                }
                (None, requests) => requests,
                _ => Requests::Any,
            };
            open.insert(target, sum);
        }
        let routes = open.into_iter().map(|(to, requests)| EgressRoute {
            matches: match requests {
                Requests::Any => BTreeSet::new(),
                Requests::Matching(matches) => matches,
            },
            to,
        });
        scope.http.insert(host.clone(), routes.collect());
    }
    for host in hosts(EgressProtocol::Https) {
        let open = of(EgressProtocol::Https).filter(|opening| opening.opens(host));
        // A host that the sidecar looks up comes first.
        let target = open.map(|opening| opening.target(host)).min().unwrap_or(Target::Dialled);
        scope.https.insert(host.clone(), target);
    }
    if of(EgressProtocol::Https).any(|opening| opening.hosts.is_empty()) {
        scope.https.insert(String::new(), Target::Dialled);
    }
    scope
}
