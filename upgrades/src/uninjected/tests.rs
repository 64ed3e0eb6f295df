//! A namespace whose workloads make their pods again, with or without a sidecar, and an operator that may die anywhere.

use super::*;
use crate::facts::{Budget, Kind, Proxy, Rollout, Strategy};

const SURGES: Strategy = Strategy::RollingUpdate { max_surge: 1, max_unavailable: 0 };

/// The namespace `shop` of a mesh at 0.1.0, and what an operator wrote down.
struct World {
    facts: Facts,
    clock: u64,
    /// Whether new pods get a sidecar.
    injects: bool,
    restarts: Vec<String>,
}

/// What somebody does to a world.
type Change<'a> = &'a dyn Fn(&mut World);

fn id(kind: Kind, name: &str) -> WorkloadId {
    WorkloadId { name: name.to_owned(), kind }
}

fn place(kind: Kind, name: &str) -> Place {
    Place { namespace: "shop".to_owned(), workload: id(kind, name) }
}

impl World {
    fn new() -> Self {
        let mut facts = Facts::default();
        facts.observed.revisions.insert("0.1.0".to_owned(), Readiness::Ready);
        let shop = Namespace { revision: Some("0.1.0".to_owned()), ..Default::default() };
        facts.observed.namespaces.insert("shop".to_owned(), shop);
        Self { facts, clock: 100, injects: true, restarts: Vec::new() }
    }

    fn shop(&mut self) -> &mut Namespace {
        self.facts.observed.namespaces.get_mut("shop").unwrap()
    }

    /// A workload, none of whose pods has a sidecar.
    fn escaped(mut self, kind: Kind, name: &str, replicas: u32) -> Self {
        let workload = Workload {
            replicas,
            rollout: Rollout::Settled,
            strategy: SURGES,
            moved_to: None,
            pods: BTreeMap::new(),
        };
        let of = id(kind, name);
        self.shop().workloads.insert(of.clone(), workload);
        for _ in 0..replicas {
            self.pod(&of, false);
        }
        self
    }

    fn pod(&mut self, of: &WorkloadId, injected: bool) {
        self.clock += 1;
        let name = format!("{}-{}", of.name, self.clock);
        let pod = Pod {
            uid: name.clone(),
            revision: injected.then(|| "0.1.0".to_owned()),
            ready: true,
            terminating: false,
            proxy: Proxy::InSync,
            slots: None,
        };
        if !injected {
            self.facts.escaped.insert(("shop".to_owned(), name.clone()), self.clock);
        }
        self.shop().workloads.get_mut(of).unwrap().pods.insert(name, pod);
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.facts.observed.namespaces["shop"].workloads.values().flat_map(|workload| workload.pods.values())
    }

    fn plan(&self) -> Restarts {
        plan(&self.facts)
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.plan().workloads.iter().map(|restart| restart.state.reason()).collect()
    }

    fn write(&mut self, restarts: &Restarts) {
        let record = |restart: &Restart| Some((restart.place.clone(), restart.record.clone()?));
        self.facts.records = restarts.workloads.iter().filter_map(record).collect();
    }

    /// Does the action; the pod that comes instead is not ready before [`World::settle`].
    fn act(&mut self, action: &Action) {
        let of = match action {
            Action::Evict { workload, pod, uid, .. } => {
                assert_eq!(pod, uid);
                self.restarts.push(pod.clone());
                self.shop().workloads.get_mut(workload).unwrap().pods.remove(pod).expect("it is there");
                workload.clone()
            }
            Action::Surge { deployment, mark, expect, .. } => {
                let of = id(Kind::Deployment, deployment);
                let workload = self.shop().workloads.get_mut(&of).unwrap();
                assert_eq!(&workload.moved_to, expect);
                workload.moved_to = Some(mark.clone());
                workload.pods.clear();
                self.restarts.push(mark.clone());
                of
            }
            other => panic!("{other:?}"),
        };
        let injects = self.injects;
        self.pod(&of, injects);
        let newest = format!("{}-{}", of.name, self.clock);
        self.shop().workloads.get_mut(&of).unwrap().pods.get_mut(&newest).unwrap().ready = false;
    }

