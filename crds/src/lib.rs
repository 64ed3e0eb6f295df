//! The Kubernetes kinds that Meshwright serves (`meshwright.io`) or honours (SMI, OSM), one file per kind.
//!
//! ```text
//!  spec types ──derive──▶ CustomResourceDefinition ──▶ crds/yaml/ (generated, committed)
//!      │
//!      └──▶ everything else: mesh, gitops, upgrades, operator, controller, injector, cli
//! ```
//!
//! It depends on no other crate of ours but the leaf [`names`], which it passes on as `labels`, and does no IO.

pub mod certificate_authority;
pub mod duration;
pub mod egress;
pub mod fleet;
pub mod ingress_backend;
pub mod kind;
pub mod membership;
pub mod mesh_config;
pub mod mesh_policy;
pub mod mesh_upgrade;
pub mod policy_source;
pub mod quantity;
pub mod retry;
pub mod seal;
pub mod sidecar_settings;
pub mod smi;
pub mod upstream_traffic_setting;

pub use egress::{Egress, EgressSpec};
pub use ingress_backend::{IngressBackend, IngressBackendSpec};
pub use kind::PolicyKind;
pub use mesh_config::{MeshConfig, MeshConfigSpec};
pub use mesh_policy::{MeshPolicy, MeshPolicySpec};
pub use mesh_upgrade::{MeshUpgrade, MeshUpgradeSpec};
pub use names as labels;
pub use policy_source::{PolicySource, PolicySourceSpec};
pub use retry::{Retry, RetrySpec};
pub use smi::{
    HTTPRouteGroup, HTTPRouteGroupSpec, TCPRoute, TCPRouteSpec, TrafficSplit, TrafficSplitSpec,
    TrafficTarget, TrafficTargetSpec,
};
pub use upstream_traffic_setting::{UpstreamTrafficSetting, UpstreamTrafficSettingSpec};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// Every definition that `meshwright install` applies, in a fixed order.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    let settings = [MeshConfig::crd(), PolicySource::crd(), MeshUpgrade::crd()];
    let policies = PolicyKind::ALL.map(PolicyKind::definition);
    settings.into_iter().chain(policies).map(without_empty_defaults).collect()
}

/// Takes `default: ""` out of every schema: kube-apiserver 1.20 reads it as null and refuses the definition. Our
/// types fill the empty text in themselves.
fn without_empty_defaults(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    fn clean(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.retain(|name, value| name != "default" || value.as_str() != Some(""));
                fields.values_mut().for_each(clean);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(clean),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(definition).expect("a definition is JSON");
    clean(&mut value);
    serde_json::from_value(value).expect("a definition without some optional fields is a definition")
}

/// The file name of a definition below `crds/yaml/`.
#[must_use]
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural)
}
