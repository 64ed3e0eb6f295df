//! The pure parts of the path from an object to a sidecar, one at a time, on one core.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use controller::xds::served::{Pool, Served};
use mesh::{Changed, Incremental, Mesh, Object, render, view};

use crate::world::{self, World};

/// One case, which takes all that is measured as the reachable services do.
const WORLDS: [&str; 2] = ["100x1000/20", "100x1000"];

/// The table; each row is repeated for about so long.
pub fn measure(time: Duration) -> anyhow::Result<String> {
    let mut text = "\n**Pure parts, on one core** (median)\n\n| | time |\n|---|---|\n".to_owned();
    for world in WORLDS {
        let world: World = world.parse()?;
        let mut row = |name: &str, micros: f64| {
            text.push_str(&format!("| {name} ({world}) | {micros:.1} µs |\n"));
        };
        let (mut mesh, objects) = filled(world)?;
        #[allow(clippy::cast_precision_loss, reason = "a number for people")]
        let count = objects.len() as f64;
        let ingest = median(time, || {
            let mut mesh = Mesh::new(mesh.settings().clone());
            objects.iter().for_each(|object| {
                black_box(mesh.apply(object.clone()));
            });
        });
        row("ingest, per object", ingest / count);
        let audience = mesh.audience(world::NAMESPACE, &world::pod(0))?;
        row("view of one audience", median(time, || drop(black_box(view(&mesh, &audience)))));
        let whole = view(&mesh, &audience);
        row("render one audience", median(time, || drop(black_box(render(&whole)))));
        let delta = Incremental::new().add(&mesh, &audience);
        let first = || drop(black_box(Served::first(delta.clone(), &mut Pool::default())));
        row("first state of one audience", median(time, first));
        let mut incremental = Incremental::new();
        for client in 0..world.accounts() {
            incremental.add(&mesh, &mesh.audience(world::NAMESPACE, &world::pod(client))?);
        }
        let endpoints = |round: usize| world::slice(world.changing(round), round);
        let name = format!("endpoint change, {} audiences", world.accounts());
        row(&name, changes(time, &mut mesh, &mut incremental, endpoints)?);
        let name = format!("policy change for all, {} audiences", world.accounts());
        row(&name, changes(time, &mut mesh, &mut incremental, world::split)?);
    }
    Ok(text)
}

fn filled(world: World) -> anyhow::Result<(Mesh, Vec<Object>)> {
    let objects = world.objects()?;
    let mut mesh = Mesh::new(world.settings()?);
    for object in &objects {
        mesh.apply(object.clone());
    }
    Ok((mesh, objects))
}

/// A change, from the object to what is different for whom.
fn changes(
    time: Duration,
    mesh: &mut Mesh,
    incremental: &mut Incremental,
    object: impl Fn(usize) -> anyhow::Result<Object>,
) -> anyhow::Result<f64> {
    let objects: Vec<_> = (1..=64).map(object).collect::<Result<_, _>>()?;
    let mut round = 0;
    Ok(median(time, || {
        round += 1;
        let what = match mesh.apply(objects[round % objects.len()].clone()) {
            Changed::Something(what) => what,
            Changed::Nothing => BTreeSet::new(),
        };
        black_box(incremental.update(mesh, &what));
    }))
}

/// Microseconds of the middle of many runs.
fn median(time: Duration, mut run: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < time || times.len() < 3 {
        let start = Instant::now();
        run();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}
