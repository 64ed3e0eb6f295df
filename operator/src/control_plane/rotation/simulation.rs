//! A mesh in which everything takes its time: controllers obey when they get to it, holders tell what they hold when
//! they get to it, anybody may be killed, people change their minds, and the operator forgets everything between two
//! looks. Whatever happens, no holder may ever meet a certificate of a root that it does not trust.

use proptest::prelude::*;

use super::*;
use crds::fleet::SecretReport;

const SECOND: i64 = 1_900_000_000;

#[derive(Debug, Clone, Default)]
struct Secret {
    root: String,
    generation: i64,
    uid: String,
    made: i64,
}

#[derive(Debug, Clone, Default)]
struct Controller {
    /// What it obeys: serial, roots (signing first).
    serial: i64,
    trusted: Vec<String>,
    serving: String,
    /// Secrets as it last read them.
    read: BTreeMap<&'static str, Secret>,
}

#[derive(Debug, Clone, Default)]
struct Sidecar {
    roots: BTreeSet<String>,
    issuer: String,
    /// Of the controller that it heard last.
    serial: i64,
    /// What the operator can know of it.
    said: Option<Holding>,
}

#[derive(Debug, Clone)]
struct World {
    now: i64,
    wanted: i64,
    secrets: BTreeMap<&'static str, Secret>,
    made: usize,
    status: Option<CertificateAuthorityStatus>,
    controllers: Vec<Controller>,
    sidecars: Vec<Sidecar>,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// The operator looks and acts; it may die between acting and writing the status.
    Operator { dies: bool },
    /// A controller reads the Secrets and the status.
    Controller(usize),
    /// A controller is replaced: it remembers nothing.
    Restart(usize),
    /// A sidecar asks a controller for a certificate.
    Renew(usize, usize),
    /// A sidecar takes over the roots that a controller trusts.
    Trust(usize, usize),
    /// A sidecar tells what it holds.
    Tell(usize),
    /// A sidecar is replaced by a new pod, which has not said anything.
    Pod(usize, usize),
    /// Somebody edits `rootGeneration`.
    Want(i64),
    /// Time passes.
    Wait(i64),
}

impl World {
    fn new(controllers: usize, sidecars: usize) -> Self {
        let mut world = Self {
            now: SECOND,
            wanted: 1,
            secrets: BTreeMap::new(),
            made: 0,
            status: None,
            controllers: vec![Controller::default(); controllers],
            sidecars: Vec::new(),
        };
        world.operator(false);
        (0..controllers).for_each(|index| world.controller(index));
        world.operator(false);
        world.sidecars = vec![Sidecar::default(); sidecars];
        (0..sidecars).for_each(|index| world.pod(index, 0));
        world
    }

    fn observed(&self) -> Observed {
        let name = |index: usize| format!("controller-{index}");
        let controllers = self.controllers.iter().enumerate();
        let reports = controllers
            .filter(|(_, one)| !one.trusted.is_empty())
            .map(|(index, one)| (name(index), one.report()));
        let holders = self.sidecars.iter().enumerate().map(|(index, sidecar)| Holder {
            name: format!("shop/pod-{index}"),
            holding: sidecar.said.clone(),
        });
        Observed {
            provider: CaProvider::BuiltIn,
            wanted: self.wanted,
            before: self.status.clone(),
            controllers: Ok(reports.collect()),
            holders: needs_holders(self.status.as_ref()).then(|| holders.collect()),
            published: self.controllers.iter().any(|one| !one.trusted.is_empty()),
            now: Timestamp::from_second(self.now).unwrap(),
        }
    }

    fn operator(&mut self, dies: bool) -> Decision {
        let decision = Decision::make(&self.observed());
        match &decision.action {
            Some(SecretAction::Create { secret, generation, beside })
                if !self.secrets.contains_key(secret)
                    && (beside == &Beside::TheOther || self.secrets.is_empty()) =>
            {
                self.made += 1;
                let (root, uid) = (format!("root-{}", self.made), format!("uid-{}", self.made));
                let made = Secret { root, generation: *generation, uid, made: self.now };
                self.secrets.insert(secret, made);
            }
            Some(SecretAction::Delete { secret, uid }) => {
                self.secrets.retain(|name, is| name != secret || &is.uid != uid);
            }
            Some(SecretAction::Create { .. }) | None => {}
        }
        if !dies {
            self.status = decision.status(self.status.as_ref());
        }
        decision
    }

