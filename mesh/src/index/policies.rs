//! Policy objects, the seal of each Git source, and what is in force (DESIGN, rule 3).
//!
//! ```text
//!  objects without a source ── if the MeshConfig lets them count ────────┐
//!  objects of a source ──┐                                               ├─▶ in force
//!  inventory of a source ┴─ all there with their hash? ─▶ sealed set ────┘
//!                           not (yet): the last sealed set stays
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crds::labels;
use crds::mesh_config::PolicyOrigin;

use super::What;
use crate::ingest::{PolicyPart, SourcePart};
use crate::object::{Kind, Object, ObjectRef};
use crate::settings::Settings;

/// A PolicySource: namespace and name.
pub(super) type SourceName = (String, String);

/// All policy objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies {
    /// Every object as the API server has it.
    pub(super) seen: BTreeMap<ObjectRef, Seen>,
    pub(super) sources: BTreeMap<SourceName, Source>,
    in_force: BTreeMap<ObjectRef, PolicyPart>,
    synced: bool,
}

/// A policy object as the API server has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seen {
    /// The source that it is labelled with, and its content hash.
    pub(super) source: Option<(SourceName, String)>,
    part: PolicyPart,
}

/// A Git source.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    /// Whether the PolicySource object exists.
    pub(super) exists: bool,
    /// What its sealed commit holds.
    pub(super) inventory: Option<BTreeMap<ObjectRef, String>>,
    /// The set in force, with content hashes.
    pub(super) sealed: BTreeMap<ObjectRef, (String, PolicyPart)>,
    /// Whether `sealed` ever was a complete commit.
    sealed_once: bool,
}

impl Policies {
    /// An object that is in force.
    pub(crate) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&PolicyPart> {
        self.in_force.get(&ObjectRef::new(kind, namespace, name))
    }

    /// The objects of a kind that are in force in a namespace, by name.
    pub(crate) fn in_namespace(
        &self,
        kind: Kind,
        namespace: &str,
    ) -> impl Iterator<Item = (&ObjectRef, &PolicyPart)> {
        let from = ObjectRef::new(kind, namespace, "");
        let end = from.clone();
        let here =
            move |reference: &ObjectRef| reference.kind == end.kind && reference.namespace == end.namespace;
        self.in_force.range(from..).take_while(move |(reference, _)| here(reference))
    }

