//! Short stories, printed: the first plan, what each second brings, and the last plan.

use std::fmt::Write;
use std::time::Duration;

use upgrades::facts::{Approval, Kind, Strategy, Wave};

use crate::world::{START, World};

/// Plays until the upgrade is over or `seconds` have passed, and prints what changed.
fn tell(world: &mut World, seconds: u64) -> String {
    let mut text = String::new();
    let mut before = String::new();
    for second in 0..=seconds {
        let plan = world.pass();
        if second == 0 || second == seconds || plan.over() {
            write!(text, "{:>4} s  {plan}", world.now - START).unwrap();
        } else {
            let now = plan.actions.iter().map(|action| format!("now: {action}"));
            let waits = plan.waiting.iter().map(|wait| format!("waits for {wait}"));
            let line = if plan.actions.is_empty() { waits.collect::<Vec<_>>() } else { now.collect() }
                .join("\n        ");
            if line != before {
                writeln!(text, "{:>4} s  {line}", world.now - START).unwrap();
            }
            before = line;
        }
        if plan.over() {
            break;
        }
        world.tick();
    }
    text
}

#[test]
fn two_namespaces() {
    let mut world = World::new(1);
    world.deployment("shop", "cart", 2);
    world.budget("shop", "cart", 1, &["cart"]);
    world.deployment("shop", "web", 1);
    world.add("till", Kind::StatefulSet, "db", 3, Strategy::None);
    world.desired.waves = vec![Wave { name: "canary".to_owned(), namespaces: vec!["till".to_owned()] }];
    world.desired.soak = Duration::from_secs(30);
    insta::assert_snapshot!(tell(&mut world, 300));
}

#[test]
fn budget_exhausted() {
    let mut world = World::new(2);
    world.deployment("shop", "cart", 2);
    world.budget("shop", "cart", 2, &["cart"]);
    insta::assert_snapshot!(tell(&mut world, 20));
}

#[test]
fn two_budgets_need_a_person() {
    let mut world = World::new(2);
    world.deployment("shop", "cart", 2);
    world.budget("shop", "cart", 1, &["cart"]);
    world.budget("shop", "all", 1, &["cart"]);
    insta::assert_snapshot!(tell(&mut world, 10));
}

#[test]
fn what_cannot_move_without_a_gap_or_at_all() {
    let mut world = World::new(3);
    world.add("shop", Kind::Deployment, "locks", 1, Strategy::Recreate);
    world.add("shop", Kind::StatefulSet, "db", 1, Strategy::None);
    world.add("shop", Kind::Pod, "debug", 1, Strategy::None);
    world.add("shop", Kind::Job, "report", 1, Strategy::None);
    world.add("shop", Kind::Other("Rollout".to_owned()), "canary", 2, Strategy::None);
    insta::assert_snapshot!(tell(&mut world, 40));
}

#[test]
fn approval_pause_and_abort() {
    let mut world = World::new(4);
    world.deployment("shop", "cart", 3);
    world.desired.approval = Approval::Missing;
    let mut text = tell(&mut world, 4);
    world.desired.approval = Approval::Given;
    text += "\n# approved\n";
    text += &tell(&mut world, 4);
    world.desired.paused = true;
    text += "\n# paused\n";
    text += &tell(&mut world, 3);
    (world.desired.paused, world.desired.abort) = (false, true);
    text += "\n# aborted\n";
    text += &tell(&mut world, 60);
    world.desired.wanted = "0.1.0".to_owned();
    text += "\n# spec.version edited\n";
    text += &tell(&mut world, 60);
    insta::assert_snapshot!(text);
}

#[test]
fn a_release_whose_sidecar_never_connects_costs_one_pod() {
    let mut world = World::new(5);
    world.deployment("shop", "cart", 3);
    world.deployment("shop", "web", 3);
    for _ in 0..30 {
        let _ = world.pass();
        world.tick();
        world
            .pods_mut()
            .filter(|pod| pod.revision.as_deref() == Some("0.2.0"))
            .for_each(|pod| pod.synced_at = u64::MAX);
    }
    insta::assert_snapshot!(tell(&mut world, 0));
    assert_eq!(world.pods_mut().filter(|pod| pod.revision.as_deref() == Some("0.2.0")).count(), 1);
}

#[test]
fn sidecars_are_swapped_in_place() {
    let mut world = World::new(6);
    world.namespace("shop").hot_swap = true;
    world.deployment("shop", "cart", 2);
    world.budget("shop", "cart", 2, &["cart"]);
    world.add("shop", Kind::Pod, "debug", 1, Strategy::None);
    world.add("shop", Kind::Job, "report", 1, Strategy::None);
    world.add("shop", Kind::StatefulSet, "db", 1, Strategy::None);
    world.deployment("shop", "old", 1);
    let old = world.namespace("shop").workloads.iter_mut().find(|(id, _)| id.name == "old").unwrap().1;
    old.pods.values_mut().for_each(|pod| pod.slots = None);
    let before: Vec<_> = world.pods_mut().map(|pod| pod.uid.clone()).collect();
    insta::assert_snapshot!(tell(&mut world, 60));
    let stayed = world.pods_mut().filter(|pod| before.contains(&pod.uid)).count();
    assert_eq!(stayed, before.len() - 1, "only the pod with one slot was replaced");
}

#[test]
fn a_swap_that_fails_holds_and_goes_back_at_once() {
    let mut world = World::new(7);
    world.namespace("shop").hot_swap = true;
    world.deployment("shop", "cart", 3);
    for _ in 0..20 {
        let _ = world.pass();
        world.tick();
        world.pods_mut().filter(|pod| pod.revision.as_deref() == Some("0.2.0")).for_each(|pod| {
            pod.synced_at = u64::MAX;
            pod.slots.as_mut().unwrap().serving = Some("0.1.0".to_owned());
        });
    }
    let mut text = tell(&mut world, 0);
    assert_eq!(world.pods_mut().filter(|pod| pod.revision.as_deref() == Some("0.2.0")).count(), 1);
    world.desired.abort = true;
    text += "\n# aborted\n";
    text += &tell(&mut world, 20);
    insta::assert_snapshot!(text);
}
