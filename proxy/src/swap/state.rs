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
//! [`step`] says what follows from an event; `run` performs it. Whatever is in this program's memory is lost when the
//! container ends, at any line, so what counts is in the files and locks of [`super::shared`]: the order of actions is
//! chosen so that a new launcher, or the one of the other slot, finds the truth there. `simulation` kills launchers after
//! every single action to show it.

use std::time::Duration;

use super::shared::{Failures, Live};
use super::{FAILED, Slot, shall_serve};
use crate::drain::drain_limit;
use crate::supervise::Exit;

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

fn parked(me: &Me, known: Known, now: Duration, event: Event) -> (State, Vec<Action>) {
    match event {
        Event::Asked => over([], Action::End(0)),
        Event::Tick(look) => {
            let known = known.learn(&look, now);
            let free = !look.other_alive || known.pause(me, &look, now).is_zero();
            if free && is_wanted(me, &look) {
                (State::Locking(None), vec![Action::Lock])
            } else {
                (State::Parked(known), Vec::new())
            }
        }
        _ => (State::Parked(known), Vec::new()),
    }
}

/// Whether a parked slot shall serve.
fn is_wanted(me: &Me, look: &Look) -> bool {
    if look.other_alive && look.live.is_none() {
        // The file is gone or garbage; the one that serves writes it again.
        return false;
    }
    let live = look.live.map(|live| live.slot);
    shall_serve(me.slot, look.desired, live, look.other_alive)
}

fn locking(me: &Me, serving: Option<u32>, now: Duration, event: Event) -> (State, Vec<Action>) {
    match (event, serving) {
        (Event::Asked, None) => over([], Action::End(0)),
        (Event::Asked, Some(_)) => over([], Action::Terminate),
        (Event::Locked(look), None) => {
            // The other slot may have been quicker, and what was wanted may be done.
            if !is_wanted(me, &look) {
                return (State::Parked(Known::default()), vec![Action::Unlock]);
            }
            // The other slot may still drain connections from before; what counts is who takes new ones.
            let contested = look.other_alive && look.live.is_none_or(|live| live.slot != me.slot);
            let (purpose, listen) =
                if contested { (Purpose::TakeOver, None) } else { (Purpose::Alone, Some(Action::Listen)) };
            let actions = [Action::HoldAlive].into_iter().chain(listen).chain([Action::AskCertificate]);
            (State::Certifying { purpose, since: now }, actions.collect())
        }
        // The other slot may be live by now, and this one just has not seen it yet.
        (Event::Locked(look), Some(epoch)) if !is_mine(me, &look) => {
            (State::Serving(epoch, Health::Doubtful(now + HEAL_AGAIN)), vec![Action::Unlock])
        }
        (Event::Locked(look), Some(epoch)) => begin(Purpose::Heal, Some(epoch), &look, now),
        (Event::Failed(_) | Event::NotLocked, None) => (State::Parked(Known::default()), Vec::new()),
        (Event::Failed(_) | Event::NotLocked, Some(epoch)) => {
            (State::Serving(epoch, Health::Doubtful(now + HEAL_AGAIN)), Vec::new())
        }
        (_, serving) => (State::Locking(serving), Vec::new()),
    }
}

fn certifying(
    me: &Me,
    purpose: Purpose,
    since: Duration,
    now: Duration,
    event: Event,
) -> (State, Vec<Action>) {
    let state = State::Certifying { purpose, since };
    match event {
        Event::Asked => over([], Action::End(0)),
        Event::Certified(look) => {
            let still = look.other_alive && look.live.is_none_or(|live| live.slot != me.slot);
            // The one that served may have ended meanwhile, for good or for a moment.
            let purpose = if still { purpose } else { Purpose::Alone };
            begin(purpose, None, &look, now)
        }
        Event::Failed(reason) => failed(purpose, None, now, Why::Because(reason), []),
        Event::Tick(_) if purpose != Purpose::Alone && now.saturating_sub(since) > LIMIT => {
            failed(purpose, None, now, Why::NoCertificate, [])
        }
        _ => (state, Vec::new()),
    }
}

