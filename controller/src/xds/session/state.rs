//! One resource type in one stream: what is subscribed to, held, on its way and refused.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use mesh::ResourceType;

use super::holding::{Held, Holding, Subscribed};
use crate::xds::served::{Entries, Entry, Name, Served, Version};
use crate::xds::trial::{Gate, Refusal};

mod subscribe;

pub(super) use subscribe::MOST_NAME;

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

/// A version that the client is not sent, because others refused it.
#[derive(Debug)]
pub(super) struct Withheld {
    pub version: Version,
    pub refusal: Arc<Refusal>,
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
    pub withheld: BTreeMap<Name, Withheld>,
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
            withheld: BTreeMap::new(),
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

    /// Bytes of what is remembered for this stream alone, because nothing that is served has it.
    pub fn foreign(&self) -> usize {
        self.names.foreign() + self.held.foreign()
    }

    #[cfg(test)]
    pub fn own_memory(&self) -> usize {
        self.held.own() + self.names.own()
    }

    pub fn need(&self, name: &Name, must: Must, entries: &Entries, gate: &Gate) -> Need {
        let held = self.holds(name);
        match entries.get(name) {
            None => self.need_of_nothing(must, held),
            Some(entry) if held != Some(&entry.version) && gate.refusal(entry).is_some() => {
                self.need_without(name, must, entry, gate)
            }
            Some(entry) => self.need_of(name, must, entry, held),
        }
    }

    /// What a name needs of which nothing is served.
    fn need_of_nothing(&self, must: Must, held: Option<&Version>) -> Need {
        match must {
            Must::Answer | Must::Follow => Need::Absent,
            Must::IfDifferent if held.is_some() => Need::Removal,
            Must::IfDifferent => Need::Nothing,
        }
    }

    /// What a name needs whose content is not withheld.
    fn need_of(&self, name: &Name, must: Must, entry: &Entry, held: Option<&Version>) -> Need {
        let holds = held == Some(&entry.version);
        let refused = self.refused.get(name).is_some_and(|refused| refused.version == entry.version);
        match must {
            Must::Answer => Need::Upsert(entry.clone()),
            Must::Follow | Must::IfDifferent if refused => Need::Nothing,
            Must::Follow => Need::Upsert(entry.clone()),
            Must::IfDifferent if holds => Need::Nothing,
            Must::IfDifferent => Need::Upsert(entry.clone()),
        }
    }

    /// What a name needs while its content is withheld: what the client holds stays. Only one that holds nothing gets
    /// what others of its service account keep.
    fn need_without(&self, name: &Name, must: Must, withheld: &Entry, gate: &Gate) -> Need {
        let known = self.held.entry(name).filter(|_| self.wants(name));
        match (known, must) {
            (Some(held), Must::Answer) => Need::Upsert(held.clone()),
            (Some(_), Must::Follow | Must::IfDifferent) => Need::Nothing,
            (None, Must::Follow | Must::IfDifferent) if self.holds(name).is_some() => Need::Nothing,
            (None, _) => match gate.instead(withheld) {
                Some(instead) => Need::Upsert(instead),
                None if must == Must::Answer && self.holds(name).is_none() => Need::Absent,
                None => Need::Nothing,
            },
        }
    }

    /// What a name needs; and remembers whether its content is withheld, and tells what the client keeps.
    pub fn look_at(&mut self, name: &Name, must: Must, entries: &Entries, gate: &Gate) -> Need {
        let held = self.holds(name);
        let need = match entries.get(name) {
            None => self.need_of_nothing(must, held),
            Some(entry) => {
                let other = held != Some(&entry.version);
                if let Some(refusal) = other.then(|| gate.refusal(entry)).flatten() {
                    let need = self.need_without(name, must, entry, gate);
                    self.withhold(name, entry, refusal, gate);
                    return need;
                }
                self.need_of(name, must, entry, held)
            }
        };
        self.withheld.remove(name);
        need
    }

    fn withhold(&mut self, name: &Name, entry: &Entry, refusal: Arc<Refusal>, gate: &Gate) {
        if let Some(held) = self.held.entry(name).filter(|_| self.wants(name)) {
            gate.keeps(entry, held);
        }
        self.withheld.insert(name.clone(), Withheld { version: entry.version.clone(), refusal });
    }

