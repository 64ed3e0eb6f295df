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
//! * A listener or route that names a new cluster waits until that is acknowledged. Removals come last: listeners,
//!   routes, clusters, endpoints; a cluster only when nothing that the client keeps names it.
//! * A refused response is taken apart; what is refused alone is not sent again, and the last good one stays.
//! * How a service is called waits while others try it (`trial.rs`); what a policy is enforced by, and what is taken
//!   away, never does.
//! * What somebody else refuses or says that it holds changes nothing here but that.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::fleet::Rejection;
use mesh::ResourceType;

use super::served::{Name, Served, Way, place};
use super::text;
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
    #[error(
        "a name or version of {resource_type} resources has {bytes} bytes; at most {} are taken",
        state::MOST_NAME
    )]
    NameTooLong {
        /// As in [`Rejection`].
        resource_type: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// It names, or says that it holds, more than is remembered of what is not served. Names of what is served cost
    /// nothing, however many there are.
    #[error(
        "names and versions of resources that are not served take {bytes} bytes; at most {most} are remembered for one {whom}"
    )]
    Foreign {
        /// Whose budget it is: `stream` or `service account`.
        whom: &'static str,
        /// What it comes to.
        bytes: usize,
        /// What is allowed.
        most: usize,
    },
}

/// Bytes that are remembered for one stream of what is not served: about 25,000 resources that it holds from before and
/// that are gone.
pub const FOREIGN: usize = 4 * 1024 * 1024;

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

/// Rejections that are told one by one.
const MOST_REJECTIONS: usize = 16;
/// Characters of Envoy's words that are kept.
const MOST_ERROR: usize = 512;

/// What is wrong with what a client was to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejections {
    /// The first of them, one per resource.
    pub first: Vec<Rejection>,
    /// How many more there are.
    pub more: usize,
    /// How many of all are rules: the client enforces older ones.
    pub older_rules: usize,
    /// How many of all the client never saw, because others refused them.
    pub withheld: usize,
}

impl Rejections {
    fn add(&mut self, kind: ResourceType, name: &Name, older_rules: bool, error: impl FnOnce() -> String) {
        if self.first.len() >= MOST_REJECTIONS {
            self.more += 1;
            return;
        }
        self.first.push(Rejection {
            resource_type: kind.as_str().to_owned(),
            names: vec![name.to_string()],
            error: error(),
            older_rules,
        });
    }
}

/// Whether policy is enforced by resources of a type and name.
fn enforces(kind: ResourceType, name: &str) -> bool {
    matches!(kind, ResourceType::Listener | ResourceType::Route) && Way::of(kind, name) == Way::AtOnce
}

/// What follows from a request.
#[derive(Debug)]
pub struct Outcome {
    /// To be sent, in order.
    pub responses: Vec<DeltaResponse>,
    /// For the counters.
    pub said: Said,
    /// How many names were looked at because of it: what it cost, besides what it names.
    pub looked: usize,
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
    /// Names that were looked at so far.
    looked: usize,
    /// Clusters that were sent before the client asked for endpoints: those must be sent even if it holds them.
    owed: BTreeSet<Name>,
}

impl Session {
    /// A stream that will be served `served`.
    #[must_use]
    pub fn new(served: Arc<Served>, gate: Gate) -> Self {
        let types = ResourceType::ALL.map(TypeState::new);
        Self { served, types, gate, gated: false, nonce: 0, looked: 0, owed: BTreeSet::new() }
    }

    /// What it is served.
    #[must_use]
    pub fn served(&self) -> &Served {
        &self.served
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
            return Ok(Outcome { responses: Vec::new(), said: Said::Foreign, looked: 0 });
        };
        let (served, before) = (self.served.clone(), self.looked);
        let said = self.verdict(kind, request);
        let state = &mut self.types[place(kind)];
        let first = !state.subscribed;
        self.looked += state.subscribe(request, served.of(kind))?;
        let bytes = self.foreign();
        if bytes > FOREIGN {
            return Err(Violation::Foreign { whom: "stream", bytes, most: FOREIGN });
        }
        let state = &mut self.types[place(kind)];
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
        Ok(Outcome { responses, said, looked: self.looked - before })
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
            && self
                .types
                .iter()
                .all(|state| state.idle() && state.refused.is_empty() && state.withheld.is_empty())
    }

    /// Bytes of what is remembered for this stream alone, because nothing that is served has it.
    #[must_use]
    pub fn foreign(&self) -> usize {
        self.types.iter().map(TypeState::foreign).sum()
    }

    /// Whether nothing is on its way or waits to be sent.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.types.iter().all(TypeState::idle)
    }

    /// What the client refused and still has not got a replacement of, and what it is not sent because others refused
    /// it.
    #[must_use]
    pub fn rejections(&self) -> Rejections {
        let mut all = Rejections::default();
        for kind in ResourceType::ALL {
            let state = &self.types[place(kind)];
            for (name, refused) in &state.refused {
                let older_rules = enforces(kind, name);
                all.older_rules += usize::from(older_rules);
                all.add(kind, name, older_rules, || refused.error.clone());
            }
            let withheld = state.withheld.iter().filter(|(name, _)| !state.refused.contains_key(*name));
            for (name, withheld) in withheld {
                all.withheld += 1;
                let refusal = &withheld.refusal;
                all.add(kind, name, false, || format!("{} (refused by {})", refusal.error, refusal.proxy));
            }
        }
        all
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

    /// How many names of clusters are remembered for this stream alone.
    #[cfg(test)]
    fn own_memory(&self) -> usize {
        self.types[place(ResourceType::Cluster)].own_memory()
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
                state.rejected(response, &text::told(&error.message, MOST_ERROR), &mut self.gate);
                Said::Refused(kind)
            }
        }
    }
}
