//! The real controller server in a process of its own, so that its memory is its own. It is told what to do on
//! standard input, one word a line, and answers with one JSON object a line.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use controller::certificates::authority::{Authority, Subject};
use controller::fleet::Proxies;
use controller::metrics::Metrics;
use controller::snapshots::{Input, Snapshots};
use controller::xds::server::{Ads, Limits, router};
use mesh::{Mesh, ResourceType};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use runtime::certificates::Identity;
use runtime::shutdown::Shutdown;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::world;

/// A round that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(60);

/// What the clients need to know, and the numbers.
#[derive(Serialize, Deserialize, Debug)]
pub enum Answer {
    /// Where it listens, and the root of trust with its key: the clients make their own certificates.
    Listening {
        /// `127.0.0.1:port`.
        address: String,
        /// PEM.
        root: String,
        /// PEM.
        key: String,
    },
    /// All clients hold everything.
    Synced,
    /// How it stands.
    Facts {
        /// Bytes of memory.
        rss: u64,
        /// Bytes of responses so far.
        bytes: u64,
        /// Processor time so far, microseconds.
        cpu: u64,
    },
    /// One change, from the index to the last acknowledgement, microseconds.
    Round(u64),
    /// It did not end in time.
    Late,
}

/// Serves until standard input ends.
pub fn run(clients: usize, services: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let server = runtime.block_on(Server::start(clients, services))?;
    for line in std::io::stdin().lock().lines() {
        let answer = match line?.as_str() {
            "sync" => runtime.block_on(server.synced(clients)),
            "change" => runtime.block_on(server.round(clients, services))?,
            _ => server.facts()?,
        };
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    Ok(out.flush()?)
}

struct Server {
    snapshots: Snapshots,
    proxies: Arc<Proxies>,
    metrics: Metrics,
    rounds: std::sync::atomic::AtomicUsize,
}

impl Server {
    async fn start(clients: usize, services: usize) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(1);
        let (root, key) = (params.self_signed(&key)?.pem(), key.serialize_pem());
        let authority = Authority::parse(&root, &key)?;
        let identity = Identity::default();
        identity.roots.set(&root)?;
        let (chain, own) = leaf(&authority, "spiffe://cluster.local/ns/meshwright-system/sa/controller")?;
        let own = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
        identity.certificate.set(&chain, own)?;

        let metrics = Metrics::default();
        let snapshots = Snapshots::start(Mesh::new(world::settings()?), metrics.clone())?;
        for object in world::objects(clients, services)? {
            snapshots.send(Input::Apply(Box::new(object))).await;
        }
        snapshots.send(Input::Synced).await;
        let (proxies, shutdown) = (Arc::new(Proxies::default()), Shutdown::default());
        let ads = Ads {
            snapshots: snapshots.clone(),
            proxies: proxies.clone(),
            metrics: metrics.clone(),
            stopping: shutdown.stopping.clone(),
            limits: Limits::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let tls = runtime::tls::Metrics::default();
        tokio::spawn(runtime::tls::serve(listener, identity.server_config()?, router(ads), tls, shutdown));
        say(&Answer::Listening { address, root, key })?;
        Ok(Self { snapshots, proxies, metrics, rounds: 0.into() })
    }

    async fn synced(&self, clients: usize) -> Answer {
        let all = || {
            let newest = self.proxies.newest();
            newest.len() == clients && newest.iter().all(|proxy| proxy.status.lock().in_sync)
        };
        if until(Duration::from_millis(5), all).await { Answer::Synced } else { Answer::Late }
    }

    async fn round(&self, clients: usize, services: usize) -> anyhow::Result<Answer> {
        let round = self.rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let acks = self.metrics.acks.get_or_create(&Metrics::per(ResourceType::Endpoint)).clone();
        let goal = acks.get() + clients as u64;
        let object = world::slice(round % services, round)?;
        let start = Instant::now();
        self.snapshots.send(Input::Apply(Box::new(object))).await;
        let in_time = until(Duration::from_micros(200), || acks.get() >= goal).await;
        let taken = u64::try_from(start.elapsed().as_micros())?;
        Ok(if in_time { Answer::Round(taken) } else { Answer::Late })
    }

    fn facts(&self) -> anyhow::Result<Answer> {
        let statm = std::fs::read_to_string("/proc/self/statm")?;
        let pages: u64 = statm.split_whitespace().nth(1).context("statm")?.parse()?;
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let fields: Vec<_> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
        let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        // Linux: pages of 4 kB, clock ticks of 10 ms.
        Ok(Answer::Facts {
            rss: pages * 4096,
            bytes: self.metrics.bytes.get(),
            cpu: (ticks(11) + ticks(12)) * 10_000,
        })
    }
}

async fn until(pause: Duration, is: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !is() {
        if start.elapsed() > LIMIT {
            return false;
        }
        tokio::time::sleep(pause).await;
    }
    true
}

/// A certificate of somebody: chain (PEM) and key.
pub fn leaf(authority: &Authority, spiffe_id: &str) -> anyhow::Result<(String, KeyPair)> {
    let key = KeyPair::generate()?;
    let subject = Subject { spiffe_id: spiffe_id.to_owned(), dns_names: vec!["controller.bench".to_owned()] };
    let leaf = authority.sign(&subject, &key, Duration::from_secs(3600), time::OffsetDateTime::now_utc())?;
    Ok((leaf.chain, key))
}
