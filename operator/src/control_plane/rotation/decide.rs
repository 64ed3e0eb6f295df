//! The decisions.

use super::*;

/// A root as all controllers together know it.
#[derive(Debug, Clone)]
struct Root {
    fingerprint: String,
    generation: i64,
    /// Name and uid of its Secret, when every controller has read it there.
    secret: Option<(String, String)>,
    /// Whether controllers have it in memory only.
    lost: bool,
    life: Option<(Timestamp, Timestamp)>,
}

struct Scene<'a> {
    observed: &'a Observed,
    directive: Directive,
    controllers: &'a BTreeMap<String, AuthorityReport>,
    roots: Vec<Root>,
}

pub(super) fn decide(observed: &Observed) -> Decision {
    let controllers = match &observed.controllers {
        Ok(controllers) if !controllers.is_empty() => controllers,
        Ok(_) => return hold(observed, "no controller is ready to be asked".to_owned()),
        Err(why) => return hold(observed, why.clone()),
    };
    let Some(directive) = adopt(observed, controllers) else {
        return hold(observed, "the controllers have not loaded the same root yet".to_owned());
    };
    let scene = Scene { observed, directive, controllers, roots: roots(controllers) };
    scene.decide()
}

/// Nothing is ordered while not everything is seen. A root is made if there is none: that a Secret exists is all that
/// the operator can learn of it, and if it does, nothing is done.
fn hold(observed: &Observed, why: String) -> Decision {
    let before = observed.before.clone().unwrap_or_default();
    let directive = Directive::from(&before);
    let create = match &directive {
        None => (!observed.published).then_some((labels::ROOT_SECRET, observed.wanted.max(1))),
        // Deleted by somebody, and no controller remembers it.
        Some(_) => slot(&before.secret).map(|secret| (secret, before.generation + 1)),
    };
    let create = create.filter(|_| observed.provider == CaProvider::BuiltIn);
    let first = directive.is_none();
    Decision {
        directive,
        step: before.step,
        stuck: None,
        generation: before.generation,
        target: before.generation,
        wanted: observed.wanted,
        secret: None,
        life: None,
        waiting: vec![why],
        action: create.map(|(secret, generation)| SecretAction::Create {
            secret,
            generation,
            beside: if first { Beside::Nothing } else { Beside::TheOther },
        }),
    }
}

fn slot(name: &str) -> Option<&'static str> {
    [labels::ROOT_SECRET, labels::OTHER_ROOT_SECRET].into_iter().find(|slot| *slot == name)
}

/// The order in force. A status that was lost, or restored from an older one, is filled from what the controllers do.
fn adopt(observed: &Observed, controllers: &BTreeMap<String, AuthorityReport>) -> Option<Directive> {
    let newest = controllers.values().max_by_key(|report| report.serial)?;
    let own = observed.before.as_ref().and_then(Directive::from);
    let own = own.as_ref();
    if let Some(own) = own
        && newest.serial <= own.serial
        && controllers.values().any(|report| knows(report, &own.signing))
    {
        return Some(own.clone());
    }
    let agree = controllers.values().all(|report| {
        (&report.signing, &report.trusted) == (&newest.signing, &newest.trusted) && !report.signing.is_empty()
    });
    let serial = newest.serial.max(own.map_or(0, |own| own.serial)) + 1;
    let (signing, trusted) = (newest.signing.clone(), newest.trusted.clone());
    agree.then_some(Directive { serial, signing, trusted, since: observed.now })
}

fn knows(report: &AuthorityReport, root: &str) -> bool {
    report.trusted.iter().any(|name| name == root)
        || report.roots.iter().any(|known| known.fingerprint == root)
}

fn roots(controllers: &BTreeMap<String, AuthorityReport>) -> Vec<Root> {
    let mut all: BTreeMap<&str, Vec<&RootReport>> = BTreeMap::new();
    for root in controllers.values().flat_map(|report| &report.roots) {
        all.entry(&root.fingerprint).or_default().push(root);
    }
    let merge = |(fingerprint, reports): (&str, Vec<&RootReport>)| {
        let first = reports.first()?;
        let same =
            reports.len() == controllers.len() && reports.iter().all(|report| report.secret == first.secret);
        let secret = first.secret.as_ref().filter(|_| same);
        let life = first.not_before.parse().ok().zip(first.not_after.parse().ok());
        Some(Root {
            fingerprint: fingerprint.to_owned(),
            generation: first.generation,
            secret: secret.map(|secret| (secret.name.clone(), secret.uid.clone())),
            lost: reports.iter().all(|report| report.secret.is_none()),
            life,
        })
    };
    all.into_iter().filter_map(merge).collect()
}

impl Root {
    /// Whether so much of its life is over that it must be replaced.
    fn old(&self, now: Timestamp) -> bool {
        self.life.is_some_and(|(begin, end)| {
            let life = end.as_second() - begin.as_second();
            now.as_second() >= begin.as_second() + life / USED_UP.1 * USED_UP.0
        })
    }
}

