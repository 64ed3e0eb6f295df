//! What sidecars cost a call: the same load straight to an application, through two Envoys that are configured by hand
//! with the least that does mutual TLS and authorization, and through two with what `mesh` renders.
//!
//! ```text
//!  load.rs ──▶ caller's Envoy ══mutual TLS══▶ callee's Envoy (authorization) ──▶ app.rs
//!                      byhand.rs or ours.rs, HTTP or TCP
//! ```
//! Only numbers; nothing is asserted. All parts share the machine's cores, so ratios within a round say more than
//! times do. Kinds are measured one after another in each round, and the medians of the rounds' ratios are printed.

#![allow(clippy::unwrap_used, reason = "a benchmark: a panic is the report")]

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Parser;

mod app;
mod byhand;
mod load;
mod ours;
mod table;

/// Measures what sidecars cost.
#[derive(Parser)]
struct Flags {
    /// Envoy of both sidecars.
    #[arg(long, default_value = "1.40.0")]
    envoy: String,
    /// How often each kind is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement: a connection without pause, then steady load.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Requests per second of the steady load, over 16 connections.
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    /// A Markdown file between whose marks the table is put.
    #[arg(long)]
    write: Option<std::path::PathBuf>,
}

/// What stands between the load and the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing.
    Direct,
    /// Envoys that are configured by hand; HTTP.
    HttpByHand,
    /// Ours, HTTP.
    HttpOurs,
    /// Envoys that are configured by hand; bytes.
    TcpByHand,
    /// Ours; bytes.
    TcpOurs,
}

/// A path to the application. Ends when dropped.
pub struct Path {
    /// Where the load goes.
    port: u16,
    envoys: Vec<envoys::Envoy>,
    _secrets: Vec<tempfile::TempDir>,
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Median time of a request on a connection without pause, microseconds.
    closed_p50: f64,
    /// Under steady load, microseconds, from when the request was due.
    p50: f64,
    /// The same, 9 of 10 are faster.
    p90: f64,
    /// Processor time of both Envoys per request, microseconds.
    cpu: f64,
    /// Private memory of both Envoys, bytes.
    memory: f64,
}

fn main() {
    let flags = Flags::parse();
    let app = app::start();
    let identities = envoys::Identities::new();
    let paths = BTreeMap::from([
        (Kind::Direct, Path { port: app, envoys: Vec::new(), _secrets: Vec::new() }),
        (Kind::HttpByHand, byhand::start(&flags.envoy, &identities, app, byhand::Speaks::Http)),
        (Kind::HttpOurs, ours::start(&flags.envoy, &identities, app, "http")),
        (Kind::TcpByHand, byhand::start(&flags.envoy, &identities, app, byhand::Speaks::Bytes)),
        (Kind::TcpOurs, ours::start(&flags.envoy, &identities, app, "tcp")),
    ]);
    let time = Duration::from_secs(flags.seconds.max(1));
    let machine = bench::report::machine("shared by load, sidecars and application");
    let (version, rate) = (&flags.envoy, flags.rate);
    let about = format!("Envoy {version}, 1 kB answers, {rate} requests/s over 16 connections");
    let mut rounds = Vec::new();
    for round in 0..flags.rounds.max(1) {
        eprintln!("round {} of {}", round + 1, flags.rounds.max(1));
        let measured = paths.iter().map(|(kind, path)| (*kind, measure(path, time, flags.rate)));
        rounds.push(measured.collect());
    }
    let text =
        format!("{machine}\n{about}. Brackets: the lowest and highest round.\n\n{}", table::of(&rounds));
    print!("{text}");
    if let Some(path) = flags.write {
        bench::report::write(&path, "dataplane", &text).unwrap();
    }
}

fn measure(path: &Path, time: Duration, rate: u32) -> Sample {
    let closed = load::closed(path.port, time);
    let before = processor_time(path);
    let steady = load::steady(path.port, time, rate);
    let spent = processor_time(path) - before;
    let requests = steady.len().max(1) as f64;
    Sample {
        closed_p50: load::percentile(closed, 50),
        p50: load::percentile(steady.clone(), 50),
        p90: load::percentile(steady, 90),
        cpu: spent * 1e6 / requests,
        memory: path.envoys.iter().map(private_memory).sum(),
    }
}

/// Processor time of the Envoys so far, seconds (`proc_pid_stat(5)`, fields 14 and 15, in ticks of 10 ms).
fn processor_time(path: &Path) -> f64 {
    let of = |envoy: &envoys::Envoy| -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", envoy.pid())).unwrap();
        // The name, in parentheses, may hold spaces.
        let fields: Vec<_> = text.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    };
    path.envoys.iter().map(of).sum()
}

/// Anonymous memory, bytes (`proc_pid_status(5)`).
fn private_memory(envoy: &envoys::Envoy) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", envoy.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1024.0
}
