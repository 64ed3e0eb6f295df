//! What a client is known to hold and is subscribed to, small: once a client holds what is served, that is all there
//! is to remember, and it is the same for every stream of the audience.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::xds::served::{Entries, Entry, Name, Names, Version};

/// Differences that are not worth looking for a common ground.
const FEW: usize = 16;

/// What is said of a name besides the shared set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// It is in; its text is shared with what is served.
    Served,
    /// It is in; nothing of that name is served, so that its text is only remembered for this stream.
    Foreign,
    /// It is not in.
    Not,
}

/// What it costs to remember a text in a map: its bytes, and about so much around them.
pub(super) fn cost(text: &str) -> usize {
    text.len() + 96
}

/// The names that a client is subscribed to: a shared set, but for some.
#[derive(Debug, Default)]
pub(super) struct Subscribed {
    base: Arc<Names>,
    but: BTreeMap<Name, Named>,
    /// Bytes of the names that nothing has.
    foreign: usize,
    /// How many differences there were when sharing was last in vain.
    vain: usize,
}

impl Subscribed {
    pub fn contains(&self, name: &str) -> bool {
        self.but.get(name).map_or_else(|| self.base.contains(name), |named| *named != Named::Not)
    }

    /// `served`: whether there is a resource of that name.
    pub fn insert(&mut self, name: Name, served: bool) {
        let cost = cost(&name);
        let named = if served { Named::Served } else { Named::Foreign };
        let before = self.but.insert(name, named);
        self.foreign += if served { 0 } else { cost };
        if before == Some(Named::Foreign) {
            self.foreign = self.foreign.saturating_sub(cost);
        }
    }

    fn forget(&mut self, name: &Name) {
        if self.but.remove(name) == Some(Named::Foreign) {
            self.foreign = self.foreign.saturating_sub(cost(name));
        }
    }

    /// Bytes of what is remembered for this stream alone.
    pub fn foreign(&self) -> usize {
        self.foreign
    }

    /// A name that was never there leaves nothing behind.
    pub fn remove(&mut self, name: &Name) {
        self.forget(name);
        if self.base.contains(name) {
            self.but.insert(name.clone(), Named::Not);
        }
    }

    /// How many names are remembered for this stream alone.
    #[cfg(test)]
    pub fn own(&self) -> usize {
        self.but.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Name> {
        let base = self.base.iter().filter(|name| !self.but.contains_key(*name));
        base.chain(self.but.iter().filter(|(_, named)| **named != Named::Not).map(|(name, _)| name))
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether it is a shared set of so many names.
    pub fn is(&self, count: usize) -> bool {
        self.but.is_empty() && self.base.len() == count
    }

    /// Shares the set of what is served if it is the same, and the memory of every other stream for which it is. Tells how
    /// many names were looked at.
    pub fn share(&mut self, served: &Arc<Names>) -> usize {
        if self.but.len() <= FEW || self.but.len() == self.vain {
            return 0;
        }
        let looked = self.base.len() + self.but.len();
        if self.len() == served.len() && self.iter().all(|name| served.contains(name)) {
            *self = Self { base: served.clone(), ..Self::default() };
        } else {
            self.vain = self.but.len();
        }
        looked
    }
}

/// A version that a client holds, and its content where it is known: after a reconnect the client may hold what this
/// replica never had.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// What this replica has, or had.
    Known(Entry),
    /// What it never had.
    Foreign(Version),
}

impl Held {
    /// What it costs to remember it, given what its name costs: nothing where the content is what is served to others too.
    fn cost(&self, name: usize) -> usize {
        match self {
            Self::Known(_) => 0,
            Self::Foreign(version) => name + cost(version),
        }
    }

    fn version(&self) -> &Version {
        match self {
            Self::Known(entry) => &entry.version,
            Self::Foreign(version) => version,
        }
    }

    fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Known(entry) => Some(entry),
            Self::Foreign(_) => None,
        }
    }
}

/// What a client is known to hold: what was served at some time, but for some names. Names that it is not subscribed
/// to do not count; whoever asks must know that.
#[derive(Debug, Default)]
pub(super) struct Holding {
    base: Arc<Entries>,
    but: BTreeMap<Name, Option<Held>>,
    /// Bytes of what this replica never sent.
    foreign: usize,
}

impl Holding {
    pub fn version(&self, name: &str) -> Option<&Version> {
        match self.but.get(name) {
            Some(held) => held.as_ref().map(Held::version),
            None => self.base.get(name).map(|entry| &entry.version),
        }
    }

    /// What is held.
    pub fn get(&self, name: &str) -> Option<Held> {
        match self.but.get(name) {
            Some(held) => held.clone(),
            None => self.base.get(name).map(|entry| Held::Known(entry.clone())),
        }
    }

    /// The content of what is held.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        match self.but.get(name) {
            Some(held) => held.as_ref().and_then(Held::entry),
            None => self.base.get(name),
        }
    }

    pub fn insert(&mut self, name: Name, held: Held) {
        let remembered = cost(&name);
        self.foreign += held.cost(remembered);
        if let Some(Some(before)) = self.but.insert(name, Some(held)) {
            self.foreign = self.foreign.saturating_sub(before.cost(remembered));
        }
    }

    fn forget(&mut self, name: &Name) {
        if let Some(Some(held)) = self.but.remove(name) {
            self.foreign = self.foreign.saturating_sub(held.cost(cost(name)));
        }
    }

    /// Bytes of what is remembered for this stream alone.
    pub fn foreign(&self) -> usize {
        self.foreign
    }

    /// A name that was never there leaves nothing behind.
    pub fn remove(&mut self, name: Name) {
        self.forget(&name);
        if self.base.contains_key(&name) {
            self.but.insert(name, None);
        }
    }

    /// How many names are remembered for this stream alone.
    #[cfg(test)]
    pub fn own(&self) -> usize {
        self.but.len()
    }

    pub fn names(&self) -> impl Iterator<Item = &Name> {
        let base = self.base.keys().filter(|name| !self.but.contains_key(*name));
        base.chain(self.but.iter().filter(|(_, held)| held.is_some()).map(|(name, _)| name))
    }

    /// Whether nothing is known to be held.
    pub fn is_empty(&self) -> bool {
        self.but.is_empty() && self.base.is_empty()
    }

    /// How many names are held, if every one that was served is wanted.
    pub fn len(&self) -> usize {
        if self.but.is_empty() { self.base.len() } else { self.names().count() }
    }

    /// The client holds all that it wants of what is served, and nothing else.
    pub fn all_of(&mut self, served: &Arc<Entries>) {
        self.base = served.clone();
        self.but.clear();
        self.foreign = 0;
    }
}
