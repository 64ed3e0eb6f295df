//! Who may fetch when: a few at a time, in turns by namespace, and never all of them waiting for one slow server.
//!
//! ```text
//!  enter(namespace, lane) ─▶ waiting ─admit (pure)─▶ running ─ticket dropped─▶ the next one
//! ```
//! Of `SLOTS` fetches at one time at most half are one namespace's, and at most a third are of sources whose last fetch
//! ran into its deadline. So servers that hang, however many, leave room for those that answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Fetches at one time.
const SLOTS: usize = 6;
/// Of one namespace.
const PER_TENANT: usize = 3;
/// Of sources that ran into their deadline last time.
const SUSPECTS: usize = 2;

/// What is known of a source's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Nothing bad.
    Usual,
    /// It did not answer in time.
    Suspect,
}

/// The queue of all sources.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

/// A place in the queue, and later a slot; dropping it gives either up.
pub struct Ticket {
    queue: Arc<Queue>,
    id: u64,
}

impl Queue {
    /// Waits for a slot.
    pub async fn enter(self: &Arc<Self>, tenant: &str, lane: Lane) -> Ticket {
        let ticket = Ticket { queue: Arc::clone(self), id: self.state.lock().join(tenant, lane) };
        self.changed.notify_waiters();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state.lock().running.contains_key(&ticket.id) {
                return ticket;
            }
            changed.await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.state.lock().leave(self.id);
        self.queue.changed.notify_waiters();
    }
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    turn: u64,
    /// In the order of arrival.
    waiting: BTreeMap<u64, (String, Lane)>,
    running: BTreeMap<u64, (String, Lane)>,
    /// When a namespace was served last.
    served: BTreeMap<String, u64>,
}

impl State {
    fn join(&mut self, tenant: &str, lane: Lane) -> u64 {
        let id = self.next;
        self.next += 1;
        self.waiting.insert(id, (tenant.to_owned(), lane));
        self.admit();
        id
    }

    fn leave(&mut self, id: u64) {
        self.waiting.remove(&id);
        self.running.remove(&id);
        self.admit();
    }

    /// Lets in who may: the namespace that was served longest ago first.
    fn admit(&mut self) {
        let known =
            |tenant: &String, of: &BTreeMap<u64, (String, Lane)>| of.values().any(|(t, _)| t == tenant);
        let (waiting, running) = (&self.waiting, &self.running);
        self.served.retain(|tenant, _| known(tenant, waiting) || known(tenant, running));
        while let Some(id) = self.next_one() {
            let Some(entry) = self.waiting.remove(&id) else { return };
            self.turn += 1;
            self.served.insert(entry.0.clone(), self.turn);
            self.running.insert(id, entry);
        }
    }

    fn next_one(&self) -> Option<u64> {
        if self.running.len() >= SLOTS {
            return None;
        }
        let running =
            |test: &dyn Fn(&(String, Lane)) -> bool| self.running.values().filter(|e| test(e)).count();
        let suspects = running(&|(_, lane)| *lane == Lane::Suspect);
        let fits = |(tenant, lane): &(String, Lane)| {
            running(&|(other, _)| other == tenant) < PER_TENANT
                && (*lane == Lane::Usual || suspects < SUSPECTS)
        };
        let waiting = self.waiting.iter().filter(|(_, entry)| fits(entry));
        waiting
            .min_by_key(|(id, (tenant, _))| (self.served.get(tenant).copied().unwrap_or(0), **id))
            .map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hanging_servers_leave_room_for_others() {
        let mut state = State::default();
        // A hundred sources of one namespace, all new: their servers hang.
        for _ in 0..100 {
            state.join("bad", Lane::Usual);
        }
        // A hundred of other namespaces, which are known to hang.
        for n in 0..100 {
            state.join(&format!("slow-{n}"), Lane::Suspect);
        }
        let good = state.join("good", Lane::Usual);
        assert!(state.running.contains_key(&good), "{state:?}");
    }

    #[test]
    fn namespaces_take_turns() {
        let mut state = State::default();
        let many: Vec<_> = (0..20).map(|_| state.join("many", Lane::Usual)).collect();
        let few: Vec<_> = ["a", "b", "c", "d"].map(|name| state.join(name, Lane::Usual)).into();
        // Three of `many` run; whoever is let in next is of another namespace, then `many` again.
        assert!(
            few[..3].iter().all(|id| state.running.contains_key(id)) && !state.running.contains_key(&few[3])
        );
        state.leave(many[0]);
        assert!(state.running.contains_key(&few[3]));
        state.leave(few[0]);
        assert!(state.running.contains_key(&many[3]));
    }

    #[tokio::test]
    async fn whoever_gives_up_takes_no_slot() {
        let queue = Arc::new(Queue::default());
        let mut held = Vec::new();
        for n in 0..SLOTS {
            held.push(queue.enter(&n.to_string(), Lane::Usual).await);
        }
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, queue.enter("x", Lane::Usual)).await;
        assert!(given_up.is_err());
        drop(held.pop());
        drop(queue.enter("y", Lane::Usual).await);
        drop(held);
        assert!(queue.state.lock().running.is_empty() && queue.state.lock().waiting.is_empty());
    }

    proptest! {
        #[test]
        fn limits_hold_and_nobody_waits_beside_a_free_slot(
            steps in prop::collection::vec((any::<bool>(), 0..5usize, any::<bool>(), any::<prop::sample::Index>()), 0..200)
        ) {
            let mut state = State::default();
            for (joins, tenant, suspect, which) in steps {
                if joins || state.running.is_empty() {
                    state.join(&tenant.to_string(), if suspect { Lane::Suspect } else { Lane::Usual });
                } else {
                    let ids: Vec<_> = state.running.keys().copied().collect();
                    state.leave(ids[which.index(ids.len())]);
                }
                let count = |test: &dyn Fn(&(String, Lane)) -> bool| state.running.values().filter(|e| test(e)).count();
                prop_assert!(state.running.len() <= SLOTS);
                prop_assert!(count(&|(_, lane)| *lane == Lane::Suspect) <= SUSPECTS);
                for tenant in 0..5 {
                    prop_assert!(count(&|(of, _)| *of == tenant.to_string()) <= PER_TENANT);
                }
                prop_assert!(state.next_one().is_none());
            }
        }
    }
}
