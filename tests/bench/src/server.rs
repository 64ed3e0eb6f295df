//! A server in a process of its own, so that its memory and processor time are its own: the real controller's
//! (`ours.rs`), or one that sends as many bytes and knows no mesh (`bare.rs`). It is told what to do on standard
//! input, one word a line, and answers with one JSON object a line.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use bench::authority;
use bench::world::World;
use controller::certificates::authority::Authority;
use runtime::shutdown::Shutdown;
use serde::{Deserialize, Serialize};

use crate::bare::Bare;
use crate::ours::Ours;

/// What clients call it.
pub const HOST: &str = "controller.bench";
/// A round that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(90);

/// Which server.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The controller's.
    Ours,
    /// The same bytes over the same transport, and nothing else.
    Bare,
}

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
    /// It is so now.
    Done,
    /// How it stands.
    Facts(Facts),
    /// One change, from the index to the last acknowledgement.
    Round {
        /// Microseconds.
        time: u64,
        /// Clients that got it.
        clients: usize,
    },
    /// It did not end in time.
    Late {
        /// Acknowledgements that have not come.
        missing: u64,
        /// Streams that are open.
        streams: usize,
    },
}

/// How a server stands.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default)]
pub struct Facts {
    /// Bytes of memory.
    pub rss: u64,
    /// The most that it ever was.
    pub peak: u64,
    /// Bytes of responses so far.
    pub bytes: u64,
    /// Resources sent so far.
    pub resources: u64,
    /// Processor time so far, microseconds.
    pub cpu: u64,
}

/// A change that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Of the endpoints of one service.
    Endpoints,
    /// Of a TrafficSplit that everybody's configuration depends on.
    Policy,
}

/// What both servers can do.
pub trait Serve: Send + Sync {
    /// Whether all clients are connected and hold everything.
    fn synced(&self) -> bool;
    /// Whether no client is connected.
    fn empty(&self) -> bool;
    /// Makes a change; returns how many clients get it.
    fn change(&self, change: Change, round: usize) -> impl Future<Output = anyhow::Result<usize>> + Send;
    /// Acknowledgements of such changes so far.
    fn acks(&self, change: Change) -> u64;
    /// Streams that are open.
    fn streams(&self) -> usize;
    /// Bytes and resources sent so far.
    fn sent(&self) -> (u64, u64);
}

/// Serves until standard input ends.
pub fn run(kind: Kind, world: World) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match kind {
        Kind::Ours => {
            let (server, router) = runtime.block_on(Ours::start(world))?;
            obey(&runtime, &server, router)
        }
        Kind::Bare => {
            let (server, router) = Bare::start(world)?;
            obey(&runtime, &server, router)
        }
    }
}

fn obey(runtime: &tokio::runtime::Runtime, server: &impl Serve, router: Router) -> anyhow::Result<()> {
    runtime.block_on(listen(router))?;
    for (round, line) in std::io::stdin().lock().lines().enumerate() {
        let answer = match line?.as_str() {
            "sync" => runtime.block_on(wait(|| server.synced())),
            "empty" => runtime.block_on(wait(|| server.empty())),
            "endpoints" => runtime.block_on(measure(server, Change::Endpoints, round))?,
            "policy" => runtime.block_on(measure(server, Change::Policy, round))?,
            _ => facts(server)?,
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

async fn listen(router: Router) -> anyhow::Result<()> {
    let (root, key) = authority::root()?;
    let identity = authority::server(&Authority::parse(&root, &key)?, &root, HOST)?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let (tls, shutdown) = (runtime::tls::Metrics::default(), Shutdown::default());
    tokio::spawn(runtime::tls::serve(listener, identity.server_config()?, router, tls, shutdown));
    say(&Answer::Listening { address, root, key })
}

async fn wait(is: impl Fn() -> bool) -> Answer {
    if until(Duration::from_millis(5), is).await {
        Answer::Done
    } else {
        Answer::Late { missing: 0, streams: 0 }
    }
}

async fn measure(server: &impl Serve, change: Change, round: usize) -> anyhow::Result<Answer> {
    let before = server.acks(change);
    let start = Instant::now();
    let clients = server.change(change, round).await?;
    let goal = before + clients as u64;
    let in_time = until(Duration::from_micros(200), || server.acks(change) >= goal).await;
    let time = u64::try_from(start.elapsed().as_micros())?;
    let missing = goal.saturating_sub(server.acks(change));
    Ok(match in_time {
        true => Answer::Round { time, clients },
        false => Answer::Late { missing, streams: server.streams() },
    })
}

fn facts(server: &impl Serve) -> anyhow::Result<Answer> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).context("/proc/self/status")
    };
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let (bytes, resources) = server.sent();
    // Linux: clock ticks of 10 ms.
    Ok(Answer::Facts(Facts {
        rss: kilobytes("VmRSS:")? * 1024,
        peak: kilobytes("VmHWM:")? * 1024,
        bytes,
        resources,
        cpu: (ticks(11) + ticks(12)) * 10_000,
    }))
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
