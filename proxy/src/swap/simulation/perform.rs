//! What the actions of a launcher do to the pod, and what they must never do.

use std::time::Duration;

use super::World;
use super::envoys::{Character, Envoy, Phase};
use crate::swap::Slot;
use crate::swap::shared::{Failures, Live};
use crate::swap::state::{Action, Event, Gate, Memory, Purpose, Start, State};

impl World {
    pub(super) fn perform(&mut self, slot: Slot, action: Action) -> Result<Option<Event>, ()> {
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
    pub(super) fn perform_inside(&mut self, slot: Slot, action: &Action) {
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

    pub(super) fn admin_of(&self, slot: Slot) -> bool {
        let leader = self.launchers[slot as usize].as_ref().and_then(|launcher| launcher.leader);
        leader.is_some() && self.admin == leader
    }

    /// The files are of the slot that serves, and of nobody else while it does.
    pub(super) fn install(&mut self, slot: Slot) {
        let serves = |slot: Slot| self.envoys.iter().any(|e| e.slot == slot && e.phase == Phase::Serves);
        if serves(slot.other()) && !serves(slot) {
            self.wrong(&format!("{slot} installs its certificate while {} serves", slot.other()));
        }
        let Some(launcher) = &mut self.launchers[slot as usize] else { return };
        if let Some(certificate) = launcher.certificate {
            self.files = Some((slot, certificate));
        }
    }

    pub(super) fn forget(&mut self) {
        if self.envoys.iter().any(|envoy| envoy.phase != Phase::Dead) {
            self.wrong("the memory of an Envoy that runs is taken away");
        }
        self.memory = Memory::Absent;
    }

    pub(super) fn start(&mut self, slot: Slot, start: Start) -> Result<Option<Event>, ()> {
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

    pub(super) fn end_with(&mut self, slot: Slot, code: i32) {
        let serves = |envoy: &Envoy| envoy.slot == slot && envoy.phase == Phase::Serves;
        let asked = self.launchers[slot as usize].as_ref().is_some_and(|launcher| launcher.asked);
        if self.envoys.iter().any(serves) && !asked {
            self.wrong(&format!("{slot} ends with {code} while its Envoy serves"));
        }
        self.end(slot);
    }

    /// As `upkeep::Upkeep::reclaim`.
    pub(super) fn upkeep(&mut self, slot: Slot) {
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

    /// Whether an action that writes something fails this time.
    pub(super) fn fails(&mut self) -> bool {
        self.storm() && self.chance.once_in(80)
    }
}
