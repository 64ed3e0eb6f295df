//! All decisions of one reconcile in one value: pure.

use std::collections::BTreeSet;

use crds::MeshConfig;
use kube::ResourceExt;
use upgrades::Catalogue;

use super::build::{Blueprint, default_injection_name, injection_name};
use super::facts::Facts;
use super::namespaces::{self, Membership};
use super::pruning::Left;
use super::revisions::{self, Revisions, Verdict};

/// What shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// An older MeshConfig has the control plane's namespace: this one does nothing.
    pub rival: Option<String>,
    /// The releases.
    pub revisions: Revisions,
    /// The namespaces.
    pub membership: Membership,
}

impl Plan {
    /// Decides.
    #[must_use]
    pub fn decide(mesh: &MeshConfig, facts: &Facts, catalogue: &Catalogue) -> Self {
        let revisions = revisions::decide(mesh, &mesh.name_any(), facts, catalogue);
        let rival = namespaces::control_plane_holder(mesh, facts);
        let membership = namespaces::decide(mesh, facts, &revisions);
        Self { rival, revisions, membership }
    }

    /// What is left although it is no longer wanted. A version that cannot be had changes nothing, so nothing is deleted
    /// because of it either; what the last good version needs is still put back when somebody removes it.
    #[must_use]
    pub fn left(&self, facts: &Facts) -> Option<Left> {
        if matches!(self.revisions.verdict, Verdict::Refused { .. }) {
            return Some(Left::VersionRefused);
        }
        if self.membership.bad_selector.is_some() {
            return Some(Left::BadSelector);
        }
        // Without the published roots neither copies nor webhooks can be built; those that exist are not unwanted.
        if facts.trust_bundle.is_none() && !facts.webhooks.is_empty() {
            return Some(Left::RootsUnpublished);
        }
        let kept = &self.revisions.keep;
        (!kept.is_empty()).then(|| Left::InUse(kept.iter().cloned().collect()))
    }

    /// The children's common input.
    #[must_use]
    pub fn blueprint<'a>(
        &self,
        mesh: &'a MeshConfig,
        facts: &'a Facts,
        image_prefix: &'a str,
        cluster_domain: &'a str,
        operator: &'a str,
    ) -> Blueprint<'a> {
        let name = mesh.name_any();
        // A webhook is made when its injector answers for the first time, and then stays: fail closed.
        let injects = |version: &&String| {
            facts.injector_available(version) || facts.webhooks.contains(&injection_name(&name, version))
        };
        let injecting: BTreeSet<_> = self.revisions.build.iter().filter(injects).cloned().collect();
        let judges = self.revisions.effective.as_str();
        let kept = self.revisions.keep.iter();
        let kept = kept.filter(|version| facts.webhooks.contains(&injection_name(&name, version)));
        let served: BTreeSet<_> = injecting.iter().chain(kept).cloned().collect();
        let preferred = self.revisions.for_new_namespaces().filter(|version| injecting.contains(*version));
        // Once there, it stays: another release's injector is better than none.
        let any = injecting.last().filter(|_| facts.webhooks.contains(&default_injection_name(&name)));
        let answering = preferred.map(str::to_owned).or_else(|| any.cloned());
        Blueprint {
            mesh,
            image_prefix,
            cluster_domain,
            validating: injecting.contains(judges).then(|| judges.to_owned()),
            revisions: self.revisions.build.clone(),
            injecting,
            served,
            answering,
            trust_bundle: facts.trust_bundle.as_deref(),
            members: self.membership.members.clone(),
            server: facts.server,
            operator,
        }
    }
}
