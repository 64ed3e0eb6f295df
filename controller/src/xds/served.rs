//! What one audience is served: shared names, versions and bytes, and what changed since the state before, computed
//! once for all of its streams.

use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use mesh::resource_name::{is_of_a_service, is_of_the_application};
use mesh::{Delta, ResourceType};

use super::trial::Trial;

/// A resource's name; shared by every stream that holds it.
pub type Name = Arc<str>;
/// A resource's version, a hash of its content; shared like the name.
pub type Version = Arc<str>;

/// One resource, ready to be sent.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Equal on every replica for equal content.
    pub version: Version,
    /// Encoded `envoy.service.discovery.v3.Resource`.
    pub body: Bytes,
    /// What is the same for all who hold it.
    pub content: Arc<Content>,
}

/// What is known of one content, besides its bytes.
#[derive(Debug, Default)]
pub struct Content {
    /// How it reaches sidecars.
    pub way: Way,
    /// Whether what names it waits until a client has acknowledged it.
    pub waited_for: bool,
    /// The clusters that it names.
    pub clusters: Arc<[Arc<str>]>,
    /// Who has taken it.
    pub trial: Trial,
}

/// How a content reaches sidecars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Way {
    /// All at once: addresses, which must be fast; and whatever policy is enforced by, since what closes something
    /// must never wait for somebody else's sidecar.
    #[default]
    AtOnce,
    /// Canaries first: how a service of the mesh is called. Whether it may be is decided at the server.
    CanariesFirst,
}

impl Way {
    /// The way of resources of a type and name.
    #[must_use]
    pub fn of(kind: ResourceType, name: &str) -> Self {
        if kind != ResourceType::Endpoint && is_of_a_service(name) {
            Self::CanariesFirst
        } else {
            Self::AtOnce
        }
    }
}

impl Content {
    fn new(kind: ResourceType, name: &str, clusters: Arc<[Arc<str>]>) -> Self {
        // The application's are ready as soon as Envoy has read them: coming after them on the stream is enough, and what
        // closes a port must not wait.
        let waited_for = kind == ResourceType::Cluster && !is_of_the_application(name);
        Self { way: Way::of(kind, name), waited_for, clusters, trial: Trial::default() }
    }
}

impl Entry {
    /// The same for those who need not try it: others hold it already.
    #[must_use]
    pub fn settled(&self) -> Self {
        let Content { waited_for, ref clusters, .. } = *self.content;
        let content = Content { waited_for, clusters: clusters.clone(), ..Content::default() };
        Self { version: self.version.clone(), body: self.body.clone(), content: Arc::new(content) }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.body == other.body
    }
}

impl Eq for Entry {}

/// The resources of one type.
pub type Entries = BTreeMap<Name, Entry>;
/// The names of one type.
pub type Names = BTreeSet<Name>;

/// Everything that one audience is served at one time.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// Unique in the process; 0 is the state that holds nothing.
    pub generation: u64,
    /// Generation of the state that `changed` is about.
    after: u64,
    entries: [Arc<Entries>; 4],
    /// The same one for as long as no name comes or goes.
    names: [Arc<Names>; 4],
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
    pub fn first(delta: Delta, pool: &mut Pool) -> Self {
        Self::default().next(delta, pool).unwrap_or_default()
    }

    /// The state after this one, or nothing if `delta` changes nothing.
    #[must_use]
    pub fn next(&self, delta: Delta, pool: &mut Pool) -> Option<Self> {
        let mut entries: [Option<Entries>; 4] = Default::default();
        let mut changed = Vec::new();
        let mut renamed = [false; 4];
        for ((kind, name), resource) in delta {
            let at = place(kind);
            let old = self.entries[at].get(&name);
            if old.map(|entry| &*entry.version) == resource.as_ref().map(|new| new.version.as_str()) {
                continue;
            }
            renamed[at] |= old.is_some() != resource.is_some();
            let new = entries[at].get_or_insert_with(|| self.entries[at].as_ref().clone());
            let name = match resource {
                Some(resource) => {
                    let (name, entry) = pool.intern(kind, name, &resource);
                    new.insert(name.clone(), entry);
                    name
                }
                None => {
                    new.remove(&name);
                    name
                }
            };
            changed.push((kind, name));
        }
        if changed.is_empty() {
            return None;
        }
        pool.generation += 1;
        let mut next = Self { generation: pool.generation, after: self.generation, changed, ..self.clone() };
        for (at, new) in entries.into_iter().enumerate() {
            let Some(new) = new else { continue };
            if renamed[at] {
                next.names[at] = Arc::new(new.keys().cloned().collect());
            }
            next.entries[at] = Arc::new(new);
        }
        Some(next)
    }

    /// The resources of one type.
    #[must_use]
    pub fn of(&self, kind: ResourceType) -> &Arc<Entries> {
        &self.entries[place(kind)]
    }

    /// The names of one type.
    #[must_use]
    pub fn names(&self, kind: ResourceType) -> &Arc<Names> {
        &self.names[place(kind)]
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

/// Makes equal resources of different audiences the same one in memory.
#[derive(Debug, Default)]
pub struct Pool {
    generation: u64,
    known: [BTreeMap<(Name, Version), Entry>; 4],
    /// How many were known after the last sweep.
    swept: usize,
}

impl Pool {
    fn intern(&mut self, kind: ResourceType, name: Name, resource: &mesh::Resource) -> (Name, Entry) {
        let key = (name, Version::from(resource.version.as_str()));
        match self.known[place(kind)].entry(key) {
            Occupied(known) => (known.key().0.clone(), known.get().clone()),
            Vacant(new) => {
                let (name, version) = new.key().clone();
                let content = Arc::new(Content::new(kind, &name, resource.clusters.clone()));
                let entry = Entry { version, body: resource.body.clone(), content };
                (name, new.insert(entry).clone())
            }
        }
    }

    /// Forgets what nobody but the pool holds any more; now, or when much has come since the last time.
    pub fn sweep(&mut self, now: bool) {
        if !now && self.len() < 2 * self.swept + 1024 {
            return;
        }
        for known in &mut self.known {
            known.retain(|_, entry| Arc::strong_count(&entry.content) > 1);
        }
        self.swept = self.len();
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
