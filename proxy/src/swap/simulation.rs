//! Both slots of a pod over simulated time: launchers that are killed after any action, Envoys that crash, reject or hang,
//! clocks that jump, files that hold garbage, actions that fail, launchers that get no processor for a while, and a launcher
//! of 0.2.0 on either side.
//!
//! Each seed is one story: ten minutes in which all this happens, then calm. While it lasts nothing may end the traffic but
//! the death of who carries it; afterwards the slot that is wanted must serve, alone, and with the upkeep of its certificate.

use std::collections::VecDeque;
use std::time::Duration;

use super::Slot;
use super::shared::{Failures, Live};
use super::state::{
    Action, Event, Gate, Health, Known, Look, Me, Memory, Purpose, Sight, Start, State, step,
};
use crate::supervise::Exit;

const DRAIN: Duration = Duration::from_secs(15);
const STORM: Duration = Duration::from_secs(600);
/// Longer than the longest pause after failures, twice.
const CALM: Duration = Duration::from_secs(1800);
const STEP: Duration = Duration::from_millis(500);

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Character {
    Good,
    Crashes,
    Rejects,
    Hangs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting { accepts: Duration, gate: Gate },
    Serves,
    Drains(Duration),
    Dead,
}

#[derive(Debug, Clone, Copy)]
struct Envoy {
    slot: Slot,
    epoch: u32,
    character: Character,
    phase: Phase,
}

/// A launcher and what it holds; all of it is gone when it is killed.
struct Launcher {
    me: Me,
    old: bool,
    state: State,
    events: VecDeque<Event>,
    certificate_at: Option<Duration>,
    certificate: Option<u64>,
    held: Option<u64>,
    newcomer: Option<usize>,
    leader: Option<usize>,
    upkeep: bool,
    foreign_since: Option<Duration>,
    listens: bool,
    frozen: bool,
    asked: bool,
    lost_admin: bool,
    /// It gets no processor until then.
    stalls: Duration,
}

