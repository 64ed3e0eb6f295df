//! What one audience is served: the mesh's snapshot with shared names, versions and bytes, and what changed
//! since the one before, computed once for all of its streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mesh::{ResourceType, Snapshot};

/// A resource's name; shared by every stream that holds it.
pub type Name = Arc<str>;
/// A resource's version, a hash of its content; shared like the name.
pub type Version = Arc<str>;

/// One resource, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Equal on every replica for equal content.
    pub version: Version,
    /// Encoded `envoy.service.discovery.v3.Resource`.
    pub body: Bytes,
}

/// The resources of one type.
pub type Entries = BTreeMap<Name, Entry>;

/// Everything that one audience is served at one time.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// Unique in the process; 0 is the state that holds nothing.
    pub generation: u64,
    /// Generation of the state that `changed` is about.
    after: u64,
    entries: [Arc<Entries>; 4],
    changed: Vec<(ResourceType, Name)>,
}

/// Position of a type in arrays that have one place per type.
pub(crate) fn place(kind: ResourceType) -> usize {
    match kind {
        ResourceType::Cluster => 0,
        ResourceType::Endpoint => 1,
        ResourceType::Listener => 2,
        ResourceType::Route => 3,
    }
}

impl Served {
    /// The first state of an audience.
    #[must_use]
    pub fn first(snapshot: Snapshot, pool: &mut Pool) -> Self {
        Self::default().next(snapshot, pool).unwrap_or_default()
    }

    /// The state after this one, or nothing if `snapshot` says what is already served.
    #[must_use]
    pub fn next(&self, snapshot: Snapshot, pool: &mut Pool) -> Option<Self> {
        pool.generation += 1;
        let mut next = Self { generation: pool.generation, after: self.generation, ..Self::default() };
        let mut snapshot = snapshot.resources;
        for kind in ResourceType::ALL {
            let old = self.of(kind);
            let new = pool.intern(kind, old, snapshot.remove(&kind).unwrap_or_default());
            let before = next.changed.len();
            next.changed.extend(difference(old, &new).map(|name| (kind, name)));
            let same = next.changed.len() == before;
            next.entries[place(kind)] = if same { self.entries[place(kind)].clone() } else { Arc::new(new) };
        }
        (!next.changed.is_empty()).then_some(next)
    }

    /// The resources of one type.
    #[must_use]
    pub fn of(&self, kind: ResourceType) -> &Entries {
        &self.entries[place(kind)]
    }

    /// What differs from the state with the generation before this one.
    #[must_use]
    pub fn changed(&self) -> &[(ResourceType, Name)] {
        &self.changed
    }

    /// Whether [`Served::changed`] is all that differs from `old`.
    #[must_use]
    pub fn follows(&self, old: &Self) -> bool {
        self.after == old.generation
    }

    /// What differs from any other state.
    pub(crate) fn difference<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (ResourceType, Name)> + 'a {
        ResourceType::ALL.into_iter().flat_map(move |kind| {
            let (old, new) = (&other.entries[place(kind)], &self.entries[place(kind)]);
            let differs = !Arc::ptr_eq(old, new);
            differs.then(|| difference(old, new)).into_iter().flatten().map(move |name| (kind, name))
        })
    }
}

/// Names that are in one of two maps only, or with another version.
fn difference<'a>(old: &'a Entries, new: &'a Entries) -> impl Iterator<Item = Name> + 'a {
    let upserts = new
        .iter()
        .filter(|(name, entry)| old.get(*name).is_none_or(|held| held.version != entry.version))
        .map(|(name, _)| name.clone());
    let removals = old.keys().filter(|name| !new.contains_key(*name)).cloned();
    upserts.chain(removals)
}

/// Makes equal resources of different audiences share their memory.
#[derive(Debug, Default)]
pub struct Pool {
    generation: u64,
    known: [BTreeMap<(Name, Version), Bytes>; 4],
}

impl Pool {
    fn intern(
        &mut self,
        kind: ResourceType,
        old: &Entries,
        new: BTreeMap<String, mesh::Resource>,
    ) -> Entries {
        let known = &mut self.known[place(kind)];
        new.into_iter()
            .map(|(name, resource)| {
                if let Some((name, entry)) = old.get_key_value(name.as_str())
                    && *entry.version == *resource.version
                {
                    return (name.clone(), entry.clone());
                }
                let key = (Name::from(name), Version::from(resource.version));
                match known.get_key_value(&key) {
                    Some(((name, version), body)) => {
                        (name.clone(), Entry { version: version.clone(), body: body.clone() })
                    }
                    None => {
                        known.insert(key.clone(), resource.body.clone());
                        (key.0, Entry { version: key.1, body: resource.body })
                    }
                }
            })
            .collect()
    }

    /// Forgets what nobody but the pool holds any more.
    pub fn sweep(&mut self) {
        for known in &mut self.known {
            known.retain(|(_, version), _| Arc::strong_count(version) > 1);
        }
    }

    /// Number of distinct resources.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.iter().map(BTreeMap::len).sum()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
