//! The controller's server, with a mesh that is filled by hand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use controller::fleet::Proxies;
use controller::metrics::Metrics;
use controller::snapshots::{Input, Snapshots};
use controller::xds::server::{Ads, Limits, router};
use mesh::{Mesh, ResourceType};
use tokio_util::sync::CancellationToken;

use crate::server::{Change, Serve};
use bench::world::{self, World};

/// See the module.
pub struct Ours {
    world: World,
    snapshots: Snapshots,
    proxies: Arc<Proxies>,
    metrics: Metrics,
    /// How often each service, and the split (`None`), was changed: one that comes to be as it was is no change.
    changed: Mutex<BTreeMap<Option<usize>, usize>>,
}

impl Ours {
    fn next(&self, what: Option<usize>) -> usize {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let times = changed.entry(what).or_default();
        *times += 1;
        *times
    }

    /// Fills the mesh.
    pub async fn start(world: World) -> anyhow::Result<(Self, Router)> {
        let metrics = Metrics::default();
        let snapshots = Snapshots::start(Mesh::new(world.settings()?), metrics.clone())?;
        for object in world.objects()? {
            snapshots.send(Input::Apply(Box::new(object))).await;
        }
        snapshots.send(Input::Synced).await;
        let proxies = Arc::new(Proxies::default());
        let ads = Ads {
            snapshots: snapshots.clone(),
            proxies: proxies.clone(),
            canaries: Arc::default(),
            door: Arc::default(),
            metrics: metrics.clone(),
            stopping: CancellationToken::new(),
            leaving: Arc::default(),
            limits: Limits::default(),
        };
        let changed = Mutex::default();
        Ok((Self { world, snapshots, proxies, metrics, changed }, router(ads)))
    }
}

impl Serve for Ours {
    fn synced(&self) -> bool {
        let mut newest = self.proxies.newest();
        newest.retain(|proxy| !proxy.pod.name.starts_with("hostile"));
        newest.len() == self.world.clients && newest.iter().all(|proxy| proxy.status.lock().in_sync)
    }

    fn empty(&self) -> bool {
        self.proxies.newest().is_empty()
    }

    async fn change(&self, change: Change, round: usize) -> anyhow::Result<usize> {
        let service = self.world.changing(round);
        let (object, clients) = match change {
            Change::Endpoints => {
                (world::slice(service, self.next(Some(service)))?, self.world.callers(service))
            }
            Change::Policy => (world::split(self.next(None))?, self.world.clients),
        };
        self.snapshots.send(Input::Apply(Box::new(object))).await;
        Ok(clients)
    }

    fn acks(&self, change: Change) -> u64 {
        let kind = match change {
            Change::Endpoints => ResourceType::Endpoint,
            Change::Policy => ResourceType::Route,
        };
        self.metrics.acks.get_or_create(&Metrics::per(kind)).get()
    }

    fn streams(&self) -> usize {
        self.proxies.newest().len()
    }

    fn sent(&self) -> (u64, u64) {
        let of = |kind: &ResourceType| self.metrics.sent.get_or_create(&Metrics::per(*kind)).get();
        (self.metrics.bytes.get(), ResourceType::ALL.iter().map(of).sum())
    }
}
