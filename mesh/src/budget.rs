//! How much of a sidecar's configuration one tenant's objects may make (docs/decisions/0012-budgets.md).
//!
//! What objects refer to multiplies: hosts × matches × ranges × ports. So what comes out of them is sized before it is
//! made. Where it is too much the largest objects are left out, which opens nothing, and [`crate::Mesh::problems`] names
//! them. Which these are hangs on the objects alone, and so is the same at every replica and after every restart.

use std::collections::{BTreeMap, BTreeSet};

use crate::ingest::{Flavour, HttpMatch, Principal, ServiceAccount, ServicePart};

/// Bytes of rules (TrafficTargets, IngressBackends, limits) in the configuration of one audience.
pub(crate) const RULES: u64 = 4 << 20;
/// Objects of one kind that speak of one service account; sizing more would be work without end.
pub(crate) const MOST_OBJECTS: usize = 1024;
/// Bytes that the Egresses of one service account hold, as they are written.
pub(crate) const EGRESS_WRITTEN: u64 = 1 << 20;
/// Bytes of what they open, where each range of addresses carries all that is open there.
pub(crate) const EGRESS: u64 = 4 << 20;
/// Bytes of the routes of one service.
pub(crate) const SPLITS: u64 = 1 << 20;
/// Bytes of the services of one namespace in the configuration of one caller.
pub(crate) const SERVICES: u64 = 32 << 20;

/// What a thing costs beside its text: the message that it becomes.
pub(crate) const ENTRY: u64 = 64;
/// What a port of a service costs: cluster, endpoints, listener and route.
const SERVICE_PORT: u64 = 3 << 10;
/// What an address of a headless service costs at each port: a listener.
const LISTENER: u64 = 1536;

/// Bytes that a text becomes.
pub(crate) fn text(text: &str) -> u64 {
    ENTRY + text.len() as u64
}

impl HttpMatch {
    /// Bytes that it becomes.
    pub(crate) fn size(&self) -> u64 {
        let path = self.path.as_deref().map_or(0, text);
        let methods: u64 = self.methods.iter().map(|method| method.len() as u64 + 1).sum();
        let headers: u64 = self.headers.iter().map(|(name, value)| text(name) + value.len() as u64).sum();
        ENTRY + path + methods + headers
    }
}

impl Principal {
    /// Bytes that it becomes: as it is written, and as the SPIFFE id that it stands for.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Any => ENTRY,
            Self::Named(name) => 2 * text(name),
        }
    }
}

impl ServiceAccount {
    /// Bytes that its name becomes.
    pub(crate) fn size(&self) -> u64 {
        text(&self.namespace) + self.name.len() as u64
    }
}

/// Bytes that a service becomes whose slices hold so many endpoints.
pub(crate) fn service(part: &ServicePart, endpoints: u64) -> u64 {
    let each = match part.flavour {
        Flavour::Headless => LISTENER,
        Flavour::Address | Flavour::External => ENTRY,
    };
    part.ports.len() as u64 * (SERVICE_PORT + endpoints.saturating_mul(each))
}

/// What is left out of some things, by what it would cost.
pub(crate) type LeftOut<K> = BTreeMap<K, u64>;

/// Takes the smallest things first, of equally large ones the first, until the budget is used up. One that grows pushes
/// nothing out that is smaller.
pub(crate) fn within<K: Ord>(
    sizes: impl IntoIterator<Item = (u64, K)>,
    budget: u64,
) -> (BTreeSet<K>, LeftOut<K>) {
    let mut sizes: Vec<(u64, K)> = sizes.into_iter().collect();
    if sizes.iter().fold(0, |sum: u64, (size, _)| sum.saturating_add(*size)) > budget {
        sizes.sort_unstable();
    }
    let (mut kept, mut left_out, mut sum) = (BTreeSet::new(), LeftOut::new(), 0_u64);
    for (size, key) in sizes {
        sum = sum.saturating_add(size);
        if sum <= budget {
            kept.insert(key);
        } else {
            left_out.insert(key, size);
        }
    }
    (kept, left_out)
}
