//! What a MeshConfig says that sidecars must know.

use crds::MeshConfigSpec;
use crds::mesh_config::{AccessLog, Authorization, Egress, Floor, Mtls, PolicyOrigin};
use serde::Serialize;

/// The settings of one mesh.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Name of the MeshConfig; namespaces labelled with it are ours.
    pub mesh: String,
    /// Namespace of the control plane: a PolicySource there may hold objects of any namespace.
    pub namespace: String,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Where no MeshPolicy says otherwise.
    pub mtls: Mtls,
    /// Where no MeshPolicy says otherwise.
    pub authorization: Authorization,
    /// What no pod may be below.
    pub floor: Floor,
    /// Calls that leave the mesh.
    pub egress: Egress,
    /// Access log of the sidecars.
    pub access_log: AccessLog,
    /// Where policies may come from.
    pub policy_origin: PolicyOrigin,
}

impl Settings {
    /// The settings of the MeshConfig named `mesh`.
    #[must_use]
    pub fn new(mesh: &str, spec: &MeshConfigSpec) -> Self {
        Self {
            mesh: mesh.to_owned(),
            namespace: spec.namespace.clone(),
            trust_domain: spec.trust_domain.clone(),
            mtls: spec.traffic.mtls,
            authorization: spec.traffic.authorization,
            floor: spec.traffic.floor.unwrap_or_default(),
            egress: spec.traffic.egress,
            access_log: spec.sidecar.access_log,
            policy_origin: spec.traffic.policy_origin,
        }
    }
}
