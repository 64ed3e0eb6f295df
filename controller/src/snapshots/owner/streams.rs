//! Streams that come, go and move, and the audiences that they make.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use mesh::{Audience, Kind, Mesh, What};
use tokio::sync::watch;

use super::{Group, LINGERING, Owner, Stream, Touched};
use crate::snapshots::{Feed, PodRef, StreamId};
use crate::xds::served::Served;

impl Owner {
    pub(super) fn detach(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.leave(id, &stream.audience);
    }

    fn leave(&mut self, id: StreamId, audience: &Audience) {
        let Some(group) = self.groups.get_mut(audience) else { return };
        group.streams.remove(&id);
        if group.streams.is_empty() {
            self.last_id += 1;
            group.idle = Some(self.last_id);
            self.idle.insert(self.last_id, (Instant::now(), audience.clone()));
            self.shared.groups.write().remove(audience);
            if self.idle.len() > LINGERING {
                self.forget_oldest();
            }
        }
    }

    pub(super) fn forget_oldest(&mut self) {
        let Some((_, (_, audience))) = self.idle.pop_first() else { return };
        self.groups.remove(&audience);
        self.incremental.remove(&audience);
        self.regrouped = true;
    }

    /// Streams whose audience changed. A pod that is no longer ours keeps what it has (DESIGN, rule 1).
    pub(super) fn moved(&self, mesh: &Mesh, what: &BTreeSet<What>) -> Vec<(StreamId, Audience)> {
        let (mut everywhere, mut namespaces, mut pods) = (false, BTreeSet::new(), BTreeSet::new());
        for what in what {
            match what {
                What::Settings => everywhere = true,
                What::Policy(key) => everywhere |= makes_audiences(key.kind),
                What::Namespace(namespace) | What::Service { namespace, .. } => {
                    namespaces.insert(namespace.as_str());
                }
                What::Pod { namespace, name } => {
                    pods.insert((namespace.as_str(), name.as_str()));
                }
                What::Endpoints { .. } | What::Problems => {}
            }
        }
        if !everywhere && namespaces.is_empty() && pods.is_empty() {
            return Vec::new();
        }
        let touched = |pod: &PodRef| {
            everywhere
                || namespaces.contains(pod.namespace.as_str())
                || pods.contains(&(pod.namespace.as_str(), pod.name.as_str()))
        };
        let streams = self.streams.iter().filter(|(_, stream)| touched(&stream.pod));
        streams
            .filter_map(|(id, stream)| {
                let audience = mesh.audience(&stream.pod.namespace, &stream.pod.name).ok()?;
                (audience != stream.audience).then_some((*id, audience))
            })
            .collect()
    }

    pub(super) fn place(&mut self, mesh: &Mesh, id: StreamId, audience: Audience) {
        let served = self.join(mesh, id, &audience);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let old = std::mem::replace(&mut stream.audience, audience);
        stream.out.send_replace(served);
        self.leave(id, &old);
    }

    fn join(&mut self, mesh: &Mesh, id: StreamId, audience: &Audience) -> Arc<Served> {
        if !self.groups.contains_key(audience) {
            self.metrics.renders.inc();
            let mut delta = self.incremental.add(mesh, audience);
            if let Some(alter) = &self.alter {
                alter(audience, &mut delta);
            }
            let served = Arc::new(Served::first(delta, &mut self.pool));
            self.count_work();
            self.groups.insert(audience.clone(), Group { served, streams: BTreeSet::new(), idle: None });
            self.regrouped = true;
        }
        let group = self.groups.entry(audience.clone()).or_insert_with(|| Group {
            served: Arc::default(),
            streams: BTreeSet::new(),
            idle: None,
        });
        if group.streams.is_empty() {
            self.shared.groups.write().insert(audience.clone(), group.served.clone());
        }
        if let Some(place) = group.idle.take() {
            self.idle.remove(&place);
        }
        group.streams.insert(id);
        group.served.clone()
    }

    /// Answers the streams whose pod is known now: those that came, and those that waited for what was touched.
    pub(super) fn admit(&mut self, touched: &Touched) {
        let mut tried = std::mem::take(&mut self.arrived);
        if touched.synced || touched.what.contains(&What::Settings) {
            tried.extend(self.waiting.take_all());
        }
        for what in &touched.what {
            match what {
                What::Pod { namespace, name } => tried.extend(self.waiting.take(namespace, Some(name))),
                What::Namespace(namespace) => tried.extend(self.waiting.take(namespace, None)),
                What::Settings
                | What::Service { .. }
                | What::Endpoints { .. }
                | What::Policy(_)
                | What::Problems => {}
            }
        }
        let shared = self.shared.clone();
        let mesh = shared.mesh.read();
        for attach in tried.into_iter().filter(|attach| !attach.reply.is_closed()) {
            let pod = &attach.pod;
            let facts = mesh.pod(&pod.namespace, &pod.name).filter(|facts| facts.uid == pod.uid);
            match (facts, mesh.audience(&pod.namespace, &pod.name), self.inputs.upgrade()) {
                (Some(facts), Ok(audience), Some(inputs)) => {
                    self.last_id += 1;
                    let id = StreamId(self.last_id);
                    let (out, served) = watch::channel(self.join(&mesh, id, &audience));
                    self.streams.insert(id, Stream { pod: attach.pod, audience, out });
                    // A reply that nobody waits for is dropped here, and with it comes its detachment.
                    let _ = attach.reply.send(Feed { facts, served, id, inputs });
                }
                _ => self.waiting.add(attach),
            }
        }
    }
}

/// Whether policies of a kind may make the audience of a pod another, rather than what its audience may do.
fn makes_audiences(kind: Kind) -> bool {
    match kind {
        Kind::TrafficTarget
        | Kind::HTTPRouteGroup
        | Kind::TCPRoute
        | Kind::TrafficSplit
        | Kind::Retry
        | Kind::Egress => false,
        Kind::MeshPolicy | Kind::IngressBackend | Kind::UpstreamTrafficSetting => true,
        Kind::Namespace | Kind::Pod | Kind::Service | Kind::EndpointSlice | Kind::PolicySource => true,
    }
}
