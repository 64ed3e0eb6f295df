//! Two slots of one sidecar in one pod, of which one serves: how a sidecar gets a new image without its pod noticing.
//!
//! ```text
//!  operator: image of the idle slot + annotation live-slot, one patch
//!     │ kubelet restarts that container alone, and writes the annotation into a file
//!     ▼
//!  slot b: park ─▶ lock ─▶ certificate ─▶ Envoy, epoch n+1 ─▶ configuration accepted? ─▶ gate opens ─▶ live
//!                                           │ takes the listening sockets over from     │
//!  slot a: live ────────────────────────────┴─ Envoy, epoch n ──────────── drains ◀─────┘─▶ ends ─▶ park
//! ```
//!
//! The slots share a network and a directory in memory (`/run/meshwright`), nothing else. Who does what:
//!
//! - Envoy's hot restart moves sockets and connections: the new one listens before the old one stops, and the old one
//!   keeps its connections until they end or its time is up.
//! - The [`gate`] holds a new Envoy back until it has accepted its configuration and has every route that it waited for
//!   ([`awaited`]). Without it Envoy takes over, and serves nothing, even if it rejected everything.
//! - [`shared`] says who is live (a file, written when a takeover has succeeded), who is alive and who is trying
//!   (locks, which the kernel takes back from whoever dies).
//! - [`state`] decides (pure), [`run`] performs.
//! - The files with certificate and key are the live slot's: one that tries to take over starts its Envoy with them, and
//!   installs its own when it is live.
//! - A takeover that fails leaves the old Envoy serving, but without its admin interface, which it gives away early.
//!   Its launcher then hot-restarts it by itself.

pub mod awaited;
pub mod gate;
pub mod launch;
pub mod region;
pub mod run;
pub mod shared;
#[cfg(test)]
mod simulation;
pub mod state;

use serde::{Deserialize, Serialize};

/// Exit code of a slot that could not take over; the reason is the container's termination message.
pub const FAILED: i32 = 70;

/// One of the two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The slot that is live when the pod starts.
    A,
    /// The slot that is idle then.
    B,
}

impl Slot {
    /// Reads a slot's name; nothing when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The other slot.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Whether a slot that is parked shall try to serve.
///
/// `desired` is what the operator says, `live` which slot took over last, `other_alive` whether the other slot has an
/// Envoy. The last one that was live carries on whatever is desired, as long as nobody else serves.
#[must_use]
pub fn shall_serve(me: Slot, desired: Option<Slot>, live: Option<Slot>, other_alive: bool) -> bool {
    match (desired, live) {
        (Some(desired), _) if desired == me => true,
        (_, Some(live)) => live == me && !other_alive,
        // A pod that was never told: slot a.
        (None, None) => me == Slot::A,
        (Some(_), None) => false,
    }
}

/// Whether the slot of this name is the live one; also when that is not known.
#[must_use]
pub fn is_live(run: &std::path::Path, slot: &str) -> bool {
    let live = shared::Shared::new(run).ok().and_then(|shared| shared.live());
    live.is_none_or(|live| Some(live.slot) == Slot::parse(slot))
}

#[cfg(test)]
mod tests {
    use super::Slot::{A, B};
    use super::*;

    #[test]
    fn exactly_the_right_slot_serves() {
        // At first the injected annotation decides, and without one the first slot.
        assert!(shall_serve(A, Some(A), None, false) && !shall_serve(B, Some(A), None, false));
        assert!(shall_serve(A, None, None, false) && !shall_serve(B, None, None, false));
        // A swap: b is wanted while a serves; a does not begin again as long as b lives.
        assert!(shall_serve(B, Some(B), Some(A), true));
        assert!(!shall_serve(A, Some(B), Some(B), true));
        // b is wanted but never made it, and a crashed: a carries on.
        assert!(shall_serve(A, Some(B), Some(A), false));
        // b made it: if it crashes, it comes back itself, not the old one.
        assert!(shall_serve(B, Some(B), Some(B), false) && !shall_serve(A, Some(B), Some(B), false));
        // Garbage in the annotation changes nothing.
        assert!(shall_serve(B, None, Some(B), false) && !shall_serve(A, None, Some(B), true));
    }

    #[test]
    fn names_are_read_and_others_are_not() {
        assert_eq!(Slot::parse("a\n"), Some(A));
        assert_eq!(Slot::parse("b"), Some(B));
        for text in ["", "c", "ab", "A"] {
            assert_eq!(Slot::parse(text), None, "{text}");
        }
        assert_eq!((A.other(), B.other()), (B, A));
    }
}
