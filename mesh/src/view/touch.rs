//! What a change touches: which services must be looked at again, and whose rest of the view.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::{Mesh, What};
use crate::ingest::{PolicyPart, RetryRules, ServiceAccount};
use crate::object::{Kind, ObjectRef};

/// Namespace and name of a service.
pub(crate) type ServiceName = (String, String);

/// What the policies of a namespace lead to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Reach {
    /// Caller to the service accounts of the namespace that TrafficTargets open to it, at any port.
    pub(crate) opened: BTreeMap<ServiceAccount, BTreeSet<String>>,
    /// TrafficTarget to the service account that it opens.
    pub(crate) targets: BTreeMap<String, String>,
    /// Services with a TrafficSplit.
    pub(crate) split: BTreeSet<String>,
    /// What Retries say of the calls of service accounts of the namespace.
    pub(crate) retried: BTreeMap<ServiceAccount, BTreeMap<ServiceName, RetryRules>>,
}

impl Reach {
    pub(crate) fn of(mesh: &Mesh, namespace: &str) -> Self {
        let mut reach = Self::default();
        for (key, part) in mesh.policies().in_namespace(Kind::TrafficTarget, namespace) {
            let PolicyPart::TrafficTarget(target) = part else { continue };
            for source in &target.sources {
                let opened = reach.opened.entry(source.clone()).or_default();
                opened.insert(target.destination.name.clone());
            }
            reach.targets.insert(key.name.clone(), target.destination.name.clone());
        }
        for (_, part) in mesh.policies().in_namespace(Kind::TrafficSplit, namespace) {
            let PolicyPart::TrafficSplit(split) = part else { continue };
            reach.split.insert(split.root.clone());
        }
        for (_, part) in mesh.retries_of(namespace) {
            let retried = reach.retried.entry(part.source.clone()).or_default();
            for service in &part.destinations {
                // Of several the first by name counts.
                retried.entry(service.clone()).or_insert_with(|| part.rules.clone());
            }
        }
        reach
    }
}

/// How much must be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Whole {
    /// What else is said.
    #[default]
    No,
    /// Every view.
    Views,
    /// Every view, and how it is rendered.
    Rendering,
}

/// What a change touches.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Everything?
    pub(crate) whole: Whole,
    /// Services whose endpoints changed: those who can call them already are looked at.
    pub(crate) endpoints: BTreeSet<ServiceName>,
    /// Services that changed: every audience is asked whether it can call them.
    pub(crate) services: BTreeSet<ServiceName>,
    /// Namespaces whose [`Reach`] may be another.
    pub(crate) reach: BTreeSet<String>,
    /// Namespaces all of whose services are touched.
    pub(crate) spaces: BTreeSet<String>,
    /// Namespaces whose services with a TrafficSplit, now or before, are touched.
    pub(crate) split: BTreeSet<String>,
    /// Namespaces of audiences whose rest is touched.
    pub(crate) rest: BTreeSet<String>,
    /// Namespaces whose services with a port of no declared protocol are touched: what is looked at there depends on
    /// what is open (`outbound.rs`).
    pub(crate) undeclared: BTreeSet<String>,
    /// Namespaces whose service accounts may try calls again differently.
    pub(crate) retried: BTreeSet<String>,
    /// TrafficTargets: the rest of the audiences with the service account that they open, now or before.
    pub(crate) targets: BTreeSet<ObjectRef>,
}

impl Touched {
    pub(crate) fn by<'a>(mesh: &Mesh, what: impl IntoIterator<Item = &'a What>) -> Self {
        let mut touched = Self::default();
        for what in what {
            match what {
                What::Settings => touched.whole = Whole::Rendering,
                What::Namespace(_) => touched.whole = touched.whole.max(Whole::Views),
                What::Service { namespace, name } => {
                    touched.services.extend(roots(mesh, namespace, name));
                }
                What::Endpoints { namespace, service } => {
                    touched.endpoints.extend(roots(mesh, namespace, service));
                }
                What::Policy(key) => touched.policy(mesh, key),
                // A pod that is behind a service comes with a change of that service.
                What::Pod { .. } | What::Problems => {}
            }
        }
        touched
    }

    fn policy(&mut self, mesh: &Mesh, key: &ObjectRef) {
        let namespace = || key.namespace.clone();
        match key.kind {
            Kind::TrafficTarget => {
                self.reach.insert(namespace());
                self.undeclared.insert(namespace());
                self.targets.insert(key.clone());
            }
            Kind::TrafficSplit => {
                self.reach.insert(namespace());
                self.split.insert(namespace());
            }
            Kind::HTTPRouteGroup => {
                self.split.insert(namespace());
                self.rest.insert(namespace());
            }
            Kind::TCPRoute => {
                self.undeclared.insert(namespace());
                self.rest.insert(namespace());
            }
            Kind::Egress | Kind::IngressBackend => {
                self.rest.insert(namespace());
            }
            Kind::UpstreamTrafficSetting => {
                self.spaces.insert(namespace());
                self.rest.insert(namespace());
            }
            Kind::MeshPolicy if key.namespace != mesh.settings().namespace => {
                self.spaces.insert(namespace());
                self.rest.insert(namespace());
            }
            Kind::Retry => {
                self.retried.insert(namespace());
            }
            // Of the whole mesh, or of what is no policy.
            Kind::MeshPolicy
            | Kind::Namespace
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::PolicySource => self.whole = self.whole.max(Whole::Views),
        }
    }
}

/// A service and the services whose TrafficSplits lead to it.
fn roots(mesh: &Mesh, namespace: &str, service: &str) -> Vec<ServiceName> {
    let splits = mesh.policies().in_namespace(Kind::TrafficSplit, namespace);
    let leading = splits.filter_map(|(_, part)| match part {
        PolicyPart::TrafficSplit(split) if split.backends.contains_key(service) => Some(split.root.as_str()),
        _ => None,
    });
    leading.chain([service]).map(|name| (namespace.to_owned(), name.to_owned())).collect()
}
