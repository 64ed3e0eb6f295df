//! The numbers as Markdown.

use std::fmt::Write;

use crate::fleet::{Connecting, Numbers, Rounds};
use crate::floor::Floor;
use crate::hostile::Side;
use bench::world::World;

#[allow(clippy::cast_precision_loss, reason = "numbers for people")]
fn float(number: u64) -> f64 {
    number as f64
}

/// The time below which that share of the (sorted) times lies, in milliseconds.
pub fn percentile(rounds: &Rounds, share: usize) -> f64 {
    let last = rounds.times.len().saturating_sub(1);
    rounds.times.get((last * share).div_ceil(100)).map_or(0.0, |micros| float(*micros) / 1000.0)
}

fn per_push(rounds: &Rounds, total: u64) -> f64 {
    float(total) / float(rounds.pushes.max(1))
}

/// One row: what it is, ours, the bare transport's, and their ratio.
fn row(text: &mut String, name: &str, unit: &str, ours: f64, bare: f64) {
    let ratio = if bare > 0.0 { format!("{:.2}", ours / bare) } else { "–".to_owned() };
    // Writing to a text cannot fail.
    let _ = writeln!(text, "| {name} | {ours:.2} {unit} | {bare:.2} {unit} | {ratio} |");
}

/// The table of one case.
pub fn case(world: World, ours: &Numbers, bare: &Numbers, floor: &Floor) -> String {
    let accounts = world.accounts();
    let mut text = format!(
        "\n**{} sidecars ({accounts} kinds), {} services, {} of them open to each**\n\n\
         | | Meshwright | bare transport | ratio |\n|---|---|---|---|\n",
        world.clients,
        world.services,
        world.reachable(0).len()
    );
    let connecting = [("connect", ours.connect, bare.connect), ("come back", ours.back, bare.back)];
    let clients = float(world.clients as u64);
    for (name, ours, bare) in connecting {
        let cpu = |one: Connecting| float(one.cpu) / clients;
        row(&mut text, &format!("all {name}"), "s", ours.time.as_secs_f64(), bare.time.as_secs_f64());
        row(&mut text, &format!("{name}: server CPU per sidecar"), "µs", cpu(ours), cpu(bare));
        let bytes = |one: Connecting| float(one.bytes) / clients;
        row(&mut text, &format!("{name}: bytes per sidecar"), "B", bytes(ours), bytes(bare));
    }
    let changes = [
        ("endpoint change", &ours.endpoints, &bare.endpoints),
        ("policy change for all", &ours.policy, &bare.policy),
    ];
    for (name, ours, bare) in changes {
        let count = ours.times.len().max(1) as u64;
        let name = format!("{name} ({} sidecars)", ours.pushes / count);
        row(&mut text, &format!("{name} → last ACK, p50"), "ms", percentile(ours, 50), percentile(bare, 50));
        row(&mut text, &format!("{name} → last ACK, p99"), "ms", percentile(ours, 99), percentile(bare, 99));
        row(&mut text, "… server CPU per push", "µs", per_push(ours, ours.cpu), per_push(bare, bare.cpu));
        row(&mut text, "… bytes per push", "B", per_push(ours, ours.bytes), per_push(bare, bare.bytes));
    }
    row(
        &mut text,
        "server memory per sidecar",
        "kB",
        float(ours.memory) / 1024.0,
        float(bare.memory) / 1024.0,
    );
    row(&mut text, "server memory before", "MB", float(ours.base) / 1e6, float(bare.base) / 1e6);
    row(&mut text, "peak memory / memory when connected", "", ours.peak, bare.peak);
    let _ = writeln!(
        text,
        "\nResources sent again to sidecars that came back: {}. Connections that failed and were tried again: {} (bare: \
         {}).",
        ours.back.resources, ours.failures, bare.failures
    );
    let _ = writeln!(
        text,
        "Floor: {} B of resources per sidecar that connects, {} B per endpoint change, {} B per policy change, 0 B per \
         sidecar that comes back; {} different resources, encoded and hashed once in {:.1} ms on one core, which is \
         {:.1} µs per sidecar.",
        floor.connect,
        floor.endpoints,
        floor.policy,
        floor.distinct,
        floor.encode.as_secs_f64() * 1e3,
        floor.encode.as_secs_f64() * 1e6 / clients,
    );
    text
}

/// The fleet with hostile neighbours next to the same fleet without them.
pub fn hostile(world: World, without: &Side, with: &Side) -> String {
    let mut text = format!(
        "\n**{} hostile sidecars next to {} others, {} services**\n\n\
         | | with them | without them | ratio |\n|---|---|---|---|\n",
        world.hostile, world.clients, world.services
    );
    let mut pairwise = String::new();
    for (kind, name) in ["endpoint change", "policy change for all"].into_iter().enumerate() {
        let (with_them, without_them) = (with.all(kind), without.all(kind));
        for share in [50, 99] {
            let name = format!("{name} → last ACK, p{share}");
            row(&mut text, &name, "ms", percentile(&with_them, share), percentile(&without_them, share));
        }
        let pairs = with.turns[kind].iter().zip(&without.turns[kind]);
        let mut ratios: Vec<_> =
            pairs.map(|(with, without)| percentile(with, 99) / percentile(without, 99)).collect();
        ratios.sort_by(f64::total_cmp);
        let shown: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        let _ = write!(
            pairwise,
            "\n{name}: the p99 of each pair of turns, with them / without: {}.\n",
            shown.join(", ")
        );
    }
    text + &pairwise
}

/// How the numbers of each case compare with the first one.
pub fn growth(rows: &[(World, Numbers)]) -> String {
    let Some((first_world, first)) = rows.first() else { return String::new() };
    let mut text = format!(
        "\n**Growth, as multiples of {first_world}**\n\n\
         | case | connect | endpoint p50 | policy p50 | bytes to connect | bytes per policy change | memory per sidecar |\n\
         |---|---|---|---|---|---|---|\n"
    );
    for (world, row) in rows {
        let ratio = |value: &dyn Fn(&Numbers) -> f64| value(row) / value(first);
        let _ = writeln!(
            text,
            "| {world} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            ratio(&|one| one.connect.time.as_secs_f64()),
            ratio(&|one| percentile(&one.endpoints, 50)),
            ratio(&|one| percentile(&one.policy, 50)),
            ratio(&|one| float(one.connect.bytes)),
            ratio(&|one| float(one.policy.bytes)),
            ratio(&|one| float(one.memory)),
        );
    }
    text
}
