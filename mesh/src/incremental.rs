//! Views of many audiences at once, brought up to date by what changed.
//!
//! ```text
//!  What ──touch.rs──▶ services and audiences to look at ──▶ memo.rs: per service and sight, computed and rendered once
//!                                                                     │ another than before?
//!  Delta per audience ◀── audience.rs: which of these it holds ◀──────┘
//! ```
//! The outcome is that of [`crate::view()`] and [`crate::render()`], resource by resource and byte by byte
//! (`tests/all/incremental.rs`). Resources that are equal for several audiences are the same one in memory.

mod audience;
mod memo;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::audience::Audience;
use crate::index::{Mesh, What};
use crate::ingest::{Protocol, ServiceAccount};
use crate::snapshot::{Resource, ResourceType, Snapshot};
use crate::view::{Reach, ServiceName, Touched, Whole};
use audience::{Held, Visit};
use memo::Memos;

/// What an audience gets instead of what it had; `None`: nothing any more.
pub type Delta = BTreeMap<(ResourceType, Arc<str>), Option<Arc<Resource>>>;

/// How much has been done since the start, for tests and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Views of services, receivers and rests that were computed.
    pub computed: u64,
    /// Resources that were encoded.
    pub encoded: u64,
    /// Audiences that were looked at, once for each service or rest.
    pub visited: u64,
}

/// The audiences that somebody listens for, and all that they hold.
#[derive(Debug, Default)]
pub struct Incremental {
    audiences: BTreeMap<Audience, Held>,
    memos: Memos,
    reach: BTreeMap<String, Reach>,
}

impl Incremental {
    /// Nothing, for nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How much has been done since the start.
    #[must_use]
    pub fn work(&self) -> Work {
        self.memos.work
    }

    /// The audiences, in order.
    pub fn audiences(&self) -> impl Iterator<Item = &Audience> {
        self.audiences.keys()
    }

    /// Adds an audience; returns all that it gets. The mesh must be the one that [`Incremental::update`] was last
    /// told of.
    pub fn add(&mut self, mesh: &Mesh, audience: &Audience) -> Delta {
        self.memos.base(mesh);
        self.know(mesh, &audience.namespace);
        let mut held = Held::new(audience);
        let mut delta = Delta::new();
        held.refresh_rest(mesh, &mut self.memos, true, &mut delta);
        let services: Vec<_> = all_services(mesh).collect();
        let mut visit = Visit { mesh, memos: &mut self.memos, reach: &mut self.reach, delta: &mut delta };
        for name in &services {
            held.visit(name, &mut visit);
        }
        self.audiences.insert(audience.clone(), held);
        delta
    }

    /// Forgets an audience, and what nobody else holds.
    pub fn remove(&mut self, audience: &Audience) {
        if let Some(held) = self.audiences.remove(audience) {
            held.leave(&mut self.memos);
        }
    }

    /// Everything that an audience has.
    #[must_use]
    pub fn snapshot(&self, audience: &Audience) -> Option<Snapshot> {
        let held = self.audiences.get(audience)?;
        let mut snapshot = Snapshot::default();
        for kind in ResourceType::ALL {
            snapshot.resources.entry(kind).or_default();
        }
        for (kind, resource) in held.resources() {
            let all = snapshot.resources.entry(kind).or_default();
            all.insert(resource.name.clone(), resource.as_ref().clone());
        }
        Some(snapshot)
    }

    /// Brings everything up to date after changes; returns what is different for whom.
    pub fn update<'a>(
        &mut self,
        mesh: &Mesh,
        what: impl IntoIterator<Item = &'a What>,
    ) -> Vec<(Audience, Delta)> {
        let touched = Touched::by(mesh, what);
        let plan = self.plan(mesh, &touched);
        self.memos.base(mesh);
        self.memos.forget(mesh, plan.dirty(), touched.whole == Whole::Rendering);
        let mut deltas = Vec::new();
        for (audience, held) in &mut self.audiences {
            let services = plan.services_of(held);
            let rest = plan.rest(audience);
            if services.is_empty() && !rest {
                continue;
            }
            let mut delta = Delta::new();
            if rest {
                let rendering = touched.whole == Whole::Rendering;
                held.refresh_rest(mesh, &mut self.memos, rendering, &mut delta);
            }
            let mut visit = Visit { mesh, memos: &mut self.memos, reach: &mut self.reach, delta: &mut delta };
            for name in services {
                held.visit(name, &mut visit);
            }
            if !delta.is_empty() {
                deltas.push((audience.clone(), delta));
            }
        }
        self.memos.sweep();
        deltas
    }

    /// Notes where the policies of a namespace lead, so that a change of them can be compared with it.
    fn know(&mut self, mesh: &Mesh, namespace: &str) {
        if !self.reach.contains_key(namespace) {
            self.reach.insert(namespace.to_owned(), Reach::of(mesh, namespace));
        }
    }

    /// Turns what is touched into services and audiences, and brings [`Reach`] up to date.
    fn plan(&mut self, mesh: &Mesh, touched: &Touched) -> Plan {
        let mut plan =
            Plan { rest: Rest { spaces: touched.rest.clone(), ..Rest::default() }, ..Plan::default() };
        if touched.whole != Whole::No {
            self.reach.clear();
            let namespaces: BTreeSet<_> = self.audiences.keys().map(|one| one.namespace.clone()).collect();
            namespaces.iter().for_each(|namespace| self.know(mesh, namespace));
            plan.services = all_services(mesh).chain(self.memos.names().cloned()).collect();
            plan.rest.everybody = true;
            return plan;
        }
        plan.services.clone_from(&touched.services);
        plan.endpoints = touched.endpoints.difference(&touched.services).cloned().collect();
        for namespace in &touched.spaces {
            plan.services.extend(all_services(mesh).filter(|(space, _)| space == namespace));
        }
        for namespace in &touched.undeclared {
            let services = mesh.space(namespace).into_iter().flat_map(|space| &space.services);
            let undeclared = services.filter(|(_, service)| {
                service.ports.values().any(|port| port.protocol == Protocol::Undeclared)
            });
            plan.services.extend(undeclared.map(|(service, _)| (namespace.clone(), service.clone())));
        }
        for namespace in &(&touched.reach | &touched.split) | &touched.retried {
            let new = Reach::of(mesh, &namespace);
            if let Some(old) = self.reach.insert(namespace.clone(), new.clone()) {
                plan.reach(&namespace, touched, [&old, &new], &self.memos);
            } else {
                // Nobody has looked at the namespace yet, so that there is nothing to compare with.
                plan.services.extend(all_services(mesh).filter(|(space, _)| *space == namespace));
                plan.rest.spaces.insert(namespace);
            }
        }
        plan
    }
}

