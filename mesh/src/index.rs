//! The index: all parts, synchronous and without IO.
//!
//! ```text
//!  apply ──▶ ingest ──▶ space.rs     pods, services and slices of one namespace, and who is behind a service
//!                  └──▶ policies.rs  policy objects, the seal of each Git source, what is in force
//!            listing.rs: who is behind a service without a selector   serving.rs: which endpoints take calls
//!            mode.rs: MeshPolicies   osm.rs: OSM's kinds   claims.rs: whose an address is
//!            weights.rs: services that are too much together   selectors.rs: what services select
//!                   problems.rs, osm_problems.rs, seal_problems.rs, budget_problems.rs: everything wrong, on demand
//! ```

mod astray;
mod budget_problems;
mod claims;
mod listing;
mod mode;
mod osm;
mod osm_problems;
mod policies;
mod problems;
mod seal_problems;
mod selectors;
mod serving;
mod space;
mod weights;
mod what;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::audience::{Audience, Families, NotOurs, PodFacts};
use crate::ingest::{Part, PodPart, Protocol, ServicePart, SlicePart, Word, ingest};
use crate::object::{Kind, Object, ObjectRef};
use crate::problem::Problem;
use crate::settings::Settings;
use claims::Claims;
pub(crate) use policies::Policies;
pub(crate) use space::Space;
use weights::Weights;
pub use what::{Changed, What};

/// Ports of Envoy itself: leading a call there would lead it in circles.
const OWN_PORTS: [u16; 3] =
    [crds::labels::ENVOY_ADMIN_PORT, crds::labels::OUTBOUND_PORT, crds::labels::INBOUND_PORT];

fn own_port(port: u16) -> bool {
    OWN_PORTS.contains(&port)
}

/// All that is known of a mesh.
#[derive(Debug, Clone)]
pub struct Mesh {
    settings: Settings,
    spaces: BTreeMap<String, Space>,
    policies: Policies,
    refused: BTreeMap<ObjectRef, Problem>,
    claims: Claims,
    weights: BTreeMap<String, Weights>,
}

