//! `bookstore load`: requests without end on short and on kept-alive connections, counted.
//!
//! Every half second one line of JSON with counters since the start; the last one, after SIGTERM and after the
//! requests in flight have ended, says `"final": true`. Whoever adds up the lines of several pods takes the last
//! line of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::sync::Mutex;

use crate::call;

/// Flags of `bookstore load`.
#[derive(clap::Args)]
pub struct Load {
    /// URL to call.
    url: String,
    /// Callers that open a connection for each request.
    #[arg(long, default_value_t = 2)]
    short: u32,
    /// Callers that keep their connection.
    #[arg(long, default_value_t = 2)]
    keep_alive: u32,
    /// Pause of each caller between two requests, in milliseconds.
    #[arg(long, default_value_t = 20)]
    pause_ms: u64,
    /// Starts counting only after the first answer of 200.
    #[arg(long)]
    after_first_success: bool,
}

/// What was sent, and what failed how often.
#[derive(Default)]
pub struct Counters {
    sent: AtomicU64,
    failed: AtomicU64,
    counting: AtomicBool,
    stopping: AtomicBool,
    failures: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    /// Whether callers shall end.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Counts what went well.
    pub fn sent(&self, number: u64) {
        self.sent.fetch_add(number, Ordering::Relaxed);
    }

    /// Counts a failure, by what it was.
    pub async fn failed(&self, what: String) {
        eprintln!("{what}");
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.failures.lock().await.entry(what).or_default() += 1;
    }
}

/// Runs until SIGTERM.
pub async fn run(flags: Load) -> anyhow::Result<()> {
    let counters = Arc::new(Counters::default());
    counters.counting.store(!flags.after_first_success, Ordering::Relaxed);
    let pause = Duration::from_millis(flags.pause_ms);
    let mut callers = tokio::task::JoinSet::new();
    for index in 0..flags.short + flags.keep_alive {
        let (counters, url) = (Arc::clone(&counters), flags.url.clone());
        let keep_alive = index >= flags.short;
        callers.spawn(async move { caller(&counters, &url, keep_alive, pause).await });
    }
    until_terminated(&counters, callers).await
}

/// Prints the counters twice a second; after SIGTERM lets the callers end, and prints them once more.
pub async fn until_terminated(
    counters: &Arc<Counters>,
    mut callers: tokio::task::JoinSet<()>,
) -> anyhow::Result<()> {
    let reporter = tokio::spawn({
        let counters = Arc::clone(counters);
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                report(&counters, false).await;
            }
        }
    });
    crate::terminated().await?;
    counters.stopping.store(true, Ordering::Relaxed);
    while callers.join_next().await.is_some() {}
    reporter.abort();
    report(counters, true).await;
    Ok(())
}

async fn caller(counters: &Counters, url: &str, keep_alive: bool, pause: Duration) {
    // A pooled connection that dies under a request counts as a failure here; it is not hidden by a retry.
    let client: Client<HttpConnector, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build_http();
    while !counters.stopping() {
        let outcome = if keep_alive {
            kept_alive(&client, url).await
        } else {
            call::once(&Method::GET, url, &[]).await.map(|answer| answer.status.as_u16())
        };
        count(counters, outcome, keep_alive).await;
        tokio::time::sleep(pause).await;
    }
}

async fn kept_alive(client: &Client<HttpConnector, Empty<Bytes>>, url: &str) -> anyhow::Result<u16> {
    let request = Request::get(url).body(Empty::new())?;
    let exchange = async {
        let response = client.request(request).await?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        anyhow::Ok(status)
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.context("no answer in 10 s")?
}

async fn count(counters: &Counters, outcome: anyhow::Result<u16>, keep_alive: bool) {
    if matches!(outcome, Ok(200)) {
        counters.counting.store(true, Ordering::Relaxed);
    }
    if !counters.counting.load(Ordering::Relaxed) {
        return;
    }
    counters.sent(1);
    let what = match outcome {
        Ok(200) => return,
        Ok(status) => format!("status {status}"),
        Err(error) => format!("{error:#}"),
    };
    let connection = if keep_alive { "keep-alive" } else { "short" };
    counters.failed(format!("{connection}: {what}")).await;
}

async fn report(counters: &Counters, last: bool) {
    let failures = counters.failures.lock().await;
    println!(
        "{}",
        json!({
            "sent": counters.sent.load(Ordering::Relaxed),
            "failed": counters.failed.load(Ordering::Relaxed),
            "failures": *failures,
            "final": last,
        })
    );
}
