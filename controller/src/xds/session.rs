//! One delta ADS stream, without sockets, clocks or tasks: requests and states in, responses out.
//!
//! ```text
//!  request ──▶ ack / nack ──▶ subscription ──┐
//!                                            ├──▶ dirty names per type ──▶ flush ──▶ responses
//!  Served ───▶ what changed ─────────────────┘        (CDS, EDS, LDS, RDS; then removals)
//! ```
//!
//! The rules, each with a test of its own:
//! * A type with an unacknowledged response only collects names; its acknowledgement is the clock.
//! * What the client holds is what it acknowledged, or what it says on the first request of a type.
//! * A name that is subscribed to again is always answered; one that does not exist is answered as removed; the
//!   first wildcard request is answered even if there is nothing.
//! * After every cluster its endpoints are sent again (Envoy waits for them, and does not ask).
//! * Listeners and routes that may name a new cluster wait until it is acknowledged. Removals come last:
//!   listeners, routes, clusters, endpoints.
//! * A refused response is taken apart; what is refused alone is not sent again, and the last good one stays.
//! * New content waits while another stream with the same Envoy tries it (`trial.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::fleet::Rejection;
use mesh::ResourceType;

use super::served::{Name, Served, place};
use super::trial::Gate;
use super::wire::{DeltaRequest, DeltaResponse};
use state::{Must, TypeState};

mod flush;
mod holding;
mod state;
#[cfg(test)]
mod tests;

/// A client that breaks the protocol so that its stream must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A resource name or version is longer than any that we make.
    #[error("a resource name or version is too long")]
    NameTooLong,
    /// More names than any mesh has.
    #[error("too many resource names")]
    TooManyNames,
}

/// What a request said about an earlier response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Nothing: it subscribes.
    Nothing,
    /// The client took the response.
    Accepted(ResourceType),
    /// The client refused the response.
    Refused(ResourceType),
    /// It is about a response that this stream did not send, or a type that we do not serve: ignored.
    Foreign,
}

/// What follows from a request.
#[derive(Debug)]
pub struct Outcome {
    /// To be sent, in order.
    pub responses: Vec<DeltaResponse>,
    /// For the counters.
    pub said: Said,
}

/// One delta ADS stream.
#[derive(Debug)]
pub struct Session {
    served: Arc<Served>,
    types: [TypeState; 4],
    gate: Gate,
    /// Whether something waits for another stream's answer.
    gated: bool,
    nonce: u64,
    /// Clusters that were sent before the client asked for endpoints: those must be sent even if it holds them.
    owed: BTreeSet<Name>,
}

impl Session {
    /// A stream that will be served `served`.
    #[must_use]
    pub fn new(served: Arc<Served>, gate: Gate) -> Self {
        let types = ResourceType::ALL.map(TypeState::new);
        Self { served, types, gate, gated: false, nonce: 0, owed: BTreeSet::new() }
    }

    /// Whether something waits for another stream's answer: to be asked again ([`Session::on_answer`]) when that
    /// comes, or after the gate's patience.
    #[must_use]
    pub fn gated(&self) -> bool {
        self.gated
    }

    /// Told when another stream's answer has come.
    #[must_use]
    pub fn wake(&self) -> Arc<tokio::sync::Notify> {
        self.gate.wake()
    }

    /// How long to wait for another stream's answer.
    #[must_use]
    pub fn patience(&self) -> std::time::Duration {
        self.gate.patience()
    }

    /// Another stream's answer has come, or has not come for long.
    pub fn on_answer(&mut self) -> Vec<DeltaResponse> {
        self.flush()
    }

