//! Whose an address is. The API server gives an address to one service only; around a re-creation we may see two, and
//! then every caller must see the same one win.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Mesh, What};
use crate::ingest::ServicePart;

/// Namespace and name of a service.
type Claimant = (String, String);

/// Which services have an address and port, of all namespaces, also those that are not ours.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims {
    by: BTreeMap<(IpAddr, u16), BTreeSet<Claimant>>,
    of: BTreeMap<Claimant, BTreeSet<(IpAddr, u16)>>,
}

impl Claims {
    /// Takes what a service claims now; returns the other services that a change of claims touches.
    pub(super) fn set(&mut self, namespace: &str, name: &str, part: Option<&ServicePart>) -> BTreeSet<What> {
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
        let mut touched = BTreeSet::new();
        for claim in old.symmetric_difference(&claims) {
            let claimants = self.by.entry(*claim).or_default();
            if claims.contains(claim) {
                claimants.insert(me.clone());
            } else {
                claimants.remove(&me);
            }
            let others = claimants.iter().filter(|other| **other != me);
            touched.extend(
                others.map(|(namespace, name)| What::Service {
                    namespace: namespace.clone(),
                    name: name.clone(),
                }),
            );
            if claimants.is_empty() {
                self.by.remove(claim);
            }
        }
        touched
    }
}

impl Mesh {
    /// Whether an address and port is this service's: the first one by namespace and name has it.
    pub(crate) fn owns(&self, namespace: &str, service: &str, address: IpAddr, port: u16) -> bool {
        let mut claimants = self.claims.by.get(&(address, port)).into_iter().flatten();
        let first = claimants.find(|(namespace, _)| self.space(namespace).is_some());
        first.is_none_or(|(first, name)| (first.as_str(), name.as_str()) == (namespace, service))
    }
}