    /// The objects of a kind that are in force anywhere.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, &PolicyPart)> {
        let from = ObjectRef::new(kind, "", "");
        self.in_force.range(from..).take_while(move |(reference, _)| reference.kind == kind)
    }

    /// Everything in force.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&ObjectRef, &PolicyPart)> {
        self.in_force.iter()
    }

    pub(super) fn set(
        &mut self,
        key: ObjectRef,
        part: PolicyPart,
        object: &Object,
        settings: &Settings,
    ) -> BTreeSet<What> {
        let source = object.label(labels::SOURCE).map(|label| (source_name(label), content_hash(object)));
        let new = Seen { source, part };
        if self.seen.get(&key) == Some(&new) {
            return BTreeSet::new();
        }
        let sources = new.source.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
        let old = self.seen.insert(key.clone(), new);
        self.after(key, old, sources, settings)
    }

    pub(super) fn remove(&mut self, key: &ObjectRef, settings: &Settings) -> BTreeSet<What> {
        let old = self.seen.remove(key);
        if old.is_none() {
            return BTreeSet::new();
        }
        self.after(key.clone(), old, BTreeSet::new(), settings)
    }

    /// Settles what one object changed: the sets of the sources that it belonged and belongs to, and itself.
    fn after(
        &mut self,
        key: ObjectRef,
        old: Option<Seen>,
        mut sources: BTreeSet<SourceName>,
        settings: &Settings,
    ) -> BTreeSet<What> {
        sources.extend(old.and_then(|old| old.source).map(|(name, _)| name));
        // A sealed object whose label was taken away still belongs to its source.
        let holders = self.sources.iter().filter(|(_, source)| source.sealed.contains_key(&key));
        sources.extend(holders.map(|(name, _)| name.clone()));
        let mut touched = BTreeSet::from([key]);
        for name in sources {
            touched.extend(self.reseal(&name, settings));
        }
        let mut what = self.settle(touched, settings);
        what.insert(What::Problems);
        what
    }

    pub(super) fn set_source(
        &mut self,
        key: &ObjectRef,
        part: Option<&SourcePart>,
        settings: &Settings,
    ) -> BTreeSet<What> {
        let name = (key.namespace.clone(), key.name.clone());
        let source = self.sources.entry(name.clone()).or_default();
        let inventory = part.and_then(|part| part.inventory.clone());
        if source.exists == part.is_some() && source.inventory == inventory {
            return BTreeSet::new();
        }
        source.exists = part.is_some();
        source.inventory = inventory;
        let touched = self.reseal(&name, settings);
        if self.sources.get(&name).is_some_and(|source| !source.exists && source.sealed.is_empty()) {
            self.sources.remove(&name);
        }
        let mut what = self.settle(touched, settings);
        what.insert(What::Problems);
        what
    }

    pub(super) fn synced(&mut self, settings: &Settings) -> BTreeSet<What> {
        if self.synced {
            return BTreeSet::new();
        }
        self.synced = true;
        for (name, source) in self.sources.iter_mut().filter(|(_, source)| !source.sealed_once) {
            let wanted =
                source.inventory.iter().flatten().filter(|(key, _)| may_hold(name, key, &settings.namespace));
            let found =
                wanted.filter_map(|(key, hash)| Some((key.clone(), found(&self.seen, source, key, hash)?)));
            source.sealed = found.collect();
        }
        self.reseal_all(settings)
    }

    pub(super) fn reseal_all(&mut self, settings: &Settings) -> BTreeSet<What> {
        let names: Vec<_> = self.sources.keys().cloned().collect();
        let mut touched: BTreeSet<_> = self.seen.keys().chain(self.in_force.keys()).cloned().collect();
        for name in names {
            touched.extend(self.reseal(&name, settings));
        }
        self.settle(touched, settings)
    }

    /// Swaps the sealed set of a source if the whole of its inventory has been seen. Returns what may be different.
    fn reseal(&mut self, name: &SourceName, settings: &Settings) -> BTreeSet<ObjectRef> {
        let Some(source) = self.sources.get_mut(name) else { return BTreeSet::new() };
        let mut next = BTreeMap::new();
        if !source.exists {
            // Nobody answers for the set any more. What is deleted now is gone, and what lost the label is its author's;
            // edits of the rest still do not count.
            next = source.sealed.clone();
            let of = |seen: &Seen| seen.source.as_ref().is_some_and(|(other, _)| other == name);
            next.retain(|key, _| self.seen.get(key).is_some_and(of));
        } else if let Some(inventory) = &source.inventory {
            for (key, hash) in inventory.iter().filter(|(key, _)| may_hold(name, key, &settings.namespace)) {
                match found(&self.seen, source, key, hash) {
                    Some(one) => next.insert(key.clone(), one),
                    None => return BTreeSet::new(),
                };
            }
            source.sealed_once = true;
        } else {
            return BTreeSet::new();
        }
        let old = std::mem::replace(&mut source.sealed, next);
        old.into_keys().chain(source.sealed.keys().cloned()).collect()
    }

    /// Brings `in_force` up to date for these objects.
    fn settle(&mut self, touched: BTreeSet<ObjectRef>, settings: &Settings) -> BTreeSet<What> {
        let mut what = BTreeSet::new();
        for key in touched {
            let holder = self.holders(&key, &settings.namespace).next();
            let sealed = holder.and_then(|name| self.sources[name].sealed.get(&key)).map(|(_, part)| part);
            let free = || self.free(&key, settings).map(|seen| &seen.part);
            let new = sealed.or_else(free).cloned();
            if self.in_force.get(&key) == new.as_ref() {
                continue;
            }
            what.insert(What::Policy(key.clone()));
            match new {
                Some(part) => self.in_force.insert(key, part),
                None => self.in_force.remove(&key),
            };
        }
        what
    }

    /// The sources whose sets in force hold an object: the platform's first, whose word counts, then by name.
    pub(super) fn holders(&self, key: &ObjectRef, system: &str) -> impl Iterator<Item = &SourceName> {
        let holding = self.sources.iter().filter(|(_, source)| source.sealed.contains_key(key));
        let mut names: Vec<_> = holding.map(|(name, _)| name).collect();
        names.sort_by_key(|name| (name.0 != system, *name));
        names.into_iter()
    }

    /// An object that somebody wrote by hand, if such objects count.
    fn free(&self, key: &ObjectRef, settings: &Settings) -> Option<&Seen> {
        let count = match settings.policy_origin {
            PolicyOrigin::Any => true,
            PolicyOrigin::Sources => false,
        };
        self.seen.get(key).filter(|seen| count && seen.source.is_none())
    }

    /// Objects that no source answers for and that count for nothing because of that.
    pub(super) fn homeless(&self, settings: &Settings) -> impl Iterator<Item = &ObjectRef> {
        let all = self.seen.iter().filter(|_| settings.policy_origin == PolicyOrigin::Sources);
        all.filter(|(key, seen)| seen.source.is_none() && !self.in_force.contains_key(*key))
            .map(|(key, _)| key)
    }

    /// Sources of which a whole commit has never been seen.
    pub(super) fn unsealed(&self, settings: &Settings) -> impl Iterator<Item = &SourceName> {
        let open = self.sources.iter().filter(|(_, source)| source.exists && !source.sealed_once);
        let inventory = open.filter(|(name, source)| {
            let mut keys = source.inventory.iter().flatten().map(|(key, _)| key);
            keys.any(|key| may_hold(name, key, &settings.namespace))
        });
        inventory.map(|(name, _)| name)
    }
}

