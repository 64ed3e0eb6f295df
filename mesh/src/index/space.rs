//! Pods, services and slices of one namespace, and which pods are behind a service.

use std::collections::{BTreeMap, BTreeSet};

use super::What;
use crate::ingest::{EndpointPart, Flavour, PodPart, ServicePart, SlicePart, TargetPort};

/// One namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space {
    /// The mesh that it is labelled as part of; may be empty.
    pub(crate) mesh: String,
    pub(crate) pods: BTreeMap<String, PodPart>,
    pub(crate) services: BTreeMap<String, ServicePart>,
    pub(crate) slices: BTreeMap<String, SlicePart>,
    /// Service to its slices, kept up to date by the setter.
    slices_of: BTreeMap<String, BTreeSet<String>>,
    /// Service to the pods that its selector picks, or that its slices name when it has none. Kept up to date by the
    /// setters.
    pub(crate) behind: BTreeMap<String, BTreeSet<String>>,
    /// Pod to the services that it is behind: the same, the other way round.
    fronts: BTreeMap<String, BTreeSet<String>>,
}

impl Space {
    pub(crate) fn is_empty(&self) -> bool {
        self.mesh.is_empty() && self.pods.is_empty() && self.services.is_empty() && self.slices.is_empty()
    }

    pub(crate) fn is_behind(&self, service: &str, pod: &str) -> bool {
        self.behind.get(service).is_some_and(|pods| pods.contains(pod))
    }

    /// The services that a pod is behind, by name.
    pub(crate) fn fronts(&self, pod: &str) -> impl Iterator<Item = &ServicePart> {
        let names = self.fronts.get(pod).into_iter().flatten();
        names.filter_map(|name| self.services.get(name))
    }

    /// Says which pods are behind a service; returns those that were.
    fn set_behind(&mut self, service: &str, pods: Option<BTreeSet<String>>) -> Option<BTreeSet<String>> {
        let old = self.behind.remove(service);
        for pod in old.iter().flatten() {
            if let Some(services) = self.fronts.get_mut(pod) {
                services.remove(service);
                if services.is_empty() {
                    self.fronts.remove(pod);
                }
            }
        }
        if let Some(pods) = pods {
            for pod in &pods {
                self.fronts.entry(pod.clone()).or_default().insert(service.to_owned());
            }
            self.behind.insert(service.to_owned(), pods);
        }
        old
    }

