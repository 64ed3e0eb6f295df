//! The pure parts of the path from an object to a sidecar, one at a time, on one core: ingest, view, render, and the
//! difference that a change makes. `make bench` puts the estimates into docs/benchmarks.md.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark: a panic is the report")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;

use bench::world::{self, World};
use controller::xds::served::{Pool, Served};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use mesh::{Audience, Changed, Incremental, Mesh, Object, render, view};

/// One case that is as policies make it, and one where everybody may call everything.
const WORLDS: [&str; 2] = ["100x1000/20", "100x1000"];

struct Filled {
    world: World,
    mesh: Mesh,
    objects: Vec<Object>,
    audience: Audience,
}

fn filled(world: &str) -> Filled {
    let world: World = world.parse().unwrap();
    let objects = world.objects().unwrap();
    let mut mesh = Mesh::new(world.settings().unwrap());
    for object in &objects {
        mesh.apply(object.clone());
    }
    let audience = mesh.audience(world::NAMESPACE, &world::pod(0)).unwrap();
    Filled { world, mesh, objects, audience }
}

fn parts(criterion: &mut Criterion) {
    for name in WORLDS {
        let Filled { world, mesh, objects, audience } = filled(name);
        let mut ingest = criterion.benchmark_group("1 ingest all objects");
        ingest.bench_function(format!("{name}: {} objects", objects.len()), |bencher| {
            let fill = |(mut mesh, objects): (Mesh, Vec<Object>)| {
                for object in objects {
                    black_box(mesh.apply(object));
                }
                mesh
            };
            let empty = || (Mesh::new(mesh.settings().clone()), objects.clone());
            bencher.iter_batched(empty, fill, BatchSize::LargeInput);
        });
        ingest.finish();
        criterion.benchmark_group("2 view of one audience").bench_function(name, |bencher| {
            bencher.iter_with_large_drop(|| view(&mesh, &audience));
        });
        let whole = view(&mesh, &audience);
        criterion.benchmark_group("3 render one audience").bench_function(name, |bencher| {
            bencher.iter_with_large_drop(|| render(&whole));
        });
        let delta = Incremental::new().add(&mesh, &audience);
        criterion.benchmark_group("4 first state of one audience").bench_function(name, |bencher| {
            let first = |delta| Served::first(delta, &mut Pool::default());
            bencher.iter_batched(|| delta.clone(), first, BatchSize::LargeInput);
        });
        let function = format!("{name}: {} audiences", world.accounts());
        let endpoints = |round| world::slice(world.changing(round), round).unwrap();
        changes(criterion, "5 difference of an endpoint change", &function, filled(name), endpoints);
        let policy = |round| world::split(round).unwrap();
        changes(criterion, "6 difference of a policy change for all", &function, filled(name), policy);
    }
}

/// A change, from the object to what is different for whom.
fn changes(
    criterion: &mut Criterion,
    group: &str,
    function: &str,
    mut filled: Filled,
    object: impl Fn(usize) -> Object,
) {
    let Filled { world, mesh, .. } = &mut filled;
    let objects: Vec<_> = (1..=64).map(object).collect();
    let mut incremental = Incremental::new();
    for client in 0..world.accounts() {
        incremental.add(mesh, &mesh.audience(world::NAMESPACE, &world::pod(client)).unwrap());
    }
    let mut round = 0;
    criterion.benchmark_group(group).bench_function(function, |bencher| {
        bencher.iter(|| {
            round += 1;
            let what = match mesh.apply(objects[round % objects.len()].clone()) {
                Changed::Something(what) => what,
                Changed::Nothing => BTreeSet::new(),
            };
            black_box(incremental.update(mesh, &what))
        });
    });
}

criterion_group! {
    name = model;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = parts
}
criterion_main!(model);
