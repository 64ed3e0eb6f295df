//! What the control-plane reconciler looks at, as plain values.

use std::collections::{BTreeMap, BTreeSet};

use crds::membership::Missed;
use crds::{MeshConfig, MeshUpgrade, PolicySource};
use k8s_openapi::jiff::Timestamp;
use upgrades::uninjected::Word;

use crate::fleet::FleetView;

/// Everything that was read for one reconcile.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Every MeshConfig that is not being deleted, this one too.
    pub meshes: Vec<MeshConfig>,
    /// Every namespace.
    pub namespaces: Vec<NamespaceFact>,
    /// Pods of the mesh with a sidecar that still run.
    pub pods: Vec<PodFact>,
    /// Pods that run without a sidecar of any mesh and don't say why, in order.
    pub bare: Vec<BarePod>,
    /// Deployments of the mesh's control plane by name.
    pub deployments: BTreeMap<String, DeploymentFact>,
    /// Names of the webhook configurations that exist.
    pub webhooks: BTreeSet<String>,
    /// The public roots that the controllers published.
    pub trust_bundle: Option<String>,
    /// What the server has.
    pub server: Server,
    /// Policy sources of the control plane's namespace.
    pub sources: Vec<PolicySource>,
    /// Upgrades of this mesh.
    pub upgrades: Vec<MeshUpgrade>,
    /// Namespace and name of every live holder of a certificate; `None` when nobody looked.
    pub holders: Option<Vec<(String, String)>>,
    /// What the controllers say; `None` before anybody was asked.
    pub fleet: Option<FleetView>,
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceFact {
    /// Name.
    pub name: String,
    /// The version that was seen.
    pub resource_version: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The mesh that labelled it, if not a person did.
    pub labelled_by: Option<String>,
    /// Whether its revision label is one that we set.
    pub our_revision: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// A person's word on restarting its pods that escaped injection.
    pub restart_word: Option<Word>,
    /// When it got the label of the mesh, as far as its field managers tell.
    pub labelled_at: Option<Timestamp>,
}

/// A running pod with a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodFact {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Release of its sidecar.
    pub revision: String,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// A pod that runs without a sidecar and does not say why.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BarePod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// When it was made.
    pub made: Option<Timestamp>,
}

/// How far a Deployment is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentFact {
    /// Release.
    pub version: String,
    /// Replicas wanted.
    pub wanted: i32,
    /// Replicas of the newest template that are ready; 0 while the status is older than the spec.
    pub ready: i32,
    /// Whether at least one replica of any template is available.
    pub available: bool,
}

impl DeploymentFact {
    /// Whether all replicas are ready.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.wanted > 0 && self.ready >= self.wanted
    }
}

/// What depends on the API server, as its discovery says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Server {
    /// Which API for PodDisruptionBudgets it has.
    pub budgets: BudgetApi,
    /// Whether a webhook can say of what it is not asked.
    pub conditions: MatchConditions,
}

/// `matchConditions` of webhooks. No discovery lists fields; it came to stay together with ValidatingAdmissionPolicy, whose
/// version 1 discovery does list (Kubernetes 1.30).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MatchConditions {
    /// It would be refused, or dropped.
    #[default]
    Missing,
    /// It counts.
    Served,
}

/// The API of PodDisruptionBudgets: `policy/v1` from Kubernetes 1.21, before that `policy/v1beta1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BudgetApi {
    /// 1.21 and later.
    #[default]
    V1,
    /// Before 1.21.
    V1beta1,
}

impl BudgetApi {
    /// As in `apiVersion`.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::V1 => "policy/v1",
            Self::V1beta1 => "policy/v1beta1",
        }
    }
}

impl Facts {
    /// The bare pods of some namespaces, each with why.
    pub fn escaped<'a>(
        &'a self,
        members: &'a BTreeSet<String>,
    ) -> impl Iterator<Item = (&'a BarePod, Missed)> + 'a {
        self.bare.iter().filter(|pod| members.contains(&pod.namespace)).map(|pod| {
            let namespace = self.namespaces.iter().find(|namespace| namespace.name == pod.namespace);
            (pod, Missed::judge(pod.made, namespace.and_then(|namespace| namespace.labelled_at)))
        })
    }

    /// Whether controller and injector of a release have all replicas ready.
    #[must_use]
    pub fn revision_complete(&self, version: &str) -> bool {
        [crds::labels::controller_name(version), crds::labels::injector_name(version)]
            .iter()
            .all(|name| self.deployments.get(name).is_some_and(DeploymentFact::complete))
    }

    /// Whether the injector of a release can answer.
    #[must_use]
    pub fn injector_available(&self, version: &str) -> bool {
        self.deployments.get(&crds::labels::injector_name(version)).is_some_and(|fact| fact.available)
    }
}
