//! What is sent when: clusters, endpoints, listeners, routes; then what is taken away, the other way round.

use mesh::ResourceType;

use super::state::{InFlight, Must, Need, names_clusters};
use super::{Served, Session};
use crate::xds::served::{Entry, Name, place};
use crate::xds::trial::Answer;
use crate::xds::wire::DeltaResponse;

/// Size at which a response is cut: so much is copied and held for a stream while it is written.
pub(super) const CUT: usize = 64 * 1024;

impl Session {
    pub(super) fn flush(&mut self) -> Vec<DeltaResponse> {
        let served = self.served.clone();
        let mut responses = Vec::new();
        let mut waiting = false;
        self.gated = false;
        for kind in ResourceType::ALL {
            waiting |= self.flush_upserts(kind, &served, &mut responses);
        }
        // Endpoints do not count: they may change all the time, and nothing that is removed needs them.
        let makers = [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route];
        let make_done =
            !waiting && makers.iter().all(|kind| !self.types[place(*kind)].upserts_on_their_way());
        if make_done {
            for kind in
                [ResourceType::Listener, ResourceType::Route, ResourceType::Cluster, ResourceType::Endpoint]
            {
                self.flush_removals(kind, &served, &mut responses);
            }
        }
        for state in &mut self.types {
            state.settle(&served, &self.gate);
        }
        responses
    }

    /// Sends what is new or changed; says whether something has to wait.
    fn flush_upserts(&mut self, kind: ResourceType, served: &Served, out: &mut Vec<DeltaResponse>) -> bool {
        let clusters = &self.types[place(ResourceType::Cluster)];
        let clusters_come = kind != ResourceType::Cluster
            && kind != ResourceType::Endpoint
            && clusters.adds(served.of(ResourceType::Cluster), &self.gate);
        let state = &mut self.types[place(kind)];
        if !state.in_flight.is_empty() || state.dirty.is_empty() {
            return kind != ResourceType::Endpoint && !state.dirty.is_empty();
        }
        let (mut upserts, mut absent, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut blocked = false;
        for (name, must) in std::mem::take(&mut state.dirty) {
            match state.need(&name, must, served.of(kind), &self.gate) {
                Need::Upsert(_) if clusters_come && names_clusters(kind, &name) => {
                    blocked = true;
                    kept.push((name, must));
                }
                Need::Upsert(entry) => upserts.push((name, must, entry)),
                Need::Absent => absent.push(name),
                Need::Removal => kept.push((name, must)),
                // The version that was refused is no longer what is served, or is held after all.
                Need::Nothing => {
                    let served = served.of(kind).get(&name).map(|entry| &entry.version);
                    state.refused.retain(|other, refused| *other != name || Some(&refused.version) == served);
                }
            }
        }
        // Half a first set of listeners would let Envoy start its workers without the other half.
        let whole = kind == ResourceType::Listener && !state.answered;
        if whole && blocked {
            kept.extend(upserts.drain(..).map(|(name, must, _)| (name, must)));
        }
        let (mut send, mut waits) = (Vec::new(), Vec::new());
        for (name, must, entry) in upserts {
            match self.gate.ask(kind, &entry) {
                Answer::Send => send.push((name, must, entry)),
                Answer::Wait => waits.push((name, must)),
            }
        }
        if whole && !waits.is_empty() {
            waits.extend(send.drain(..).map(|(name, must, _)| (name, must)));
        }
        self.gated |= !waits.is_empty();
        let waiting = blocked || !waits.is_empty();
        self.types[place(kind)].dirty.extend(kept.into_iter().chain(waits));
        let send = send.into_iter().map(|(name, _, entry)| (name, entry)).collect();
        self.send(kind, send, absent, out);
        waiting
    }

    fn flush_removals(&mut self, kind: ResourceType, served: &Served, out: &mut Vec<DeltaResponse>) {
        let quiet = |kind: ResourceType| self.types[place(kind)].idle();
        // A client that refused a listener or route still uses its last good one, and the clusters that this names.
        let poisoned: Vec<_> = self.poisoned().map(|rejection| rejection.resource_type).collect();
        let last_good = |kind: ResourceType| {
            !self.types[place(kind)].refused.is_empty() || poisoned.iter().any(|other| other == kind.as_str())
        };
        let may = match kind {
            ResourceType::Listener => true,
            ResourceType::Route => quiet(ResourceType::Listener),
            ResourceType::Cluster => {
                // One that comes back has yet to say which listeners and routes it holds.
                let told = |kind| self.types[place(kind)].subscribed || served.of(kind).is_empty();
                let users = [ResourceType::Listener, ResourceType::Route];
                users.into_iter().all(|kind| told(kind) && quiet(kind) && !last_good(kind))
            }
            ResourceType::Endpoint => quiet(ResourceType::Cluster),
        };
        let state = &mut self.types[place(kind)];
        if !may || !state.in_flight.is_empty() {
            return;
        }
        let gate = &self.gate;
        let gone =
            |name: &Name, must: Must| matches!(state.need(name, must, served.of(kind), gate), Need::Removal);
        let removals: Vec<_> = state
            .dirty
            .iter()
            .filter(|(name, must)| gone(name, **must))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &removals {
            state.dirty.remove(name);
        }
        self.send(kind, Vec::new(), removals, out);
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
