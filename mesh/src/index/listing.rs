//! Services without a selector: which of them lead to a pod, without asking all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::ingest::{EndpointPart, PodPart, SlicePart};

/// What an endpoint is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum FoundBy {
    Pod(String),
    Address(IpAddr),
}

impl FoundBy {
    fn of(endpoint: &EndpointPart) -> Self {
        if endpoint.pod.is_empty() {
            Self::Address(endpoint.address)
        } else {
            Self::Pod(endpoint.pod.clone())
        }
    }
}

/// Endpoints of the services of a namespace that have no selector, by what they are found by.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    /// With the service and its slice.
    by: BTreeMap<FoundBy, BTreeMap<(String, String), BTreeSet<EndpointPart>>>,
}

impl Listing {
    /// Takes a slice of a service without a selector.
    pub(super) fn add(&mut self, name: &str, slice: &SlicePart) {
        let key = (slice.service.clone(), name.to_owned());
        for endpoint in &slice.endpoints {
            let slices = self.by.entry(FoundBy::of(endpoint)).or_default();
            slices.entry(key.clone()).or_default().insert(endpoint.clone());
        }
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, name: &str, slice: &SlicePart) {
        let key = (slice.service.clone(), name.to_owned());
        for found in slice.endpoints.iter().map(FoundBy::of) {
            let Some(slices) = self.by.get_mut(&found) else { continue };
            slices.remove(&key);
            if slices.is_empty() {
                self.by.remove(&found);
            }
        }
    }

    /// Services whose slices name a pod or one of these addresses.
    pub(super) fn services(
        &self,
        pod: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> BTreeSet<String> {
        let slices = keys(pod, addresses).filter_map(|key| self.by.get(&key)).flatten();
        slices.map(|((service, _), _)| service.clone()).collect()
    }

    /// The endpoints of one of them that do.
    pub(super) fn endpoints(
        &self,
        service: &str,
        pod: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> impl Iterator<Item = &EndpointPart> {
        let from = (service.to_owned(), String::new());
        let service = service.to_owned();
        let slices = keys(pod, addresses).filter_map(|key| self.by.get(&key));
        let own = slices.flat_map(move |slices| {
            let service = service.clone();
            slices.range(from.clone()..).take_while(move |((other, _), _)| *other == service)
        });
        own.flat_map(|(_, endpoints)| endpoints)
    }
}

fn keys(pod: &str, addresses: impl IntoIterator<Item = IpAddr>) -> impl Iterator<Item = FoundBy> {
    let pod = FoundBy::Pod(pod.to_owned());
    addresses.into_iter().map(FoundBy::Address).chain([pod])
}

/// The pods of a namespace by their addresses. Several have one when those before have run to their end.
#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    by: BTreeMap<IpAddr, BTreeSet<String>>,
}

impl Addresses {
    /// Replaces what is known of a pod.
    pub(super) fn set(&mut self, name: &str, old: Option<&PodPart>, new: Option<&PodPart>) {
        for address in old.into_iter().flat_map(|pod| &pod.addresses) {
            if let Some(pods) = self.by.get_mut(address) {
                pods.remove(name);
                if pods.is_empty() {
                    self.by.remove(address);
                }
            }
        }
        for address in new.into_iter().flat_map(|pod| &pod.addresses) {
            self.by.entry(*address).or_default().insert(name.to_owned());
        }
    }

    /// The pods that have, or had when they ran, an address; by name.
    pub(super) fn pods(&self, address: IpAddr) -> impl Iterator<Item = &String> {
        self.by.get(&address).into_iter().flatten()
    }
}