    /// Takes a request.
    ///
    /// # Errors
    /// [`Violation`] when the stream must be closed.
    pub fn on_request(&mut self, request: &DeltaRequest) -> Result<Outcome, Violation> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return Ok(Outcome { responses: Vec::new(), said: Said::Foreign });
        };
        let served = self.served.clone();
        let said = self.verdict(kind, request);
        let state = &mut self.types[place(kind)];
        let first = !state.subscribed;
        state.subscribe(request, served.of(kind), &mut self.gate)?;
        if first && kind == ResourceType::Endpoint {
            for name in std::mem::take(&mut self.owed)
                .into_iter()
                .filter(|name| state.wants(name))
                .collect::<Vec<_>>()
            {
                state.mark(name, Must::Follow);
            }
        }
        let mut responses = self.flush();
        let state = &self.types[place(kind)];
        if first && state.wildcard && !state.answered && state.dirty.is_empty() {
            responses.push(self.respond(kind, Vec::new(), Vec::new()));
        }
        Ok(Outcome { responses, said })
    }

    /// Takes a new state; returns what is to be sent now, in order.
    pub fn on_snapshot(&mut self, served: Arc<Served>) -> Vec<DeltaResponse> {
        let old = std::mem::replace(&mut self.served, served);
        let served = self.served.clone();
        let mut mark = |(kind, name): (ResourceType, Name)| {
            let state = &mut self.types[place(kind)];
            if state.subscribed && state.wants(&name) {
                state.mark(name, Must::IfDifferent);
            }
        };
        if served.follows(&old) {
            served.changed().iter().cloned().for_each(&mut mark);
        } else {
            served.difference(&old).for_each(&mut mark);
        }
        self.flush()
    }

    /// Whether the client has acknowledged everything that it should hold now.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        let started =
            [ResourceType::Cluster, ResourceType::Listener].map(|kind| self.types[place(kind)].subscribed);
        started == [true, true]
            && self.types.iter().all(|state| state.idle() && state.refused.is_empty())
            && self.poisoned().next().is_none()
    }

    /// What is not sent because another proxy with the same Envoy refused it.
    fn poisoned(&self) -> impl Iterator<Item = Rejection> + use<'_> {
        self.gate.poisons().into_iter().filter_map(|(kind, name, version, poison)| {
            let state = &self.types[place(kind)];
            let served = self.served.of(kind).get(&name).is_some_and(|entry| entry.version == version);
            let other =
                served && state.subscribed && state.wants(&name) && !state.refused.contains_key(&name);
            other.then(|| Rejection {
                resource_type: kind.as_str().to_owned(),
                names: vec![name.to_string()],
                error: format!("{} (refused by {}, which has the same Envoy)", poison.error, poison.proxy),
            })
        })
    }

    /// Whether nothing is on its way or waits to be sent.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.types.iter().all(TypeState::idle)
    }

    /// What the client refused and still has not got a replacement of, one entry per resource.
    #[must_use]
    pub fn rejections(&self) -> Vec<Rejection> {
        let kinds = ResourceType::ALL.into_iter();
        kinds
            .flat_map(|kind| {
                self.types[place(kind)].refused.iter().map(move |(name, refused)| Rejection {
                    resource_type: kind.as_str().to_owned(),
                    names: vec![name.to_string()],
                    error: refused.error.clone(),
                })
            })
            .chain(self.poisoned())
            .collect()
    }

    /// Nonce of a response that waits for its acknowledgement, the same until that comes.
    #[must_use]
    pub fn waits_for(&self) -> Option<&str> {
        self.types.iter().find_map(|state| state.in_flight.first()).map(|response| response.nonce.as_str())
    }

    /// Number of resources that the client is known to hold, by type in [`ResourceType::ALL`]'s order.
    #[must_use]
    pub fn held(&self) -> [usize; 4] {
        ResourceType::ALL.map(|kind| self.types[place(kind)].count())
    }

    fn verdict(&mut self, kind: ResourceType, request: &DeltaRequest) -> Said {
        if request.response_nonce.is_empty() {
            return Said::Nothing;
        }
        let state = &mut self.types[place(kind)];
        let Some(at) = state.in_flight.iter().position(|sent| sent.nonce == request.response_nonce) else {
            return Said::Foreign;
        };
        let response = state.in_flight.remove(at);
        match &request.error_detail {
            None => {
                state.accepted(response, &mut self.gate);
                Said::Accepted(kind)
            }
            Some(error) => {
                state.rejected(response, &error.message, &mut self.gate);
                Said::Refused(kind)
            }
        }
    }
}
