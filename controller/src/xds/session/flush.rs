//! What is sent when: clusters, endpoints, listeners, routes; then what is taken away, the other way round.

use std::collections::{BTreeSet, HashSet};

use mesh::ResourceType;

use super::state::{InFlight, Must, Need};
use super::{Served, Session};
use crate::xds::served::{Entry, Name, place};
use crate::xds::trial::Answer;
use crate::xds::wire::DeltaResponse;

/// Size at which a response is cut: so much is copied and held for a stream while it is written.
pub(super) const CUT: usize = 64 * 1024;

/// What may still use something that is gone.
enum Users {
    /// Nothing.
    None,
    /// Nothing but these clusters is in use.
    Of(BTreeSet<Name>),
    /// Perhaps anything.
    Unknown,
}

impl Session {
    pub(super) fn flush(&mut self) -> Vec<DeltaResponse> {
        let served = self.served.clone();
        let mut responses = Vec::new();
        if std::mem::take(&mut self.gated) {
            self.gate.waits_no_more();
        }
        for (kind, state) in ResourceType::ALL.into_iter().zip(&mut self.types) {
            self.looked += state.refused.len() + state.withheld.len();
            state.look_again(served.of(kind), &self.gate);
        }
        for kind in ResourceType::ALL {
            self.flush_upserts(kind, &served, &mut responses);
        }
        for kind in
            [ResourceType::Listener, ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoint]
        {
            self.flush_removals(kind, &served, &mut responses);
        }
        for state in &mut self.types {
            self.looked += state.settle(&served);
        }
        responses
    }

    /// Clusters that nothing may name yet.
    fn clusters_to_wait_for(&mut self, served: &Served) -> HashSet<Name> {
        let clusters = &self.types[place(ResourceType::Cluster)];
        if clusters.idle() {
            return HashSet::new();
        }
        self.looked +=
            clusters.dirty.len() + clusters.in_flight.iter().map(|sent| sent.upserts.len()).sum::<usize>();
        clusters.coming(served.of(ResourceType::Cluster), &self.gate)
    }

