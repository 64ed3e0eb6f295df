//! What OSM's kinds say of services, and which of their services a pod is behind.

use std::collections::{BTreeMap, BTreeSet};

use super::{Mesh, Space, What, own_port};
use crate::ingest::{IngressPart, PodPart, PolicyPart, RetryPart, SettingPart};
use crate::object::{Kind, ObjectRef};

impl Mesh {
    /// The UpstreamTrafficSetting of each service of a namespace: of several the first by name.
    pub(crate) fn settings_of(&self, namespace: &str) -> BTreeMap<&str, (&ObjectRef, &SettingPart)> {
        let mut settings = BTreeMap::new();
        for (key, part) in self.policies.in_namespace(Kind::UpstreamTrafficSetting, namespace) {
            if let PolicyPart::UpstreamTrafficSetting(part) = part
                && let Some(service) = &part.service
            {
                settings.entry(service.as_str()).or_insert((key, part));
            }
        }
        settings
    }

    /// The UpstreamTrafficSetting of a service: of several the first by name.
    pub(crate) fn setting_of(&self, namespace: &str, service: &str) -> Option<&SettingPart> {
        let mut all = self.policies.in_namespace(Kind::UpstreamTrafficSetting, namespace);
        all.find_map(|(_, part)| match part {
            PolicyPart::UpstreamTrafficSetting(part) if part.service.as_deref() == Some(service) => {
                Some(part)
            }
            _ => None,
        })
    }

    /// The IngressBackends of a namespace.
    pub(crate) fn ingress_of(&self, namespace: &str) -> impl Iterator<Item = (&ObjectRef, &IngressPart)> {
        self.policies.in_namespace(Kind::IngressBackend, namespace).filter_map(|(key, part)| match part {
            PolicyPart::IngressBackend(part) => Some((key, part)),
            _ => None,
        })
    }

    /// The Retries of a namespace.
    pub(crate) fn retries_of(&self, namespace: &str) -> impl Iterator<Item = (&ObjectRef, &RetryPart)> {
        self.policies.in_namespace(Kind::Retry, namespace).filter_map(|(key, part)| match part {
            PolicyPart::Retry(part) => Some((key, part)),
            _ => None,
        })
    }

    /// The services that lead to a pod and of which an IngressBackend or a limit speaks, with the pod's ports.
    pub(super) fn spoken_of(
        &self,
        namespace: &str,
        space: &Space,
        name: &str,
        pod: &PodPart,
    ) -> BTreeMap<String, BTreeSet<u16>> {
        let mut named: BTreeSet<&str> = BTreeSet::new();
        for (_, part) in self.ingress_of(namespace) {
            named.extend(part.backends.iter().map(|backend| backend.service.as_str()));
        }
        let settings = self.settings_of(namespace);
        named.extend(settings.iter().filter(|(_, (_, part))| !part.limits.is_empty()).map(|(name, _)| *name));
        let services = named.into_iter().filter(|service| space.is_behind(service, name));
        let services = services.filter_map(|service| {
            let ports = space.services.get(service)?.ports.values();
            let ports = ports.filter_map(|port| port.target.number(pod)).filter(|port| !own_port(*port));
            Some((service.to_owned(), ports.collect()))
        });
        services.collect()
    }

    /// Adds what follows from a change by way of an IngressBackend: it opens its backends to the pods of a service
    /// that may be in any namespace, meshed or not.
    pub(super) fn follow(&self, what: &mut BTreeSet<What>) {
        let mut more = BTreeSet::new();
        for one in what.iter() {
            let What::Endpoints { namespace, service } = one else { continue };
            for (key, part) in self.policies.of_kind(Kind::IngressBackend) {
                if let PolicyPart::IngressBackend(part) = part
                    && part.from.services.iter().any(|(space, name)| space == namespace && name == service)
                {
                    more.insert(What::Policy(key.clone()));
                    // A source without pods is a problem.
                    more.insert(What::Problems);
                }
            }
        }
        what.extend(more);
    }
}