/// Starts an Envoy, with the epoch after that of whichever was started last; with the first one, where none ever was or
/// its memory is gone with the pod's sandbox.
fn begin(purpose: Purpose, serving: Option<u32>, look: &Look, now: Duration) -> (State, Vec<Action>) {
    let before = serving.or(look.live.map(|live| live.epoch));
    let next = before.and_then(|epoch| epoch.checked_add(1));
    let refuse = |reason: &str| failed(purpose, serving, now, Why::Because(reason.to_owned()), []);
    let (epoch, forget) = match (&look.memory, next, purpose) {
        (Memory::Usable, Some(next), _) => (next, None),
        (Memory::Unusable(reason), _, Purpose::TakeOver | Purpose::Heal) => return refuse(reason),
        // An Envoy that drains still uses it; when that has ended, the next start begins anew.
        (Memory::Unusable(reason), _, Purpose::Alone) if look.other_alive => return refuse(reason),
        (Memory::Absent, _, Purpose::TakeOver | Purpose::Heal) => {
            return refuse("the memory that Envoys share is gone, although one runs");
        }
        (Memory::Usable, None, Purpose::TakeOver | Purpose::Heal) => {
            return refuse("nobody knows how often Envoy was restarted hot");
        }
        (Memory::Absent, _, Purpose::Alone) => (0, None),
        (Memory::Usable | Memory::Unusable(_), _, Purpose::Alone) => (0, Some(Action::Forget)),
    };
    let (install, gate) = match purpose {
        Purpose::Alone => (Some(Action::Install), Gate::Open),
        Purpose::TakeOver => (Some(Action::InstallIfWorthless), Gate::Closed),
        Purpose::Heal => (None, Gate::Closed),
    };
    let start = Start { purpose, epoch, since: now, gate, wish: Wish::GoOn };
    // Where the other one ended meanwhile, this slot is the one that answers.
    let listen = (purpose == Purpose::Alone).then_some(Action::Listen);
    let before = install.into_iter().chain(forget).chain(listen);
    let actions = before.chain([Action::Introduce(epoch), Action::Start(start)]).collect();
    (State::Starting { start, serving }, actions)
}

fn starting(
    me: &Me,
    start: Start,
    serving: Option<u32>,
    now: Duration,
    event: Event,
) -> (State, Vec<Action>) {
    let fail = |why| failed(start.purpose, serving, now, why, [Action::KillNewcomer]);
    let go_on = |start| State::Starting { start, serving };
    match event {
        Event::Asked if start.gate == Gate::Open && start.purpose != Purpose::Alone => {
            (go_on(Start { wish: Wish::End, ..start }), Vec::new())
        }
        Event::Asked if serving.is_some() => over([Action::KillNewcomer], Action::Terminate),
        Event::Asked => over([Action::KillNewcomer], Action::End(0)),
        Event::NewcomerEnded(exit) => {
            fail(Why::Because(format!("the new Envoy ended with {exit} while it was starting")))
        }
        Event::Failed(reason) | Event::Seen(Sight::Rejects(reason)) => fail(Why::Because(reason)),
        Event::Seen(Sight::Accepted) if start.gate == Gate::Closed => {
            (go_on(Start { gate: Gate::Open, ..start }), vec![Action::OpenGate])
        }
        Event::Seen(Sight::Serves) => settle(me, start),
        Event::Seen(Sight::Waits(said)) if is_late(start, now) => fail(Why::Late(said)),
        Event::Seen(Sight::Accepted) if is_late(start, now) => {
            fail(Why::Late("that it has accepted it, and does not serve".to_owned()))
        }
        _ => (go_on(start), Vec::new()),
    }
}

fn is_late(start: Start, now: Duration) -> bool {
    start.purpose != Purpose::Alone && now.saturating_sub(start.since) > LIMIT
}

/// An attempt that failed. Without one that serves the container ends, the kubelet starts it again, and it waits before it
/// tries again.
fn failed(
    purpose: Purpose,
    serving: Option<u32>,
    now: Duration,
    why: Why,
    first: impl IntoIterator<Item = Action>,
) -> (State, Vec<Action>) {
    let explain = first.into_iter().chain([Action::Explain(why)]);
    match (purpose, serving) {
        (Purpose::Heal, Some(epoch)) => {
            let doubtful = State::Serving(epoch, Health::Doubtful(now + HEAL_AGAIN));
            (doubtful, explain.chain([Action::Unlock]).collect())
        }
        (Purpose::Alone | Purpose::Heal, _) => {
            over(explain.chain([Action::NoteFailure(false)]), Action::End(1))
        }
        (Purpose::TakeOver, _) => over(explain.chain([Action::NoteFailure(true)]), Action::End(FAILED)),
    }
}

/// The new Envoy serves. Until that is known to everybody the lock of the attempt is held, so that nobody believes that the
/// attempt failed. The files with the certificate are this slot's only from then on.
fn settle(me: &Me, start: Start) -> (State, Vec<Action>) {
    let drain = if start.purpose == Purpose::Alone { Duration::ZERO } else { me.swap_drain };
    let install = (start.purpose == Purpose::TakeOver).then_some(Action::Install);
    let retire = start.epoch.checked_sub(1).map(Action::Retire);
    let first = [Action::Lead(start), Action::Listen].into_iter().chain(retire);
    let actions = first.chain([Action::SetLive { epoch: start.epoch, drain }]).chain(install).collect();
    (State::Settling(start), actions)
}