    fn settle(&mut self) {
        let pods = self.shop().workloads.values_mut().flat_map(|workload| workload.pods.values_mut());
        pods.for_each(|pod| pod.ready = true);
    }

    /// Passes until nothing is done any more; of pods that were ready, never more than one is missing at once.
    fn run(&mut self) -> Restarts {
        for _ in 0..100 {
            let restarts = self.plan();
            self.write(&restarts);
            let Some(action) = restarts.action.clone() else { return restarts };
            self.act(&action);
            assert_eq!(self.pods().filter(|pod| !pod.ready).count(), 1);
            let during = self.plan();
            if during.action.is_none() {
                self.write(&during);
            }
            // One that has no sidecar and is not ready serves nobody: it may go.
            assert!(during.action.is_none() || !self.injects, "{during:?}");
            self.settle();
        }
        panic!("it goes on for ever: {:?}", self.restarts);
    }
}

#[test]
fn pods_without_a_sidecar_go_one_workload_at_a_time_and_the_rest_is_left_alone() {
    let mut world = World::new().escaped(Kind::Deployment, "a", 3).escaped(Kind::StatefulSet, "b", 2);
    let a = id(Kind::Deployment, "a");
    world.pod(&a, true);
    world.shop().workloads.get_mut(&a).unwrap().replicas = 4;
    assert_eq!(world.reasons(), ["Restarting", "OthersFirst"]);
    let end = world.run();
    assert_eq!(end, Restarts::default(), "nothing is left to say");
    assert_eq!(world.restarts.len(), 5);
    assert!(world.restarts[..3].iter().all(|pod| pod.starts_with("a-")), "{:?}", world.restarts);
    assert!(world.restarts[3] > world.restarts[4], "the highest ordinal first: {:?}", world.restarts);
    assert!(world.pods().all(|pod| pod.revision.is_some()));
}

#[test]
fn a_single_replica_is_rolled_so_that_the_new_pod_is_up_first() {
    let mut world = World::new().escaped(Kind::Deployment, "a", 1);
    world.run();
    assert_eq!(world.restarts, ["0.1.0"]);
}

