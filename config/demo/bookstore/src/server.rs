//! The store and the warehouse.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::json;

use crate::call;

/// Flags of the store.
#[derive(clap::Args)]
pub struct Store {
    /// Who answers, as it appears in every answer.
    #[arg(long)]
    name: String,
    /// Port to listen on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Base URL of the warehouse.
    #[arg(long, default_value = "http://warehouse:8080")]
    warehouse: String,
}

/// Flags of the warehouse.
#[derive(clap::Args)]
pub struct Warehouse {
    /// Port to listen on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

struct Shop {
    name: String,
    warehouse: String,
    sold: AtomicU64,
}

/// Serves `GET /books`, `POST /buy` (asks the warehouse) and `GET /healthz`.
pub async fn store(flags: Store) -> anyhow::Result<()> {
    let shop = Arc::new(Shop { name: flags.name, warehouse: flags.warehouse, sold: AtomicU64::new(0) });
    let router = Router::new()
        .route("/books", get(books))
        .route("/buy", post(buy))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(shop);
    serve(router, flags.port).await
}

/// Serves `POST /restock` and `GET /healthz`.
pub async fn warehouse(flags: Warehouse) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/restock", post(|| async { Json(json!({"served_by": "warehouse", "delivered": 1})) }))
        .route("/healthz", get(|| async { "ok\n" }));
    serve(router, flags.port).await
}

async fn books(State(shop): State<Arc<Shop>>) -> impl IntoResponse {
    Json(json!({"served_by": shop.name, "sold": shop.sold.load(Ordering::Relaxed)}))
}

async fn buy(State(shop): State<Arc<Shop>>) -> impl IntoResponse {
    let url = format!("{}/restock", shop.warehouse);
    match call::once(&http::Method::POST, &url, &[]).await {
        Ok(answer) if answer.status == StatusCode::OK => {
            let sold = shop.sold.fetch_add(1, Ordering::Relaxed) + 1;
            (StatusCode::OK, Json(json!({"served_by": shop.name, "sold": sold})))
        }
        Ok(answer) => (
            StatusCode::BAD_GATEWAY,
            Json(json!({"served_by": shop.name, "warehouse_status": answer.status.as_u16()})),
        ),
        Err(error) => (
            StatusCode::BAD_GATEWAY,
            Json(json!({"served_by": shop.name, "warehouse_error": format!("{error:#}")})),
        ),
    }
}

async fn serve(router: Router, port: u16) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("cannot listen on port {port}"))?;
    eprintln!("listening on port {port}");
    axum::serve(listener, router)
        .with_graceful_shutdown(async {
            // A failure to install the handler would have shown at start; then only SIGKILL ends the process.
            let _ = crate::terminated().await;
        })
        .await?;
    Ok(())
}