fn settling(me: &Me, start: Start, now: Duration, event: &Event) -> (State, Vec<Action>) {
    match event {
        Event::Asked => (State::Settling(Start { wish: Wish::End, ..start }), Vec::new()),
        Event::NewcomerEnded(exit) | Event::Ended(exit) => over([], Action::End(code(*exit))),
        Event::Noted => {
            let upkeep = match start.purpose {
                Purpose::Alone | Purpose::TakeOver => Some([Action::NoteFailure(false), Action::StartUpkeep]),
                Purpose::Heal => None,
            };
            let actions = [Action::Freeze(false), Action::Unlock].into_iter();
            let actions = actions.chain(upkeep.into_iter().flatten());
            match start.wish {
                Wish::GoOn => (State::Serving(start.epoch, Health::Well(now + ASK_AGAIN)), actions.collect()),
                Wish::End => over(actions, Action::Terminate),
            }
        }
        // Something could not be written. It serves; all that is missing is that others know.
        Event::Tick(_) => settle(me, start),
        _ => (State::Settling(start), Vec::new()),
    }
}

fn serving(me: &Me, epoch: u32, health: Health, now: Duration, event: Event) -> (State, Vec<Action>) {
    let go_on = |health| State::Serving(epoch, health);
    match event {
        Event::Asked => over([], Action::Terminate),
        Event::Ended(exit) => over([], Action::End(code(exit))),
        Event::Admin(true) => (go_on(Health::Well(now + ASK_AGAIN)), vec![Action::Freeze(false)]),
        // One answer that is missing may be a busy machine's.
        Event::Admin(false) if is_well(health) => (go_on(Health::Doubtful(now)), vec![Action::Freeze(true)]),
        Event::Admin(false) => (State::Locking(Some(epoch)), vec![Action::Lock]),
        Event::Tick(look) => match (look.attempted, look.live) {
            (false, Some(other)) if other.slot != me.slot => {
                (State::Retiring(None), vec![Action::StopUpkeep, Action::StopListening])
            }
            // Gone or garbage; without it the other slot could not tell who serves. One that saw an attempt does not know
            // either: if that succeeded, the other one writes it, and if not, its lock is gone in a moment.
            (false, None) if is_well(health) || !look.other_alive => {
                (go_on(health), vec![Action::SetLive { epoch, drain: me.swap_drain }])
            }
            (false, None) => (go_on(health), Vec::new()),
            (attempted, _) => watch(epoch, health, now, attempted, look.lost_admin),
        },
        _ => (go_on(health), Vec::new()),
    }
}

fn is_well(health: Health) -> bool {
    matches!(health, Health::Well(_))
}

/// Whether this slot is the one that serves, as far as anybody can know.
fn is_mine(me: &Me, look: &Look) -> bool {
    look.live.map_or(!look.other_alive, |live| live.slot == me.slot)
}

/// Looks after the own Envoy. An attempt of the other slot may also have come and gone between two looks.
fn watch(
    epoch: u32,
    health: Health,
    now: Duration,
    attempted: bool,
    lost_admin: bool,
) -> (State, Vec<Action>) {
    let go_on = |health, actions| (State::Serving(epoch, health), actions);
    match (health, attempted) {
        (Health::Well(_), true) => go_on(Health::Attempted, vec![Action::Freeze(true)]),
        (Health::Well(_), false) if lost_admin => go_on(Health::Doubtful(now), vec![Action::Freeze(true)]),
        (Health::Attempted, false) => go_on(Health::Doubtful(now), Vec::new()),
        (Health::Well(at) | Health::Doubtful(at), false) if now >= at => {
            go_on(health, vec![Action::AskAdmin])
        }
        (Health::Well(_) | Health::Doubtful(_), false) | (Health::Attempted | Health::Doubtful(_), true) => {
            go_on(health, Vec::new())
        }
    }
}

/// The other slot is live: answer no more, and let Envoy keep its connections until the new one ends it.
fn retiring(me: &Me, asked: Option<Duration>, now: Duration, event: &Event) -> (State, Vec<Action>) {
    match event {
        // Its connections have as long as the pod has to end.
        Event::Asked => (State::Retiring(asked.or(Some(now))), Vec::new()),
        Event::Ended(_) if asked.is_some() => over([Action::ReleaseAlive], Action::End(0)),
        Event::Ended(_) => {
            (State::Parked(Known::default()), vec![Action::ReleaseAlive, Action::Freeze(false)])
        }
        Event::Tick(_) if asked.is_some_and(|at| now.saturating_sub(at) >= drain_limit(me.grace)) => {
            over([], Action::Stop)
        }
        _ => (State::Retiring(asked), Vec::new()),
    }
}

/// A container whose Envoy ended by itself never ended well.
fn code(exit: Exit) -> i32 {
    if exit.code() == 0 { 1 } else { exit.code() }
}
