//! Reviews over HTTP/2 and TLS, as an API server sends them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::task::JoinSet;

/// Connections.
pub const CONNECTIONS: usize = 4;
/// Reviews at a time on each, without pause.
pub const AT_A_TIME: usize = 4;

type Sender = SendRequest<Full<Bytes>>;

/// Open connections to an injector.
pub struct Load {
    senders: Vec<Sender>,
    name: String,
}

impl Load {
    /// Connects. `roots`: PEM; `service`: its name.
    pub async fn new(port: u16, roots: String, service: &str) -> anyhow::Result<Self> {
        let name = format!("{service}.{}.svc", crds::labels::SYSTEM_NAMESPACE);
        let mut store = rustls::RootCertStore::empty();
        for root in runtime::tls::certificates(&roots)? {
            store.add(root)?;
        }
        let mut config = rustls::ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut senders = Vec::new();
        for _ in 0..CONNECTIONS {
            let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.context("connecting")?;
            tcp.set_nodelay(true)?;
            let tls = connector.connect(ServerName::try_from(name.clone())?, tcp).await.context("TLS")?;
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await?;
            tokio::spawn(connection);
            senders.push(sender);
        }
        Ok(Self { senders, name })
    }

    fn sender(&self, number: usize) -> (Sender, String) {
        (self.senders[number % self.senders.len()].clone(), format!("https://{}:443/inject", self.name))
    }

    /// One after another, so many times over; milliseconds of each.
    pub async fn closed(&self, review: &Bytes, time: Duration) -> anyhow::Result<Vec<f64>> {
        let begin = Instant::now();
        let mut callers = JoinSet::new();
        for number in 0..CONNECTIONS * AT_A_TIME {
            let ((mut sender, to), review) = (self.sender(number), review.clone());
            callers.spawn(async move {
                let mut took = Vec::new();
                while begin.elapsed() < time {
                    let sent = Instant::now();
                    ask(&mut sender, &to, review.clone()).await?;
                    took.push(sent.elapsed().as_secs_f64() * 1e3);
                }
                anyhow::Ok(took)
            });
        }
        all(callers).await
    }

    /// At a steady rate; milliseconds of each from when it was due, however late it was sent.
    pub async fn steady(&self, review: &Bytes, time: Duration, rate: u32) -> anyhow::Result<Vec<f64>> {
        let pause = Duration::from_secs(1) / rate.max(1);
        let begin = tokio::time::Instant::now();
        let mut callers = JoinSet::new();
        for number in 0_u32.. {
            let due = begin + pause * number;
            if due >= begin + time {
                break;
            }
            let ((mut sender, to), review) = (self.sender(number as usize), review.clone());
            callers.spawn(async move {
                tokio::time::sleep_until(due).await;
                ask(&mut sender, &to, review).await?;
                anyhow::Ok(vec![due.elapsed().as_secs_f64() * 1e3])
            });
        }
        all(callers).await
    }
}

async fn all(mut callers: JoinSet<anyhow::Result<Vec<f64>>>) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    while let Some(caller) = callers.join_next().await {
        times.extend(caller??);
    }
    Ok(times)
}

async fn ask(sender: &mut Sender, to: &str, review: Bytes) -> anyhow::Result<()> {
    let request =
        http::Request::post(to).header("content-type", "application/json").body(Full::new(review))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let injected = body.windows(9).any(|window| window == b"JSONPatch");
    ensure!(status == http::StatusCode::OK && injected, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}
