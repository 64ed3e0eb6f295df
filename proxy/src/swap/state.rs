//! What the launcher of one of two slots does, as a state machine. Pure: no clock, no file, no process.
//!
//! ```text
//!             wanted          locked              certificate            accepted, serves       noted
//!  Parked ──────────▶ Locking ──────▶ Certifying ───────────▶ Starting ─────────────▶ Settling ─────▶ Serving
//!    ▲                  │ taken                                 ▲ │ fails: Over (kubelet tries again)  │ │ admin lost: heal,
//!    ├──────────────────┘                                       └─┼─────────────────────────────────────┼─┘ a start of the same slot
//!    └──────────────────────────── Retiring ◀─────────────────────┴──── the other slot is live ◀────────┘
//! ```
//!
//! The states from the lock to an Envoy that serves are [`attempt`]'s; those in which nothing is tried are [`rest`]'s.
//!
//! [`step`] says what follows from an event; `run` performs it. Whatever is in this program's memory is lost when the
//! container ends, at any line, so what counts is in the files and locks of [`super::shared`]: the order of actions is
//! chosen so that a new launcher, or the one of the other slot, finds the truth there. `simulation` kills launchers after
//! every single action to show it.

use std::time::Duration;

use super::Slot;
use super::shared::{Failures, Live};
use crate::supervise::Exit;

mod attempt;
mod rest;

use attempt::{certifying, locking, settling, starting};
use rest::{parked, retiring, serving};

/// How long an Envoy may take to get and accept its configuration while another one serves, and how long a certificate is
/// waited for then. A controller that goes away in this time costs the attempt, not the traffic.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts to hot-restart the own Envoy.
pub const HEAL_AGAIN: Duration = Duration::from_secs(10);
/// How often an Envoy that serves is asked whether its admin interface is still there. An attempt of the other slot that
/// failed in less time than passes between two looks has left nothing else to see, if nobody asks for readiness.
pub const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What never changes while this program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Me {
    /// Which slot this is.
    pub slot: Slot,
    /// Release of its image.
    pub release: String,
    /// How long a replaced Envoy keeps its connections.
    pub swap_drain: Duration,
    /// Grace period of the pod.
    pub grace: Duration,
}

/// The memory that Envoys share for a hot restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// There is none: no Envoy has run in this sandbox.
    Absent,
    /// An Envoy can take over with it.
    Usable,
    /// None can, and why.
    Unusable(String),
}

/// What can be seen of the pod from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Which slot the operator wants to be live, as far as it concerns this one's image.
    pub desired: Option<Slot>,
    /// Who took over last.
    pub live: Option<Live>,
    /// Whether the other slot has an Envoy.
    pub other_alive: bool,
    /// Whether the other slot tries to take over.
    pub attempted: bool,
    /// This slot's failures in a row.
    pub failures: Failures,
    /// The memory of the Envoys.
    pub memory: Memory,
    /// Whether the own Envoy's admin interface has gone away since the last look.
    pub lost_admin: bool,
    /// Seconds since 1970, which may go backwards.
    pub wall: u64,
}

/// Why an Envoy is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Nobody serves.
    Alone,
    /// The other slot serves: the new one has to prove itself first.
    TakeOver,
    /// The own Envoy serves without its admin interface.
    Heal,
}

/// Whether a starting Envoy may take the listening sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Not yet.
    Closed,
    /// It may, or has.
    Open,
}

/// Whether somebody wants this program to end as soon as that harms nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nobody.
    GoOn,
    /// The kubelet.
    End,
}

/// An Envoy that is starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Why.
    pub purpose: Purpose,
    /// Its restart epoch.
    pub epoch: u32,
    /// Since when.
    pub since: Duration,
    /// Whether it may take the listening sockets.
    pub gate: Gate,
    /// Ended behind an open gate nobody would listen, so it is finished first.
    pub wish: Wish,
}

/// How the own Envoy is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Well, and to be asked again from then on.
    Well(Duration),
    /// The other slot tries to take over, and may take the admin interface away.
    Attempted,
    /// The admin interface may be gone; to be looked at from then on.
    Doubtful(Duration),
}

/// Since when a parked launcher has known what it waits for. The clock of the wall may be put back by a day, and then it
/// must not wait for a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    live: Option<Live>,
    live_since: Duration,
    failed: (u32, u64),
    failed_since: Duration,
}

impl Known {
    fn learn(self, look: &Look, now: Duration) -> Self {
        let failed = (look.failures.count, look.failures.at);
        Self {
            live: look.live,
            live_since: if self.live == look.live { self.live_since } else { now },
            failed,
            failed_since: if self.failed == failed { self.failed_since } else { now },
        }
    }

    /// How long to wait still: for the connections that drain, and after failures.
    fn pause(self, me: &Me, look: &Look, now: Duration) -> Duration {
        let passed = |since: Duration| now.saturating_sub(since);
        let drain = look.live.map(|live| live.pause(me.swap_drain, look.wall)).unwrap_or_default();
        let drain = drain.min(me.swap_drain.saturating_sub(passed(self.live_since)));
        let failures = look.failures.pause(&me.release, look.wall);
        let longest = look.failures.longest(&me.release);
        drain.max(failures.min(longest.saturating_sub(passed(self.failed_since))))
    }
}