/// Where it goes.
enum Aim<'a> {
    /// To this root, which may be the one that signs already.
    Root(&'a Root),
    /// To a root that is still to be made.
    Make(i64),
    /// Nowhere; a person must do something.
    Stuck(Stuck),
    /// Nowhere yet: not every controller has read the same.
    Stay,
}

impl Scene<'_> {
    fn root(&self, fingerprint: &str) -> Option<&Root> {
        self.roots.iter().find(|root| root.fingerprint == fingerprint)
    }

    fn signing(&self) -> Option<&Root> {
        self.root(&self.directive.signing)
    }

    fn generation(&self) -> i64 {
        self.signing().map_or(0, |root| root.generation)
    }

    fn decide(&self) -> Decision {
        if let Some(other) = self.directive.other()
            && !self.controllers.values().any(|report| knows(report, other))
        {
            // Its Secret was deleted before any controller could trust it, so nobody ever did: it is given up.
            let directive = self.directive.next(&self.directive.signing, None, self.observed.now);
            return Decision { directive: Some(directive), ..self.rest() };
        }
        match self.aim() {
            Aim::Root(target) if target.fingerprint == self.directive.signing => self.settle_on(target),
            Aim::Root(target) => self.go_to(target),
            Aim::Make(generation) => self.make(generation),
            Aim::Stay => self.decision(RotationStep::Stable, self.generation()),
            Aim::Stuck(stuck) => Decision { stuck: Some(stuck), ..self.rest() },
        }
    }

    /// A root that exists beside the one that signs: trusted too, or only stored.
    fn rival(&self) -> Option<&Root> {
        let trusted = self.directive.other().and_then(|other| self.root(other));
        let stored = || {
            let mut stored = self.roots.iter().filter(|root| root.secret.is_some());
            stored.find(|root| root.fingerprint != self.directive.signing)
        };
        trusted.or_else(stored)
    }

    fn aim(&self) -> Aim<'_> {
        let problem = self.controllers.values().find_map(|report| report.problem.clone());
        if self.observed.provider == CaProvider::Secret {
            let gone = !self.controllers.values().any(|report| report.roots.iter().any(provided));
            return match (self.provided(), problem) {
                (Some(root), _) => Aim::Root(root),
                (None, Some(problem)) => Aim::Stuck(Stuck::BadSecret(problem)),
                (None, None) if gone => Aim::Stuck(Stuck::SecretGone),
                (None, None) => Aim::Stay,
            };
        }
        let (signing, wanted, now) = (self.signing(), self.observed.wanted, self.observed.now);
        let Some(rival) = self.rival() else {
            return match signing {
                _ if problem.is_some() => Aim::Stuck(Stuck::BadSecret(problem.unwrap_or_default())),
                Some(signing) if wanted > signing.generation => Aim::Make(wanted),
                Some(signing) if signing.lost || signing.old(now) => Aim::Make(signing.generation + 1),
                Some(signing) => Aim::Root(signing),
                None => Aim::Make(wanted.max(self.before().generation + 1)),
            };
        };
        let Some(signing) = signing else { return Aim::Root(rival) };
        let (older, newer) =
            if signing.generation < rival.generation { (signing, rival) } else { (rival, signing) };
        let forward = wanted >= newer.generation || older.old(now) || older.lost;
        Aim::Root(if forward && newer.secret.is_some() { newer } else { older })
    }

    /// The Secret that a person provides.
    fn provided(&self) -> Option<&Root> {
        let named = |root: &&Root| root.secret.as_ref().is_some_and(|(name, _)| name == labels::ROOT_SECRET);
        self.roots.iter().find(named)
    }

    fn before(&self) -> CertificateAuthorityStatus {
        self.observed.before.clone().unwrap_or_default()
    }

    fn decision(&self, step: RotationStep, target: i64) -> Decision {
        Decision {
            directive: Some(self.directive.clone()),
            step,
            stuck: None,
            generation: self.generation(),
            target,
            wanted: self.observed.wanted,
            secret: self.signing().and_then(|root| root.secret.clone()).map(|(name, _)| name),
            life: self.signing().and_then(|root| root.life),
            waiting: Vec::new(),
            action: None,
        }
    }

    /// The step that the directive is in when nothing else is aimed at.
    fn rest(&self) -> Decision {
        self.decision(RotationStep::Stable, self.generation())
    }

    fn make(&self, generation: i64) -> Decision {
        let used = self.signing().and_then(|root| root.secret.as_ref()).map(|(name, _)| name.as_str());
        let free = if used == Some(labels::OTHER_ROOT_SECRET) {
            labels::ROOT_SECRET
        } else {
            labels::OTHER_ROOT_SECRET
        };
        let mut decision = self.decision(RotationStep::Preparing, generation);
        decision.action = Some(SecretAction::Create { secret: free, generation, beside: Beside::TheOther });
        decision.waiting = vec![format!("every controller has to load the new root from Secret {free}")];
        decision
    }

    /// The target signs: everything else may go.
    fn settle_on(&self, target: &Root) -> Decision {
        let me = &self.directive.signing;
        if self.directive.other().is_some() {
            let mut decision = self.decision(RotationStep::Issuing, target.generation);
            decision.waiting = self.disobeying();
            decision
                .waiting
                .extend(self.holders(&|held| (&held.issuer != me).then_some("has no certificate of it yet")));
            return self.order(decision, me, None);
        }
        let leftover = self.rival().and_then(|root| root.secret.as_ref());
        let Some((secret, uid)) = leftover.filter(|_| self.observed.provider == CaProvider::BuiltIn) else {
            return self.rest();
        };
        let mut decision = self.decision(RotationStep::Dropping, target.generation);
        decision.waiting = self.disobeying();
        let only = |held: &Holding| held.roots.len() != 1 || !held.roots.contains(me);
        decision.waiting.extend(self.holders(&|held| only(held).then_some("still trusts another root")));
        if decision.waiting.is_empty() {
            decision.action = Some(SecretAction::Delete { secret: secret.clone(), uid: uid.clone() });
        }
        decision
    }

    /// Another root signs: trust the target too, then let it sign.
    fn go_to(&self, target: &Root) -> Decision {
        let (me, aim) = (self.directive.signing.as_str(), target.fingerprint.as_str());
        let trusted = self.directive.other();
        if trusted.is_some_and(|other| other == aim) {
            let mut decision = self.decision(RotationStep::TrustingBoth, target.generation);
            decision.waiting = self.disobeying();
            let both = |held: &Holding| held.roots.contains(me) && held.roots.contains(aim);
            decision
                .waiting
                .extend(self.holders(&|held| (!both(held)).then_some("does not trust both roots yet")));
            return self.order(decision, aim, Some(me));
        }
        if trusted.is_some() {
            // A third root: the second goes first.
            return match self.signing() {
                Some(signing) => self.settle_on(signing),
                None => self.rest(),
            };
        }
        let mut decision = self.decision(RotationStep::Preparing, target.generation);
        if target.secret.is_none() {
            decision.waiting = vec!["every controller has to load the new root".to_owned()];
            return decision;
        }
        decision.waiting = self.disobeying();
        self.order(decision, me, Some(aim))
    }

    /// Orders the next state once nobody is waited for. The step shown is the one that the new order begins.
    fn order(&self, decision: Decision, signing: &str, other: Option<&str>) -> Decision {
        if !decision.waiting.is_empty() {
            return decision;
        }
        // The settling time is for pods that start meanwhile; before anything is trusted there is none to wait for.
        let age = self.observed.now.duration_since(self.directive.since);
        if decision.step != RotationStep::Preparing && age < SETTLE {
            return Decision { waiting: vec!["pods that have just started".to_owned()], ..decision };
        }
        let directive = self.directive.next(signing, other, self.observed.now);
        let step = match decision.step {
            RotationStep::Preparing => RotationStep::TrustingBoth,
            RotationStep::TrustingBoth => RotationStep::Issuing,
            RotationStep::Issuing | RotationStep::Dropping | RotationStep::Stable => RotationStep::Dropping,
        };
        let generation = self.root(signing).map_or(decision.generation, |root| root.generation);
        let life = self.root(signing).and_then(|root| root.life);
        let secret = self.root(signing).and_then(|root| root.secret.clone()).map(|(name, _)| name);
        Decision { directive: Some(directive), step, generation, life, secret, ..decision }
    }

    /// Controllers that do not do yet what was ordered.
    fn disobeying(&self) -> Vec<String> {
        let behind = |report: &AuthorityReport| {
            let wrong = report.serial != self.directive.serial || report.trusted != self.directive.trusted;
            // A replica that has lost the key serves with another trusted root.
            let serves = self.directive.trusted.contains(&report.serving)
                && (report.serving == self.directive.signing || !has_key(report, &self.directive.signing));
            wrong || !serves
        };
        let names = self.controllers.iter().filter(|(_, report)| behind(report)).map(|(name, _)| name);
        let unpublished = (!self.observed.published).then(|| "the trust bundle to be published".to_owned());
        names.map(|name| format!("controller {name} does not obey yet")).chain(unpublished).collect()
    }

    /// Holders that something is missing of.
    fn holders(&self, missing: &dyn Fn(&Holding) -> Option<&'static str>) -> Vec<String> {
        let Some(holders) = &self.observed.holders else {
            return vec!["the sidecars have to be listed".to_owned()];
        };
        let why = |holder: &Holder| {
            let why = match &holder.holding {
                None => Some("has not said what it holds"),
                Some(holding) if holding.serial < self.directive.serial => {
                    Some("has not heard of this step yet")
                }
                Some(holding) => missing(holding),
            };
            why.map(|why| format!("{} {why}", holder.name))
        };
        holders.iter().filter_map(why).collect()
    }
}

fn has_key(report: &AuthorityReport, root: &str) -> bool {
    report.roots.iter().any(|known| known.fingerprint == root)
}

fn provided(root: &RootReport) -> bool {
    root.secret.as_ref().is_some_and(|secret| secret.name == labels::ROOT_SECRET)
}
