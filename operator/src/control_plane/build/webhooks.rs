//! Webhook configurations: injection per release and once for the rest, validation once per mesh.
//!
//! ```text
//!  namespace: mesh=m, revision=0.2.0            ──▶ the webhook of 0.2.0
//!             mesh=m, no revision or another one ──▶ the default webhook ──▶ injector of the release in effect
//! ```
//! The label of the mesh alone decides whether a pod gets a sidecar: from the moment that the API server sees it, some
//! injector is asked. Which one, the revision says. So a namespace is served before the operator has written its
//! revision, and also while no operator runs. When a release comes or goes, both may be asked for a moment: the second
//! finds the sidecar of the first and adds nothing.
//!
//! A webhook fails closed, so it is only made when its injector answers: `Blueprint::injecting` and
//! `Blueprint::validating` say so.

use std::borrow::Cow;

use base64::Engine as _;
use crds::{PolicyKind, labels};
use kube::Resource as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{Blueprint, Component, child};
use crate::context::OPERATOR;
use crate::control_plane::facts::MatchConditions;

const API_VERSION: &str = "admissionregistration.k8s.io/v1";

/// Name of the injection webhook's configuration for a release.
#[must_use]
pub fn injection_name(mesh: &str, version: &str) -> String {
    format!("meshwright-injector-{mesh}-{}", labels::dashed(version))
}

/// Name of the configuration for namespaces whose revision has no webhook of its own. (A release begins with a digit.)
#[must_use]
pub fn default_injection_name(mesh: &str) -> String {
    format!("meshwright-injector-{mesh}-default")
}

fn client_config(blueprint: &Blueprint<'_>, version: &str, bundle: &str, path: &str) -> Value {
    json!({
        "caBundle": base64::engine::general_purpose::STANDARD.encode(bundle),
        "service": {
            "name": Component::Injector.name(version),
            "namespace": blueprint.namespace(),
            "path": path,
            "port": 443,
        },
    })
}

pub(super) fn injection(blueprint: &Blueprint<'_>) -> Vec<DynamicObject> {
    let Some(bundle) = blueprint.trust_bundle else { return Vec::new() };
    let mesh = blueprint.mesh_name();
    let of_release = |version: &String| {
        let component = blueprint.component_labels(Component::Injector, version);
        let metadata = blueprint.metadata(&injection_name(&mesh, version), None, &component);
        let which = json!({"key": labels::REVISION, "operator": "In", "values": [version]});
        configuration(blueprint, &metadata, version, bundle, &which)
    };
    let of_the_rest = |version: &String| {
        let metadata = blueprint.metadata(&default_injection_name(&mesh), None, &json!({}));
        // True of a namespace without the label too.
        let which = json!({"key": labels::REVISION, "operator": "NotIn", "values": blueprint.served});
        configuration(blueprint, &metadata, version, bundle, &which)
    };
    let each = blueprint.injecting.iter().map(of_release);
    each.chain(blueprint.answering.iter().map(of_the_rest)).collect()
}

/// `which` narrows the namespaces of the mesh by their revision.
fn configuration(
    blueprint: &Blueprint<'_>,
    metadata: &Value,
    version: &str,
    bundle: &str,
    which: &Value,
) -> DynamicObject {
    let never = json!({
        "key": "kubernetes.io/metadata.name", "operator": "NotIn",
        "values": ["kube-node-lease", "kube-public", "kube-system", blueprint.namespace()],
    });
    child(json!({
        "apiVersion": API_VERSION,
        "kind": "MutatingWebhookConfiguration",
        "metadata": metadata,
        "webhooks": [{
            "name": labels::INJECTION_WEBHOOK,
            "admissionReviewVersions": ["v1"],
            "clientConfig": client_config(blueprint, version, bundle, "/inject"),
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "Namespaced",
                "operations": ["CREATE"],
            }],
            // Namespaces that are never part of a mesh cannot be locked up by a label either (their names are labels
            // since Kubernetes 1.21; the control plane's own pods opt out by label in any version).
            "namespaceSelector": {
                "matchLabels": {labels::MESH: blueprint.mesh_name()},
                "matchExpressions": [which, never],
            },
            "objectSelector": {"matchExpressions": [
                {"key": labels::INJECT, "operator": "NotIn", "values": ["false"]},
            ]},
            // A pod without its sidecar would be outside the mesh without anybody noticing.
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "reinvocationPolicy": "IfNeeded",
            "sideEffects": "None",
            "timeoutSeconds": 10,
        }],
    }))
}

/// What is asked about: each policy, each kind of ours, and whether a MeshConfig may go, for its control plane goes with it.
fn judged() -> Vec<Value> {
    let group = crds::MeshConfig::group(&());
    let mesh = crds::MeshConfig::plural(&());
    let ours = [mesh.clone(), crds::PolicySource::plural(&()), crds::MeshUpgrade::plural(&())];
    let mut kinds = vec![(group.clone(), ours.to_vec())];
    for kind in PolicyKind::ALL {
        match kinds.iter_mut().find(|(group, _)| *group == kind.group()) {
            Some((_, resources)) => resources.push(kind.plural()),
            None => kinds.push((kind.group(), vec![kind.plural()])),
        }
    }
    let rule = |operations: &[&str], group: &str, resources: &[Cow<'static, str>]| {
        json!({
            "apiGroups": [group], "apiVersions": ["*"], "resources": resources, "scope": "*",
            "operations": operations,
        })
    };
    let written = kinds.iter().map(|(group, resources)| rule(&["CREATE", "UPDATE"], group, resources));
    std::iter::once(rule(&["DELETE"], &group, &[mesh])).chain(written).collect()
}

pub(super) fn validation(blueprint: &Blueprint<'_>) -> Option<DynamicObject> {
    let (bundle, version) = (blueprint.trust_bundle?, blueprint.validating.as_deref()?);
    let name = format!("meshwright-validator-{}", blueprint.mesh_name());
    let mut webhook = json!({
        "name": labels::VALIDATION_WEBHOOK,
        "admissionReviewVersions": ["v1"],
        "clientConfig": client_config(blueprint, version, bundle, "/validate"),
        "rules": judged(),
        // What slips through is judged again by ingest; nobody must be locked out of repairing a mesh.
        "failurePolicy": "Ignore",
        "matchPolicy": "Equivalent",
        "sideEffects": "None",
        "timeoutSeconds": 5,
    });
    match blueprint.server.conditions {
        MatchConditions::Served => webhook["matchConditions"] = unless_by_us(blueprint.operator),
        MatchConditions::Missing => {}
    }
    Some(child(json!({
        "apiVersion": API_VERSION,
        "kind": "ValidatingWebhookConfiguration",
        "metadata": blueprint.metadata(&name, None, &json!({})),
        "webhooks": [webhook],
    })))
}

/// The operator has judged what it writes; where no injector answers, a commit of many objects would wait for each of them
/// until the webhook times out.
fn unless_by_us(namespace: &str) -> Value {
    let us = format!("system:serviceaccount:{namespace}:{OPERATOR}");
    json!([{"name": "not-the-operator", "expression": format!("request.userInfo.username != '{us}'")}])
}
