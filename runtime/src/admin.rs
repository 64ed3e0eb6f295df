//! The admin port: `/metrics`, `/livez`, `/readyz`, `/debug/state`.
//!
//! Plain HTTP. Whoever can reach the pod may ask for health and metrics, which name no object of a tenant: labels are of
//! fixed sets. `/debug/state` names all of them, so that it answers over loopback only: to whoever may run something in the
//! pod, or forward a port of it (`kubectl port-forward`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{Extensions, StatusCode, header};
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
    live: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    state: Arc<dyn Fn() -> serde_json::Value + Send + Sync>,
}

impl Admin {
    /// `state` is called for every `/debug/state`; it must not block for long.
    pub fn new(
        registry: Registry,
        readiness: Readiness,
        state: impl Fn() -> serde_json::Value + Send + Sync + 'static,
    ) -> Self {
        Self { registry: Arc::new(registry), readiness, live: Arc::new(|| Ok(())), state: Arc::new(state) }
    }

    /// `/livez` says what `live` says, for every probe: an error that only a restart mends.
    #[must_use]
    pub fn live_while(self, live: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { live: Arc::new(live), ..self }
    }

    /// The routes, for daemons that serve them on a port of their own making.
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
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
        let service = self.router().into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn livez(State(admin): State<Admin>) -> Response {
    match (admin.live)() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let missing = admin.readiness.missing();
    let code = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, axum::Json(serde_json::json!({"ready": missing.is_empty(), "waiting": missing}))).into_response()
}

async fn debug_state(State(admin): State<Admin>, extensions: Extensions) -> Response {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    if peer.is_none_or(|ConnectInfo(address)| !address.ip().to_canonical().is_loopback()) {
        let message =
            "only over loopback: forward the port of the pod (kubectl port-forward), then ask localhost\n";
        return (StatusCode::FORBIDDEN, message).into_response();
    }
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
        get_from(admin, path, Some("127.0.0.1:1")).await
    }

    async fn get_from(admin: &Admin, path: &str, peer: Option<&str>) -> (StatusCode, String, String) {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer.parse().unwrap()));
        }
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
        let dead = admin.live_while(|| Err("a thread has died".to_owned()));
        let (code, _, text) = get_path(&dead, "/livez").await;
        assert_eq!((code, text.as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "a thread has died\n"));
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

    #[tokio::test]
    async fn a_stranger_is_told_nothing_of_the_state() {
        let admin =
            Admin::new(Registry::default(), Readiness::new(), || serde_json::json!({"tenant": "secret"}));
        for stranger in [None, Some("10.0.0.7:1"), Some("[fd00::7]:1"), Some("[::ffff:10.0.0.7]:1")] {
            let (code, _, text) = get_from(&admin, "/debug/state", stranger).await;
            assert_eq!(code, StatusCode::FORBIDDEN, "{stranger:?}");
            assert!(!text.contains("secret"), "{text}");
            assert_eq!(get_from(&admin, "/livez", stranger).await.0, StatusCode::OK);
            assert_eq!(get_from(&admin, "/metrics", stranger).await.0, StatusCode::OK);
        }
        for own in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(get_from(&admin, "/debug/state", Some(own)).await.0, StatusCode::OK, "{own}");
        }
    }

    /// Over a real socket: the address of the peer is known.
    #[tokio::test]
    async fn the_port_knows_who_asks() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let admin = Admin::new(Registry::default(), Readiness::new(), || serde_json::json!({"a": 1}));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(admin.serve(address, stop.clone()));
        let mut stream = loop {
            match tokio::net::TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        stream.write_all(b"GET /debug/state HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(r#"{"a":1}"#), "{answer}");
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
