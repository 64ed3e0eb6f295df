//! Every child of a MeshConfig as a value: pure, one file per kind.
//!
//! ```text
//!  Blueprint ──▶ identity, access, controller, injector, budget, network, webhooks, trust, sources ──▶ Vec<DynamicObject>
//! ```
//! The order is the order of applying: what others refer to comes first.

use std::collections::BTreeSet;

use crds::{MeshConfig, labels};
use kube::api::{ApiResource, DynamicObject};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::facts::{BudgetApi, Server};

mod access;
mod budget;
mod controller;
mod identity;
mod injector;
mod network;
mod pods;
mod root;
mod service;
mod sources;
#[cfg(test)]
mod tests;
mod trust;
mod webhooks;

pub use root::{RootError, empty_secret, root_secret};
pub use webhooks::{default_injection_name, injection_name};

/// All that children are made of.
#[derive(Debug, Clone)]
pub struct Blueprint<'a> {
    /// The MeshConfig.
    pub mesh: &'a MeshConfig,
    /// Prefix of image names.
    pub image_prefix: &'a str,
    /// DNS domain of the cluster.
    pub cluster_domain: &'a str,
    /// Releases to build.
    pub revisions: BTreeSet<String>,
    /// Releases whose injection webhook shall exist.
    pub injecting: BTreeSet<String>,
    /// Releases that have an injection webhook of their own, also those that nothing is built for.
    pub served: BTreeSet<String>,
    /// The release whose injector answers for namespaces without a release that is served, when one can.
    pub answering: Option<String>,
    /// The release whose injector judges policies, when it can.
    pub validating: Option<String>,
    /// The public roots; without them no webhook can be.
    pub trust_bundle: Option<&'a str>,
    /// Namespaces of the mesh, which get a copy of the roots.
    pub members: BTreeSet<String>,
    /// What the API server has.
    pub server: Server,
    /// Namespace of the operator itself.
    pub operator: &'a str,
}

/// The two daemons of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Component {
    /// Delta ADS and certificates.
    Controller,
    /// Admission.
    Injector,
}

impl Component {
    const ALL: [Self; 2] = [Self::Controller, Self::Injector];

    fn word(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Injector => "injector",
        }
    }

    /// Name of its Deployment, Service, ServiceAccount and budget.
    fn name(self, version: &str) -> String {
        match self {
            Self::Controller => labels::controller_name(version),
            Self::Injector => labels::injector_name(version),
        }
    }
}

impl Blueprint<'_> {
    fn mesh_name(&self) -> String {
        self.mesh.name_any()
    }

    fn namespace(&self) -> &str {
        &self.mesh.spec.namespace
    }

    fn image(&self, component: &str, version: &str) -> String {
        format!("{}{component}:{version}", self.image_prefix)
    }

    /// Labels that a component's objects and pods have, and by which its selectors find its pods.
    fn component_labels(&self, component: Component, version: &str) -> Value {
        json!({
            labels::NAME: format!("meshwright-{}", component.word()),
            labels::COMPONENT: component.word(),
            labels::VERSION: version,
            labels::MESH: self.mesh_name(),
        })
    }

    /// Metadata of a component's object.
    fn metadata(&self, name: &str, namespace: Option<&str>, extra: &Value) -> Value {
        let mut labels = json!({labels::MANAGED_BY: labels::MANAGER, labels::MESH: self.mesh_name()});
        merge(&mut labels, extra);
        let mut metadata = json!({"name": name, "labels": labels, "ownerReferences": [self.owner()]});
        if let Some(namespace) = namespace {
            metadata["namespace"] = json!(namespace);
        }
        metadata
    }

    /// Children vanish with their MeshConfig (garbage collection; a cluster-scoped owner may own anything).
    fn owner(&self) -> Value {
        json!({
            "apiVersion": MeshConfig::api_version(&()),
            "kind": MeshConfig::kind(&()),
            "name": self.mesh_name(),
            "uid": self.mesh.uid().unwrap_or_default(),
            "controller": true,
            "blockOwnerDeletion": false,
        })
    }
}

fn merge(into: &mut Value, extra: &Value) {
    if let (Some(into), Some(extra)) = (into.as_object_mut(), extra.as_object()) {
        into.extend(extra.clone());
    }
}

/// A child from its JSON.
fn child(value: Value) -> DynamicObject {
    serde_json::from_value(value)
        .expect("children are written in this module with apiVersion, kind and metadata")
}

/// Every child, in the order of applying.
#[must_use]
pub fn all(blueprint: &Blueprint<'_>) -> Vec<DynamicObject> {
    let mut children = Vec::new();
    for version in &blueprint.revisions {
        for component in Component::ALL {
            children.push(identity::service_account(blueprint, component, version));
            children.extend(access::bindings(blueprint, component, version));
            children.push(service::service(blueprint, component, version));
            children.push(budget::budget(blueprint, component, version));
            children.push(network::policy(blueprint, component, version));
        }
        children.push(controller::deployment(blueprint, version));
        children.push(injector::deployment(blueprint, version));
    }
    children.extend(trust::copies(blueprint));
    children.extend(webhooks::injection(blueprint));
    children.extend(webhooks::validation(blueprint));
    children.extend(sources::policy_sources(blueprint));
    children
}

/// Where children of a kind may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the control plane's namespace.
    ControlPlane,
    /// In no namespace.
    Cluster,
    /// In any namespace, by this name.
    Named(&'static str),
}

/// The kinds that are pruned.
#[must_use]
pub fn kinds(budgets: BudgetApi) -> Vec<(ApiResource, Scope)> {
    use k8s_openapi::api::{
        admissionregistration::v1 as admission, apps::v1 as apps, core::v1 as core,
        networking::v1 as networking, rbac::v1 as rbac,
    };
    let budget = {
        let version = budgets.version().trim_start_matches("policy/");
        ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk("policy", version, "PodDisruptionBudget"))
    };
    vec![
        (ApiResource::erase::<admission::MutatingWebhookConfiguration>(&()), Scope::Cluster),
        (ApiResource::erase::<admission::ValidatingWebhookConfiguration>(&()), Scope::Cluster),
        (ApiResource::erase::<crds::PolicySource>(&()), Scope::ControlPlane),
        (ApiResource::erase::<apps::Deployment>(&()), Scope::ControlPlane),
        (budget, Scope::ControlPlane),
        (ApiResource::erase::<networking::NetworkPolicy>(&()), Scope::ControlPlane),
        (ApiResource::erase::<core::Service>(&()), Scope::ControlPlane),
        (ApiResource::erase::<core::ConfigMap>(&()), Scope::Named(labels::TRUST_BUNDLE)),
        (ApiResource::erase::<rbac::ClusterRoleBinding>(&()), Scope::Cluster),
        (ApiResource::erase::<rbac::RoleBinding>(&()), Scope::ControlPlane),
        (ApiResource::erase::<core::ServiceAccount>(&()), Scope::ControlPlane),
    ]
}
