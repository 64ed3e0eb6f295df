//! What comes from outside: operators, kubelets, crashes, clocks and garbage.

use std::time::Duration;

use super::World;
use super::envoys::Phase;
use crate::swap::Slot;
use crate::swap::state::{Event, Memory};

impl World {
    /// What comes from outside.
    pub(super) fn happen(&mut self) {
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
    pub(super) fn stall(&mut self) {
        let (slot, pause) = (self.chance.below(2) as usize, Duration::from_millis(self.chance.below(12_000)));
        if let Some(launcher) = &mut self.launchers[slot] {
            launcher.stalls = self.now + pause;
            self.tell(&format!("{} stalls for {pause:?}", if slot == 0 { Slot::A } else { Slot::B }));
        }
    }

    /// The operator changes the idle slot's image together with the annotation; for the way back the annotation alone.
    pub(super) fn want(&mut self, slot: Slot) {
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

    pub(super) fn kill(&mut self, slot: Slot, why: &str) {
        if self.launchers[slot as usize].take().is_none() {
            return;
        }
        self.tell(&format!("{slot} is killed {why}"));
        self.end(slot);
    }

    /// The container is gone, with everything in it; the kubelet starts it again.
    pub(super) fn end(&mut self, slot: Slot) {
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

    /// What makes no sense to expect recovery from: another container that goes on destroying the shared memory.
    pub(super) fn calm_down(&mut self) {
        self.tell("calm");
        if self.memory != Memory::Absent {
            self.memory = Memory::Usable;
        }
    }
}
