//! What no control plane can do without: the bytes of the resources, and encoding and hashing each of them once.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bench::world::{self, World};
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::Resource;
use mesh::{Incremental, Mesh, ResourceType, Snapshot};
use prost::Message;

/// See the module.
pub struct Floor {
    /// Bytes of the resources that a sidecar holds, the mean of all kinds of sidecars.
    pub connect: u64,
    /// Bytes of one resource: the endpoints of a service.
    pub endpoints: u64,
    /// Bytes of one resource: the routes of the service that everybody may call.
    pub policy: u64,
    /// Different resources in the mesh.
    pub distinct: usize,
    /// To encode all of them once and to hash their bytes, on one core.
    pub encode: Duration,
}

/// A resource's message, decoded.
enum Decoded {
    Cluster(Box<Cluster>),
    Endpoint(ClusterLoadAssignment),
    Listener(Box<Listener>),
    Route(Box<RouteConfiguration>),
}

impl Decoded {
    fn of(kind: ResourceType, body: Bytes) -> anyhow::Result<Self> {
        let bytes = Resource::decode(body)?.resource.unwrap_or_default().value;
        let bytes = bytes.as_slice();
        Ok(match kind {
            ResourceType::Cluster => Self::Cluster(Box::new(Message::decode(bytes)?)),
            ResourceType::Endpoint => Self::Endpoint(Message::decode(bytes)?),
            ResourceType::Listener => Self::Listener(Box::new(Message::decode(bytes)?)),
            ResourceType::Route => Self::Route(Box::new(Message::decode(bytes)?)),
        })
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Cluster(one) => one.encode_to_vec(),
            Self::Endpoint(one) => one.encode_to_vec(),
            Self::Listener(one) => one.encode_to_vec(),
            Self::Route(one) => one.encode_to_vec(),
        }
    }
}

/// Makes everything once, and measures only what cannot be left out.
pub fn measure(world: World) -> anyhow::Result<Floor> {
    let mut mesh = Mesh::new(world.settings()?);
    for object in world.objects()? {
        mesh.apply(object);
    }
    let mut incremental = Incremental::new();
    let mut snapshots = Vec::new();
    for account in 0..world.accounts() {
        let audience = mesh.audience(world::NAMESPACE, &world::pod(account))?;
        incremental.add(&mesh, &audience);
        snapshots.extend(incremental.snapshot(&audience));
    }
    let mut distinct = BTreeMap::new();
    let mut bytes = 0;
    for (kind, resource) in snapshots.iter().flat_map(all) {
        bytes += resource.body.len() as u64;
        distinct.insert((kind, resource.name.clone(), resource.version.clone()), resource.body.clone());
    }
    let decoded = distinct.iter().map(|((kind, ..), body)| Decoded::of(*kind, body.clone()));
    let decoded: Vec<_> = decoded.collect::<Result<_, _>>()?;
    let begin = Instant::now();
    for message in &decoded {
        black_box(digest(&SHA256, &message.encode()));
    }
    let encode = begin.elapsed();
    let one = |kind: ResourceType, service: usize| {
        let name = world::resource(service);
        let found = snapshots.iter().find_map(|snapshot| snapshot.of(kind).get(&name));
        found.map_or(0, |resource| resource.body.len() as u64)
    };
    Ok(Floor {
        connect: bytes / snapshots.len().max(1) as u64,
        endpoints: one(ResourceType::Endpoint, world.changing(0)),
        policy: one(ResourceType::Route, 0),
        distinct: distinct.len(),
        encode,
    })
}

fn all(snapshot: &Snapshot) -> impl Iterator<Item = (ResourceType, &mesh::Resource)> {
    ResourceType::ALL.into_iter().flat_map(|kind| snapshot.of(kind).values().map(move |one| (kind, one)))
}
