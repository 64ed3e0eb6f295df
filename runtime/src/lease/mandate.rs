//! What the holder of a lease may write, and until when. Everything that writes asks it before each request.
//!
//! ```text
//!  Election ──begin/extend/end──▶ Mandate ◀──check── whoever writes
//! ```
//! A process that was stopped for a while (SIGSTOP, a paused machine) finds its mandate over by its own monotonic
//! clock, before any answer of the API server tells it. The term is the lease's `leaseTransitions`, which every
//! beginning of a leadership raises: what is written with it can be told from what an earlier leader wrote.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Nothing may be written: another process leads, or may lead by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this process does not lead (any more), so it writes nothing")]
pub struct Deposed;

/// Shared by the election, which grants it, and by whatever writes. The default is to have none.
#[derive(Debug, Clone, Default)]
pub struct Mandate(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    held: Option<Held>,
    /// A term that was seen on an object: the next renewal goes above it.
    outranked_by: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    term: i64,
    /// None: for ever.
    until: Option<Instant>,
}

impl Mandate {
    /// One that no lease limits: for a process that is alone by other means.
    #[must_use]
    pub fn unlimited(term: i64) -> Self {
        let state = State { held: Some(Held { term, until: None }), outranked_by: None };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The term in which may be written now.
    ///
    /// # Errors
    /// [`Deposed`] when there is none, or it is over.
    pub fn check(&self) -> Result<i64, Deposed> {
        match self.state().held {
            Some(Held { term, until: None }) => Ok(term),
            Some(Held { term, until: Some(until) }) if Instant::now() < until => Ok(term),
            _ => Err(Deposed),
        }
    }

    /// Says that an object holds the mark of a higher term. The election then makes sure by the lease who leads: it
    /// raises its own term above that one (somebody deleted the Lease, and its count with it) or gives up.
    pub fn outrank(&self, seen: i64) {
        let mut state = self.state();
        state.outranked_by = state.outranked_by.max(Some(seen));
    }

    /// Grants or prolongs it.
    pub fn grant(&self, term: i64, until: Instant) {
        self.state().held = Some(Held { term, until: Some(until) });
    }

    /// Takes it away.
    pub fn end(&self) {
        self.state().held = None;
    }

    /// The highest term that was seen elsewhere, if any.
    pub(super) fn outranked_by(&self) -> Option<i64> {
        self.state().outranked_by
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