/// Where the launcher is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is wanted of it, or not yet.
    Parked(Known),
    /// It asks for the lock of an attempt. `Some(epoch)` when it serves already and wants to heal its Envoy.
    Locking(Option<u32>),
    /// It holds that lock and waits for a certificate.
    Certifying {
        /// Alone or against another slot.
        purpose: Purpose,
        /// Since when.
        since: Duration,
    },
    /// Its Envoy starts.
    Starting {
        /// The one that starts.
        start: Start,
        /// Epoch of the one that serves meanwhile, if it is to be healed.
        serving: Option<u32>,
    },
    /// Its Envoy serves, and that is being made known.
    Settling(Start),
    /// Its Envoy serves, with this epoch.
    Serving(u32, Health),
    /// The other slot is live; the own Envoy keeps its connections. Since when it was asked to end, if it was.
    Retiring(Option<Duration>),
    /// It ends.
    Over,
}

/// What a starting Envoy shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// Nothing new; what it said last.
    Waits(String),
    /// It has accepted its configuration.
    Accepted,
    /// It serves.
    Serves,
    /// It will not do.
    Rejects(String),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time has passed.
    Tick(Box<Look>),
    /// Somebody wants this program to end.
    Asked,
    /// The lock of the attempt is held, and what is seen now that nobody else changes it.
    Locked(Box<Look>),
    /// The other slot holds it.
    NotLocked,
    /// There is a certificate, and what is seen now.
    Certified(Box<Look>),
    /// The starting Envoy was looked at.
    Seen(Sight),
    /// The starting Envoy has ended.
    NewcomerEnded(Exit),
    /// The Envoy that serves or drains has ended.
    Ended(Exit),
    /// Whether the own Envoy's admin interface answers.
    Admin(bool),
    /// It is known to everybody that this slot is live.
    Noted,
    /// An action failed, and those after it were not tried.
    Failed(String),
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// No certificate in time.
    NoCertificate,
    /// It took too long; what it said last.
    Late(String),
    /// This.
    Because(String),
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask for the lock of the attempt: [`Event::Locked`] or [`Event::NotLocked`].
    Lock,
    /// Give it back.
    Unlock,
    /// Hold the lock that says that this slot has an Envoy.
    HoldAlive,
    /// Give that back.
    ReleaseAlive,
    /// Answer on port 15020.
    Listen,
    /// Answer no more.
    StopListening,
    /// Ask the controller: [`Event::Certified`], some time.
    AskCertificate,
    /// Make the certificate that was got the one that Envoys use.
    Install,
    /// The same, but only where the one that they use is worth nothing: as long as another slot serves, the files are its.
    InstallIfWorthless,
    /// Throw the memory of the Envoys away: none lives that uses it.
    Forget,
    /// Write what an Envoy of this epoch reads of its retirement.
    Introduce(u32),
    /// Start an Envoy.
    Start(Start),
    /// Let it take the listening sockets.
    OpenGate,
    /// Kill it, and wait until it is gone.
    KillNewcomer,
    /// The starting Envoy is the one that serves.
    Lead(Start),
    /// Tell the Envoy of this epoch that it is retired.
    Retire(u32),
    /// Note that this slot is live: [`Event::Noted`].
    SetLive {
        /// Epoch of its Envoy.
        epoch: u32,
        /// How long the one before it keeps its connections from now on.
        drain: Duration,
    },
    /// Note that this slot failed, or that it did not.
    NoteFailure(bool),
    /// Keep certificate and roots up to date.
    StartUpkeep,
    /// Leave that to the other slot.
    StopUpkeep,
    /// Count as what this slot was (true), or as what it is.
    Freeze(bool),
    /// See whether the admin interface answers: [`Event::Admin`].
    AskAdmin,
    /// Say why an attempt failed.
    Explain(Why),
    /// Drain the pod's traffic, stop Envoy, and end.
    Terminate,
    /// Stop Envoy, and end.
    Stop,
    /// End with this code.
    End(i32),
}

impl State {
    /// How often to look around in this state.
    #[must_use]
    pub fn pause(self) -> Duration {
        Duration::from_millis(match self {
            // An idle slot costs this and nothing else.
            Self::Parked(_) | Self::Retiring(_) => 500,
            Self::Starting { .. } => 100,
            Self::Locking(_)
            | Self::Certifying { .. }
            | Self::Settling(..)
            | Self::Serving(..)
            | Self::Over => 250,
        })
    }
}

/// What follows from an event `now`, which is a time that only goes forward.
#[must_use]
pub fn step(me: &Me, state: State, now: Duration, event: Event) -> (State, Vec<Action>) {
    match state {
        State::Parked(known) => parked(me, known, now, event),
        State::Locking(serving) => locking(me, serving, now, event),
        State::Certifying { purpose, since } => certifying(me, purpose, since, now, event),
        State::Starting { start, serving } => starting(me, start, serving, now, event),
        State::Settling(start) => settling(me, start, now, &event),
        State::Serving(epoch, health) => serving(me, epoch, health, now, event),
        State::Retiring(asked) => retiring(me, asked, now, &event),
        State::Over => (State::Over, Vec::new()),
    }
}

fn over(actions: impl IntoIterator<Item = Action>, last: Action) -> (State, Vec<Action>) {
    (State::Over, actions.into_iter().chain([last]).collect())
}

/// A container whose Envoy ended by itself never ended well.
fn code(exit: Exit) -> i32 {
    if exit.code() == 0 { 1 } else { exit.code() }
}
