//! One resource type in one stream: what is subscribed to, held, on its way and refused.

use std::collections::{BTreeMap, BTreeSet};

use mesh::ResourceType;

use super::Violation;
use super::holding::{Held, Holding, Subscribed};
use crate::xds::served::{Entries, Entry, Name, Served, Version};
use crate::xds::trial::Gate;
use crate::xds::wire::DeltaRequest;

/// Names in one subscription; far above any mesh, far below what would hurt.
const MAX_NAMES: usize = 50_000;
/// Bytes of one name; our longest are three Kubernetes names and a port.
const MAX_NAME_BYTES: usize = 1024;
/// The name that stands for every resource (xDS protocol, "wildcard subscriptions").
const WILDCARD: &str = "*";

/// Why a name is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Must {
    /// It changed: sent if the client holds something else.
    IfDifferent,
    /// Its cluster was sent: sent even if held, but not if the client refused just that.
    Follow,
    /// The client asked for it: answered in any case.
    Answer,
}

/// What a name needs.
pub(super) enum Need {
    /// To be sent.
    Upsert(Entry),
    /// The answer that there is no such thing, at once.
    Absent,
    /// To be taken away, after everything that comes instead is in place.
    Removal,
    /// Nothing.
    Nothing,
}

/// A response that waits for its acknowledgement.
#[derive(Debug)]
pub(super) struct InFlight {
    pub nonce: String,
    pub upserts: Vec<(Name, Entry)>,
    pub removals: Vec<Name>,
}

/// A version that the client refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub version: Version,
    pub error: String,
}

/// One type.
#[derive(Debug)]
pub(super) struct TypeState {
    kind: ResourceType,
    /// Whether a request of the type has been seen in this stream.
    pub subscribed: bool,
    /// Whether a response of the type has been sent in this stream.
    pub answered: bool,
    pub wildcard: bool,
    pub names: Subscribed,
    /// What the client is known to hold: only ever changed by what it says, in one place each.
    held: Holding,
    pub dirty: BTreeMap<Name, Must>,
    /// Names whose response was refused together with others: sent again one by one, to find the culprit.
    pub alone: BTreeSet<Name>,
    pub in_flight: Vec<InFlight>,
    pub refused: BTreeMap<Name, Refused>,
}

impl TypeState {
    pub fn new(kind: ResourceType) -> Self {
        Self {
            kind,
            subscribed: false,
            answered: false,
            wildcard: false,
            names: Subscribed::default(),
            held: Holding::default(),
            dirty: BTreeMap::new(),
            alone: BTreeSet::new(),
            in_flight: Vec::new(),
            refused: BTreeMap::new(),
        }
    }

    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub fn mark(&mut self, name: Name, must: Must) {
        let held = self.dirty.entry(name).or_insert(must);
        *held = (*held).max(must);
    }

    /// The version that the client holds of a name that it is subscribed to.
    pub fn holds(&self, name: &str) -> Option<&Version> {
        self.held.version(name).filter(|_| self.wants(name))
    }

    /// Number of resources that the client is known to hold.
    pub fn count(&self) -> usize {
        if self.wildcard || self.names.is(self.held.len()) {
            return self.held.len();
        }
        self.held.names().filter(|name| self.wants(name)).count()
    }

    pub fn need(&self, name: &Name, must: Must, entries: &Entries, gate: &Gate) -> Need {
        let Some(entry) = entries.get(name) else {
            return match must {
                Must::Answer | Must::Follow => Need::Absent,
                Must::IfDifferent if self.holds(name).is_some() => Need::Removal,
                Must::IfDifferent => Need::Nothing,
            };
        };
        let entry = match gate.poison(self.kind, name, &entry.version) {
            None => entry.clone(),
            Some(poison) => match poison.instead {
                Some(instead) => instead,
                None if must == Must::Answer && self.holds(name).is_none() => return Need::Absent,
                None => {
                    let held = self.held.entry(name).filter(|_| self.wants(name));
                    gate.offer(self.kind, name, &entry.version, held);
                    return Need::Nothing;
                }
            },
        };
        let refused = self.refused.get(name).is_some_and(|refused| refused.version == entry.version);
        let holds = self.holds(name) == Some(&entry.version);
        match must {
            Must::Answer => Need::Upsert(entry),
            _ if refused => Need::Nothing,
            Must::Follow => Need::Upsert(entry),
            Must::IfDifferent if holds => Need::Nothing,
            Must::IfDifferent => Need::Upsert(entry),
        }
    }