    fn controller(&mut self, index: usize) {
        let one = &mut self.controllers[index];
        one.read.clone_from(&self.secrets);
        let stored = |root: &String| self.secrets.values().any(|secret| &secret.root == root);
        match &self.status {
            Some(status) if status.serial >= one.serial && status.trusted.iter().all(stored) => {
                one.serial = status.serial;
                one.trusted.clone_from(&status.trusted);
            }
            // By itself: the oldest signs. What is published is what the others trust.
            _ if one.trusted.is_empty() => {
                let mut all: Vec<_> = self.secrets.values().collect();
                all.sort_by_key(|secret| secret.generation);
                one.trusted = all.first().map(|secret| secret.root.clone()).into_iter().collect();
            }
            _ => {}
        }
        one.serving = one.trusted.first().cloned().unwrap_or_default();
    }

    fn renew(&mut self, sidecar: usize, controller: usize) {
        let one = &self.controllers[controller];
        let Some(signing) = one.trusted.first() else { return };
        let sidecar = &mut self.sidecars[sidecar];
        if one.serial < sidecar.serial {
            return;
        }
        sidecar.issuer.clone_from(signing);
        sidecar.roots = one.trusted.iter().cloned().collect();
        sidecar.serial = one.serial;
    }

    fn trust(&mut self, sidecar: usize, controller: usize) {
        let one = &self.controllers[controller];
        if !one.trusted.is_empty() && one.serial >= self.sidecars[sidecar].serial {
            self.sidecars[sidecar].roots = one.trusted.iter().cloned().collect();
            self.sidecars[sidecar].serial = one.serial;
        }
    }

    fn tell(&mut self, index: usize) {
        let sidecar = &mut self.sidecars[index];
        let (roots, issuer) = (sidecar.roots.clone(), sidecar.issuer.clone());
        sidecar.said = Some(Holding { roots, issuer, serial: sidecar.serial });
    }

    fn pod(&mut self, index: usize, controller: usize) {
        if !self.controllers[controller].trusted.is_empty() {
            self.sidecars[index] = Sidecar::default();
            self.renew(index, controller);
        }
    }

    fn happen(&mut self, event: Event) {
        let (controllers, sidecars) = (self.controllers.len(), self.sidecars.len());
        match event {
            Event::Operator { dies } => drop(self.operator(dies)),
            Event::Controller(one) => self.controller(one % controllers),
            Event::Restart(one) => {
                self.controllers[one % controllers] = Controller::default();
                self.controller(one % controllers);
            }
            Event::Renew(one, by) => self.renew(one % sidecars, by % controllers),
            Event::Trust(one, by) => self.trust(one % sidecars, by % controllers),
            Event::Tell(one) => self.tell(one % sidecars),
            Event::Pod(one, by) => self.pod(one % sidecars, by % controllers),
            Event::Want(generation) => self.wanted = generation,
            Event::Wait(seconds) => self.now += seconds,
        }
    }

    /// Everybody does what they have to do, until nothing moves any more.
    fn calm(&mut self) -> Decision {
        for _ in 0..60 {
            (0..self.controllers.len()).for_each(|index| self.controller(index));
            for index in 0..self.sidecars.len() {
                self.trust(index, 0);
                self.renew(index, 0);
                self.tell(index);
            }
            self.now += 11;
            self.operator(false);
        }
        self.operator(false)
    }

    /// Everybody accepts everybody's certificate, also that of the controllers.
    fn check(&self) -> Result<(), TestCaseError> {
        let issuers: BTreeSet<_> = self.sidecars.iter().map(|sidecar| &sidecar.issuer).collect();
        for (index, sidecar) in self.sidecars.iter().enumerate() {
            for issuer in &issuers {
                prop_assert!(sidecar.roots.contains(*issuer), "pod-{index} refuses {issuer}: {self:#?}");
            }
        }
        Ok(())
    }
}

