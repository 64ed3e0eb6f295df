//! What an audience may call outside the mesh: the union of the Egresses that name its service account.
//!
//! * Ranges are enforced for every protocol. A host that is named without ranges is looked up by the sidecar itself, so
//!   that a Host header or a TLS name that lies leads nowhere else; a host below `*.`, which cannot be looked up, and
//!   what is pinned to ranges go where they were sent to.
//! * Envoy takes the most specific range that holds an address, and looks no further. So each range (and "any address")
//!   carries all that is open there; ranges at which the same is open are one scope.
//! * What that comes to is bounded (`budget.rs`): the largest Egresses of a service account are left out.

mod scope;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crds::mesh_config::Egress;
pub use scope::{EgressHosts, EgressPort, EgressRoute, EgressScope, Scope, Target};

use super::inbound::group;
use super::types::{PolicyName, Requests};
use crate::budget::{self, EGRESS, LeftOut};
use crate::index::Mesh;
use crate::ingest::{
    CallerSettings, Cidr, EgressPart, EgressProtocol, HttpMatch, PolicyPart, ServiceAccount, host_fits,
};
use crate::object::{Kind, ObjectRef};

/// What one Egress opens at one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening<'a> {
    /// The Egress.
    pub(crate) name: PolicyName,
    /// What is spoken.
    pub(crate) protocol: EgressProtocol,
    /// Names that may be called, for HTTPS any when empty; what may be dialled, any when empty.
    pub(crate) part: &'a EgressPart,
    /// What may be asked for over HTTP.
    pub(crate) requests: Arc<Requests>,
    /// How the hosts are called.
    settings: Option<CallerSettings>,
}

impl Opening<'_> {
    /// Whether it opens a host (or all that a pattern stands for).
    pub(crate) fn opens(&self, host: &str) -> bool {
        self.part.hosts.iter().any(|pattern| covers(pattern, host))
    }

    /// Where calls to a host go that this opens.
    fn target(&self, host: &str) -> Target {
        let part = self.part;
        if part.ranges.is_empty() && part.hosts.contains(host) && !host.starts_with('*') {
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

/// What Egresses open to a service account.
#[derive(Debug, Default)]
pub(crate) struct Openings<'a> {
    /// By port.
    pub(crate) open: BTreeMap<u16, Vec<Opening<'a>>>,
    /// Egresses that are left out.
    pub(crate) left_out: LeftOut<ObjectRef>,
    /// Ports at which those might keep requests back (see [`EgressPort::shut`]).
    pub(crate) shut: BTreeSet<u16>,
}

/// What Egresses open to a service account.
pub(crate) fn openings<'a>(mesh: &'a Mesh, me: &ServiceAccount) -> Openings<'a> {
    let mut own: Vec<(u64, &ObjectRef, &EgressPart)> = Vec::new();
    for (key, part) in mesh.policies().in_namespace(Kind::Egress, &me.namespace) {
        let PolicyPart::Egress(part) = part else { continue };
        if part.sources.contains(me) {
            own.push((written(mesh, &me.namespace, part), key, part));
        }
    }
    own.sort_unstable_by_key(|(size, key, _)| (*size, *key));
    let small = own.iter().scan(0, |sum: &mut u64, (size, ..)| {
        *sum = sum.saturating_add(*size);
        Some(*sum)
    });
    let small = small.take(budget::MOST_OBJECTS).take_while(|sum| *sum <= budget::EGRESS_WRITTEN).count();
    let fits = |most: &usize| opened_size(&by_port(mesh, me, own.get(..*most).unwrap_or_default())) <= EGRESS;
    // What more Egresses open is never less: the most that fit are found by halving.
    let counts: Vec<usize> = (0..=small).collect();
    let kept = match fits(&small) {
        true => small,
        false => counts.partition_point(fits).saturating_sub(1),
    };
    let mut openings =
        Openings { open: by_port(mesh, me, own.get(..kept).unwrap_or_default()), ..Openings::default() };
    for (size, key, part) in own.into_iter().skip(kept) {
        openings.left_out.insert(key.clone(), size);
        let http = part.ports.iter().filter(|(_, protocol)| *protocol == EgressProtocol::Http);
        openings.shut.extend(http.map(|(port, _)| *port));
    }
    if mesh.settings().egress == Egress::Deny {
        // What is left out opens nothing, and nothing is open.
        openings.shut.clear();
    }
    openings
}

