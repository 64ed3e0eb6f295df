//! Who still needs a revision of the control plane: asked of the cluster's objects and of the controllers themselves.
//!
//! A pod that ends, and the sidecar that another slot has taken over from, need it until their streams are gone; the
//! pod's object may stay much longer. What cannot be known counts as a use.

use std::collections::BTreeSet;
use std::fmt;

use crate::facts::{Observed, Streams};

/// A user of a revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// A namespace by its label.
    Namespace(String),
    /// A pod.
    Pod {
        /// Namespace.
        namespace: String,
        /// Name.
        pod: String,
        /// What it needs the revision for.
        why: Need,
    },
    /// A controller of the revision that may hold streams and could not be asked.
    Silent {
        /// Its pod.
        controller: String,
        /// Why it could not be asked.
        why: String,
    },
    /// No controller could be asked about.
    NobodyAsked,
}

/// What a pod needs a revision for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Its sidecar is of that release.
    Runs,
    /// It ends, and its sidecar is still connected.
    Ends,
    /// A sidecar of that release is still connected, though the pod's is another now: it drains.
    Drains,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Pod { namespace, pod, why: Need::Runs } => write!(f, "pod {pod} in {namespace}"),
            Self::Pod { namespace, pod, why: Need::Ends } => {
                write!(f, "pod {pod} in {namespace} (it ends, and its sidecar is still connected)")
            }
            Self::Pod { namespace, pod, why: Need::Drains } => {
                write!(f, "pod {pod} in {namespace} (its old sidecar keeps its connections a while)")
            }
            Self::Silent { controller, why } => {
                write!(f, "unknown sidecars, since controller {controller} could not be asked: {why}")
            }
            Self::NobodyAsked => write!(f, "unknown sidecars, since no controller could be asked"),
        }
    }
}

/// Who uses a revision, in order; each pod once.
#[must_use]
pub fn users(observed: &Observed, version: &str) -> Vec<User> {
    let none = Streams::default();
    let streams = observed.streams.as_ref().map(|all| all.get(version).unwrap_or(&none));
    let mut users = BTreeSet::new();
    let mut named = BTreeSet::new();
    for (name, namespace) in &observed.namespaces {
        if namespace.revision.as_deref() == Some(version) && !namespace.terminating {
            users.insert(User::Namespace(name.clone()));
        }
        for (pod, state) in namespace.workloads.values().flat_map(|workload| &workload.pods) {
            let serving = state.slots.as_ref().and_then(|slots| slots.serving.as_deref());
            let connected = streams.is_some_and(|s| s.pods.contains(&(name.clone(), pod.clone())));
            let why = match (state.revision.as_deref() == Some(version), state.terminating) {
                (true, false) => Need::Runs,
                (true, true) if connected => Need::Ends,
                (false, _) if serving == Some(version) => Need::Runs,
                (false, _) if connected => Need::Drains,
                // What is not known of a pod that ends is said once, below.
                (true, true) | (false, _) => continue,
            };
            named.insert((name.as_str(), pod.as_str()));
            users.insert(User::Pod { namespace: name.clone(), pod: pod.clone(), why });
        }
    }
    for stray in observed.strays.iter().filter(|stray| stray.revision == version) {
        named.insert((stray.namespace.as_str(), stray.pod.as_str()));
        let (namespace, pod) = (stray.namespace.clone(), stray.pod.clone());
        users.insert(User::Pod { namespace, pod, why: Need::Runs });
    }
    match streams {
        None => {
            users.insert(User::NobodyAsked);
        }
        Some(streams) => {
            let rest = streams.pods.iter().filter(|(n, p)| !named.contains(&(n.as_str(), p.as_str())));
            users.extend(rest.map(|(namespace, pod)| User::Pod {
                namespace: namespace.clone(),
                pod: pod.clone(),
                why: Need::Ends,
            }));
            users.extend(
                streams.silent.iter().map(|(controller, why)| User::Silent {
                    controller: controller.clone(),
                    why: why.clone(),
                }),
            );
        }
    }
    users.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Kind, Namespace, Pod, Proxy, Rollout, Strategy, Workload, WorkloadId};

    fn pod(revision: &str, terminating: bool) -> Pod {
        Pod {
            uid: "u".to_owned(),
            revision: Some(revision.to_owned()),
            ready: true,
            terminating,
            proxy: Proxy::InSync,
            slots: None,
        }
    }

    fn observed(pods: &[(&str, Pod)], connected: &[&str]) -> Observed {
        let pods = pods.iter().map(|(name, pod)| ((*name).to_owned(), pod.clone())).collect();
        let (rollout, strategy) = (Rollout::Settled, Strategy::None);
        let workload = Workload { replicas: 1, rollout, strategy, moved_to: None, pods };
        let id = WorkloadId { name: "web".to_owned(), kind: Kind::Deployment };
        let namespace = Namespace { workloads: [(id, workload)].into(), ..Namespace::default() };
        let pods = connected.iter().map(|pod| ("shop".to_owned(), (*pod).to_owned())).collect();
        let streams = Streams { pods, ..Streams::default() };
        Observed {
            namespaces: [("shop".to_owned(), namespace)].into(),
            streams: Some([("0.1.0".to_owned(), streams)].into()),
            ..Observed::default()
        }
    }

    fn said(observed: &Observed) -> Vec<String> {
        users(observed, "0.1.0").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_that_ends_needs_its_control_plane_as_long_as_its_sidecar_is_connected() {
        let ending = [("a", pod("0.1.0", true)), ("b", pod("0.2.0", false))];
        assert_eq!(
            said(&observed(&ending, &["a"])),
            ["pod a in shop (it ends, and its sidecar is still connected)"]
        );
        assert_eq!(said(&observed(&ending, &[])), [""; 0], "its object may stay for long");
    }

    #[test]
    fn a_sidecar_that_was_replaced_in_place_is_waited_for_until_its_stream_is_gone() {
        let swapped = [("a", pod("0.2.0", false))];
        let drains = ["pod a in shop (its old sidecar keeps its connections a while)"];
        assert_eq!(said(&observed(&swapped, &["a"])), drains);
        assert_eq!(said(&observed(&swapped, &[])), [""; 0]);
    }

    #[test]
    fn what_is_unknown_counts_as_a_use_and_says_why() {
        let mut facts = observed(&[("a", pod("0.1.0", true))], &[]);
        facts.streams.as_mut().unwrap().get_mut("0.1.0").unwrap().silent =
            [("c-1".to_owned(), "no answer".to_owned())].into();
        assert_eq!(said(&facts), ["unknown sidecars, since controller c-1 could not be asked: no answer"]);
        facts.streams = None;
        assert_eq!(said(&facts), ["unknown sidecars, since no controller could be asked"]);
        // A release without any controller has nobody connected.
        facts.streams = Some([("0.2.0".to_owned(), Streams::default())].into());
        assert_eq!(said(&facts), [""; 0]);
    }
}