impl Mesh {
    /// An empty mesh.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            spaces: BTreeMap::new(),
            policies: Policies::default(),
            refused: BTreeMap::new(),
            claims: Claims::default(),
            weights: BTreeMap::new(),
        }
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Takes the settings of an edited MeshConfig.
    pub fn set_settings(&mut self, settings: Settings) -> Changed {
        if self.settings == settings {
            return Changed::Nothing;
        }
        let mut what = BTreeSet::from([What::Settings]);
        let before = (&self.settings.namespace, self.settings.policy_origin);
        if before != (&settings.namespace, settings.policy_origin) {
            what.extend(self.policies.reseal_all(&settings));
        }
        self.settings = settings;
        Changed::Something(what)
    }

    /// Takes a new or changed object. A bad one is a problem; its last good version, if there was one, stays in
    /// force (DESIGN, rule 1).
    pub fn apply(&mut self, object: impl Into<Object>) -> Changed {
        let object: Object = object.into();
        let reference = object.reference();
        let mut what = BTreeSet::new();
        match ingest(&object) {
            Ok(part) => {
                if self.refused.remove(&reference).is_some() {
                    what.insert(What::Problems);
                }
                what.extend(self.put(reference, part, &object));
                self.follow(&mut what);
            }
            Err(problem) => return self.refuse(problem),
        }
        Changed::from(what)
    }

    /// Takes note of an object that cannot be read at all; its last good version, if there was one, stays in force.
    pub fn refuse(&mut self, problem: Problem) -> Changed {
        if self.refused.get(&problem.object) == Some(&problem) {
            return Changed::Nothing;
        }
        self.refused.insert(problem.object.clone(), problem);
        Changed::Something(BTreeSet::from([What::Problems]))
    }

    fn put(&mut self, reference: ObjectRef, part: Part, object: &Object) -> BTreeSet<What> {
        let ObjectRef { namespace, name, .. } = &reference;
        match part {
            Part::Namespace(part) => {
                let space = self.spaces.entry(name.clone()).or_default();
                let changed = std::mem::replace(&mut space.mesh, part.mesh.clone()) != part.mesh;
                changed.then(|| What::Namespace(name.clone())).into_iter().collect()
            }
            Part::Pod(part) => self.put_pod(namespace, name, Some(part)),
            Part::Service(part) => {
                let mut what = self.claims.set(namespace, name, Some(&part)).touched(&self.spaces);
                what.extend(self.put_service(namespace, name, Some(part)));
                what
            }
            Part::EndpointSlice(part) => self.put_slice(namespace, name, Some(part)),
            Part::Policy(part) => self.policies.set(reference, part, object, &self.settings),
            Part::PolicySource(part) => self.policies.set_source(&reference, Some(&part), &self.settings),
        }
    }

    fn put_pod(&mut self, namespace: &str, name: &str, part: Option<PodPart>) -> BTreeSet<What> {
        let old = self.spaces.get(namespace).and_then(|space| space.pods.get(name));
        if old.is_none() && part.is_none() {
            return BTreeSet::new();
        }
        let rivals = self.claims.set_pod(namespace, name, [old, part.as_ref()]);
        let mut what = rivals.touched(&self.spaces);
        what.extend(self.spaces.entry(namespace.to_owned()).or_default().set_pod(namespace, name, part));
        what
    }

    /// A service and those that are left out, or taken back, because of its size.
    fn put_service(&mut self, namespace: &str, name: &str, part: Option<ServicePart>) -> BTreeSet<What> {
        let space = self.spaces.entry(namespace.to_owned()).or_default();
        let weights = self.weights.entry(namespace.to_owned()).or_default();
        let moves = weights.set_service(space, name, part);
        let problems = (moves.len() > 1).then_some(What::Problems);
        let what = moves.into_iter().flat_map(|(name, part)| space.set_service(namespace, &name, part));
        what.chain(problems).collect()
    }

    fn put_slice(&mut self, namespace: &str, name: &str, part: Option<SlicePart>) -> BTreeSet<What> {
        let space = self.spaces.entry(namespace.to_owned()).or_default();
        let weights = self.weights.entry(namespace.to_owned()).or_default();
        let moves = weights.set_slice(space, name, part.as_ref());
        let mut what = space.set_slice(namespace, name, part);
        what.extend((!moves.is_empty()).then_some(What::Problems));
        what.extend(moves.into_iter().flat_map(|(name, part)| space.set_service(namespace, &name, part)));
        what
    }

    /// Forgets an object.
    pub fn delete(&mut self, reference: &ObjectRef) -> Changed {
        let ObjectRef { namespace, name, .. } = reference;
        let mut what = BTreeSet::new();
        if self.refused.remove(reference).is_some() {
            what.insert(What::Problems);
        }
        let home = if reference.kind == Kind::Namespace { name } else { namespace };
        let space = self.spaces.get_mut(home);
        match reference.kind {
            Kind::Namespace => {
                let known = space.is_some_and(|space| !std::mem::take(&mut space.mesh).is_empty());
                what.extend(known.then(|| What::Namespace(name.clone())));
            }
            Kind::Pod => what.extend(self.put_pod(namespace, name, None)),
            Kind::Service => {
                what.extend(self.claims.set(namespace, name, None).touched(&self.spaces));
                what.extend(self.put_service(namespace, name, None));
            }
            Kind::EndpointSlice => what.extend(self.put_slice(namespace, name, None)),
            Kind::PolicySource => {
                what.extend(self.policies.set_source(reference, None, &self.settings));
            }
            Kind::TrafficTarget
            | Kind::HTTPRouteGroup
            | Kind::TCPRoute
            | Kind::TrafficSplit
            | Kind::MeshPolicy
            | Kind::Egress
            | Kind::IngressBackend
            | Kind::Retry
            | Kind::UpstreamTrafficSetting => {
                what.extend(self.policies.remove(reference, &self.settings));
            }
        }
        if self.spaces.get(home).is_some_and(Space::is_empty) {
            self.spaces.remove(home);
        }
        if self.weights.get(home).is_some_and(Weights::is_empty) {
            self.weights.remove(home);
        }
        self.follow(&mut what);
        Changed::from(what)
    }

    /// To be called once, when every object that existed at the start has been applied: a source whose sealed
    /// commit is not complete by then counts with the objects that do have the sealed content (a restart must not
    /// turn one hand-edited object into the loss of all of them). Later sets are swapped only when complete.
    pub fn synced(&mut self) -> Changed {
        Changed::from(self.policies.synced(&self.settings))
    }

    /// Everything wrong with objects that people wrote, sorted. References are checked at the time of asking.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        problems::problems(self)
    }

    /// Sources of this mesh whose sealed commit has not been seen completely since the start: what was in force of them
    /// before is not known. Sorted.
    #[must_use]
    pub fn unsealed(&self) -> Vec<ObjectRef> {
        let ours =
            |namespace: &String| *namespace == self.settings.namespace || self.space(namespace).is_some();
        let open = self.policies.unsealed(&self.settings).filter(|(namespace, _)| ours(namespace));
        open.map(|(namespace, name)| ObjectRef::new(Kind::PolicySource, namespace, name)).collect()
    }

    /// The pods that the slices of a service name, of the mesh or not, and whether these say that they are ready.
    #[must_use]
    pub fn replicas(&self, namespace: &str, service: &str) -> BTreeMap<String, bool> {
        let slices = self.spaces.get(namespace).into_iter().flat_map(|space| space.slices_of(service));
        let named = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| !endpoint.pod.is_empty());
        named.map(|endpoint| (endpoint.pod.clone(), endpoint.word == Word::Ready)).collect()
    }

    /// Endpoints of services without a selector that were looked at so far, to find the pods behind them; for tests.
    #[must_use]
    pub fn looked_at(&self) -> u64 {
        self.spaces.values().map(|space| space.looked).sum()
    }

    /// The audience that a pod belongs to.
    ///
    /// # Errors
    /// Why it gets no configuration.
    pub fn audience(&self, namespace: &str, pod: &str) -> Result<Audience, NotOurs> {
        let space = self.spaces.get(namespace).ok_or(NotOurs::UnknownPod)?;
        let part = space.pods.get(pod).ok_or(NotOurs::UnknownPod)?;
        self.ours(space, part)?;
        let (mtls, authorization) = self.modes(namespace, &part.labels);
        Ok(Audience {
            namespace: namespace.to_owned(),
            service_account: part.service_account.clone(),
            families: Families::of(&part.addresses),
            ports: pod_ports(space, pod, part),
            services: self.spoken_of(namespace, space, pod, part),
            mtls,
            authorization,
        })
    }

    /// What is known of a pod, ours or not.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<PodFacts> {
        let space = self.spaces.get(namespace)?;
        let part = space.pods.get(name)?;
        Some(PodFacts {
            uid: part.uid.clone(),
            service_account: part.service_account.clone(),
            revision: part.revision.clone(),
            terminating: part.terminating,
            not_ours: self.ours(space, part).err(),
        })
    }

    /// Namespace and name of every pod that is ours.
    pub fn pods(&self) -> impl Iterator<Item = (&str, &str)> {
        self.spaces.iter().flat_map(move |(namespace, space)| {
            let ours = space.pods.iter().filter(move |(_, pod)| self.ours(space, pod).is_ok());
            ours.map(move |(name, _)| (namespace.as_str(), name.as_str()))
        })
    }

    fn ours(&self, space: &Space, pod: &PodPart) -> Result<(), NotOurs> {
        if space.mesh != self.settings.mesh {
            return Err(NotOurs::NamespaceNotInMesh);
        }
        if pod.mesh != self.settings.mesh {
            return Err(NotOurs::NoSidecar);
        }
        if pod.finished { Err(NotOurs::Finished) } else { Ok(()) }
    }

    /// The namespaces of the mesh.
    pub(crate) fn spaces(&self) -> impl Iterator<Item = (&String, &Space)> {
        self.spaces.iter().filter(|(_, space)| space.mesh == self.settings.mesh)
    }

    /// A namespace of the mesh.
    pub(crate) fn space(&self, namespace: &str) -> Option<&Space> {
        self.spaces.get(namespace).filter(|space| space.mesh == self.settings.mesh)
    }

    /// The pods with a sidecar behind a service.
    pub(crate) fn behind<'a>(
        &'a self,
        space: &'a Space,
        service: &str,
    ) -> impl Iterator<Item = (&'a str, &'a PodPart)> {
        let names = space.behind.get(service).into_iter().flatten();
        let pods = names.filter_map(|name| Some((name.as_str(), space.pods.get(name)?)));
        pods.filter(|(_, pod)| self.ours(space, pod).is_ok())
    }

    /// Addresses of the pods of a service of any namespace, of the mesh or not.
    pub(crate) fn addresses_of(&self, namespace: &str, service: &str) -> impl Iterator<Item = IpAddr> {
        let slices = self.spaces.get(namespace).into_iter().flat_map(|space| space.slices_of(service));
        slices.flat_map(|slice| slice.addresses.iter().copied())
    }

    pub(crate) fn policies(&self) -> &Policies {
        &self.policies
    }
}

/// The ports of a pod that services lead to. Where services disagree on the protocol, [`Protocol::both`] is spoken;
/// [`Mesh::problems`] says so.
fn pod_ports(space: &Space, name: &str, pod: &PodPart) -> BTreeMap<u16, Protocol> {
    let mut ports: BTreeMap<u16, Protocol> = BTreeMap::new();
    for port in space.fronts(name).flat_map(|service| service.ports.values()) {
        let Some(target) = port.target.number(pod).filter(|number| !own_port(*number)) else {
            continue;
        };
        let all = ports.entry(target).or_insert(port.protocol);
        *all = all.both(port.protocol);
    }
    ports
}
