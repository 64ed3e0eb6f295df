//! Admission reviews (`admission.k8s.io/v1`): from bytes of a stranger to a response. No IO.

use crds::mesh_config::Floor;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use kube::core::{DynamicObject, Status};
use serde::de::DeserializeOwned;

use crate::advice::advice;
use crate::decision::{Decision, DenyReason, Problem};
use crate::settings::{NamespaceMeta, Settings};
use crate::validate;

/// The only version of the review that is spoken; it is in every Kubernetes since 1.16.
const API_VERSION: &str = "admission.k8s.io/v1";

/// Why a body is no review that we can answer. It is the caller's mistake: HTTP 400.
#[derive(Debug, thiserror::Error)]
pub enum BadReview {
    /// Not JSON, or not of the shape of a review.
    #[error("not an AdmissionReview: {0}")]
    Shape(#[source] serde_json::Error),
    /// Another kind or version.
    #[error("{api_version} {kind} is not understood; send {API_VERSION} AdmissionReview")]
    Version {
        /// What it says it is.
        api_version: String,
        /// What it says it is.
        kind: String,
    },
    /// A review without a request.
    #[error("the AdmissionReview holds no request")]
    NoRequest,
}

/// Reads a review.
///
/// # Errors
/// [`BadReview`].
pub fn read<T: Resource + DeserializeOwned>(body: &[u8]) -> Result<AdmissionRequest<T>, BadReview> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        api_version: String,
        kind: String,
    }
    // The version first: a review of another version may well have another shape.
    let Version { api_version, kind } = serde_json::from_slice(body).map_err(BadReview::Shape)?;
    if api_version != API_VERSION || kind != "AdmissionReview" {
        let short = |text: String| text.chars().take(64).collect();
        return Err(BadReview::Version { api_version: short(api_version), kind: short(kind) });
    }
    let review: AdmissionReview<T> = serde_json::from_slice(body).map_err(BadReview::Shape)?;
    review.try_into().map_err(|_| BadReview::NoRequest)
}

/// Whether a request is about a pod that is about to be created; everything else is let through unchanged or
/// refused by [`mutate`].
#[must_use]
pub fn is_pod_creation(request: &AdmissionRequest<Pod>) -> bool {
    request.operation == Operation::Create && request.sub_resource.as_deref().unwrap_or_default().is_empty()
}

/// Answers a review of a pod. The decision is `None` where there was nothing to decide.
#[must_use]
pub fn mutate(
    request: &AdmissionRequest<Pod>,
    namespace: &NamespaceMeta,
    settings: &Settings,
) -> (AdmissionResponse, Option<Decision>) {
    let response = AdmissionResponse::from(request);
    if request.kind.kind != "Pod" || !request.kind.group.is_empty() {
        let kind = format!("{}/{}", request.kind.group, request.kind.kind);
        let problem = Problem::new(DenyReason::Unreadable, format!("this webhook takes pods, not {kind}"));
        return (deny(response, &problem.to_string()), Some(Decision::Deny(problem)));
    }
    let Some(pod) = request.object.as_ref().filter(|_| is_pod_creation(request)) else {
        return (response, None);
    };
    let settings = Settings { seed: request.uid.clone(), ..settings.clone() };
    let decision = crate::inject(pod, namespace, &settings);
    let response = match &decision {
        Decision::Inject(patch) | Decision::Skip(_, patch) if patch.0.is_empty() => response,
        Decision::Inject(patch) | Decision::Skip(_, patch) => {
            match response.clone().with_patch(patch.clone()) {
                Ok(patched) => patched,
                Err(error) => deny(response, &format!("the patch cannot be written: {error}")),
            }
        }
        Decision::Deny(problem) => {
            deny(response, &format!("meshwright: {problem} (to keep the pod out of the mesh: {OPT_OUT})"))
        }
    };
    let mut response = audited(response, decision.label());
    if matches!(decision, Decision::Inject(_)) {
        response.warnings = Some(advice(pod, namespace)).filter(|said| !said.is_empty());
    }
    (response, Some(decision))
}

const OPT_OUT: &str = concat!("label ", crds::labels::in_domain!("inject"), ": \"false\"");

/// Answers a review of a policy or of a kind of ours: whether it may be written, or deleted, as it is. What the mesh will not
/// do as it is written is a warning.
#[must_use]
pub fn judge(request: &AdmissionRequest<DynamicObject>, floor: Floor) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    if request.operation == Operation::Delete {
        let refusals =
            validate::judge_deletion(&request.kind.group, &request.kind.kind, request.old_object.as_ref());
        return refuse(response, &refusals);
    }
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return response;
    }
    let Some(object) = &request.object else { return response };
    let mut object = object.clone();
    if object.metadata.namespace.is_none() {
        object.metadata.namespace = request.namespace.clone().filter(|namespace| !namespace.is_empty());
    }
    let refusals =
        validate::judge(&request.kind.group, &request.kind.kind, &object, request.old_object.as_ref());
    let mut response = refuse(response, &refusals);
    if response.allowed {
        let said = validate::warn(&request.kind.group, &request.kind.kind, &object, floor);
        response.warnings = Some(said).filter(|said| !said.is_empty());
    }
    response
}

fn refuse(response: AdmissionResponse, refusals: &[validate::Refusal]) -> AdmissionResponse {
    if refusals.is_empty() {
        return response;
    }
    let lines: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    audited(deny(response, &format!("meshwright: {}", lines.join("; "))), "Refused")
}

/// 403 and `Forbidden` are what the API server's own admission plugins answer.
fn deny(mut response: AdmissionResponse, message: &str) -> AdmissionResponse {
    response.allowed = false;
    response.result = Status::failure(message, "Forbidden").with_code(403);
    response
}

fn audited(mut response: AdmissionResponse, decision: &str) -> AdmissionResponse {
    response.audit_annotations.insert("decision".to_owned(), decision.to_owned());
    response
}
