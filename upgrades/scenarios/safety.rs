//! The checker, shown to object: each test spoils a good plan or its facts in one way.

use upgrades::check::Rule;
use upgrades::facts::{Approval, Format, Kind, Readiness, Seen, Slot, Slots, WorkloadId};
use upgrades::plan::Cost;
use upgrades::{Action, Observed, Plan, check, plan};

use crate::world::World;

/// Facts and a plan that evicts a pod of `cart` (3 replicas, a budget) in `shop`; `till` comes after.
fn evicting() -> (Observed, Plan) {
    moving(false, |action| matches!(action, Action::Evict { .. }))
}

/// The same, but the sidecar of the pod is swapped.
fn swapping() -> (Observed, Plan) {
    moving(true, |action| matches!(action, Action::Swap { .. }))
}

fn moving(hot_swap: bool, wanted: impl Fn(&Action) -> bool) -> (Observed, Plan) {
    let mut world = World::new(7);
    world.namespace("shop").hot_swap = hot_swap;
    world.deployment("shop", "cart", 3);
    world.budget("shop", "cart", 1, &["cart"]);
    world.deployment("till", "web", 2);
    loop {
        let (observed, plan) = {
            let o = world.observe();
            let p = plan(&o, &world.desired);
            (o, p)
        };
        if plan.actions.iter().any(&wanted) {
            return (observed, plan);
        }
        let _ = world.pass();
        world.tick();
    }
}

fn rules(plan: &Plan, observed: &Observed) -> Vec<Rule> {
    let mut rules: Vec<_> = check(plan, observed).into_iter().map(|note| note.rule).collect();
    rules.dedup();
    rules
}

fn cart() -> WorkloadId {
    WorkloadId { name: "cart".to_owned(), kind: Kind::Deployment }
}

#[test]
fn a_good_plan_has_no_note() {
    let (observed, plan) = evicting();
    assert_eq!(check(&plan, &observed), []);
}

#[test]
fn moving_before_the_control_plane_is_noted() {
    let (mut observed, plan) = evicting();
    observed.revisions.insert("0.2.0".to_owned(), Readiness::NotReady("injector".to_owned()));
    assert_eq!(rules(&plan, &observed), [Rule::ControlPlaneFirst]);
    observed.revisions.remove("0.2.0");
    assert_eq!(rules(&plan, &observed), [Rule::ControlPlaneFirst]);
}

#[test]
fn moving_before_the_control_plane_reconciler_knows_where_to_is_noted() {
    let (mut observed, plan) = evicting();
    observed.control_plane = Seen::NotYet;
    assert_eq!(rules(&plan, &observed), [Rule::ControlPlaneFirst]);
}

#[test]
fn moving_in_a_pause_or_unapproved_is_noted() {
    let (observed, mut plan) = evicting();
    plan.desired.paused = true;
    assert_eq!(rules(&plan, &observed), [Rule::Steering]);
    plan.desired.paused = false;
    plan.desired.approval = Approval::Missing;
    assert_eq!(rules(&plan, &observed), [Rule::Steering]);
}

#[test]
fn a_namespace_out_of_order_is_noted() {
    let (observed, mut plan) = evicting();
    plan.actions.push(Action::Relabel {
        namespace: "till".to_owned(),
        expect: Some("0.1.0".to_owned()),
        to: "0.2.0".to_owned(),
    });
    assert_eq!(rules(&plan, &observed), [Rule::Order]);
}

#[test]
fn two_pods_of_one_workload_are_noted() {
    let (observed, mut plan) = evicting();
    let Action::Evict { namespace, workload, pod, cost, .. } = plan.actions[0].clone() else { panic!() };
    let other =
        observed.namespaces["shop"].workloads[&cart()].pods.iter().find(|(name, _)| **name != pod).unwrap();
    plan.actions.push(Action::Evict {
        namespace,
        workload,
        pod: other.0.clone(),
        uid: other.1.uid.clone(),
        cost,
    });
    assert_eq!(rules(&plan, &observed), [Rule::Replicas]);
}

#[test]
fn an_overdrawn_budget_is_noted() {
    let (mut observed, plan) = evicting();
    observed.namespaces.get_mut("shop").unwrap().budgets.get_mut("cart").unwrap().allowed = 0;
    assert_eq!(rules(&plan, &observed), [Rule::Budget]);
}

