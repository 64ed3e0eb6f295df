//! As much of an API server as the injector watches; counts what it is asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::review;

#[derive(Default)]
struct Asked {
    reads: AtomicU64,
    writes: AtomicU64,
}

/// A running one.
pub struct Api {
    address: SocketAddr,
    asked: Arc<Asked>,
}

impl Api {
    /// Starts it on a port of loopback; it lives as long as the runtime.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let (address, asked) = (listener.local_addr()?, Arc::<Asked>::default());
        let router = Router::new().fallback(answer).with_state(asked.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok(Self { address, asked })
    }

    /// How to reach it.
    pub fn kubeconfig(&self) -> String {
        let named = |field: &str, value: Value| json!([{"name": "bench", field: value}]);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": named("cluster", json!({"server": format!("http://{}", self.address)})),
            "users": named("user", json!({})),
            "contexts": named("context", json!({"cluster": "bench", "user": "bench"})),
        })
        .to_string()
    }

    /// Reads and writes so far.
    pub fn asked(&self) -> (u64, u64) {
        (self.asked.reads.load(Ordering::Relaxed), self.asked.writes.load(Ordering::Relaxed))
    }
}

async fn answer(
    State(asked): State<Arc<Asked>>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let count = if method == Method::GET { &asked.reads } else { &asked.writes };
    count.fetch_add(1, Ordering::Relaxed);
    if uri.path() == "/version" {
        return Json(version()).into_response();
    }
    let labels = json!({"meshwright.io/mesh": bench::control::MESH});
    let (kind, version, item) = match uri.path() {
        "/api/v1/namespaces" => {
            ("NamespaceList", "v1", json!({"metadata": {"name": review::NAMESPACE, "labels": labels}}))
        }
        "/apis/meshwright.io/v1alpha1/meshconfigs" => {
            let item = json!({
                "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig",
                "metadata": {"name": bench::control::MESH}, "spec": {"version": crate::REVISION},
            });
            ("MeshConfigList", "meshwright.io/v1alpha1", item)
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    if query.contains_key("watch") {
        // Nothing ever changes.
        return Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>()).into_response();
    }
    let list =
        json!({"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": "1"}, "items": [item]});
    Json(list).into_response()
}

/// Of a Kubernetes with native sidecars.
fn version() -> Value {
    json!({
        "major": "1", "minor": "32", "gitVersion": "v1.32.0", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
    })
}
