//! Conditions: kstatus' `Ready`, `Reconciling`, `Stalled`, and others beside them.
//!
//! A condition's `lastTransitionTime` moves only when its status does.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Longest message; the API server allows 32768 bytes, people read less.
const LONGEST_MESSAGE: usize = 1024;

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It cannot be told.
    Unknown,
}

impl State {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// How an object stands, in kstatus' three conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As the spec says.
    Ready {
        /// For a person.
        message: String,
    },
    /// On its way; nobody needs to do anything.
    Reconciling {
        /// CamelCase.
        reason: &'static str,
        /// What it waits for.
        message: String,
    },
    /// A person must do something.
    Stalled {
        /// CamelCase.
        reason: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
}

/// The conditions of one object while they are written.
pub struct Conditions {
    list: Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Conditions {
    /// Starts from what the object says now.
    #[must_use]
    pub fn from(before: &[Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self { list: before.to_vec(), generation, now }
    }

    /// Sets one condition.
    pub fn set(&mut self, kind: &str, state: State, reason: &str, message: &str) {
        let mut condition = Condition {
            type_: kind.to_owned(),
            status: state.as_str().to_owned(),
            reason: reason.to_owned(),
            message: shorten(message),
            observed_generation: self.generation,
            last_transition_time: Time(self.now),
        };
        match self.list.iter_mut().find(|existing| existing.type_ == kind) {
            Some(existing) => {
                if existing.status == condition.status {
                    condition.last_transition_time = existing.last_transition_time.clone();
                }
                *existing = condition;
            }
            None => self.list.push(condition),
        }
    }

    /// Removes a condition that says nothing any more.
    pub fn remove(&mut self, kind: &str) {
        self.list.retain(|condition| condition.type_ != kind);
    }

    /// Sets `Ready`, `Reconciling` and `Stalled`.
    pub fn stand(&mut self, standing: &Standing) {
        let (ready, reconciling, stalled, reason, message) = match standing {
            Standing::Ready { message } => (State::True, State::False, State::False, "Succeeded", message),
            Standing::Reconciling { reason, message } => {
                (State::False, State::True, State::False, *reason, message)
            }
            Standing::Stalled { reason, message } => {
                (State::False, State::False, State::True, *reason, message)
            }
        };
        self.set("Ready", ready, reason, message);
        self.set("Reconciling", reconciling, reason, message);
        self.set("Stalled", stalled, reason, message);
    }

    /// The conditions, in the order in which they were first set.
    #[must_use]
    pub fn finish(self) -> Vec<Condition> {
        self.list
    }
}

/// Cuts a message at a character boundary.
fn shorten(message: &str) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message.to_owned();
    }
    let mut end = LONGEST_MESSAGE;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut first = Conditions::from(&[], Some(1), at(10));
        first.stand(&Standing::Reconciling { reason: "Starting", message: "a".into() });
        let mut second = Conditions::from(&first.finish(), Some(2), at(20));
        second.stand(&Standing::Reconciling { reason: "Waiting", message: "b".into() });
        let second = second.finish();
        assert!(
            second.iter().all(|c| c.last_transition_time.0 == at(10) && c.observed_generation == Some(2))
        );
        assert_eq!((second[0].reason.as_str(), second[0].message.as_str()), ("Waiting", "b"));
        let mut third = Conditions::from(&second, Some(2), at(30));
        third.stand(&Standing::Ready { message: "c".into() });
        let times: Vec<_> = third.finish().iter().map(|c| c.last_transition_time.0).collect();
        assert_eq!(times, [at(30), at(30), at(10)], "Stalled was False all the time");
    }

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(shorten(&"ä".repeat(2000)).chars().last(), Some('…'));
        assert_eq!(shorten("short"), "short");
    }
}
