//! The Kubernetes kinds that Meshwright serves (`meshwright.io`) or honours (SMI), one file per kind.
//!
//! ```text
//!  spec types ──derive──▶ CustomResourceDefinition ──▶ crds/yaml/ (generated, committed)
//!      │
//!      └──▶ everything else: mesh, gitops, upgrades, operator, controller, injector, cli
//! ```
//!
//! A leaf: it depends on no other crate of ours and does no IO. Any crate may use it.

pub mod duration;
pub mod fleet;
pub mod labels;
pub mod mesh_config;
pub mod mesh_policy;
pub mod mesh_upgrade;
pub mod policy_source;
pub mod seal;
pub mod smi;

pub use mesh_config::{MeshConfig, MeshConfigSpec};
pub use mesh_policy::{MeshPolicy, MeshPolicySpec};
pub use mesh_upgrade::{MeshUpgrade, MeshUpgradeSpec};
pub use policy_source::{PolicySource, PolicySourceSpec};
pub use smi::{
    HTTPRouteGroup, HTTPRouteGroupSpec, TCPRoute, TCPRouteSpec, TrafficSplit, TrafficSplitSpec, TrafficTarget,
    TrafficTargetSpec,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Every definition that `meshwright install` applies, in a fixed order.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        MeshConfig::crd(),
        PolicySource::crd(),
        MeshPolicy::crd(),
        MeshUpgrade::crd(),
        TrafficTarget::crd(),
        HTTPRouteGroup::crd(),
        TCPRoute::crd(),
        smi::traffic_split_crd(),
    ]
}

/// The file name of a definition below `crds/yaml/`.
#[must_use]
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}
