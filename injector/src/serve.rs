//! The two webhooks as HTTP.

use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use injector::admission::{self, BadReview};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::core::admission::AdmissionRequest;

use crate::metrics::{Metrics, Path};
use crate::watch::Facts;

/// An object is at most 1.5 MiB in etcd; an update carries the old and the new one.
const BODY_LIMIT: usize = 4 << 20;

#[derive(Clone)]
struct Webhooks {
    facts: Facts,
    metrics: Metrics,
}

/// `/inject` and `/validate`.
pub fn router(facts: Facts, metrics: Metrics) -> Router {
    Router::new()
        .route("/inject", post(inject))
        .route("/validate", post(validate))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Webhooks { facts, metrics })
}

async fn inject(State(webhooks): State<Webhooks>, body: Bytes) -> Response {
    let begun = Instant::now();
    let request: AdmissionRequest<Pod> = match admission::read(&body) {
        Ok(request) => request,
        Err(error) => {
            webhooks.metrics.unreadable();
            return refuse(&error);
        }
    };
    let namespace = webhooks.facts.namespace(request.namespace.as_deref().unwrap_or_default()).await;
    let (response, decision) = admission::mutate(&request, &namespace, &webhooks.facts.settings());
    if let Some(decision) = decision {
        webhooks.metrics.decided(&decision);
        tracing::info!(namespace = namespace.name, pod = name(&request), decision = decision.label(), "pod");
    }
    webhooks.metrics.took(Path::Inject, begun.elapsed().as_secs_f64());
    axum::Json(response.into_review()).into_response()
}

async fn validate(State(webhooks): State<Webhooks>, body: Bytes) -> Response {
    let begun = Instant::now();
    let request: AdmissionRequest<DynamicObject> = match admission::read(&body) {
        Ok(request) => request,
        Err(error) => return refuse(&error),
    };
    let response = admission::judge(&request, webhooks.facts.settings().floor);
    webhooks.metrics.judged(response.allowed);
    if !response.allowed {
        let (kind, namespace) = (&request.kind.kind, request.namespace.as_deref().unwrap_or_default());
        tracing::info!(kind, namespace, name = request.name, message = response.result.message, "refused");
    }
    webhooks.metrics.took(Path::Validate, begun.elapsed().as_secs_f64());
    axum::Json(response.into_review()).into_response()
}

fn refuse(error: &BadReview) -> Response {
    tracing::warn!(error = runtime::logging::chain(error), "a request that is no review");
    (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response()
}

fn name(request: &AdmissionRequest<Pod>) -> String {
    let meta = request.object.as_ref().map(|pod| &pod.metadata);
    let named = meta.and_then(|meta| meta.name.clone().or_else(|| meta.generate_name.clone()));
    named.unwrap_or_default()
}
