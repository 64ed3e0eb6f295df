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
use super::state::{Event, Health, Known, Look, Me, Memory, Purpose, Sight, State, step};
use crate::supervise::Exit;

mod chance;
mod envoys;
mod faults;
mod perform;

use chance::Chance;
use envoys::{Character, Envoy, Phase};

const DRAIN: Duration = Duration::from_secs(15);
const STORM: Duration = Duration::from_secs(600);
/// Longer than the longest pause after failures, twice.
const CALM: Duration = Duration::from_secs(1800);
const STEP: Duration = Duration::from_millis(500);

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
