//! Webhook configurations: injection per release, validation once per mesh.
//!
//! A webhook fails closed, so it is only made when its injector answers: `Blueprint::injecting` and
//! `Blueprint::validating` say so.

use base64::Engine as _;
use crds::labels;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{Blueprint, Component, child};

const API_VERSION: &str = "admissionregistration.k8s.io/v1";

/// Name of the injection webhook's configuration for a release.
#[must_use]
pub fn injection_name(mesh: &str, version: &str) -> String {
    format!("meshwright-injector-{mesh}-{}", labels::dashed(version))
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
    let configuration = |version: &String| {
        let component = blueprint.component_labels(Component::Injector, version);
        child(json!({
            "apiVersion": API_VERSION,
            "kind": "MutatingWebhookConfiguration",
            "metadata": blueprint.metadata(&injection_name(&mesh, version), None, &component),
            "webhooks": [{
                "name": "inject.meshwright.io",
                "admissionReviewVersions": ["v1"],
                "clientConfig": client_config(blueprint, version, bundle, "/inject"),
                "rules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "scope": "Namespaced",
                    "operations": ["CREATE"],
                }],
                "namespaceSelector": {"matchLabels": {labels::MESH: mesh, labels::REVISION: version}},
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
    };
    blueprint.injecting.iter().map(configuration).collect()
}

pub(super) fn validation(blueprint: &Blueprint<'_>) -> Option<DynamicObject> {
    let (bundle, version) = (blueprint.trust_bundle?, blueprint.validating.as_deref()?);
    let rule = |group: &str, resources: &[&str]| {
        json!({
            "apiGroups": [group], "apiVersions": ["*"], "resources": resources, "scope": "*",
            "operations": ["CREATE", "UPDATE"],
        })
    };
    let name = format!("meshwright-validator-{}", blueprint.mesh_name());
    Some(child(json!({
        "apiVersion": API_VERSION,
        "kind": "ValidatingWebhookConfiguration",
        "metadata": blueprint.metadata(&name, None, &json!({})),
        "webhooks": [{
            "name": "validate.meshwright.io",
            "admissionReviewVersions": ["v1"],
            "clientConfig": client_config(blueprint, version, bundle, "/validate"),
            "rules": [
                rule("meshwright.io", &["meshconfigs", "meshpolicies", "policysources", "meshupgrades"]),
                rule("access.smi-spec.io", &["traffictargets"]),
                rule("specs.smi-spec.io", &["httproutegroups", "tcproutes"]),
                rule("split.smi-spec.io", &["trafficsplits"]),
                rule(
                    "policy.openservicemesh.io",
                    &["egresses", "ingressbackends", "retries", "upstreamtrafficsettings"],
                ),
            ],
            // What slips through is judged again by ingest; nobody must be locked out of repairing a mesh.
            "failurePolicy": "Ignore",
            "matchPolicy": "Equivalent",
            "sideEffects": "None",
            "timeoutSeconds": 5,
        }],
    })))
}
