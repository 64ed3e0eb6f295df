//! The states in which nothing is tried: parked, serving, and keeping connections while the other slot serves.

use std::time::Duration;

use super::{ASK_AGAIN, Action, Event, Health, Known, Look, Me, State, code, over};
use crate::drain::drain_limit;
use crate::swap::shall_serve;

pub(super) fn parked(me: &Me, known: Known, now: Duration, event: Event) -> (State, Vec<Action>) {
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
pub(super) fn is_wanted(me: &Me, look: &Look) -> bool {
    if look.other_alive && look.live.is_none() {
        // The file is gone or garbage; the one that serves writes it again.
        return false;
    }
    let live = look.live.map(|live| live.slot);
    shall_serve(me.slot, look.desired, live, look.other_alive)
}

pub(super) fn serving(
    me: &Me,
    epoch: u32,
    health: Health,
    now: Duration,
    event: Event,
) -> (State, Vec<Action>) {
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
pub(super) fn is_mine(me: &Me, look: &Look) -> bool {
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
pub(super) fn retiring(
    me: &Me,
    asked: Option<Duration>,
    now: Duration,
    event: &Event,
) -> (State, Vec<Action>) {
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
