//! Many random clusters, operators that die in the middle of a pass, and operators that act on an old look: an upgrade
//! always ends, no plan has a note, and no budget and no workload is ever short.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::mesh_upgrade::UpgradePhase;
use proptest::prelude::*;
use upgrades::WaitingOn;
use upgrades::facts::{Kind, Strategy, Wave};

use crate::world::{ROLLING, SimPod, World};

/// More seconds than any of these upgrades needs.
const DEADLINE: u64 = 4_000;

fn random_world(seed: u64) -> World {
    let mut world = World::new(seed);
    world.desired.workloads_at_once = 1 + world.dice.below(4) as usize;
    world.slow = 1 + world.dice.below(6);
    world.lag = world.dice.below(4);
    world.slow_control_plane = world.dice.below(6);
    world.desired.soak = Duration::from_secs(world.dice.below(2) * 7);
    for n in 0..1 + world.dice.below(3) {
        let namespace = format!("n{n}");
        world.namespace(&namespace).hot_swap = world.dice.below(2) == 1;
        for w in 0..world.dice.below(4) {
            random_workload(&mut world, &namespace, &format!("w{w}"));
        }
        world.namespace(&namespace);
    }
    if world.dice.below(2) == 1 {
        let namespaces = vec!["n1".to_owned(), "absent".to_owned()];
        world.desired.waves = vec![Wave { name: "canary".to_owned(), namespaces }];
    }
    world
}

fn random_workload(world: &mut World, namespace: &str, name: &str) {
    let replicas = 1 + world.dice.below(4) as u32;
    let (kind, strategy) = match world.dice.below(7) {
        0..=2 => (Kind::Deployment, ROLLING),
        3 => (Kind::Deployment, Strategy::Recreate),
        4 => (Kind::StatefulSet, Strategy::None),
        5 => (Kind::DaemonSet, Strategy::None),
        _ => (Kind::Job, Strategy::None),
    };
    let replicas = if kind == Kind::Job { 1 } else { replicas };
    world.add(namespace, kind.clone(), name, replicas, strategy);
    if kind == Kind::Job {
        let ends = world.now + world.dice.below(300);
        let workloads = &mut world.namespace(namespace).workloads;
        workloads
            .values_mut()
            .filter(|w| w.ends_at.is_none() && w.strategy == Strategy::None && w.replicas == 1)
            .last()
            .unwrap()
            .ends_at = Some(ends);
    } else if replicas > 1 && world.dice.below(2) == 1 {
        let least = replicas - 1 - world.dice.below(2) as u32;
        world.budget(namespace, name, least, &[name]);
    }
}

/// Ready pods that no workload and no budget may ever have fewer of.
fn floors(world: &World) -> BTreeMap<String, usize> {
    let mut floors = BTreeMap::new();
    for (name, namespace) in &world.namespaces {
        for (id, workload) in &namespace.workloads {
            let replicas = workload.replicas as usize;
            let floor = match (&id.kind, replicas) {
                (Kind::Deployment, 1) if workload.strategy == ROLLING => 1,
                (Kind::Job | Kind::Pod, _) => 0,
                (_, replicas) => replicas - 1,
            };
            floors.insert(format!("{name}/{id}"), floor);
        }
    }
    floors
}

fn assert_floors(world: &World, floors: &BTreeMap<String, usize>) {
    for (name, namespace) in &world.namespaces {
        for (id, workload) in &namespace.workloads {
            let ready = workload.serving(world.now);
            assert!(ready >= floors[&format!("{name}/{id}")], "{id} in {name} has {ready} ready pods");
        }
        for (budget, (least, covers)) in &namespace.budgets {
            let covered = namespace.workloads.iter().filter(|(id, _)| covers.contains(&id.name));
            let serving: usize = covered.map(|(_, workload)| workload.serving(world.now)).sum();
            assert!(serving >= *least as usize, "{budget} in {name} is overdrawn");
        }
    }
}

/// Runs until the upgrade is over; each pass may die after any action or act on the look before.
fn run(world: &mut World, crashes: bool) -> UpgradePhase {
    let floors = floors(world);
    let mut look = world.observe();
    for _ in 0..DEADLINE {
        let stale = crashes && world.dice.below(5) == 0;
        look = if stale { look } else { world.observe() };
        let most =
            if crashes && world.dice.below(3) == 0 { world.dice.below(3) as usize } else { usize::MAX };
        let over = upgrades::plan(&look, &world.desired);
        if over.over() && !stale {
            assert!(over.actions.is_empty(), "{over}");
            return world.operate(&look, most).phase;
        }
        let plan = world.operate(&look, most);
        // The person does as told.
        if let Some(WaitingOn::Edit { should, .. }) = plan.waiting.first() {
            world.desired.wanted.clone_from(should);
        }
        assert_floors(world, &floors);
        world.tick();
        assert_floors(world, &floors);
    }
    let look = world.observe();
    panic!("not over after {DEADLINE} s\n{}", upgrades::plan(&look, &world.desired));
}

/// Pods whose sidecars run; the objects of others may still be there.
fn running(world: &mut World) -> impl Iterator<Item = &mut SimPod> {
    let now = world.now;
    world.pods_mut().filter(move |pod| pod.gone_at.is_none_or(|at| at > now))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_upgrade_completes(seed in any::<u64>(), crashes in any::<bool>()) {
        let mut world = random_world(seed);
        prop_assert_eq!(run(&mut world, crashes), UpgradePhase::Complete);
        let namespaces = world.namespaces.values();
        prop_assert!(namespaces.clone().all(|namespace| namespace.revision.as_deref() == Some("0.2.0")));
        prop_assert_eq!(world.revisions.keys().collect::<Vec<_>>(), ["0.2.0"]);
        prop_assert!(running(&mut world).all(|pod| pod.revision.as_deref() == Some("0.2.0")));
    }

    #[test]
    fn every_way_back_ends_where_it_began(seed in any::<u64>(), turn in 0u64..60, edit in any::<bool>()) {
        let mut world = random_world(seed);
        for _ in 0..turn {
            let plan = world.pass();
            if plan.over() || plan.phase == UpgradePhase::Retiring { break; }
            world.tick();
        }
        if edit { world.desired.wanted = "0.1.0".to_owned() } else { world.desired.abort = true }
        prop_assert_eq!(run(&mut world, true), UpgradePhase::Aborted);
        prop_assert!(running(&mut world).all(|pod| pod.revision.as_deref() == Some("0.1.0")));
        prop_assert!(!edit || !world.revisions.contains_key("0.2.0"));
    }
}
