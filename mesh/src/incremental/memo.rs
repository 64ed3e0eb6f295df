//! What is computed and rendered of each service, once for each sight of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Work;
use crate::audience::Families;
use crate::index::Mesh;
use crate::render::{Piece, piece};
use crate::snapshot::{Resource, ResourceType, Snapshot};
use crate::view::{self, Destination, Service, ServiceName, ServicePort, Sight, View};

/// A resource with what it is called by.
pub(super) type Named = (ResourceType, Arc<str>, Arc<Resource>);

/// A service that is dialed.
#[derive(Debug)]
pub(super) struct Dialed {
    services: BTreeMap<ServicePort, Service>,
    pub(super) receivers: BTreeSet<Arc<ServicePort>>,
    pub(super) resources: Vec<Named>,
}

/// The pods behind a receiver.
#[derive(Debug)]
pub(super) struct Receiver {
    destination: Destination,
    cluster: Vec<Named>,
    endpoints: Vec<Named>,
}

impl Receiver {
    pub(super) fn resources(&self) -> impl Iterator<Item = &Named> {
        self.cluster.iter().chain(&self.endpoints)
    }
}

/// What is known of one service. `None` in a map: computed, and there is nothing.
#[derive(Debug, Default)]
struct Memo {
    /// See [`view::accounts`]; `None` when it must be computed again.
    accounts: Option<BTreeSet<String>>,
    dialed: BTreeMap<Sight, Option<Arc<Dialed>>>,
    receivers: BTreeMap<(u16, Sight), Option<Arc<Receiver>>>,
}

/// What is known of all services.
#[derive(Debug, Default)]
pub(super) struct Memos {
    base: Option<View>,
    services: BTreeMap<ServiceName, Memo>,
    /// What the last update made stale: what turns out to be the same is not rendered again.
    stale: BTreeMap<ServiceName, Memo>,
    pub(super) work: Work,
}

impl Memos {
    /// Takes what every view begins with.
    pub(super) fn base(&mut self, mesh: &Mesh) {
        self.base = Some(view::base(mesh.settings()));
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// Makes services stale; `rendering`: and what they were rendered as is of no use.
    pub(super) fn forget<'a>(
        &mut self,
        mesh: &Mesh,
        dirty: impl Iterator<Item = &'a ServiceName>,
        rendering: bool,
    ) {
        for name in dirty {
            let Some(old) = self.services.remove(name) else { continue };
            if !rendering {
                self.stale.insert(name.clone(), old);
            }
            let exists = mesh.space(&name.0).is_some_and(|space| space.services.contains_key(&name.1));
            if exists {
                self.services.insert(name.clone(), Memo::default());
            }
        }
    }

    /// Ends an update.
    pub(super) fn sweep(&mut self) {
        self.stale.clear();
    }

    /// Forgets what nobody holds of a service.
    pub(super) fn prune(&mut self, name: &ServiceName) {
        let Some(memo) = self.services.get_mut(name) else { return };
        memo.dialed.retain(|_, one| one.as_ref().is_none_or(|one| Arc::strong_count(one) > 1));
        memo.receivers.retain(|_, one| one.as_ref().is_none_or(|one| Arc::strong_count(one) > 1));
    }

