//! The admin port: `/metrics`, `/livez`, `/readyz`, `/debug/state`.
//!
//! Plain HTTP and no secret: whatever `/debug/state` shows must be fit for anybody who can reach the pod.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// prometheus-client writes OpenMetrics only; with the classic content type Prometheus refuses it.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Something that keeps the daemon from being ready.
#[derive(Serialize, Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct NotReady {
    /// The part, as in `caches`.
    pub part: String,
    /// Why, for a person.
    pub reason: String,
}

/// What the daemon still waits for; parts are ready or not ready for a stated reason.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Ready from the start; daemons name what they wait for before they serve.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says why a part is not ready.
    pub fn not_ready(&self, part: &'static str, reason: impl Into<String>) {
        self.waiting.lock().insert(part, reason.into());
    }

    /// Says that a part is ready.
    pub fn ready(&self, part: &'static str) {
        self.waiting.lock().remove(part);
    }

    /// Everything that is not ready, sorted by part; empty when the daemon is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<NotReady> {
        let waiting = self.waiting.lock();
        waiting
            .iter()
            .map(|(part, reason)| NotReady { part: (*part).to_owned(), reason: reason.clone() })
            .collect()
    }
}

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    registry: Arc<Registry>,
    readiness: Readiness,
    state: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

impl Admin {
    /// `state` is called for every `/debug/state`; it must not block for long.
    pub fn new(
        registry: Registry,
        readiness: Readiness,
        state: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) -> Self {
        Self { registry: Arc::new(registry), readiness, state: Arc::new(state) }
    }

    /// The routes, for daemons that serve them on a port of their own making.
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/debug/state", get(debug_state))
            .with_state(self)
    }

    /// Serves until `stop` is cancelled.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(self, address: SocketAddr, stop: CancellationToken) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        tracing::info!(%address, "admin port");
        axum::serve(listener, self.router()).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let missing = admin.readiness.missing();
    let code = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, axum::Json(serde_json::json!({"ready": missing.is_empty(), "waiting": missing}))).into_response()
}

async fn debug_state(State(admin): State<Admin>) -> Response {
    axum::Json((admin.state)()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt;

    async fn get_path(admin: &Admin, path: &str) -> (StatusCode, String, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = admin.clone().router().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let kind = parts.headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (parts.status, kind, text)
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_and_why() {
        let readiness = Readiness::new();
        let admin = Admin::new(Registry::default(), readiness.clone(), || serde_json::json!({}));
        readiness.not_ready("caches", "pods not listed");
        let (code, _, text) = get_path(&admin, "/readyz").await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, r#"{"ready":false,"waiting":[{"part":"caches","reason":"pods not listed"}]}"#);
        readiness.ready("caches");
        assert_eq!(get_path(&admin, "/readyz").await.0, StatusCode::OK);
        assert_eq!(get_path(&admin, "/livez").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_and_say_so() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("things", "Things done", counter.clone());
        counter.inc();
        let admin = Admin::new(registry, Readiness::new(), || serde_json::json!({"a": 1}));
        let (code, kind, text) = get_path(&admin, "/metrics").await;
        assert_eq!((code, kind.as_str()), (StatusCode::OK, OPEN_METRICS));
        assert!(text.contains("things_total 1") && text.ends_with("# EOF\n"), "{text}");
        assert_eq!(get_path(&admin, "/debug/state").await.2, r#"{"a":1}"#);
    }
}
