//! How the controller grows: the real server with N simulated sidecars over mutual TLS on loopback.
//!
//! ```text
//!  main ──spawns──▶ bench serve N S (the real xDS server; its memory and processor time are its own)
//!    └─ N clients ──mutual TLS, delta ADS──▶ ┘
//! ```
//! Only numbers; nothing is asserted. Server and clients share the machine's cores, so the times are upper bounds.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use controller::certificates::authority::Authority;
use server::Answer;
use tokio::task::JoinSet;

mod client;
mod server;
mod world;

/// Measures how the controller grows with sidecars and services.
#[derive(Parser)]
struct Flags {
    /// Sidecars and services of each case, as in 1000x100.
    #[arg(default_values = ["100x100", "1000x100", "100x1000"])]
    cases: Vec<String>,
    /// Endpoint changes measured in each case.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Time after which no further case is begun.
    #[arg(long, default_value_t = 100)]
    limit_seconds: u64,
    /// Used by the bench itself: be the server of one case.
    #[arg(long, hide = true)]
    serve: bool,
}

/// What one case gave.
struct Row {
    clients: usize,
    services: usize,
    sync: Duration,
    sync_cpu: u64,
    sync_bytes: u64,
    memory_per_client: u64,
    base_memory: u64,
    times: Vec<u64>,
    round_bytes: u64,
    round_cpu: u64,
}