/// What an update looks at.
#[derive(Default)]
struct Plan {
    /// Services that every audience looks at.
    services: BTreeSet<ServiceName>,
    /// Services that those look at who can call them already.
    endpoints: BTreeSet<ServiceName>,
    /// Services that single callers look at, because what is open to them changed; nothing of them is dirty.
    callers: BTreeMap<ServiceAccount, BTreeSet<ServiceName>>,
    rest: Rest,
}

/// Whose rest of the view is looked at.
#[derive(Default)]
struct Rest {
    everybody: bool,
    spaces: BTreeSet<String>,
    accounts: BTreeSet<(String, String)>,
}

impl Plan {
    fn dirty(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.iter().chain(&self.endpoints)
    }

    fn rest(&self, audience: &Audience) -> bool {
        self.rest.everybody
            || self.rest.spaces.contains(&audience.namespace)
            || (!self.rest.accounts.is_empty()
                && self
                    .rest
                    .accounts
                    .contains(&(audience.namespace.clone(), audience.service_account.clone())))
    }

    fn services_of(&self, held: &Held) -> BTreeSet<&ServiceName> {
        let endpoints = self.endpoints.iter().filter(|name| held.lists(name));
        let own = self.callers.get(&held.account).into_iter().flatten();
        self.services.iter().chain(endpoints).chain(own).collect()
    }

    /// A namespace's policies lead elsewhere now.
    fn reach(&mut self, namespace: &str, touched: &Touched, both: [&Reach; 2], memos: &Memos) {
        if touched.split.contains(namespace) {
            let split = both.into_iter().flat_map(|reach| &reach.split);
            self.services.extend(split.map(|service| (namespace.to_owned(), service.clone())));
        }
        for target in touched.targets.iter().filter(|target| target.namespace == *namespace) {
            let accounts = both.into_iter().filter_map(|reach| reach.targets.get(&target.name));
            self.rest.accounts.extend(accounts.map(|account| (namespace.to_owned(), account.clone())));
        }
        self.callers(namespace, both, memos);
        self.retries(both);
    }

    /// Callers whose calls to some services are tried again differently now.
    fn retries(&mut self, both: [&Reach; 2]) {
        let none = BTreeMap::new();
        for caller in both.into_iter().flat_map(|reach| reach.retried.keys()) {
            let [before, after] = both.map(|reach| reach.retried.get(caller).unwrap_or(&none));
            let services = before.keys().chain(after.keys());
            let different = services.filter(|service| before.get(*service) != after.get(*service)).cloned();
            self.callers.entry(caller.clone()).or_default().extend(different);
        }
    }

    /// Callers to whom another set of service accounts of a namespace is open now.
    fn callers(&mut self, namespace: &str, both: [&Reach; 2], memos: &Memos) {
        let none = BTreeSet::new();
        let callers: BTreeSet<_> = both.into_iter().flat_map(|reach| reach.opened.keys()).collect();
        let mut known: BTreeMap<Vec<&String>, BTreeSet<ServiceName>> = BTreeMap::new();
        for caller in callers {
            let [before, after] = both.map(|reach| reach.opened.get(caller).unwrap_or(&none));
            let different: Vec<_> = before.symmetric_difference(after).collect();
            if different.is_empty() {
                continue;
            }
            let services = known
                .entry(different)
                .or_insert_with_key(|different| memos.with_accounts(namespace, different).cloned().collect());
            self.callers.entry(caller.clone()).or_default().extend(services.iter().cloned());
        }
    }
}

fn all_services(mesh: &Mesh) -> impl Iterator<Item = ServiceName> {
    mesh.spaces().flat_map(|(namespace, space)| {
        space.services.keys().map(move |service| (namespace.clone(), service.clone()))
    })
}
