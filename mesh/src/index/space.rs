//! Pods, services and slices of one namespace, and which pods are behind a service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::What;
use super::listing::{Addresses, Listing};
use super::selectors::Selectors;
use crate::ingest::{EndpointPart, Flavour, PodPart, ServicePart, Serving, SlicePart, TargetPort};

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
    /// What services select, kept up to date by the setter.
    selectors: Selectors,
    /// Endpoints of services without a selector, kept up to date by the setters.
    listing: Listing,
    addresses: Addresses,
    /// Endpoints of services without a selector that were looked at so far.
    pub(super) looked: u64,
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
        self.named_fronts(pod).map(|(_, service)| service)
    }

    /// The same, with their names.
    pub(crate) fn named_fronts(&self, pod: &str) -> impl Iterator<Item = (&String, &ServicePart)> {
        let names = self.fronts.get(pod).into_iter().flatten();
        names.filter_map(|name| Some((name, self.services.get(name)?)))
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
        if let Some(new) = &part
            && let Some(old) = self.pods.get(name)
            && *new == (PodPart { serving: new.serving, ..old.clone() })
        {
            return self.set_serving(namespace, name, new.serving);
        }
        let mut what = BTreeSet::from([What::Pod { namespace: namespace.to_owned(), name: name.to_owned() }]);
        let mut moved = Vec::new();
        let now = part.iter().flat_map(|pod| self.selectors.may_pick(&pod.labels));
        let looked_at: BTreeSet<_> = now.chain(self.fronts.get(name).into_iter().flatten()).collect();
        let selecting = looked_at.into_iter().filter_map(|service| self.services.get_key_value(service));
        for (service, ServicePart { selector, .. }) in selecting.filter(|(_, part)| !part.selector.is_empty())
        {
            let picked = part.as_ref().is_some_and(|pod| picks(selector, &pod.labels));
            let was = self.is_behind(service, name);
            if picked || was {
                what.insert(What::Service { namespace: namespace.to_owned(), name: service.clone() });
            }
            if picked != was {
                moved.push((service.clone(), picked));
            }
        }
        for (service, picked) in moved {
            self.put_behind(&service, name, picked);
        }
        let listing = self.relist(name, part);
        what.extend(listing.into_iter().map(|name| What::Service { namespace: namespace.to_owned(), name }));
        what
    }

    /// Only whether a pod takes calls may be different: nobody but the callers of its services has to know, and these
    /// only if its slices do not say the same already.
    fn set_serving(&mut self, namespace: &str, name: &str, serving: Serving) -> BTreeSet<What> {
        let Some(pod) = self.pods.get(name) else { return BTreeSet::new() };
        let new = PodPart { serving, ..pod.clone() };
        let services = self.fronts.get(name).into_iter().flatten();
        let judged = |service: &String, pod: &PodPart| -> Vec<bool> {
            let slices = self.slices_of(service);
            let named = slices.flat_map(|slice| slice.endpoints.iter().map(move |one| (slice, one)));
            let own = named.filter(|(_, one)| one.pod == name || pod.addresses.contains(&one.address));
            own.map(|(slice, one)| slice.takes_calls(one, pod)).collect()
        };
        let different = services.filter(|service| judged(service, pod) != judged(service, &new));
        let endpoints =
            |service: &String| What::Endpoints { namespace: namespace.to_owned(), service: service.clone() };
        let what = different.map(endpoints).collect();
        self.pods.insert(name.to_owned(), new);
        what
    }

    /// Takes or forgets a pod, and finds the services without a selector that lead to it, now or before. Only those that
    /// name it or one of its addresses are looked at.
    fn relist(&mut self, name: &str, part: Option<PodPart>) -> BTreeSet<String> {
        let old = self.pods.get(name);
        let addresses: BTreeSet<IpAddr> = [old, part.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|pod| pod.addresses.iter().copied())
            .collect();
        self.addresses.set(name, old, part.as_ref());
        // Those who have an address instead of this pod, now or before.
        let others = addresses.iter().flat_map(|address| self.addresses.pods(*address));
        let pods: BTreeSet<String> = others.cloned().chain([name.to_owned()]).collect();
        match part {
            Some(part) => self.pods.insert(name.to_owned(), part),
            None => self.pods.remove(name),
        };
        let mut touched = BTreeSet::new();
        for service in self.listing.services(name, addresses) {
            for pod in &pods {
                let (leads, was) = (self.leads(&service, pod), self.is_behind(&service, pod));
                if leads != was {
                    self.put_behind(&service, pod, leads);
                }
                if leads != was || (leads && pod == name) {
                    touched.insert(service.clone());
                }
            }
        }
        touched
    }

    /// Whether a service without a selector leads to a pod.
    fn leads(&mut self, service: &str, pod: &str) -> bool {
        let addresses = self.pods.get(pod).into_iter().flat_map(|pod| pod.addresses.iter().copied());
        let own = self.listing.endpoints(service, pod, addresses);
        let mut looked = 0;
        let leads =
            own.inspect(|_| looked += 1).filter_map(|one| self.pod_of(one)).any(|(found, _)| found == pod);
        self.looked += looked;
        leads
    }

    fn put_behind(&mut self, service: &str, pod: &str, is: bool) {
        let (pods, services) = (
            self.behind.entry(service.to_owned()).or_default(),
            self.fronts.entry(pod.to_owned()).or_default(),
        );
        if is {
            pods.insert(pod.to_owned());
            services.insert(service.to_owned());
        } else {
            pods.remove(pod);
            services.remove(service);
        }
        if services.is_empty() {
            self.fronts.remove(pod);
        }
    }

    /// Finds the pods behind a service without a selector; says whether they are others now.
    fn list(&mut self, service: &str) -> bool {
        let endpoints: Vec<_> = self.slices_of(service).flat_map(|slice| &slice.endpoints).collect();
        let looked = endpoints.len() as u64;
        let found = endpoints.into_iter().filter_map(|endpoint| self.pod_of(endpoint));
        let pods: BTreeSet<_> = found.map(|(name, _)| name.to_owned()).collect();
        self.looked += looked;
        let was = self.set_behind(service, Some(pods));
        was.as_ref() != self.behind.get(service)
    }

    /// The pod that an endpoint is: the one that it names, else any, but only one that has its address. Whoever may
    /// write a slice may write any address into it; what a pod has is the kubelet's word. A pod that has run to its end
    /// may have an address that another pod has now.
    pub(crate) fn pod_of(&self, endpoint: &EndpointPart) -> Option<(&str, &PodPart)> {
        let has = |pod: &PodPart| !pod.finished && pod.addresses.contains(&endpoint.address);
        let found = if endpoint.pod.is_empty() {
            let pods = self.addresses.pods(endpoint.address);
            pods.filter_map(|name| self.pods.get_key_value(name)).find(|(_, pod)| has(pod))
        } else {
            self.pods.get_key_value(&endpoint.pod).filter(|(_, pod)| has(pod))
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
        self.index_slices(name, part.as_ref().is_some_and(|part| part.selector.is_empty()));
        self.selectors.set(name, self.services.get(name), part.as_ref());
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

    /// Remembers, or forgets, where the slices of a service lead.
    fn index_slices(&mut self, service: &str, wanted: bool) {
        let was = self.lists(service);
        for name in self.slices_of.get(service).into_iter().flatten().filter(|_| was != wanted) {
            let Some(slice) = self.slices.get(name) else { continue };
            if wanted { self.listing.add(name, slice) } else { self.listing.remove(name, slice) }
        }
    }

    fn lists(&self, service: &str) -> bool {
        self.services.get(service).is_some_and(|part| part.selector.is_empty())
    }

    pub(super) fn set_slice(
        &mut self,
        namespace: &str,
        name: &str,
        part: Option<SlicePart>,
    ) -> BTreeSet<What> {
        let old = self.slices.get(name);
        if old == part.as_ref() {
            return BTreeSet::new();
        }
        let same = old.zip(part.as_ref()).is_some_and(|(old, new)| self.says_the_same(old, new));
        let lies = [old, part.as_ref()].into_iter().flatten().any(|slice| self.is_lying(slice));
        let services: BTreeSet<_> =
            [old, part.as_ref()].into_iter().flatten().map(|slice| slice.service.clone()).collect();
        self.put_slice(name, part);
        let services = services.into_iter().filter(|service| !same && !service.is_empty());
        let what = services.flat_map(|service| self.slice_changed(namespace, service));
        what.chain(lies.then_some(What::Problems)).collect()
    }

    /// Replaces a slice, and says where it and the one before it lead.
    fn put_slice(&mut self, name: &str, part: Option<SlicePart>) {
        let service = part.as_ref().map(|part| part.service.clone());
        if let Some(old) = self.slices.get(name).filter(|old| self.lists(&old.service)) {
            self.listing.remove(name, old);
        }
        if let Some(new) = part.as_ref().filter(|new| self.lists(&new.service)) {
            self.listing.add(name, new);
        }
        let old = match part {
            Some(part) => self.slices.insert(name.to_owned(), part),
            None => self.slices.remove(name),
        };
        let old = old.map(|old| old.service);
        if old == service {
            return;
        }
        if let Some(old) = old
            && let Some(slices) = self.slices_of.get_mut(&old)
        {
            slices.remove(name);
            if slices.is_empty() {
                self.slices_of.remove(&old);
            }
        }
        if let Some(service) = service {
            self.slices_of.entry(service).or_default().insert(name.to_owned());
        }
    }

    /// Whether callers see a slice as the one before it, whatever it says of its pods: they say it themselves.
    fn says_the_same(&self, old: &SlicePart, new: &SlicePart) -> bool {
        if (&old.service, &old.ports, &old.addresses) != (&new.service, &new.ports, &new.addresses) {
            return false;
        }
        let judged = |slice: &SlicePart, one: &EndpointPart| {
            self.pod_of(one).map(|(_, pod)| slice.takes_calls(one, pod))
        };
        // They are in order. What differs in more than a word or a uid, or in how often it says so, is not the same.
        old.endpoints.len() == new.endpoints.len()
            && old.endpoints.iter().zip(&new.endpoints).all(|(before, after)| {
                (before.address, &before.pod) == (after.address, &after.pod)
                    && (before == after && old.author == new.author
                        || judged(old, before) == judged(new, after))
            })
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
