//! The record of an upgrade says what was done: how, to which pods, when, also when it went to and fro.

use std::time::Duration;

use crds::mesh_upgrade::{StepState, StepStatus};
use upgrades::facts::{Kind, Strategy, Wave};

use crate::world::{START, World};

fn finish(world: &mut World) {
    for _ in 0..2_000 {
        if world.pass().over() {
            return;
        }
        world.tick();
    }
    panic!("{:#?}", world.record);
}

fn step<'a>(world: &'a World, id: &str) -> &'a StepStatus {
    world
        .record
        .steps
        .iter()
        .find(|step| step.id == id)
        .unwrap_or_else(|| panic!("{:#?}", world.record.steps))
}

/// One pod with a single sidecar container, in a namespace that asks for swaps in place.
fn first_change_of_strategy() -> World {
    let mut world = World::new(6);
    world.deployment("shop", "old", 1);
    world.add("shop", Kind::StatefulSet, "db", 3, Strategy::None);
    world.namespace("shop").hot_swap = true;
    world
}

#[test]
fn a_workload_that_was_rolled_is_recorded_as_rolled_although_its_new_pods_have_slots() {
    let mut world = first_change_of_strategy();
    finish(&mut world);
    assert!(world.pods_mut().all(|pod| pod.slots.is_some()), "the next upgrade swaps them");
    let old = step(&world, "workload/shop/Deployment/old");
    assert_eq!(
        old.step,
        "move Deployment old in shop to 0.2.0 (1/1) by a roll-out, since it has one replica and the new pod must be \
         up before the old one goes; not in place: its pods have one sidecar container until they are made anew"
    );
    assert_eq!((old.state, old.done[0].pods), (StepState::Done, 1));
    assert!(old.started_at < old.finished_at, "{old:#?}");
    let db = step(&world, "workload/shop/StatefulSet/db");
    assert_eq!((db.done.len(), db.done[0].pods), (1, 3));
    assert_eq!(db.done[0].names, ["db-2", "db-1", "db-0"], "in the order in which they went");
    assert!(db.done[0].first < db.done[0].last);
    assert!(db.step.contains("by eviction, highest ordinal first"), "{}", db.step);
}

#[test]
fn how_many_pods_the_first_change_of_strategy_restarts_is_said_once_and_before_anything_moves() {
    let mut world = first_change_of_strategy();
    world.deployment("shop", "new", 2);
    world.desired.approval = upgrades::facts::Approval::Missing;
    let plan = world.pass();
    let said = "4 of 6 pods are restarted, although strategy HotSwap is asked for: 4 not in place: its pods have one \
                sidecar container until they are made anew";
    assert_eq!(world.record.notices, [said]);
    assert_eq!(plan.to_string().lines().nth(1), Some(format!("  note: {said}").as_str()));
    world.desired.approval = upgrades::facts::Approval::Given;
    finish(&mut world);
    assert_eq!(world.record.notices, [said], "as it was before the first pod moved");
}

#[test]
fn an_abort_and_a_second_try_are_added_and_each_way_there_is_watched() {
    let mut world = World::new(4);
    world.deployment("shop", "cart", 2);
    world.deployment("till", "web", 6);
    let namespaces = vec!["shop".to_owned()];
    world.desired.waves = vec![Wave { name: "canary".to_owned(), namespaces }];
    world.desired.soak = Duration::from_secs(20);
    let watched = |world: &World| {
        let id = "watch/0/canary";
        world
            .record
            .steps
            .iter()
            .filter(|step| step.id == id && step.started_at.is_some())
            .cloned()
            .collect::<Vec<_>>()
    };
    while watched(&world).first().is_none_or(|step| step.state != StepState::Done) {
        let _ = world.pass();
        world.tick();
    }
    world.desired.abort = true;
    while world.pods_mut().any(|pod| pod.revision.as_deref() == Some("0.2.0") && pod.gone_at.is_none()) {
        let _ = world.pass();
        world.tick();
    }
    world.desired.abort = false;
    finish(&mut world);
    let id = "workload/shop/Deployment/cart";
    let moves: Vec<_> = world.record.steps.iter().filter(|step| step.id == id).collect();
    let legs: Vec<_> =
        moves.iter().map(|step| (step.leg, step.done.iter().map(|d| d.pods).sum::<i64>())).collect();
    assert_eq!(legs, [(Some(1), 2), (Some(2), 2), (Some(3), 2)]);
    assert!(moves[1].step.contains("cart in shop to 0.1.0 ("), "{}", moves[1].step);
    let watched = watched(&world);
    assert_eq!(watched.len(), 2, "the second way there is watched again");
    let length = |step: &StepStatus| {
        let at = |text: &Option<String>| upgrades::display::seconds(text.as_ref().unwrap()).unwrap() - START;
        at(&step.finished_at) - at(&step.started_at)
    };
    assert!(watched.iter().all(|step| length(step) >= 20), "{watched:#?}");
}