struct World {
    chance: Chance,
    now: Duration,
    wall: u64,
    clock_jumped: bool,
    live: Option<Live>,
    failures: [Failures; 2],
    alive: [bool; 2],
    attempt: Option<Slot>,
    memory: Memory,
    envoys: Vec<Envoy>,
    admin: Option<usize>,
    /// The certificate in the files, and whose it is.
    files: Option<(Slot, u64)>,
    certificates: u64,
    wanted: (Slot, u32),
    releases: [u32; 2],
    old: [bool; 2],
    launchers: [Option<Launcher>; 2],
    restart_at: [Duration; 2],
    /// Whether anybody asks a sidecar whether it is ready, who would find that its Envoy's admin interface is gone.
    probed: bool,
    story: Vec<String>,
    swaps: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let old = [chance.once_in(4), chance.once_in(4)];
        let probed = chance.once_in(2);
        Self {
            chance,
            now: Duration::ZERO,
            wall: 1_800_000_000,
            clock_jumped: false,
            live: None,
            failures: [Failures::default(), Failures::default()],
            alive: [false; 2],
            attempt: None,
            memory: Memory::Absent,
            envoys: Vec::new(),
            admin: None,
            files: None,
            certificates: 0,
            wanted: (Slot::A, 0),
            releases: [0, 0],
            old,
            launchers: [None, None],
            restart_at: [Duration::ZERO; 2],
            probed,
            story: Vec::new(),
            swaps: 0,
        }
    }

    fn storm(&self) -> bool {
        self.now < STORM
    }

    fn tell(&mut self, line: &str) {
        self.story.push(format!("{:?} {line}", self.now));
    }

    #[track_caller]
    fn wrong(&self, what: &str) -> ! {
        let from = self.story.len().saturating_sub(60);
        panic!("{what}\n{}", self.story[from..].join("\n"))
    }

    fn run(mut self) -> u32 {
        while self.now < STORM + CALM {
            self.now += STEP;
            if self.now.as_millis().is_multiple_of(1000) {
                self.wall = self.wall.saturating_add(1);
            }
            if self.now == STORM {
                self.calm_down();
            }
            self.happen();
            self.advance_envoys();
            for slot in [Slot::A, Slot::B] {
                self.turn(slot);
            }
            if self.now > STORM && self.now.as_secs().is_multiple_of(20) && self.settled().is_ok() {
                return self.swaps;
            }
        }
        match self.settled() {
            Ok(()) => self.swaps,
            Err(wrong) => self.wrong(&wrong),
        }
    }

    /// What makes no sense to expect recovery from: another container that goes on destroying the shared memory.
    fn calm_down(&mut self) {
        self.tell("calm");
        if self.memory != Memory::Absent {
            self.memory = Memory::Usable;
        }
    }

    /// What comes from outside.
    fn happen(&mut self) {
        if !self.storm() {
            return;
        }
        if self.chance.once_in(160) {
            self.want(self.wanted.0.other());
        }
        if self.chance.once_in(600) {
            self.live = None;
            self.tell("live.json is garbage");
        }
        if self.chance.once_in(600) {
            let jump = self.chance.below(86_400);
            let back = self.chance.once_in(2);
            self.wall = if back { self.wall.saturating_sub(jump) } else { self.wall + jump };
            self.clock_jumped = true;
            self.tell(&format!("the clock jumps by {jump}, back: {back}"));
        }
        if self.memory == Memory::Usable && self.chance.once_in(1200) {
            self.memory = Memory::Unusable("garbage".to_owned());
            self.tell("the shared memory is garbage");
        }
        if self.chance.once_in(1000) {
            let slot = if self.chance.once_in(2) { Slot::A } else { Slot::B };
            self.kill(slot, "at random");
        }
        if self.chance.once_in(100) {
            self.stall();
        }
        if self.chance.once_in(1000)
            && let Some(index) = self.envoys.iter().position(|envoy| envoy.phase != Phase::Dead)
        {
            self.envoys[index].phase = Phase::Dead;
            self.tell(&format!("Envoy {index} crashes"));
        }
    }

    /// A launcher does not get to look for so long that whole attempts of the other one come and go.
    fn stall(&mut self) {
        let (slot, pause) = (self.chance.below(2) as usize, Duration::from_millis(self.chance.below(12_000)));
        if let Some(launcher) = &mut self.launchers[slot] {
            launcher.stalls = self.now + pause;
            self.tell(&format!("{} stalls for {pause:?}", if slot == 0 { Slot::A } else { Slot::B }));
        }
    }

    /// The operator changes the idle slot's image together with the annotation; for the way back the annotation alone.
    fn want(&mut self, slot: Slot) {
        let serves = self.envoys.iter().any(|envoy| envoy.slot == slot && envoy.phase == Phase::Serves);
        if !serves {
            self.releases[slot as usize] = 1 + self.releases[0].max(self.releases[1]);
            self.old[slot as usize] = self.chance.once_in(4);
            // The kubelet asks the container with the old image to end.
            if let Some(launcher) = &mut self.launchers[slot as usize] {
                launcher.events.push_back(Event::Asked);
                launcher.asked = true;
            }
        }
        self.wanted = (slot, self.releases[slot as usize]);
        self.tell(&format!("{slot} is wanted with release {}", self.wanted.1));
    }

    fn kill(&mut self, slot: Slot, why: &str) {
        if self.launchers[slot as usize].take().is_none() {
            return;
        }
        self.tell(&format!("{slot} is killed {why}"));
        self.end(slot);
    }

    /// The container is gone, with everything in it; the kubelet starts it again.
    fn end(&mut self, slot: Slot) {
        self.launchers[slot as usize] = None;
        self.alive[slot as usize] = false;
        if self.attempt == Some(slot) {
            self.attempt = None;
        }
        for envoy in self.envoys.iter_mut().filter(|envoy| envoy.slot == slot) {
            envoy.phase = Phase::Dead;
        }
        self.restart_at[slot as usize] = self.now + Duration::from_secs(1 + self.chance.below(10));
    }

    fn advance_envoys(&mut self) {
        for index in 0..self.envoys.len() {
            let envoy = self.envoys[index];
            match envoy.phase {
                Phase::Drains(until) if self.now >= until => self.envoys[index].phase = Phase::Dead,
                Phase::Starting { accepts, .. }
                    if envoy.character == Character::Crashes && self.now >= accepts =>
                {
                    self.envoys[index].phase = Phase::Dead;
                }
                Phase::Starting { accepts, gate: Gate::Open }
                    if envoy.character == Character::Good && self.now >= accepts =>
                {
                    self.serve(index);
                }
                _ => {}
            }
        }
    }

    /// It listens; the one before it stops listening and drains, and ends the one before that.
    fn serve(&mut self, index: usize) {
        let epoch = self.envoys[index].epoch;
        self.envoys[index].phase = Phase::Serves;
        let until = self.now + DRAIN;
        for other in 0..self.envoys.len() {
            if other == index {
                continue;
            }
            match self.envoys[other].phase {
                Phase::Serves if self.envoys[other].epoch + 1 == epoch => {
                    self.envoys[other].phase = Phase::Drains(until);
                }
                Phase::Serves => self.wrong("two Envoys listen that know nothing of each other"),
                _ => {}
            }
        }
        self.tell(&format!("Envoy {index} of {} serves, epoch {epoch}", self.envoys[index].slot));
    }

    fn turn(&mut self, slot: Slot) {
        let Some(launcher) = &mut self.launchers[slot as usize] else {
            if self.now >= self.restart_at[slot as usize] {
                let release = self.releases[slot as usize];
                self.launchers[slot as usize] = Some(Launcher::new(slot, release, self.old[slot as usize]));
            }
            return;
        };
        if self.now < launcher.stalls {
            return;
        }
        let event = launcher.events.pop_front();
        let event =
            event.or_else(|| self.observe(slot)).unwrap_or_else(|| Event::Tick(Box::new(self.look(slot))));
        self.feed(slot, event);
        self.upkeep(slot);
    }

    /// What the launcher would notice now.
    fn observe(&mut self, slot: Slot) -> Option<Event> {
        let now = self.now;
        let launcher = self.launchers[slot as usize].as_mut()?;
        if launcher.certificate_at.is_some_and(|at| now >= at) {
            launcher.certificate_at = None;
            self.certificates += 1;
            launcher.certificate = Some(self.certificates);
            return Some(Event::Certified(Box::new(self.look(slot))));
        }
        let launcher = self.launchers[slot as usize].as_ref()?;
        match (launcher.state, launcher.newcomer, launcher.leader) {
            (State::Starting { start, .. }, Some(index), _) => {
                let envoy = self.envoys[index];
                Some(match (envoy.phase, envoy.character) {
                    (Phase::Dead, _) => Event::NewcomerEnded(Exit::Code(1)),
                    (Phase::Serves, _) => Event::Seen(Sight::Serves),
                    _ if start.purpose == Purpose::Alone => return None,
                    (Phase::Starting { accepts, .. }, Character::Good) if now >= accepts => {
                        Event::Seen(Sight::Accepted)
                    }
                    (Phase::Starting { accepts, .. }, Character::Rejects) if now >= accepts => {
                        Event::Seen(Sight::Rejects("no".to_owned()))
                    }
                    _ => Event::Seen(Sight::Waits("INITIALIZING".to_owned())),
                })
            }
            (State::Serving(..) | State::Settling(_) | State::Retiring(_), _, Some(index)) => {
                (self.envoys[index].phase == Phase::Dead).then_some(Event::Ended(Exit::Signal(9)))
            }
            _ => None,
        }
    }

    fn look(&mut self, slot: Slot) -> Look {
        let (wanted, release) = self.wanted;
        let mine = self.releases[slot as usize] == release;
        let launcher = self.launchers[slot as usize].as_mut();
        let lost_admin = launcher.is_some_and(|launcher| std::mem::take(&mut launcher.lost_admin));
        Look {
            desired: (wanted != slot || mine).then_some(wanted),
            live: self.live,
            other_alive: self.alive[slot.other() as usize],
            attempted: self.attempt == Some(slot.other()),
            failures: self.failures[slot as usize].clone(),
            memory: self.memory.clone(),
            lost_admin,
            wall: self.wall,
        }
    }

    /// Steps the machine, and performs; at any moment the launcher may be killed.
    fn feed(&mut self, slot: Slot, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.now;
            let Some(launcher) = &mut self.launchers[slot as usize] else { return };
            let quiet = matches!(event, Event::Tick(_) | Event::Seen(_));
            let told = if quiet { String::new() } else { format!("{event:?}") };
            let (state, actions) = step(&launcher.me, launcher.state, now, event);
            launcher.state = state;
            if !quiet || !actions.is_empty() {
                self.tell(&format!("{slot}: {told} -> {state:?} {actions:?}"));
            }
            for action in actions {
                if self.storm() && self.chance.once_in(60) {
                    return self.kill(slot, &format!("before {action:?}"));
                }
                match self.perform(slot, action.clone()) {
                    Err(()) => {
                        events.push_back(Event::Failed(format!("{action:?}")));
                        break;
                    }
                    Ok(event) => events.extend(event),
                }
                if self.launchers[slot as usize].is_none() {
                    return;
                }
                if self.storm() && self.chance.once_in(60) {
                    return self.kill(slot, &format!("after {action:?}"));
                }
            }
        }
    }

    /// Whether an action that writes something fails this time.
    fn fails(&mut self) -> bool {
        self.storm() && self.chance.once_in(80)
    }

    fn perform(&mut self, slot: Slot, action: Action) -> Result<Option<Event>, ()> {
        let at = slot as usize;
        match action {
            Action::Lock => {
                let free = self.attempt.is_none() && !self.fails();
                if !free {
                    return Ok(Some(Event::NotLocked));
                }
                self.attempt = Some(slot);
                return Ok(Some(Event::Locked(Box::new(self.look(slot)))));
            }
            Action::Unlock => self.attempt = None,
            Action::HoldAlive if self.fails() => return Err(()),
            Action::HoldAlive => self.alive[at] = true,
            Action::ReleaseAlive => self.alive[at] = false,
            Action::Listen if self.fails() => return Err(()),
            Action::SetLive { .. } if self.fails() => return Err(()),
            Action::SetLive { epoch, drain } => {
                let drains_until = if drain.is_zero() { 0 } else { self.wall + drain.as_secs() + 1 };
                if self.live.is_some_and(|live| live.slot != slot) {
                    self.swaps += 1;
                }
                self.live = Some(Live { slot, epoch, drains_until });
                return Ok(Some(Event::Noted));
            }
            Action::Install if self.fails() => return Err(()),
            Action::Install => self.install(slot),
            Action::InstallIfWorthless => {
                // What 0.2.0 does.
                if self.files.is_none() || self.launchers[at].as_ref().is_some_and(|launcher| launcher.old) {
                    self.files =
                        self.launchers[at].as_ref().and_then(|launcher| Some((slot, launcher.certificate?)));
                }
            }
            Action::Forget => self.forget(),
            Action::Introduce(_) if self.fails() => return Err(()),
            Action::Start(start) => return self.start(slot, start),
            Action::NoteFailure(failed) => {
                let release = self.releases[at].to_string();
                let before = &self.failures[at];
                let count = if before.release == release { before.count + 1 } else { 1 };
                self.failures[at] =
                    Failures { count: if failed { count } else { 0 }, release, at: self.wall };
            }
            Action::Terminate | Action::Stop => {
                if !self.launchers[at].as_ref().is_some_and(|launcher| launcher.asked) {
                    self.wrong(&format!("{slot} ends although nobody asked it to"));
                }
                self.end(slot);
            }
            Action::End(code) => self.end_with(slot, code),
            other => self.perform_inside(slot, &other),
        }
        Ok(None)
    }

    /// What happens within the launcher alone.
    fn perform_inside(&mut self, slot: Slot, action: &Action) {
        let (now, delay) = (self.now, Duration::from_millis(200 + self.chance.below(2000)));
        // A controller that is away for longer than anybody waits.
        let delay = if self.storm() && self.chance.once_in(12) { Duration::from_secs(90) } else { delay };
        let answers = self.admin_of(slot);
        let Some(launcher) = &mut self.launchers[slot as usize] else { return };
        match action {
            Action::Listen => launcher.listens = true,
            Action::StopListening => launcher.listens = false,
            Action::AskCertificate => launcher.certificate_at = Some(now + delay),
            Action::StartUpkeep => {
                launcher.upkeep = true;
                launcher.held = launcher.certificate;
            }
            Action::StopUpkeep => launcher.upkeep = false,
            Action::Freeze(frozen) => launcher.frozen = *frozen,
            Action::AskAdmin => launcher.events.push_back(Event::Admin(answers)),
            Action::Lead(_) => {
                launcher.leader = launcher.newcomer.take().or(launcher.leader);
            }
            Action::OpenGate => {
                if let Some(index) = launcher.newcomer
                    && let Phase::Starting { accepts, .. } = self.envoys[index].phase
                {
                    self.envoys[index].phase = Phase::Starting { accepts, gate: Gate::Open };
                }
            }
            Action::KillNewcomer => {
                if let Some(index) = launcher.newcomer.take() {
                    if self.envoys[index].phase == Phase::Serves && launcher.state != State::Over {
                        self.wrong("an Envoy that serves is killed");
                    }
                    self.envoys[index].phase = Phase::Dead;
                }
            }
            _ => {}
        }
    }

    fn admin_of(&self, slot: Slot) -> bool {
        let leader = self.launchers[slot as usize].as_ref().and_then(|launcher| launcher.leader);
        leader.is_some() && self.admin == leader
    }

    /// The files are of the slot that serves, and of nobody else while it does.
    fn install(&mut self, slot: Slot) {
        let serves = |slot: Slot| self.envoys.iter().any(|e| e.slot == slot && e.phase == Phase::Serves);
        if serves(slot.other()) && !serves(slot) {
            self.wrong(&format!("{slot} installs its certificate while {} serves", slot.other()));
        }
        let Some(launcher) = &mut self.launchers[slot as usize] else { return };
        if let Some(certificate) = launcher.certificate {
            self.files = Some((slot, certificate));
        }
    }

    fn forget(&mut self) {
        if self.envoys.iter().any(|envoy| envoy.phase != Phase::Dead) {
            self.wrong("the memory of an Envoy that runs is taken away");
        }
        self.memory = Memory::Absent;
    }

    fn start(&mut self, slot: Slot, start: Start) -> Result<Option<Event>, ()> {
        if self.fails() || matches!(self.memory, Memory::Unusable(_)) {
            return Err(());
        }
        // The one right before it ends when its time is up; the one before that ends at once.
        let drains = |envoy: &Envoy| {
            envoy.epoch + 1 != start.epoch && matches!(envoy.phase, Phase::Drains(until) if until > self.now)
        };
        if start.purpose == Purpose::TakeOver && !self.clock_jumped && self.envoys.iter().any(drains) {
            self.wrong("connections that drain are cut by a further takeover");
        }
        let runs = self.envoys.iter().any(|envoy| envoy.phase != Phase::Dead);
        if start.epoch == 0 && runs {
            self.wrong("an Envoy begins anew although one runs");
        }
        let index = self.envoys.len();
        let character = match self.chance.below(6) {
            0 if self.storm() => Character::Crashes,
            1 if self.storm() => Character::Rejects,
            2 if self.storm() => Character::Hangs,
            _ => Character::Good,
        };
        // One that is all there is serves with what it has.
        let character = match (start.purpose, character) {
            (Purpose::Alone, Character::Rejects | Character::Hangs) => Character::Good,
            (_, character) => character,
        };
        let accepts = self.now + Duration::from_millis(self.chance.below(4000));
        let phase = Phase::Starting { accepts, gate: start.gate };
        self.envoys.push(Envoy { slot, epoch: start.epoch, character, phase });
        self.memory = Memory::Usable;
        // It takes the admin interface of the one before it at once.
        self.admin = Some(index);
        for launcher in self.launchers.iter_mut().flatten() {
            launcher.lost_admin |= self.probed && launcher.leader.is_some() && launcher.me.slot != slot;
        }
        if let Some(launcher) = &mut self.launchers[slot as usize] {
            launcher.newcomer = Some(index);
        }
        Ok(None)
    }

    fn end_with(&mut self, slot: Slot, code: i32) {
        let serves = |envoy: &Envoy| envoy.slot == slot && envoy.phase == Phase::Serves;
        let asked = self.launchers[slot as usize].as_ref().is_some_and(|launcher| launcher.asked);
        if self.envoys.iter().any(serves) && !asked {
            self.wrong(&format!("{slot} ends with {code} while its Envoy serves"));
        }
        self.end(slot);
    }

    /// As `upkeep::Upkeep::reclaim`.
    fn upkeep(&mut self, slot: Slot) {
        let now = self.now;
        let Some(launcher) = &mut self.launchers[slot as usize] else { return };
        if !launcher.upkeep {
            return;
        }
        let ours = self.files.map(|(_, certificate)| certificate) == launcher.held;
        if ours || launcher.frozen {
            launcher.foreign_since = None;
        } else if now.saturating_sub(*launcher.foreign_since.get_or_insert(now)) >= Duration::from_secs(5) {
            self.certificates += 1;
            launcher.held = Some(self.certificates);
            self.files = Some((slot, self.certificates));
        }
    }

    /// Whether all is as it should be; if not, what is wrong.
    fn settled(&self) -> Result<(), String> {
        let wanted = self.wanted.0;
        let serving: Vec<_> = self.envoys.iter().filter(|envoy| envoy.phase == Phase::Serves).collect();
        let [envoy] = serving.as_slice() else { return Err(format!("{serving:?} serve")) };
        let [Some(a), Some(b)] = &self.launchers else { return Err("a launcher is down".to_owned()) };
        let (live, idle) = if wanted == Slot::A { (a, b) } else { (b, a) };
        let expected: [(&str, bool); 8] = [
            ("the wanted one serves", envoy.slot == wanted),
            (
                "its launcher knows",
                matches!(live.state, State::Serving(epoch, Health::Well(_)) if epoch == envoy.epoch),
            ),
            (
                "the other one is parked",
                matches!(idle.state, State::Parked(_)) && !idle.upkeep && !idle.listens,
            ),
            (
                "everybody can read who is live",
                self.live.map(|live| (live.slot, live.epoch)) == Some((wanted, envoy.epoch)),
            ),
            ("nobody tries any more", self.attempt.is_none()),
            ("it is looked after", live.upkeep && live.listens && !live.frozen),
            ("its admin interface is there", self.admin_of(wanted)),
            ("the files are its own", self.files == live.held.map(|held| (wanted, held))),
        ];
        match expected.iter().find(|(_, is_so)| !is_so) {
            None => Ok(()),
            Some((what, _)) => Err(format!("not so: {what}; {:?}, {:?}", live.state, idle.state)),
        }
    }
}

impl Launcher {
    fn new(slot: Slot, release: u32, old: bool) -> Self {
        let grace = Duration::from_secs(30);
        Self {
            me: Me { slot, release: release.to_string(), swap_drain: DRAIN, grace },
            old,
            state: State::Parked(Known::default()),
            events: VecDeque::new(),
            certificate_at: None,
            certificate: None,
            held: None,
            newcomer: None,
            leader: None,
            upkeep: false,
            foreign_since: None,
            listens: false,
            frozen: false,
            asked: false,
            lost_admin: false,
            stalls: Duration::ZERO,
        }
    }
}

#[test]
fn whatever_happens_the_wanted_slot_serves_in_the_end() {
    let mut swaps = 0;
    for seed in 0..10_000 {
        let told = std::panic::catch_unwind(|| World::new(seed).run());
        swaps += told.unwrap_or_else(|_| panic!("seed {seed}"));
    }
    assert!(swaps > 10_000, "the stories are about swaps: {swaps}");
}
