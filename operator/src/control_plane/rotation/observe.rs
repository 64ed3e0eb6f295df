//! From the facts of a reconcile to what a rotation is decided by.

use crds::MeshConfig;
use kube::ResourceExt;

use super::*;
use crate::control_plane::facts::Facts;
use crate::fleet::FleetView;

/// What is seen of the root of trust.
#[must_use]
pub fn observe(mesh: &MeshConfig, facts: &Facts, now: Timestamp) -> Observed {
    let authority = &mesh.spec.certificate_authority;
    // The list is newer than the cache that the reconcile was started with, and what was ordered last matters.
    let fresh = facts.meshes.iter().find(|other| other.uid() == mesh.uid()).unwrap_or(mesh);
    let before = fresh.status.as_ref().and_then(|status| status.certificate_authority.clone());
    Observed {
        provider: authority.provider,
        wanted: authority.root_generation,
        before,
        controllers: controllers(facts.fleet.as_ref()),
        holders: facts.holders.as_ref().map(|pods| pods.iter().map(|pod| holder(facts, pod)).collect()),
        published: facts.trust_bundle.is_some(),
        now,
    }
}

fn controllers(fleet: Option<&FleetView>) -> Result<BTreeMap<String, AuthorityReport>, String> {
    let fleet = fleet.ok_or_else(|| "no controller has been asked yet".to_owned())?;
    if let Some((pod, why)) = fleet.missing.iter().next() {
        return Err(format!("controller {pod}: {why}"));
    }
    let told = |(pod, report): (&String, &Option<AuthorityReport>)| match report {
        Some(report) => Ok((pod.clone(), report.clone())),
        None => Err(format!("controller {pod} does not tell what it trusts")),
    };
    fleet.authorities.iter().map(told).collect()
}

fn holder(facts: &Facts, (namespace, name): &(String, String)) -> Holder {
    let said = facts.fleet.as_ref().and_then(|fleet| fleet.holdings.get(&(namespace.clone(), name.clone())));
    let holding = said.map(|said| Holding {
        roots: said.roots.iter().cloned().collect(),
        issuer: said.issuer.clone(),
        serial: said.serial,
    });
    Holder { name: format!("{namespace}/{name}"), holding }
}