fn main() -> anyhow::Result<()> {
    runtime::install_default();
    let flags = Flags::parse();
    let mut cases = Vec::new();
    for case in &flags.cases {
        let (clients, services) = case.split_once('x').context("a case is SIDECARSxSERVICES")?;
        cases.push((clients.parse::<usize>()?.max(1), services.parse::<usize>()?.max(1)));
    }
    if flags.serve {
        let (clients, services) = cases.first().copied().context("one case")?;
        return server::run(clients, services);
    }
    machine();
    let begin = Instant::now();
    let mut rows = Vec::new();
    for (clients, services) in cases {
        if begin.elapsed() > Duration::from_secs(flags.limit_seconds) {
            println!("{clients} x {services}: left out, the time is over");
            continue;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        rows.push(measure(&runtime, clients, services, flags.rounds)?);
        runtime.shutdown_background();
        print(&rows[rows.len() - 1]);
    }
    growth(&rows);
    Ok(())
}

/// The server's process and its answers.
struct Server {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Server {
    fn start(clients: usize, services: usize) -> anyhow::Result<Self> {
        // A connection is a file; the soft limit is often 1024.
        let script = "ulimit -n $(ulimit -Hn); exec \"$0\" --serve \"$1\"";
        let mut process = Command::new("sh")
            .args(["-c", script])
            .arg(std::env::current_exe()?)
            .arg(format!("{clients}x{services}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().context("standard input")?;
        let output = BufReader::new(process.stdout.take().context("standard output")?);
        Ok(Self { process, input, output })
    }

    fn hear(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("the server ended")
    }

    fn ask(&mut self, word: &str) -> anyhow::Result<Answer> {
        writeln!(self.input, "{word}")?;
        self.hear()
    }

    fn facts(&mut self) -> anyhow::Result<(u64, u64, u64)> {
        match self.ask("facts")? {
            Answer::Facts { rss, bytes, cpu } => Ok((rss, bytes, cpu)),
            other => bail!("unexpected: {other:?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn measure(
    runtime: &tokio::runtime::Runtime,
    clients: usize,
    services: usize,
    rounds: usize,
) -> anyhow::Result<Row> {
    let mut server = Server::start(clients, services)?;
    let Answer::Listening { address, root, key } = server.hear()? else { bail!("no address") };
    let authority = Arc::new(Authority::parse(&root, &key)?);
    let address: Arc<str> = address.into();
    let (base, _, cpu_before) = server.facts()?;
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        tasks.spawn_on(client::run(client, services, address.clone(), authority.clone()), runtime.handle());
    }
    if !matches!(server.ask("sync")?, Answer::Synced) {
        let ended = tasks.try_join_next();
        bail!("the clients did not get in sync in time; the first that ended: {ended:?}");
    }
    let sync = begin.elapsed();
    let (full, bytes, cpu) = server.facts()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        match server.ask("change")? {
            Answer::Round(micros) => times.push(micros),
            _ => bail!("a change was not acknowledged by all in time"),
        }
    }
    times.sort_unstable();
    let (_, bytes_after, cpu_after) = server.facts()?;
    let per_round = |total: u64| total / (rounds.max(1) as u64);
    Ok(Row {
        clients,
        services,
        sync,
        sync_cpu: cpu - cpu_before,
        sync_bytes: bytes,
        memory_per_client: full.saturating_sub(base) / clients as u64,
        base_memory: base,
        times,
        round_bytes: per_round(bytes_after - bytes),
        round_cpu: per_round(cpu_after - cpu),
    })
}

/// The value below which that share of the (sorted) times lies, in milliseconds.
fn percentile(times: &[u64], share: f64) -> f64 {
    let last = times.len().saturating_sub(1);
    // A share of a count of rounds: small, positive.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let index = (last as f64 * share).round() as usize;
    #[allow(clippy::cast_precision_loss)]
    times.get(index).map_or(0.0, |micros| *micros as f64 / 1000.0)
}

fn print(row: &Row) {
    println!("{} sidecars x {} services", row.clients, row.services);
    println!(
        "  all in sync          {:>9.2} s    server CPU {:.2} s, {} kB sent",
        row.sync.as_secs_f64(),
        seconds(row.sync_cpu),
        row.sync_bytes / 1000
    );
    println!("  change -> last ACK   {:>9.2} ms   p50", percentile(&row.times, 0.5));
    println!(
        "                       {:>9.2} ms   p99 of {} rounds",
        percentile(&row.times, 0.99),
        row.times.len()
    );
    println!(
        "  per change           {:>9} B    sent, server CPU {:.2} ms",
        row.round_bytes,
        seconds(row.round_cpu) * 1000.0
    );
    println!(
        "  server memory        {:>9} kB   per sidecar, on top of {} kB",
        row.memory_per_client / 1024,
        row.base_memory / 1024
    );
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// How the numbers of each case compare with the first one.
fn growth(rows: &[Row]) {
    let Some(first) = rows.first() else { return };
    println!("growth, as multiples of {} x {}", first.clients, first.services);
    println!(
        "  {:>9} {:>9} {:>9} {:>9} {:>12} {:>12} {:>14}",
        "sidecars", "services", "sync", "p50", "sync bytes", "round bytes", "memory/sidecar"
    );
    let ratio = |new: f64, old: f64| if old > 0.0 { new / old } else { f64::NAN };
    #[allow(clippy::cast_precision_loss)]
    let times = |new: u64, old: u64| ratio(new as f64, old as f64);
    for row in rows {
        println!(
            "  {:>9} {:>9} {:>8.1}x {:>8.1}x {:>11.1}x {:>11.1}x {:>13.1}x",
            row.clients,
            row.services,
            ratio(row.sync.as_secs_f64(), first.sync.as_secs_f64()),
            ratio(percentile(&row.times, 0.5), percentile(&first.times, 0.5)),
            times(row.sync_bytes, first.sync_bytes),
            times(row.round_bytes, first.round_bytes),
            times(row.memory_per_client, first.memory_per_client),
        );
    }
}

/// What the numbers were measured on.
fn machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or("?")
            .trim_matches([' ', '\t', ':'])
            .to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "dev profile: not for comparison" } else { "release profile" };
    println!(
        "{} ({cores} cores, shared by server and clients), memory {}, kernel {}, load {}, {profile}",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split_whitespace().next().unwrap_or("?"),
    );
}