#[test]
fn a_workload_that_was_unhealthy_before_holds_nobody_for_long_and_is_named() {
    let mut world = World::new(11);
    world.add("a", Kind::StatefulSet, "broken", 2, Strategy::None);
    world.deployment("b", "web", 2);
    let sick = |world: &mut World| {
        let workloads = world.namespace("a").workloads.values_mut();
        // Its app never starts, whatever its sidecar is.
        workloads.for_each(|w| w.pods.values_mut().for_each(|pod| pod.ready_at = u64::MAX));
    };
    let mut waited = 0;
    while world.namespaces["b"].revision.as_deref() == Some("0.1.0") {
        sick(&mut world);
        let plan = world.pass();
        world.tick();
        waited += 1;
        assert!(waited < 400, "{plan}");
    }
    assert!(waited >= 300, "most recover by themselves");
    for _ in 0..100 {
        sick(&mut world);
        let _ = world.pass();
        world.tick();
    }
    let plan = world.pass();
    let words = plan.to_string();
    assert!(
        words.contains(
            "StatefulSet broken in a, which was not healthy before the upgrade came to it: 0 of 2 replicas are ready"
        ),
        "{words}"
    );
    assert!(plan.waiting.iter().any(|wait| wait.needs_a_person() && wait.reason() == "UnhealthyBefore"));
    assert!(words.contains("0.1.0 still being used by pod broken-"), "{words}");
    // Somebody mends it: it moves, and the upgrade ends.
    let now = world.now;
    world.pods_mut().filter(|pod| pod.ready_at == u64::MAX).for_each(|pod| pod.ready_at = now);
    finish(&mut world);
    assert!(world.pods_mut().all(|pod| pod.revision.as_deref() == Some("0.2.0")));
}

#[test]
fn the_old_control_plane_goes_with_the_last_stream_and_not_with_the_last_object() {
    let mut world = World::new(3);
    world.deployment("shop", "cart", 3);
    let mut last_stream = 0;
    for _ in 0..300 {
        // A kubelet that takes a minute to clean up after a pod that has ended.
        world.pods_mut().for_each(|pod| pod.lingers = 60);
        let _ = world.pass();
        if world.observe().streams.unwrap().contains_key("0.1.0") {
            last_stream = world.now;
        }
        if !world.revisions.contains_key("0.1.0") {
            assert!(world.now <= last_stream + 5, "{} s after the last stream", world.now - last_stream);
            assert!(world.pods_mut().any(|pod| pod.gone_at.is_some()), "objects are still there");
            return;
        }
        world.tick();
    }
    panic!("{:#?}", world.record);
}

#[test]
fn nothing_is_removed_on_what_is_unknown_and_the_record_says_who_could_not_be_asked() {
    let mut world = World::new(3);
    world.deployment("shop", "cart", 2);
    let silent = |look: &mut upgrades::Observed| {
        let streams = look.streams.as_mut().unwrap().entry("0.1.0".to_owned()).or_default();
        streams.silent.insert("meshwright-controller-0-1-0-x".to_owned(), "no answer".to_owned());
    };
    for _ in 0..200 {
        let mut look = world.observe();
        silent(&mut look);
        let plan = world.operate(&look, usize::MAX);
        assert_eq!(plan.retire, None, "{plan}");
        world.tick();
    }
    assert!(world.revisions.contains_key("0.1.0"));
    let words = &world.record.steps.last().unwrap().reason;
    assert_eq!(
        words,
        "0.1.0 still being used by unknown sidecars, since controller meshwright-controller-0-1-0-x could not be \
         asked: no answer"
    );
}