#[test]
fn a_pod_that_is_needed_is_noted() {
    let (mut observed, plan) = evicting();
    let Action::Evict { pod, .. } = &plan.actions[0] else { panic!() };
    let workload = observed.namespaces.get_mut("shop").unwrap().workloads.get_mut(&cart()).unwrap();
    workload.pods.iter_mut().find(|(name, _)| *name != pod).unwrap().1.ready = false;
    assert_eq!(rules(&plan, &observed), [Rule::Replicas]);
}

#[test]
fn another_pod_of_the_name_is_noted() {
    let (observed, mut plan) = evicting();
    let Action::Evict { uid, .. } = &mut plan.actions[0] else { panic!() };
    *uid = "other".to_owned();
    assert_eq!(rules(&plan, &observed), [Rule::Expectation]);
}

#[test]
fn a_lie_about_the_cost_is_noted() {
    let (observed, mut plan) = evicting();
    let Action::Evict { cost, .. } = &mut plan.actions[0] else { panic!() };
    *cost = Cost::Nothing;
    assert_eq!(rules(&plan, &observed), [Rule::Replicas]);
}

#[test]
fn silence_is_noted() {
    let (observed, mut plan) = evicting();
    plan.actions.clear();
    plan.waiting.clear();
    assert_eq!(rules(&plan, &observed), [Rule::Reason]);
}

#[test]
fn a_revision_in_use_is_not_done_away_with() {
    let (observed, mut plan) = evicting();
    plan.steps.last_mut().unwrap().state = crds::mesh_upgrade::StepState::Done;
    assert_eq!(rules(&plan, &observed), [Rule::Retire]);
}

#[test]
fn a_release_too_far_away_moves_nothing() {
    let mut world = World::new(8);
    world.deployment("shop", "cart", 3);
    world.desired.to = "0.9.0".to_owned();
    world.desired.wanted = "0.9.0".to_owned();
    world.tick();
    world.tick();
    for _ in 0..10 {
        let plan = world.pass();
        assert_eq!(plan.actions, [], "{plan}");
        assert!(plan.waiting_line().contains("known releases are `0.1.0`, `0.2.0`"), "{plan}");
        world.tick();
    }
}

#[test]
fn a_swap_out_of_turn_is_noted() {
    let (observed, plan) = swapping();
    assert_eq!(check(&plan, &observed), []);
    let spoil = |spoil: &dyn Fn(&mut upgrades::facts::Pod)| {
        let mut observed = observed.clone();
        let pods = &mut observed.namespaces.get_mut("shop").unwrap().workloads.get_mut(&cart()).unwrap().pods;
        spoil(pods.values_mut().next().unwrap());
        rules(&plan, &observed)
    };
    let slots = |pod: &mut upgrades::facts::Pod| pod.slots.take().unwrap();
    assert_eq!(spoil(&|pod| pod.slots = None), [Rule::Expectation]);
    assert_eq!(spoil(&|pod| pod.uid = "other".to_owned()), [Rule::Expectation]);
    assert_eq!(spoil(&|pod| pod.slots = Some(Slots { live: Slot::B, ..slots(pod) })), [Rule::Expectation]);
    let draining =
        |pod: &mut upgrades::facts::Pod| Some(Slots { swapped_at: Some(observed.now), ..slots(pod) });
    assert_eq!(spoil(&|pod| pod.slots = draining(pod)), [Rule::Expectation]);
    let of = |format: Format, injected: &str, pod: &mut upgrades::facts::Pod| {
        Some(Slots { injected: injected.to_owned(), format, ..slots(pod) })
    };
    assert_eq!(spoil(&|pod| pod.slots = of(Format::Unnumbered, "0.3.0", pod)), [Rule::Expectation]);
    assert_eq!(spoil(&|pod| pod.slots = of(Format::Number(9), "0.1.0", pod)), [Rule::Expectation]);
    assert_eq!(
        spoil(&|pod| pod.slots = of(Format::Unreadable("x".to_owned()), "0.1.0", pod)),
        [Rule::Expectation]
    );
    let mut restart = observed.clone();
    restart.namespaces.get_mut("shop").unwrap().hot_swap = false;
    assert_eq!(rules(&plan, &restart), [Rule::Expectation]);
    let mut other = observed.clone();
    let pods = &mut other.namespaces.get_mut("shop").unwrap().workloads.get_mut(&cart()).unwrap().pods;
    pods.values_mut().next_back().unwrap().ready = false;
    assert_eq!(rules(&plan, &other), [Rule::Replicas]);
    let mut two = plan.clone();
    two.actions.extend(plan.actions.clone());
    assert_eq!(rules(&two, &observed), [Rule::Replicas]);
}
