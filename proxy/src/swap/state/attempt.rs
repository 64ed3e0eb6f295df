//! From the lock of an attempt to an Envoy that serves, or to the reason why not.

use std::time::Duration;

use super::rest::{is_mine, is_wanted};
use super::{
    ASK_AGAIN, Action, Event, Gate, HEAL_AGAIN, Health, Known, LIMIT, Look, Me, Memory, Purpose, Sight,
    Start, State, Why, Wish, code, over,
};
use crate::swap::FAILED;

pub(super) fn locking(me: &Me, serving: Option<u32>, now: Duration, event: Event) -> (State, Vec<Action>) {
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

pub(super) fn certifying(
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

pub(super) fn starting(
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

pub(super) fn settling(me: &Me, start: Start, now: Duration, event: &Event) -> (State, Vec<Action>) {
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