    /// The slices of a service.
    pub(crate) fn slices_of(&self, service: &str) -> impl Iterator<Item = &SlicePart> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name))
    }

    pub(super) fn set_pod(&mut self, namespace: &str, name: &str, part: Option<PodPart>) -> BTreeSet<What> {
        if self.pods.get(name) == part.as_ref() {
            return BTreeSet::new();
        }
        let mut what = BTreeSet::from([What::Pod { namespace: namespace.to_owned(), name: name.to_owned() }]);
        let selecting = self.services.iter().filter(|(_, service)| !service.selector.is_empty());
        for (service, ServicePart { selector, .. }) in selecting {
            let picked = part.as_ref().is_some_and(|pod| picks(selector, &pod.labels));
            let was = self.behind.get(service).is_some_and(|pods| pods.contains(name));
            if picked || was {
                what.insert(What::Service { namespace: namespace.to_owned(), name: service.clone() });
            }
            if picked && !was {
                self.behind.entry(service.clone()).or_default().insert(name.to_owned());
                self.fronts.entry(name.to_owned()).or_default().insert(service.clone());
            } else if was && !picked {
                self.behind.entry(service.clone()).or_default().remove(name);
                self.fronts.entry(name.to_owned()).or_default().remove(service);
            }
        }
        match part {
            Some(part) => self.pods.insert(name.to_owned(), part),
            None => self.pods.remove(name),
        };
        let listing = self.services.iter().filter(|(_, service)| service.selector.is_empty());
        let listing: Vec<_> = listing.map(|(service, _)| service.clone()).collect();
        for service in listing {
            let was = self.is_behind(&service, name);
            if self.list(&service) || was || self.is_behind(&service, name) {
                what.insert(What::Service { namespace: namespace.to_owned(), name: service });
            }
        }
        what
    }

    /// Finds the pods behind a service without a selector; says whether they are others now.
    fn list(&mut self, service: &str) -> bool {
        let endpoints = self.slices_of(service).flat_map(|slice| &slice.endpoints);
        let pods: BTreeSet<_> =
            endpoints.filter_map(|endpoint| self.pod_of(endpoint)).map(|(name, _)| name.to_owned()).collect();
        let was = self.set_behind(service, Some(pods));
        was.as_ref() != self.behind.get(service)
    }

    /// The pod that an endpoint is: the one that it names, else the one that has its address. A pod that has run to
    /// its end may have an address that another pod has now.
    pub(crate) fn pod_of(&self, endpoint: &EndpointPart) -> Option<(&str, &PodPart)> {
        let mut pods = self.pods.iter().filter(|(_, pod)| !pod.finished);
        let found = if endpoint.pod.is_empty() {
            pods.find(|(_, pod)| pod.addresses.contains(&endpoint.address))
        } else {
            self.pods.get_key_value(&endpoint.pod)
        };
        found.map(|(name, pod)| (name.as_str(), pod))
    }

    pub(super) fn set_service(
        &mut self,
        namespace: &str,
        name: &str,
        part: Option<ServicePart>,
    ) -> BTreeSet<What> {
        if self.services.get(name) == part.as_ref() {
            return BTreeSet::new();
        }
        let mut what =
            BTreeSet::from([What::Service { namespace: namespace.to_owned(), name: name.to_owned() }]);
        let old = self.services.get(name).map(|part| part.flavour);
        if [old, part.as_ref().map(|part| part.flavour)].contains(&Some(Flavour::Headless)) {
            what.extend(self.headless(namespace));
        }
        match part {
            Some(part) => {
                if part.selector.is_empty() {
                    self.list(name);
                } else {
                    let picked = self.pods.iter().filter(|(_, pod)| picks(&part.selector, &pod.labels));
                    let picked = picked.map(|(pod, _)| pod.clone()).collect();
                    self.set_behind(name, Some(picked));
                }
                self.services.insert(name.to_owned(), part);
            }
            None => {
                self.set_behind(name, None);
                self.services.remove(name);
            }
        }
        what
    }

    pub(super) fn set_slice(
        &mut self,
        namespace: &str,
        name: &str,
        part: Option<SlicePart>,
    ) -> BTreeSet<What> {
        if self.slices.get(name) == part.as_ref() {
            return BTreeSet::new();
        }
        let new = part.as_ref().map(|part| part.service.clone());
        let old = match part {
            Some(part) => self.slices.insert(name.to_owned(), part),
            None => self.slices.remove(name),
        };
        if let Some(old) = &old
            && let Some(slices) = self.slices_of.get_mut(&old.service)
        {
            slices.remove(name);
            if slices.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        if let Some(service) = &new {
            self.slices_of.entry(service.clone()).or_default().insert(name.to_owned());
        }
        let services: BTreeSet<_> =
            old.map(|old| old.service).into_iter().chain(new).filter(|service| !service.is_empty()).collect();
        services.into_iter().flat_map(|service| self.slice_changed(namespace, service)).collect()
    }

    /// A headless service is dialed by what its slices say, and one without a selector leads to it.
    fn slice_changed(&mut self, namespace: &str, service: String) -> Vec<What> {
        let Some(part) = self.services.get(&service) else {
            return vec![What::Endpoints { namespace: namespace.to_owned(), service }];
        };
        let (headless, listing) = (part.flavour == Flavour::Headless, part.selector.is_empty());
        let others = listing && self.list(&service);
        let mut what: Vec<_> = self.headless(namespace).filter(|_| headless).collect();
        what.push(match others {
            true => What::Service { namespace: namespace.to_owned(), name: service },
            false => What::Endpoints { namespace: namespace.to_owned(), service },
        });
        what
    }

    /// All headless services: they may share pods, and then the first one by name has their addresses.
    fn headless(&self, namespace: &str) -> impl Iterator<Item = What> {
        let all = self.services.iter().filter(|(_, service)| service.flavour == Flavour::Headless);
        all.map(|(name, _)| What::Service { namespace: namespace.to_owned(), name: name.clone() })
    }
}

/// Whether a service's selector picks a pod. No selector picks none (Kubernetes, Services without selectors).
fn picks(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl TargetPort {
    /// The port at one pod.
    pub(crate) fn number(&self, pod: &PodPart) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(name) => pod.ports.get(name).copied(),
        }
    }
}
