//! How the controller grows, and how far it is from what the transport alone costs: the real server with N simulated
//! sidecars over mutual TLS on loopback, and in the same run a server that sends the same bytes and knows no mesh.
//!
//! ```text
//!  main ──spawns──▶ bench serve (ours.rs or bare.rs; its memory and processor time are its own)
//!    └─ N clients ──mutual TLS, delta ADS──▶ ┘
//! ```
//! Only numbers; nothing is asserted. Server and clients share the machine's cores, so the times are upper bounds and
//! the ratios say more.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;

mod bare;
mod certificates;
mod client;
mod fleet;
mod floor;
mod hostile;
mod model;
mod ours;
mod server;
mod table;

use bench::report;
use bench::world::World;
use server::Kind;

const SECOND: Duration = Duration::from_secs(1);

/// Measures how the controller grows with sidecars and services.
#[derive(Parser)]
struct Flags {
    /// Sidecars and services of each case, as in 1000x100; with /N each sidecar may call only N of the services.
    #[arg(default_values = ["100x100", "1000x100", "100x1000", "1000x1000/20", "10000x1000/20"])]
    cases: Vec<World>,
    /// Changes of each kind that are measured in each case.
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// The fleet that is measured with and without hostile neighbours: as the cases, and how many of those.
    #[arg(long, default_value = "1000x100/20+16")]
    hostile: World,
    /// Time after which no further case is begun.
    #[arg(long, default_value_t = 360)]
    limit_seconds: u64,
    /// A Markdown file between whose marks the tables are put.
    #[arg(long)]
    write: Option<std::path::PathBuf>,
    /// The folder where Criterion put what `cargo bench -p bench` measured: the table of the pure parts is made of it.
    #[arg(long)]
    criterion: Option<std::path::PathBuf>,
    /// Used by the bench itself: be the server of one case.
    #[arg(long, hide = true)]
    serve: Option<Kind>,
}

fn main() -> anyhow::Result<()> {
    runtime::install_default();
    let flags = Flags::parse();
    if let Some(kind) = flags.serve {
        return server::run(kind, *flags.cases.first().context("one case")?);
    }
    let mut text = report::machine("shared by server and clients");
    print!("{text}");
    let begin = Instant::now();
    let mut rows = Vec::new();
    for world in flags.cases {
        if begin.elapsed() > Duration::from_secs(flags.limit_seconds) {
            println!("{world}: left out, the time is over");
            continue;
        }
        let bare = fleet::measure(Kind::Bare, world, flags.rounds)?;
        let ours = fleet::measure(Kind::Ours, world, flags.rounds)?;
        let case = table::case(world, &ours, &bare, &floor::measure(world)?);
        print!("{case}");
        text.push_str(&case);
        rows.push((world, ours));
    }
    let hostile = hostile::measure(flags.hostile, flags.rounds.saturating_mul(10))?;
    let estimates = flags.criterion.as_deref().map(model::table).transpose()?;
    for part in
        [table::growth(&rows), hostile, estimates.unwrap_or_default(), certificates::measure(3 * SECOND)?]
    {
        print!("{part}");
        text.push_str(&part);
    }
    match flags.write {
        Some(path) => report::write(&path, "fleets", &text),
        None => Ok(()),
    }
}
