//! Simulated Envoys: what they do with time, and to each other.

use std::time::Duration;

use super::{DRAIN, World};
use crate::swap::Slot;
use crate::swap::state::Gate;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Character {
    Good,
    Crashes,
    Rejects,
    Hangs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Starting { accepts: Duration, gate: Gate },
    Serves,
    Drains(Duration),
    Dead,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Envoy {
    pub(super) slot: Slot,
    pub(super) epoch: u32,
    pub(super) character: Character,
    pub(super) phase: Phase,
}

impl World {
    pub(super) fn advance_envoys(&mut self) {
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
    pub(super) fn serve(&mut self, index: usize) {
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
}