/// Nothing is disturbed while any of this holds, and each says so.
#[test]
fn what_an_upgrade_would_wait_for_is_waited_for() {
    let world = || World::new().escaped(Kind::Deployment, "a", 3);
    let held = |change: &dyn Fn(&mut World)| {
        let mut world = world();
        change(&mut world);
        let restarts = world.plan();
        assert_eq!(restarts.action, None, "{restarts:?}");
        assert!(!restarts.workloads[0].state.to_string().is_empty());
        restarts.workloads[0].state.reason()
    };
    let workload = |world: &mut World, change: &dyn Fn(&mut Workload)| {
        change(world.shop().workloads.values_mut().next().unwrap());
    };
    let word = |word| {
        move |world: &mut World| {
            world.facts.words.insert("shop".to_owned(), Word::clone(&word));
        }
    };
    let cases: [(&str, Change<'_>); 9] = [
        ("UpgradeRuns", &|world| world.facts.upgrade = Some("u".to_owned())),
        ("Paused", &word(Word::parse("Paused"))),
        ("UnknownWord", &word(Word::parse("approved?"))),
        ("AwaitingApproval", &|world| world.facts.approval = Approval::Manual),
        ("WouldNotBeInjected", &|world| world.shop().revision = None),
        ("WouldNotBeInjected", &|world| world.facts.observed.revisions.clear()),
        ("RolloutRunning", &|world| workload(world, &|one| one.rollout = Rollout::Progressing)),
        ("ReplicasNotReady", &|world| workload(world, &|one| one.replicas = 4)),
        ("DisruptionBudget", &|world| {
            let pods = world.shop().workloads.values().flat_map(|one| one.pods.keys().cloned()).collect();
            world.shop().budgets.insert("pdb".to_owned(), Budget { allowed: 0, pods });
        }),
    ];
    for (reason, change) in cases {
        assert_eq!(held(change), reason);
    }
    let why = Readiness::NotReady("webhook is not in place".to_owned());
    let not_ready =
        |world: &mut World| drop(world.facts.observed.revisions.insert("0.1.0".to_owned(), why.clone()));
    assert_eq!(held(&not_ready), "WouldNotBeInjected");
    let mut approved = world();
    approved.facts.approval = Approval::Manual;
    word(Word::parse("Approved"))(&mut approved);
    assert_eq!(approved.reasons(), ["Restarting"]);
}

#[test]
fn what_nothing_makes_again_is_named_and_left_and_so_is_who_opted_out() {
    let mut world = World::new()
        .escaped(Kind::Pod, "bare", 1)
        .escaped(Kind::Job, "job", 1)
        .escaped(Kind::Other("Rollout".to_owned()), "other", 1)
        .escaped(Kind::Deployment, "outside", 2);
    // Without a sidecar and with a reason: not among the escaped.
    world.facts.escaped.retain(|(_, pod), _| !pod.starts_with("outside"));
    let end = world.run();
    let reasons: Vec<_> = end.workloads.iter().map(|restart| restart.state.reason()).collect();
    assert_eq!(reasons, ["NobodyMakesItAgain", "JobEndsByItself", "UnknownController"]);
    assert!(end.workloads.iter().all(|restart| !restart.state.is_moving() && restart.record.is_none()));
    assert!(world.restarts.is_empty());
}

/// Everything looks as if new pods would be injected, and they are not: it ends, and says so, whatever makes the pods.
#[test]
fn pods_that_escape_again_are_not_restarted_for_ever() {
    let kinds = [
        (Kind::Deployment, 1),
        (Kind::Deployment, 5),
        (Kind::StatefulSet, 1),
        (Kind::StatefulSet, 3),
        (Kind::DaemonSet, 4),
        (Kind::ReplicaSet, 2),
    ];
    for (kind, replicas) in kinds {
        let mut world = World::new().escaped(kind.clone(), "a", replicas).escaped(Kind::Deployment, "b", 2);
        world.injects = false;
        let end = world.run();
        let reasons: Vec<_> = end.workloads.iter().map(|restart| restart.state.reason()).collect();
        assert_eq!(reasons, ["EscapedAgain", "EscapedAgain"], "{kind:?}");
        let tries = usize::try_from(TRIES).unwrap() + 1;
        assert_eq!(world.restarts.len(), 2 * tries, "{kind:?}: {:?}", world.restarts);
        // A person mends the webhook and deletes the pods: what was is forgotten, and the next escape is tried anew.
        world.injects = true;
        let of = id(kind.clone(), "a");
        world.shop().workloads.get_mut(&of).unwrap().pods.clear();
        (0..replicas).for_each(|_| world.pod(&of, true));
        let after = world.plan();
        assert!(after.workloads.iter().all(|restart| restart.place != place(kind.clone(), "a")), "{after:?}");
    }
}

/// Killed between the record and the deed, any number of times: the same pod, and it counts once.
#[test]
fn a_restart_that_was_only_written_down_counts_once() {
    let mut world = World::new().escaped(Kind::StatefulSet, "a", 2);
    world.injects = false;
    for _ in 0..10 {
        let restarts = world.plan();
        world.write(&restarts);
    }
    assert_eq!(world.facts.records[&place(Kind::StatefulSet, "a")].again, 0);
    for again in [1, TRIES] {
        let action = world.plan().action.unwrap();
        world.act(&action);
        world.settle();
        for _ in 0..10 {
            let restarts = world.plan();
            assert!(restarts.action.is_some());
            world.write(&restarts);
        }
        assert_eq!(world.facts.records[&place(Kind::StatefulSet, "a")].again, again);
    }
    let last = world.plan().action.unwrap();
    world.act(&last);
    world.settle();
    assert_eq!(world.reasons(), ["EscapedAgain"]);
}

#[test]
fn a_workload_that_was_restarted_and_has_not_recovered_holds_the_others() {
    let mut world = World::new().escaped(Kind::Deployment, "a", 2).escaped(Kind::Deployment, "b", 2);
    let restarts = world.plan();
    world.write(&restarts);
    world.act(&restarts.action.unwrap());
    // Its new pod never becomes ready: the sidecar keeps the app from it, perhaps.
    let during = world.plan();
    assert_eq!(world.reasons(), ["PodNotReady", "OthersFirst"]);
    assert_eq!(during.action, None);
    assert!(during.workloads.iter().all(|restart| restart.state.is_moving()));
}