/// Whether a source may hold an object: a team's only in its own namespace, the platform's everywhere.
pub(super) fn may_hold(source: &SourceName, key: &ObjectRef, system: &str) -> bool {
    source.0 == system || source.0 == key.namespace
}

/// An object with the sealed content: on the API now, or sealed before and since edited or deleted by hand.
fn found(
    seen: &BTreeMap<ObjectRef, Seen>,
    source: &Source,
    key: &ObjectRef,
    hash: &String,
) -> Option<(String, PolicyPart)> {
    let now = seen.get(key).filter(|seen| seen.source.as_ref().is_some_and(|(_, other)| other == hash));
    let before = || source.sealed.get(key).filter(|(other, _)| other == hash).cloned();
    now.map(|seen| (hash.clone(), seen.part.clone())).or_else(before)
}

/// `<namespace>.<name>`; a namespace has no dot.
fn source_name(label: &str) -> SourceName {
    let (namespace, name) = label.split_once('.').unwrap_or(("", label));
    (namespace.to_owned(), name.to_owned())
}

/// The content hash of a policy object; empty, which no inventory holds, for anything else.
fn content_hash(object: &Object) -> String {
    let hash = match object {
        Object::TrafficTarget(object) => crds::seal::content_hash(&object.spec),
        Object::HTTPRouteGroup(object) => crds::seal::content_hash(&object.spec),
        Object::TCPRoute(object) => crds::seal::content_hash(&object.spec),
        Object::TrafficSplit(object) => crds::seal::content_hash(&object.spec),
        Object::MeshPolicy(object) => crds::seal::content_hash(&object.spec),
        Object::Egress(object) => crds::seal::content_hash(&object.spec),
        Object::IngressBackend(object) => crds::seal::content_hash(&object.spec),
        Object::Retry(object) => crds::seal::content_hash(&object.spec),
        Object::UpstreamTrafficSetting(object) => crds::seal::content_hash(&object.spec),
        Object::Namespace(_)
        | Object::Pod(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::PolicySource(_) => return String::new(),
    };
    hash.unwrap_or_default()
}
