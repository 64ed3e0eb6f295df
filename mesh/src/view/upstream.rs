//! How services are called: Retries and the callers' side of UpstreamTrafficSettings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::types::Route;
use crate::index::Mesh;
use crate::ingest::{Hashed, RetryRules, ServiceAccount, Timed};

/// How requests to a service are handled, beyond where they go.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase")]
pub struct Handling {
    /// When they are tried again, besides when no server can have seen them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryRules>,
    /// How long things may take; as long as they take where left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub timeouts: BTreeMap<Timed, Duration>,
    /// What is hashed to choose a pod.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub hash: BTreeSet<Hashed>,
}

impl Handling {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a caller's Retries say of its calls to a service: of several the first by name.
pub(super) fn retry<'a>(
    mesh: &'a Mesh,
    caller: &ServiceAccount,
    namespace: &str,
    service: &str,
) -> Option<&'a RetryRules> {
    let mut retries = mesh.retries_of(&caller.namespace);
    let (_, part) = retries.find(|(_, part)| {
        let mut destinations = part.destinations.iter();
        part.source == *caller && destinations.any(|(space, name)| space == namespace && name == service)
    })?;
    Some(&part.rules)
}

/// How calls to a service are handled: its own timeouts, and what its receivers hash.
pub(super) fn handling(
    mesh: &Mesh,
    namespace: &str,
    retry: Option<&RetryRules>,
    service: &str,
    routes: &[Route],
) -> Handling {
    let receivers = routes.iter().flat_map(|route| route.to.keys());
    let settings = receivers.filter_map(|receiver| mesh.setting_of(namespace, &receiver.service));
    let hash = settings.filter_map(|part| part.callers.balance.as_ref()?.hash.clone()).collect();
    let timeouts = mesh.setting_of(namespace, service).map(|part| part.callers.timeouts.clone());
    Handling { retry: retry.cloned(), timeouts: timeouts.unwrap_or_default(), hash }
}
