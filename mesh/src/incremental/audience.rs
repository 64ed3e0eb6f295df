//! What one audience holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Delta;
use super::memo::{Dialed, Memos, Named, Receiver, named, service_of};
use crate::audience::Audience;
use crate::index::Mesh;
use crate::ingest::ServiceAccount;
use crate::render::render;
use crate::snapshot::{Resource, ResourceType};
use crate::view::{self, Reach, ServiceName, ServicePort, View};

/// What one audience holds.
#[derive(Debug)]
pub(super) struct Held {
    audience: Audience,
    pub(super) account: ServiceAccount,
    rest: Option<View>,
    rest_resources: Vec<Named>,
    /// Services that it may call.
    dialed: BTreeMap<ServiceName, Arc<Dialed>>,
    /// Receivers of those, with the number of services that lead there.
    receivers: BTreeMap<Arc<ServicePort>, (usize, Option<Arc<Receiver>>)>,
}

/// What a look at a service needs.
pub(super) struct Visit<'a> {
    pub(super) mesh: &'a Mesh,
    pub(super) memos: &'a mut Memos,
    pub(super) reach: &'a mut BTreeMap<String, Reach>,
    pub(super) delta: &'a mut Delta,
}

impl Held {
    pub(super) fn new(audience: &Audience) -> Self {
        Self {
            audience: audience.clone(),
            account: ServiceAccount::new(&audience.namespace, &audience.service_account),
            rest: None,
            rest_resources: Vec::new(),
            dialed: BTreeMap::new(),
            receivers: BTreeMap::new(),
        }
    }

    pub(super) fn lists(&self, name: &ServiceName) -> bool {
        self.dialed.contains_key(name)
    }

    pub(super) fn resources(&self) -> impl Iterator<Item = (ResourceType, &Arc<Resource>)> {
        let dialed = self.dialed.values().flat_map(|dialed| &dialed.resources);
        let receivers = self.receivers.values().filter_map(|(_, receiver)| receiver.as_ref());
        let receivers = receivers.flat_map(|receiver| receiver.resources());
        let all = self.rest_resources.iter().chain(dialed).chain(receivers);
        all.map(|(kind, _, resource)| (*kind, resource))
    }

    /// Looks at what is not about a single service; `rendering`: it must be rendered again in any case.
    pub(super) fn refresh_rest(
        &mut self,
        mesh: &Mesh,
        memos: &mut Memos,
        rendering: bool,
        delta: &mut Delta,
    ) {
        memos.work.visited += 1;
        memos.work.computed += 1;
        let new = view::rest(mesh, &self.audience);
        if !rendering && self.rest.as_ref() == Some(&new) {
            return;
        }
        let resources = named(render(&new));
        memos.work.encoded += resources.len() as u64;
        replace(delta, &self.rest_resources, &resources);
        (self.rest, self.rest_resources) = (Some(new), resources);
    }

    /// Looks at a service: whether and how it is dialed, and where calls to it go.
    pub(super) fn visit(&mut self, name: &ServiceName, visit: &mut Visit<'_>) {
        visit.memos.work.visited += 1;
        let none = BTreeSet::new();
        let reach = visit.reach.entry(name.0.clone()).or_insert_with(|| Reach::of(visit.mesh, &name.0));
        let opened = reach.opened.get(&self.account).unwrap_or(&none);
        let sight = visit.memos.sight(visit.mesh, name, opened, self.audience.families);
        let sight = sight.retrying(visit.mesh, &self.account, &name.0, &name.1);
        let new = visit.memos.dialed(visit.mesh, name, &sight);
        let old = match &new {
            Some(new) => self.dialed.insert(name.clone(), new.clone()),
            None => self.dialed.remove(name),
        };
        if old.as_ref().map(Arc::as_ptr) != new.as_ref().map(Arc::as_ptr) {
            replace(visit.delta, resources(old.as_deref()), resources(new.as_deref()));
        }
        let receivers = |dialed: &Option<Arc<Dialed>>| {
            dialed.as_ref().map(|dialed| dialed.receivers.clone()).unwrap_or_default()
        };
        let (before, after) = (receivers(&old), receivers(&new));
        for key in after.difference(&before) {
            self.receivers.entry(key.clone()).or_default().0 += 1;
        }
        for key in before.difference(&after) {
            self.leave_receiver(key, visit.memos, visit.delta);
        }
        for key in &after {
            let service = service_of(key);
            let sight = visit.memos.sight(visit.mesh, &service, opened, self.audience.families);
            let new = visit.memos.receiver(visit.mesh, key, &sight);
            let Some((_, held)) = self.receivers.get_mut(key) else { continue };
            if held.as_ref().map(Arc::as_ptr) == new.as_ref().map(Arc::as_ptr) {
                continue;
            }
            let old = std::mem::replace(held, new);
            replace(visit.delta, &all(old.as_deref()), &all(held.as_deref()));
            drop(old);
            visit.memos.prune(&service);
        }
        drop(old);
        visit.memos.prune(name);
    }

    fn leave_receiver(&mut self, key: &Arc<ServicePort>, memos: &mut Memos, delta: &mut Delta) {
        let Some((services, _)) = self.receivers.get_mut(key) else { return };
        *services -= 1;
        if *services == 0
            && let Some((_, receiver)) = self.receivers.remove(key)
        {
            replace(delta, &all(receiver.as_deref()), &[]);
            drop(receiver);
            memos.prune(&service_of(key));
        }
    }

    /// Lets go of everything.
    pub(super) fn leave(self, memos: &mut Memos) {
        let Self { dialed, receivers, .. } = self;
        let names: BTreeSet<_> =
            dialed.keys().cloned().chain(receivers.keys().map(|key| service_of(key))).collect();
        drop((dialed, receivers));
        for name in &names {
            memos.prune(name);
        }
    }
}

fn resources(dialed: Option<&Dialed>) -> &[Named] {
    dialed.map(|dialed| dialed.resources.as_slice()).unwrap_or_default()
}

fn all(receiver: Option<&Receiver>) -> Vec<Named> {
    receiver.into_iter().flat_map(Receiver::resources).cloned().collect()
}

/// Notes what comes instead of what.
fn replace(delta: &mut Delta, old: &[Named], new: &[Named]) {
    for (kind, name, _) in old {
        delta.insert((*kind, name.clone()), None);
    }
    for (kind, name, resource) in new {
        let same = old
            .iter()
            .any(|(other, before, held)| other == kind && before == name && Arc::ptr_eq(held, resource));
        if same {
            delta.remove(&(*kind, name.clone()));
        } else {
            delta.insert((*kind, name.clone()), Some(resource.clone()));
        }
    }
}