    /// Services of a namespace behind which is one of these service accounts.
    pub(super) fn with_accounts<'a>(
        &'a self,
        namespace: &'a str,
        any: &'a [&String],
    ) -> impl Iterator<Item = &'a ServiceName> {
        let from = (namespace.to_owned(), String::new());
        let here = self.services.range(from..).take_while(move |((space, _), _)| space == namespace);
        here.filter(|(_, memo)| {
            memo.accounts.as_ref().is_none_or(|accounts| any.iter().any(|one| accounts.contains(*one)))
        })
        .map(|(name, _)| name)
    }

    /// How somebody with such addresses sees a service to whom `opened` is open in its namespace.
    pub(super) fn sight(
        &mut self,
        mesh: &Mesh,
        name: &ServiceName,
        opened: &BTreeSet<String>,
        families: Families,
    ) -> Sight {
        let memo = entry(&mut self.services, name);
        let accounts = memo.accounts.get_or_insert_with(|| view::accounts(mesh, &name.0, &name.1));
        Sight::new(opened, accounts, families)
    }

    /// What somebody with this sight dials; `None` when the service is not for them.
    pub(super) fn dialed(&mut self, mesh: &Mesh, name: &ServiceName, sight: &Sight) -> Option<Arc<Dialed>> {
        let memo = entry(&mut self.services, name);
        if let Some(known) = memo.dialed.get(sight) {
            return known.clone();
        }
        self.work.computed += 1;
        let new = view::dialed(mesh, &name.0, &name.1, sight).map(|services| {
            let known = [Some(&*memo), self.stale.get(name)].into_iter().flatten();
            let mut known = known.flat_map(|memo| memo.dialed.values().flatten());
            match known.find(|known| known.services == services) {
                Some(known) => known.clone(),
                None => Arc::new(render_dialed(self.base.as_ref(), services, &mut self.work)),
            }
        });
        memo.dialed.insert(sight.clone(), new.clone());
        new
    }

    /// Where somebody's calls to a receiver go; `sight` is that of the receiver's service.
    pub(super) fn receiver(
        &mut self,
        mesh: &Mesh,
        key: &ServicePort,
        sight: &Sight,
    ) -> Option<Arc<Receiver>> {
        let name = service_of(key);
        let memo = entry(&mut self.services, &name);
        let at = (key.port, sight.clone());
        if let Some(known) = memo.receivers.get(&at) {
            return known.clone();
        }
        self.work.computed += 1;
        let new = view::destination(mesh, key, sight).map(|destination| {
            let known = [Some(&*memo), self.stale.get(&name)].into_iter().flatten();
            let known: Vec<_> = known
                .flat_map(|memo| memo.receivers.iter())
                .filter(|((port, _), _)| *port == key.port)
                .filter_map(|(_, known)| known.as_ref())
                .collect();
            if let Some(same) = known.iter().find(|known| known.destination == destination) {
                return (*same).clone();
            }
            let cluster = known.iter().find(|known| known.destination.same_cluster(&destination));
            let endpoints = known.iter().find(|known| known.destination.endpoints == destination.endpoints);
            let cluster = cluster.map(|known| known.cluster.clone());
            let endpoints = endpoints.map(|known| known.endpoints.clone());
            let (base, work) = (self.base.as_ref(), &mut self.work);
            let cluster =
                cluster.unwrap_or_else(|| render_one(base, Piece::Cluster(key, &destination), work));
            let endpoints =
                endpoints.unwrap_or_else(|| render_one(base, Piece::Endpoints(key, &destination), work));
            Arc::new(Receiver { destination, cluster, endpoints })
        });
        memo.receivers.insert(at, new.clone());
        new
    }
}

pub(super) fn service_of(key: &ServicePort) -> ServiceName {
    (key.namespace.clone(), key.service.clone())
}

fn entry<'a>(services: &'a mut BTreeMap<ServiceName, Memo>, name: &ServiceName) -> &'a mut Memo {
    services.entry(name.clone()).or_default()
}

fn render_dialed(base: Option<&View>, services: BTreeMap<ServicePort, Service>, work: &mut Work) -> Dialed {
    let receivers = view::receivers(&services).into_iter().map(|receiver| Arc::new(receiver.clone()));
    let resources =
        services.iter().flat_map(|(key, service)| render_one(base, Piece::Dialed(key, service), work));
    Dialed { receivers: receivers.collect(), resources: resources.collect(), services }
}

fn render_one(base: Option<&View>, one: Piece<'_>, work: &mut Work) -> Vec<Named> {
    let snapshot = base.map(|base| piece(base, one)).unwrap_or_default();
    let named = named(snapshot);
    work.encoded += named.len() as u64;
    named
}

/// The resources of a snapshot, to be shared.
pub(super) fn named(snapshot: Snapshot) -> Vec<Named> {
    let all =
        snapshot.resources.into_iter().flat_map(|(kind, all)| all.into_iter().map(move |one| (kind, one)));
    all.map(|(kind, (name, resource))| (kind, Arc::from(name), Arc::new(resource))).collect()
}