    /// Looks again at what was withheld and is no longer.
    pub fn look_again(&mut self, entries: &Entries, gate: &Gate) {
        let free = |name: &Name, withheld: &Withheld| {
            entries
                .get(name)
                .is_none_or(|entry| entry.version != withheld.version || gate.refusal(entry).is_none())
        };
        let all: Vec<_> = self
            .withheld
            .iter()
            .filter(|(name, one)| free(name, one))
            .map(|(name, _)| name.clone())
            .collect();
        for name in all {
            self.withheld.remove(&name);
            self.mark(name, Must::IfDifferent);
        }
    }

    pub fn accepted(&mut self, response: InFlight, gate: &mut Gate) {
        for (name, entry) in response.upserts {
            gate.accepted(&entry);
            self.alone.remove(&name);
            if self.withheld.get(&name).is_some_and(|withheld| withheld.version == entry.version) {
                self.withheld.remove(&name);
            }
            self.refused.remove(&name);
            // Unsubscribed while it was on its way: the client has forgotten it.
            if self.wants(&name) {
                self.held.insert(name, Held::Known(entry));
            }
        }
        for name in response.removals {
            self.alone.remove(&name);
            self.refused.remove(&name);
            self.held.remove(name);
        }
    }

    /// Forgets what need not be remembered: a client that has acknowledged everything holds what is served, but for
    /// what it refused or is not sent. Tells how many names were looked at.
    pub fn settle(&mut self, served: &Served) -> usize {
        if !self.subscribed || !self.idle() {
            return 0;
        }
        let others: BTreeSet<_> = self.refused.keys().chain(self.withheld.keys()).cloned().collect();
        let others: Vec<_> = others.into_iter().map(|name| (self.held.get(&name), name)).collect();
        self.held.all_of(served.of(self.kind));
        for (held, name) in others {
            match held {
                Some(held) => self.held.insert(name, held),
                None => self.held.remove(name),
            }
        }
        self.names.share(served.names(self.kind))
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
        for (name, entry) in response.upserts {
            self.alone.remove(&name);
            gate.rejected(&entry, error, self.held.entry(&name).filter(|held| held.version != entry.version));
            if self.wants(&name) {
                self.refused.insert(name, Refused { version: entry.version, error: error.to_owned() });
            }
        }
        for name in response.removals {
            self.alone.remove(&name);
            self.held.remove(name);
        }
    }

    /// What the client does not hold yet, in any version, and is on its way or must be sent.
    pub fn coming(&self, entries: &Entries, gate: &Gate) -> HashSet<Name> {
        let new = |name: &Name| self.holds(name).is_none();
        let sent = self.in_flight.iter().flat_map(|response| &response.upserts);
        let sent = sent.filter(|(name, entry)| entry.content.waited_for && new(name));
        let waiting = self.dirty.iter().filter(|(name, must)| {
            let need = || self.need(name, **must, entries, gate);
            new(name) && matches!(need(), Need::Upsert(entry) if entry.content.waited_for)
        });
        sent.map(|(name, _)| name).chain(waiting.map(|(name, _)| name)).cloned().collect()
    }

    /// What the client holds that is not, or may not be, what is served: with its content, where that is known.
    pub fn others_held<'a>(&'a self, entries: &'a Entries) -> impl Iterator<Item = Option<&'a Entry>> {
        let names: BTreeSet<_> =
            self.dirty.keys().chain(self.refused.keys()).chain(self.withheld.keys()).collect();
        names.into_iter().filter_map(|name| {
            let version = self.holds(name)?;
            let served = entries.get(name).is_some_and(|entry| entry.version == *version);
            (!served).then(|| self.held.entry(name))
        })
    }

    pub fn upserts_on_their_way(&self) -> bool {
        self.in_flight.iter().any(|response| !response.upserts.is_empty())
    }

    pub fn idle(&self) -> bool {
        self.in_flight.is_empty() && self.dirty.is_empty()
    }
}