    /// Takes the subscription part of a request.
    pub fn subscribe(
        &mut self,
        request: &DeltaRequest,
        entries: &Entries,
        gate: &mut Gate,
    ) -> Result<(), Violation> {
        if self.names.at_most() + request.resource_names_subscribe.len() > MAX_NAMES {
            check(request, self.names.len())?;
        } else {
            check(request, 0)?;
        }
        if self.subscribed {
            self.unsubscribe(&request.resource_names_unsubscribe, entries);
            self.add(&request.resource_names_subscribe, entries);
        } else {
            self.subscribed = true;
            self.first(request, entries, gate);
        }
        Ok(())
    }

    /// The first request of the type in this stream: what the client says it holds is believed.
    fn first(&mut self, request: &DeltaRequest, entries: &Entries, gate: &mut Gate) {
        let named = &request.resource_names_subscribe;
        self.wildcard = named.is_empty() || named.iter().any(|name| name == WILDCARD);
        for name in named.iter().filter(|name| *name != WILDCARD) {
            self.names.insert(shared(name, entries));
        }
        for (name, version) in &request.initial_resource_versions {
            if self.wants(name) {
                let name = shared(name, entries);
                let held = match entries.get(&name) {
                    Some(entry) if *entry.version == **version => {
                        gate.accepted(self.kind, entry);
                        Held::from(entry.clone())
                    }
                    _ => Held { version: Version::from(version.as_str()), entry: None },
                };
                self.held.insert(name, held);
            }
        }
        for name in self.names.iter().cloned().collect::<Vec<_>>() {
            let must = if self.holds(&name).is_some() { Must::IfDifferent } else { Must::Answer };
            self.mark(name, must);
        }
        if self.wildcard {
            self.mark_everything(entries);
        }
    }

    fn add(&mut self, names: &[String], entries: &Entries) {
        for name in names {
            if name == WILDCARD {
                self.wildcard = true;
                self.mark_everything(entries);
            } else {
                let name = shared(name, entries);
                if !self.names.contains(&name) {
                    self.names.insert(name.clone());
                    if !self.wildcard {
                        self.held.remove(name.clone());
                    }
                }
                // The client may have forgotten it (envoyproxy/envoy#22418): always answered, even if it was
                // refused before.
                self.refused.remove(&name);
                self.mark(name, Must::Answer);
            }
        }
    }

    fn unsubscribe(&mut self, names: &[String], entries: &Entries) {
        for name in names {
            if name == WILDCARD {
                self.wildcard = false;
                self.dirty.retain(|name, _| self.names.contains(name));
                self.refused.retain(|name, _| self.names.contains(name));
                continue;
            }
            let name = shared(name, entries);
            self.names.remove(&name);
            if self.wildcard {
                // Still covered: the protocol wants it sent again, or the word that it is gone.
                self.mark(name, Must::Answer);
            } else {
                self.held.remove(name.clone());
                self.dirty.remove(&name);
                self.refused.remove(&name);
            }
        }
    }

    fn mark_everything(&mut self, entries: &Entries) {
        let gone: Vec<_> = self.held.names().filter(|name| !entries.contains_key(*name)).cloned().collect();
        for name in entries.keys().cloned().chain(gone) {
            self.mark(name, Must::IfDifferent);
        }
    }