    /// Sends what is new or changed.
    fn flush_upserts(&mut self, kind: ResourceType, served: &Served, out: &mut Vec<DeltaResponse>) {
        let state = &self.types[place(kind)];
        if !state.in_flight.is_empty() || state.dirty.is_empty() {
            return;
        }
        self.looked += state.dirty.len();
        let coming = match kind {
            ResourceType::Listener | ResourceType::Route => self.clusters_to_wait_for(served),
            ResourceType::Cluster | ResourceType::Endpoint => HashSet::new(),
        };
        let state = &mut self.types[place(kind)];
        let (mut upserts, mut absent, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut blocked = false;
        for (name, must) in std::mem::take(&mut state.dirty) {
            match state.look_at(&name, must, served.of(kind), &self.gate) {
                Need::Upsert(entry) if entry.content.clusters.iter().any(|one| coming.contains(one)) => {
                    blocked = true;
                    kept.push((name, must));
                }
                Need::Upsert(entry) => upserts.push((name, must, entry)),
                Need::Absent => absent.push(name),
                Need::Removal => kept.push((name, must)),
                // The version that was refused is no longer what is served, or is held after all.
                Need::Nothing => {
                    let served = served.of(kind).get(&name).map(|entry| &entry.version);
                    if state.refused.get(&name).is_some_and(|refused| Some(&refused.version) != served) {
                        state.refused.remove(&name);
                    }
                }
            }
        }
        // Half a first set of listeners would let Envoy start its workers without the other half. One that comes back has
        // workers: what closes something for it must not wait for what opens something else.
        let whole = kind == ResourceType::Listener && !state.answered && state.count() == 0;
        if whole && blocked {
            kept.extend(upserts.drain(..).map(|(name, must, _)| (name, must)));
        }
        let (mut send, mut waits) = (Vec::new(), Vec::new());
        for (name, must, entry) in upserts {
            match self.gate.ask(&entry) {
                Answer::Send => send.push((name, must, entry)),
                Answer::Wait => waits.push((name, must)),
            }
        }
        if whole && !waits.is_empty() {
            waits.extend(send.drain(..).map(|(name, must, _)| (name, must)));
        }
        self.gated |= !waits.is_empty();
        self.types[place(kind)].dirty.extend(kept.into_iter().chain(waits));
        let send = send.into_iter().map(|(name, _, entry)| (name, entry)).collect();
        self.send(kind, send, absent, out);
    }

    /// Takes away what is gone. It waits for what this client has not acknowledged yet, so that what comes instead is in
    /// place, but never for what others try.
    fn flush_removals(&mut self, kind: ResourceType, served: &Served, out: &mut Vec<DeltaResponse>) {
        let state = &self.types[place(kind)];
        if !state.in_flight.is_empty() || state.dirty.is_empty() {
            return;
        }
        let makers = [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route];
        if makers.iter().any(|kind| self.types[place(*kind)].upserts_on_their_way()) {
            return;
        }
        self.looked += state.dirty.len();
        let answered = |kind: ResourceType| self.types[place(kind)].in_flight.is_empty();
        let users = match kind {
            ResourceType::Listener => Users::None,
            ResourceType::Route if answered(ResourceType::Listener) => Users::None,
            ResourceType::Cluster => self.users(served),
            ResourceType::Endpoint if answered(ResourceType::Cluster) => Users::None,
            ResourceType::Route | ResourceType::Endpoint => Users::Unknown,
        };
        let clusters = &self.types[place(ResourceType::Cluster)];
        let in_use = |name: &Name| match (&users, kind) {
            (Users::Unknown, _) => true,
            (Users::Of(clusters), _) => clusters.contains(name),
            // As long as the cluster that goes with them.
            (Users::None, ResourceType::Endpoint) => {
                clusters.holds(name).is_some() && !served.of(ResourceType::Cluster).contains_key(name)
            }
            (Users::None, ResourceType::Cluster | ResourceType::Listener | ResourceType::Route) => false,
        };
        let gone = |name: &Name, must: Must| {
            matches!(state.need(name, must, served.of(kind), &self.gate), Need::Removal) && !in_use(name)
        };
        let removals: Vec<_> = state
            .dirty
            .iter()
            .filter(|(name, must)| gone(name, **must))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &removals {
            self.types[place(kind)].dirty.remove(name);
        }
        self.send(kind, Vec::new(), removals, out);
    }

    /// The clusters that the client may still use though they are gone: those that a listener or route names which it
    /// keeps, because it refused the new one, is not sent it, or has not got it yet.
    fn users(&self, served: &Served) -> Users {
        let mut clusters = BTreeSet::new();
        for kind in [ResourceType::Listener, ResourceType::Route] {
            let state = &self.types[place(kind)];
            // One that comes back has yet to say which listeners and routes it holds.
            let told = state.subscribed || served.of(kind).is_empty();
            if !told || !state.in_flight.is_empty() {
                return Users::Unknown;
            }
            for held in state.others_held(served.of(kind)) {
                match held {
                    Some(entry) => clusters.extend(entry.content.clusters.iter().cloned()),
                    // It holds what this replica never sent.
                    None => return Users::Unknown,
                }
            }
        }
        Users::Of(clusters)
    }

    /// Cuts what is to be sent into responses.
    fn send(
        &mut self,
        kind: ResourceType,
        upserts: Vec<(Name, Entry)>,
        removals: Vec<Name>,
        out: &mut Vec<DeltaResponse>,
    ) {
        if kind == ResourceType::Cluster {
            self.endpoints_follow(&upserts);
        }
        let state = &self.types[place(kind)];
        let (mut singles, mut batch, mut gone, mut size) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut batches = Vec::new();
        for (name, entry) in upserts {
            if state.alone.contains(&name) {
                singles.push((vec![(name, entry)], Vec::new()));
                continue;
            }
            if size + entry.body.len() > CUT && !batch.is_empty() {
                batches.push((std::mem::take(&mut batch), Vec::new()));
                size = 0;
            }
            size += entry.body.len();
            batch.push((name, entry));
        }
        for name in removals {
            if size + name.len() > CUT {
                batches.push((std::mem::take(&mut batch), std::mem::take(&mut gone)));
                size = 0;
            }
            size += name.len();
            gone.push(name);
        }
        if !batch.is_empty() || !gone.is_empty() {
            batches.push((batch, gone));
        }
        for (upserts, removals) in batches.into_iter().chain(singles) {
            out.push(self.respond(kind, upserts, removals));
        }
    }

    /// A cluster that was sent waits in Envoy for its endpoints, which Envoy does not ask for again
    /// (envoyproxy/envoy#47302): without this every change of a cluster takes until its fetch times out.
    fn endpoints_follow(&mut self, clusters: &[(Name, Entry)]) {
        let endpoints = &mut self.types[place(ResourceType::Endpoint)];
        for (name, _) in clusters {
            if !endpoints.subscribed {
                self.owed.insert(name.clone());
            } else if endpoints.wants(name) {
                endpoints.mark(name.clone(), Must::Follow);
            }
        }
    }

    pub(super) fn respond(
        &mut self,
        kind: ResourceType,
        upserts: Vec<(Name, Entry)>,
        removals: Vec<Name>,
    ) -> DeltaResponse {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let response = DeltaResponse {
            system_version_info: self.served.generation.to_string(),
            resources: upserts.iter().map(|(_, entry)| entry.body.clone()).collect(),
            type_url: kind.type_url().to_owned(),
            nonce: nonce.clone(),
            removed_resources: removals.iter().map(|name| name.to_string()).collect(),
        };
        let state = &mut self.types[place(kind)];
        state.answered = true;
        state.in_flight.push(InFlight { nonce, upserts, removals });
        response
    }
}