/// Bytes of an Egress as it is written.
fn written(mesh: &Mesh, namespace: &str, part: &EgressPart) -> u64 {
    let hosts: u64 = part.hosts.iter().map(|host| budget::text(host)).sum();
    let groups = part.groups.iter().flatten();
    let matches: u64 = groups.flat_map(|name| group(mesh, namespace, name)).map(|(_, one)| one.size()).sum();
    (part.ranges.len() + part.ports.len()) as u64 * budget::ENTRY + hosts + matches
}

fn by_port<'a>(
    mesh: &'a Mesh,
    me: &ServiceAccount,
    own: &[(u64, &'a ObjectRef, &'a EgressPart)],
) -> BTreeMap<u16, Vec<Opening<'a>>> {
    let mut openings: BTreeMap<u16, Vec<Opening<'a>>> = BTreeMap::new();
    let mut by_name: Vec<_> = own.iter().map(|(_, key, part)| (*key, *part)).collect();
    by_name.sort_unstable_by_key(|(key, _)| *key);
    for (key, part) in by_name {
        let name = PolicyName { namespace: key.namespace.clone(), name: key.name.clone() };
        let [http, other] = [EgressProtocol::Http, EgressProtocol::Tcp].map(|protocol| {
            let requests = requests(mesh, &me.namespace, part, protocol)?;
            Some(Arc::new(requests))
        });
        for (port, protocol) in &part.ports {
            let requests = if *protocol == EgressProtocol::Http { &http } else { &other };
            let Some(requests) = requests else { continue };
            if *protocol == EgressProtocol::Http && part.hosts.is_empty() {
                continue;
            }
            openings.entry(*port).or_default().push(Opening {
                name: name.clone(),
                protocol: *protocol,
                part,
                requests: requests.clone(),
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
    let openings = openings(mesh, me);
    let mut ports: BTreeMap<_, _> =
        openings.open.into_iter().map(|(port, openings)| (port, egress_port(&openings))).collect();
    for port in openings.shut {
        ports.entry(port).or_default().shut = true;
    }
    ports
}

fn egress_port(openings: &[Opening<'_>]) -> EgressPort {
    let scopes = scopes(openings).into_iter().map(|(here, at)| egress_scope(openings, &here, at));
    let mut port = EgressPort { scopes: scopes.collect(), ..EgressPort::default() };
    port.scopes.sort_by(|one, other| one.at.cmp(&other.at));
    for target in port.scopes.iter().flat_map(targets).collect::<BTreeSet<_>>() {
        let mut with = openings.iter().filter(|opening| match &target {
            Target::Host(host) => opening.part.ranges.is_empty() && opening.part.hosts.contains(host),
            Target::Dialled => {
                !opening.part.ranges.is_empty()
                    || opening.part.hosts.is_empty()
                    || opening.part.hosts.iter().any(|host| host.starts_with('*'))
            }
        });
        let settings = with.find_map(|opening| opening.settings.clone());
        port.targets.insert(target, settings.unwrap_or_default());
    }
    port
}

/// Places of openings in their list.
type Places = BTreeSet<usize>;

/// Which openings count together at which ranges. A range at which no more is open than at the one around it is not
/// told apart.
fn scopes(openings: &[Opening<'_>]) -> BTreeMap<Places, BTreeSet<Scope>> {
    let mut by_range: BTreeMap<Cidr, Places> = BTreeMap::new();
    let mut everywhere = Places::new();
    for (place, opening) in openings.iter().enumerate() {
        if opening.part.ranges.is_empty() {
            everywhere.insert(place);
        }
        for range in &opening.part.ranges {
            by_range.entry(*range).or_default().insert(place);
        }
    }
    let mut scopes: BTreeMap<Places, BTreeSet<Scope>> = BTreeMap::new();
    if !everywhere.is_empty() {
        scopes.entry(everywhere.clone()).or_default().insert(Scope(None));
    }
    // A range comes before those within it, so that those around one are on the stack.
    let mut around: Vec<(Cidr, Places)> = Vec::new();
    for (range, own) in by_range {
        while around.last().is_some_and(|(outer, _)| !outer.covers(&range)) {
            around.pop();
        }
        let outer = around.last().map_or(&everywhere, |(_, places)| places);
        let here: Places = outer.union(&own).copied().collect();
        if here != *outer {
            scopes.entry(here.clone()).or_default().insert(Scope(Some(range)));
        }
        around.push((range, here));
    }
    scopes
}

fn targets(scope: &EgressScope) -> Vec<Target> {
    let http = scope.http.iter().flat_map(|hosts| &hosts.routes).map(|route| &route.to);
    let dialled = scope.tcp.then_some(&Target::Dialled);
    http.chain(scope.https.values()).chain(dialled).cloned().collect()
}

/// The openings of a protocol in one scope, found by the hosts that they name.
struct Hosts<'a> {
    openings: Vec<&'a Opening<'a>>,
    /// Host or pattern to places in `openings`.
    named: BTreeMap<&'a str, Places>,
}

impl<'a> Hosts<'a> {
    fn of(openings: &'a [Opening<'a>], here: &Places, protocol: EgressProtocol) -> Self {
        let openings = here.iter().filter_map(|place| openings.get(*place));
        let openings: Vec<&Opening<'_>> = openings.filter(|opening| opening.protocol == protocol).collect();
        let mut named: BTreeMap<&str, Places> = BTreeMap::new();
        for (place, opening) in openings.iter().enumerate() {
            for host in &opening.part.hosts {
                named.entry(host).or_default().insert(place);
            }
        }
        Self { openings, named }
    }

    /// The openings that hold a host, with where it goes by them: they name it, or a pattern that covers it.
    fn opening(&self, host: &str) -> Vec<(usize, Target)> {
        let patterns =
            host.match_indices('.').map(|(at, _)| format!("*{}", host.get(at..).unwrap_or_default()));
        let patterns: Vec<String> = patterns.chain([host.to_owned()]).collect();
        let patterns = patterns.iter().filter(|pattern| covers(pattern, host));
        let places: Places =
            patterns.filter_map(|pattern| self.named.get(pattern.as_str())).flatten().copied().collect();
        let openings = places.into_iter().filter_map(|place| Some((place, *self.openings.get(place)?)));
        openings.map(|(place, opening)| (place, opening.target(host))).collect()
    }

    /// Hosts of which the same may be asked for: where requests go, by which openings.
    fn alike(&self) -> BTreeMap<BTreeMap<Target, Places>, BTreeSet<String>> {
        let mut alike: BTreeMap<BTreeMap<Target, Places>, BTreeSet<String>> = BTreeMap::new();
        for host in self.named.keys() {
            let mut open: BTreeMap<Target, Places> = BTreeMap::new();
            for (place, target) in self.opening(host) {
                open.entry(target).or_default().insert(place);
            }
            alike.entry(open).or_default().insert((*host).to_owned());
        }
        alike
    }

    /// What some openings let be asked for together; any when empty.
    fn requests(&self, places: &Places) -> BTreeSet<HttpMatch> {
        let mut matches = BTreeSet::new();
        for opening in places.iter().filter_map(|place| self.openings.get(*place)) {
            match opening.requests.as_ref() {
                Requests::Any => return BTreeSet::new(),
                Requests::Matching(more) => matches.extend(more.iter().cloned()),
            }
        }
        matches
    }

    /// Bytes of that, at most.
    fn requests_size(&self, places: &Places, sizes: &[u64]) -> u64 {
        let mut sum = budget::ENTRY;
        for place in places {
            let any = self.openings.get(*place).is_some_and(|opening| *opening.requests == Requests::Any);
            if any {
                return budget::ENTRY;
            }
            sum += sizes.get(*place).copied().unwrap_or_default();
        }
        sum
    }
}

fn egress_scope(openings: &[Opening<'_>], here: &Places, at: BTreeSet<Scope>) -> EgressScope {
    let of = |protocol| Hosts::of(openings, here, protocol);
    let http = of(EgressProtocol::Http);
    let alike = http.alike().into_iter().map(|(open, hosts)| {
        let routes = open.into_iter().map(|(to, places)| EgressRoute { matches: http.requests(&places), to });
        EgressHosts { hosts, routes: routes.collect() }
    });
    let mut alike: Vec<EgressHosts> = alike.collect();
    alike.sort_by(|one, other| one.hosts.cmp(&other.hosts));
    let tls = of(EgressProtocol::Https);
    let mut https: BTreeMap<String, Target> = BTreeMap::new();
    for host in tls.named.keys() {
        // A host that the sidecar looks up comes first.
        let target = tls.opening(host).into_iter().map(|(_, target)| target).min();
        https.insert((*host).to_owned(), target.unwrap_or(Target::Dialled));
    }
    if tls.openings.iter().any(|opening| opening.part.hosts.is_empty()) {
        https.insert(String::new(), Target::Dialled);
    }
    let tcp = !of(EgressProtocol::Tcp).openings.is_empty();
    EgressScope { at, http: alike, https, tcp }
}

/// Bytes of what is open, before it is made.
fn opened_size(ports: &BTreeMap<u16, Vec<Opening<'_>>>) -> u64 {
    let mut sum = 0_u64;
    for openings in ports.values() {
        for (here, at) in scopes(openings) {
            sum = sum.saturating_add(at.len() as u64 * budget::ENTRY);
            for protocol in [EgressProtocol::Http, EgressProtocol::Https] {
                let hosts = Hosts::of(openings, &here, protocol);
                let sizes: Vec<u64> =
                    hosts.openings.iter().map(|opening| requests_size(&opening.requests)).collect();
                for (open, names) in hosts.alike() {
                    let names: u64 = names.iter().map(|name| 2 * budget::text(name)).sum();
                    let routes: u64 = open.values().map(|places| hosts.requests_size(places, &sizes)).sum();
                    sum = sum.saturating_add(names).saturating_add(routes);
                }
            }
        }
        if sum > EGRESS {
            break;
        }
    }
    sum
}

fn requests_size(requests: &Requests) -> u64 {
    match requests {
        Requests::Any => 0,
        Requests::Matching(matches) => matches.iter().map(HttpMatch::size).sum(),
    }
}

/// Service accounts of a namespace whose Egresses may be too large together, so that it is worth looking.
pub(crate) fn large(mesh: &Mesh, namespace: &str) -> BTreeSet<ServiceAccount> {
    let mut sums: BTreeMap<&ServiceAccount, [u64; 5]> = BTreeMap::new();
    for (_, part) in mesh.policies().in_namespace(Kind::Egress, namespace) {
        let PolicyPart::Egress(part) = part else { continue };
        let [ranges, ports, hosts] =
            [part.ranges.len(), part.ports.len(), part.hosts.len()].map(|n| n as u64);
        let more = [1, written(mesh, namespace, part), ranges, ports, hosts];
        for account in &part.sources {
            for (sum, more) in sums.entry(account).or_default().iter_mut().zip(more) {
                *sum += more;
            }
        }
    }
    let large = sums.into_iter().filter(|(_, [count, written, ranges, ports, hosts])| {
        let opened = written.saturating_mul(ranges + 1).saturating_mul(*ports).saturating_mul(hosts + 2);
        *written > budget::EGRESS_WRITTEN || *count > budget::MOST_OBJECTS as u64 || opened > EGRESS
    });
    large.map(|(account, _)| account.clone()).collect()
}