    pub fn accepted(&mut self, response: InFlight, gate: &mut Gate) {
        for (name, entry) in response.upserts {
            gate.accepted(self.kind, &entry);
            self.alone.remove(&name);
            self.refused.remove(&name);
            // Unsubscribed while it was on its way: the client has forgotten it.
            if self.wants(&name) {
                self.held.insert(name, Held::from(entry));
            }
        }
        for name in response.removals {
            self.alone.remove(&name);
            self.refused.remove(&name);
            self.held.remove(name);
        }
    }

    /// Forgets what need not be remembered: a client that has acknowledged everything holds what is served.
    pub fn settle(&mut self, served: &Served, gate: &Gate) {
        if self.subscribed && self.idle() && self.refused.is_empty() && gate.clean() {
            self.held.all_of(served.of(self.kind));
            self.names.share(served.names(self.kind));
        }
    }

    /// A refused response says nothing about which of its resources is bad, and Envoy may have taken none or some of
    /// the others. Each is sent again alone; one that is refused alone is remembered and not sent again.
    pub fn rejected(&mut self, response: InFlight, error: &str, gate: &mut Gate) {
        if response.upserts.len() + response.removals.len() > 1 {
            let names = response.upserts.into_iter().map(|(name, _)| name).chain(response.removals);
            for name in names.filter(|name| self.wants(name)).collect::<Vec<_>>() {
                self.alone.insert(name.clone());
                self.mark(name, Must::Answer);
            }
            return;
        }
        let error: String = error.chars().take(1024).collect();
        for (name, entry) in response.upserts {
            self.alone.remove(&name);
            let held = self.held.entry(&name).filter(|held| held.version != entry.version).cloned();
            gate.rejected(self.kind, &name, &entry, &error, held);
            if self.wants(&name) {
                self.refused.insert(name, Refused { version: entry.version, error: error.clone() });
            }
        }
        for name in response.removals {
            self.alone.remove(&name);
            self.held.remove(name);
        }
    }

    /// Whether something that the client does not hold yet, in any version, is on its way or must be sent.
    pub fn adds(&self, entries: &Entries, gate: &Gate) -> bool {
        let sent = self.in_flight.iter().flat_map(|response| &response.upserts).map(|(name, _)| name);
        let waiting = self
            .dirty
            .iter()
            .filter(|(name, must)| matches!(self.need(name, **must, entries, gate), Need::Upsert(_)));
        sent.chain(waiting.map(|(name, _)| name)).any(|name| self.holds(name).is_none())
    }

    pub fn upserts_on_their_way(&self) -> bool {
        self.in_flight.iter().any(|response| !response.upserts.is_empty())
    }

    pub fn idle(&self) -> bool {
        self.in_flight.is_empty() && self.dirty.is_empty()
    }
}

/// Whether a resource would fail calls if it came before the clusters that it may name (names of xDS resources,
/// docs/ARCHITECTURE.md). What is inbound names only clusters without endpoints, which are ready as soon as Envoy has
/// read them: coming after them on the stream is enough.
pub(super) fn names_clusters(kind: ResourceType, name: &str) -> bool {
    matches!(kind, ResourceType::Listener | ResourceType::Route) && name.starts_with("out")
}

fn shared(name: &str, entries: &Entries) -> Name {
    entries.get_key_value(name).map_or_else(|| Name::from(name), |(name, _)| name.clone())
}

fn check(request: &DeltaRequest, held: usize) -> Result<(), Violation> {
    let names = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
    let versions = request.initial_resource_versions.iter().flat_map(|(name, version)| [name, version]);
    if names.chain(versions).any(|text| text.len() > MAX_NAME_BYTES) {
        return Err(Violation::NameTooLong);
    }
    if held + request.resource_names_subscribe.len() > MAX_NAMES
        || request.initial_resource_versions.len() > MAX_NAMES
    {
        return Err(Violation::TooManyNames);
    }
    Ok(())
}
