//! Whose an address is. The API server gives an address to one service only, and a node to one pod only; around a
//! re-creation we may see two, and then every caller must see the same one win.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Mesh, Space, What};
use crate::ingest::{Flavour, PodPart, ServicePart};

/// Namespace and name of a service or a pod.
type Claimant = (String, String);

/// Which services have an address and port and which pods have an address, of all namespaces, also those that are not
/// ours.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    by: BTreeMap<(IpAddr, u16), BTreeSet<Claimant>>,
    of: BTreeMap<Claimant, BTreeSet<(IpAddr, u16)>>,
    /// Pods that run, those first that are not about to end.
    pods: BTreeMap<IpAddr, BTreeSet<(bool, Claimant)>>,
}

impl Claims {
    /// Takes what a service claims now; returns the other services and the pods that a change of claims touches.
    pub(super) fn set(&mut self, namespace: &str, name: &str, part: Option<&ServicePart>) -> Rivals {
        let me = (namespace.to_owned(), name.to_owned());
        let claims: BTreeSet<_> = part
            .into_iter()
            .flat_map(|part| {
                part.addresses.iter().flat_map(|address| part.ports.keys().map(|port| (*address, *port)))
            })
            .collect();
        let old = match claims.is_empty() {
            true => self.of.remove(&me),
            false => self.of.insert(me.clone(), claims.clone()),
        };
        let old = old.unwrap_or_default();
        let mut rivals = Rivals::default();
        for claim in old.symmetric_difference(&claims) {
            let claimants = self.by.entry(*claim).or_default();
            if claims.contains(claim) {
                claimants.insert(me.clone());
            } else {
                claimants.remove(&me);
            }
            rivals.services.extend(claimants.iter().filter(|other| **other != me).cloned());
            if claimants.is_empty() {
                self.by.remove(claim);
            }
            rivals.pods.extend(self.pods.get(&claim.0).into_iter().flatten().map(|(_, pod)| pod.clone()));
        }
        rivals
    }

    /// Takes what a pod claims now instead of before; returns the other pods that this touches.
    pub(super) fn set_pod(
        &mut self,
        namespace: &str,
        name: &str,
        [old, new]: [Option<&PodPart>; 2],
    ) -> Rivals {
        let me = (namespace.to_owned(), name.to_owned());
        let claims = |part: Option<&PodPart>| -> BTreeSet<(IpAddr, bool)> {
            let running = part.filter(|part| !part.finished).into_iter();
            running
                .flat_map(|part| part.addresses.iter().map(|address| (*address, part.terminating)))
                .collect()
        };
        let (old, new) = (claims(old), claims(new));
        let mut rivals = Rivals::default();
        for (address, terminating) in old.symmetric_difference(&new) {
            let claimants = self.pods.entry(*address).or_default();
            if new.contains(&(*address, *terminating)) {
                claimants.insert((*terminating, me.clone()));
            } else {
                claimants.remove(&(*terminating, me.clone()));
            }
            rivals.pods.extend(claimants.iter().map(|(_, pod)| pod).filter(|pod| **pod != me).cloned());
            if claimants.is_empty() {
                self.pods.remove(address);
            }
        }
        rivals
    }
}

/// Whoever claims what somebody else has claimed or let go of.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    services: BTreeSet<Claimant>,
    pods: BTreeSet<Claimant>,
}

impl Rivals {
    /// The services that must be looked at again: the headless ones of the pods.
    pub(super) fn touched(self, spaces: &BTreeMap<String, Space>) -> BTreeSet<What> {
        let headless = self.pods.iter().flat_map(|(namespace, pod)| {
            let services = spaces.get(namespace).into_iter().flat_map(|space| space.named_fronts(pod));
            let headless = services.filter(|(_, service)| service.flavour == Flavour::Headless);
            headless.map(|(name, _)| (namespace.clone(), name.clone()))
        });
        let all = headless.chain(self.services.iter().cloned());
        all.map(|(namespace, name)| What::Service { namespace, name }).collect()
    }
}

impl Mesh {
    /// Whether an address and port is this service's: the first one by namespace and name has it.
    pub(crate) fn owns(&self, namespace: &str, service: &str, address: IpAddr, port: u16) -> bool {
        let mut claimants = self.claims.by.get(&(address, port)).into_iter().flatten();
        let first = claimants.find(|(namespace, _)| self.space(namespace).is_some());
        first.is_none_or(|(first, name)| (first.as_str(), name.as_str()) == (namespace, service))
    }

    /// Whether an address is this pod's and nobody else's: neither a service's, of whichever namespace, nor that of a
    /// pod that comes before it.
    pub(crate) fn is_of_pod(&self, namespace: &str, pod: &str, address: IpAddr) -> bool {
        let first = self.claims.pods.get(&address).and_then(BTreeSet::first);
        let first =
            first.is_some_and(|(_, (space, name))| (space.as_str(), name.as_str()) == (namespace, pod));
        first && self.claims.by.range((address, 0)..=(address, u16::MAX)).next().is_none()
    }
}
