//! What sealing a bundle would change, compared with what is sealed now. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crds::policy_source::InventoryEntry;
use serde::Serialize;

use crate::bundle::Bundle;

/// One object that changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// What sealing a bundle would change; every list is sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// In the bundle only.
    pub added: Vec<Change>,
    /// In both, with another spec.
    pub changed: Vec<Change>,
    /// In the seal only: pruned, or left alone and no longer counted.
    pub removed: Vec<Change>,
    /// In both, equal.
    pub unchanged: usize,
}

impl Diff {
    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sign, changes) in [("+", &self.added), ("~", &self.changed), ("-", &self.removed)] {
            for each in changes {
                writeln!(f, "{sign} {} {}/{}", each.kind, each.namespace, each.name)?;
            }
        }
        write!(
            f,
            "{} added, {} changed, {} removed, {} unchanged",
            self.added.len(),
            self.changed.len(),
            self.removed.len(),
            self.unchanged
        )
    }
}

/// Compares the seal with a bundle.
#[must_use]
pub fn diff(sealed: &[InventoryEntry], bundle: &Bundle) -> Diff {
    let change = |entry: &InventoryEntry| Change {
        kind: entry.kind.clone(),
        namespace: entry.namespace.clone(),
        name: entry.name.clone(),
    };
    let mut old: BTreeMap<_, _> = sealed.iter().map(|entry| (change(entry), entry.hash.as_str())).collect();
    let mut found = Diff::default();
    for entry in bundle.inventory() {
        let key = change(&entry);
        match old.remove(&key) {
            None => found.added.push(key),
            Some(hash) if hash == entry.hash => found.unchanged += 1,
            Some(_) => found.changed.push(key),
        }
    }
    found.removed = old.into_keys().collect();
    found
}