impl Controller {
    fn report(&self) -> AuthorityReport {
        let life = |made: i64| {
            let text = |second| Timestamp::from_second(second).unwrap().to_string();
            (text(made), text(made + 10 * 365 * 86_400))
        };
        let roots = self.read.iter().map(|(name, secret)| {
            let (not_before, not_after) = life(secret.made);
            RootReport {
                fingerprint: secret.root.clone(),
                generation: secret.generation,
                secret: Some(SecretReport { name: (*name).to_owned(), uid: secret.uid.clone() }),
                not_before,
                not_after,
            }
        });
        let mut roots: Vec<_> = roots.collect();
        roots.sort();
        AuthorityReport {
            roots,
            serial: self.serial,
            signing: self.trusted.first().cloned().unwrap_or_default(),
            trusted: self.trusted.clone(),
            serving: self.serving.clone(),
            problem: None,
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => any::<bool>().prop_map(|dies| Event::Operator { dies }),
        6 => (0..2usize).prop_map(Event::Controller),
        1 => (0..2usize).prop_map(Event::Restart),
        5 => (0..3usize, 0..2usize).prop_map(|(one, by)| Event::Renew(one, by)),
        3 => (0..3usize, 0..2usize).prop_map(|(one, by)| Event::Trust(one, by)),
        7 => (0..3usize).prop_map(Event::Tell),
        2 => (0..3usize, 0..2usize).prop_map(|(one, by)| Event::Pod(one, by)),
        1 => (1..4i64).prop_map(Event::Want),
        5 => (1..12i64).prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn nobody_is_ever_refused(events in events()) {
        let mut world = World::new(2, 3);
        for event in events {
            world.happen(event);
            world.check()?;
        }
        // And it always comes to an end, on one root.
        let wanted = world.wanted;
        let end = world.calm();
        world.check()?;
        prop_assert_eq!(end.step, RotationStep::Stable, "{}: {:#?}", end.words(), world);
        prop_assert_eq!(world.secrets.len(), 1);
        prop_assert!(end.generation >= wanted, "{} asked for, {} in force", wanted, end.generation);
    }
}

#[test]
fn a_rotation_goes_through_its_steps_and_deletes_the_old_key() {
    let mut world = World::new(2, 3);
    world.calm();
    let first = world.status.clone().unwrap();
    assert_eq!((first.step, first.generation), (RotationStep::Stable, 1));
    world.wanted = 2;
    let mut steps = Vec::new();
    for _ in 0..60 {
        let decision = world.operator(false);
        if steps.last() != Some(&decision.step) {
            steps.push(decision.step);
        }
        (0..2).for_each(|index| world.controller(index));
        (0..3).for_each(|index| {
            world.renew(index, 1);
            world.tell(index);
        });
        world.now += 5;
        world.check().unwrap();
    }
    use RotationStep::{Dropping, Issuing, Preparing, Stable, TrustingBoth};
    assert_eq!(steps, [Preparing, TrustingBoth, Issuing, Dropping, Stable]);
    let last = world.status.unwrap();
    assert_eq!((last.generation, last.secret.as_str()), (2, labels::OTHER_ROOT_SECRET));
    assert_ne!(last.signing, first.signing);
    assert_eq!(world.secrets.keys().collect::<Vec<_>>(), [&labels::OTHER_ROOT_SECRET]);
}

/// Runs a rotation up to a step.
fn at(step: RotationStep) -> World {
    let mut world = World::new(2, 3);
    world.calm();
    world.wanted = 2;
    for _ in 0..200 {
        if world.status.as_ref().unwrap().step == step {
            return world;
        }
        (0..2).for_each(|index| world.controller(index));
        (0..3).for_each(|index| {
            world.renew(index, 1);
            world.tell(index);
        });
        world.now += 5;
        world.operator(false);
    }
    panic!("{step:?} was never reached: {world:#?}");
}

#[test]
fn it_can_be_aborted_at_each_step() {
    for step in
        [RotationStep::Preparing, RotationStep::TrustingBoth, RotationStep::Issuing, RotationStep::Dropping]
    {
        let mut world = at(step);
        world.wanted = 1;
        let end = world.calm();
        world.check().unwrap();
        assert_eq!((end.step, end.generation), (RotationStep::Stable, 1), "aborted at {step:?}: {world:#?}");
        assert_eq!(world.secrets.keys().collect::<Vec<_>>(), [&labels::ROOT_SECRET], "{step:?}");
    }
}

#[test]
fn a_holder_that_says_nothing_is_named_and_holds_every_step() {
    for step in [RotationStep::TrustingBoth, RotationStep::Issuing, RotationStep::Dropping] {
        let mut world = at(step);
        world.sidecars[1].said = None;
        for _ in 0..20 {
            (0..2).for_each(|index| world.controller(index));
            for index in [0, 2] {
                world.renew(index, 0);
                world.tell(index);
            }
            world.now += 30;
            let decision = world.operator(false);
            assert_eq!(decision.step, step);
            world.check().unwrap();
        }
        let message = world.status.unwrap().message;
        assert!(message.contains("waiting for 1: shop/pod-1 has not said what it holds"), "{message}");
    }
}

#[test]
fn a_status_that_is_lost_is_filled_from_what_the_controllers_do() {
    for step in [RotationStep::TrustingBoth, RotationStep::Issuing, RotationStep::Dropping] {
        let mut world = at(step);
        (0..2).for_each(|index| world.controller(index));
        world.status = None;
        let end = world.calm();
        world.check().unwrap();
        assert_eq!((end.step, end.generation), (RotationStep::Stable, 2), "lost at {step:?}: {world:#?}");
    }
}
