//! One leader among replicas, by a `coordination.k8s.io/v1` Lease.
//!
//! ```text
//!  Lease read ──▶ Sighting (what, and since when by OUR clock) ──▶ decide (pure) ──▶ create / replace / wait
//! ```
//! Clocks of different machines are never compared: a lease is over when nobody renewed it for as long as its
//! holder promised, measured by the observer from when it first saw that very record. The holder gives up
//! `lease - renew_within` before others may take over, so that two leaders never overlap unless a clock *rate* is
//! badly wrong. A holder that is stopped and goes on later is told by its [`Mandate`], which whatever writes asks
//! before each request. Needs `get`, `create` and `update` on the Lease.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

mod decide;
mod mandate;
#[cfg(test)]
mod tests;

pub use mandate::{Deposed, Mandate};

pub use decide::{Decision, Record, Sighting, Vacancy, decide};

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long others wait for a renewal before they take over. Whole seconds, at least one.
    pub lease: Duration,
    /// How long the holder goes on without a successful renewal before it considers itself deposed; below `lease`.
    pub renew_within: Duration,
    /// Pause between attempts.
    pub retry: Duration,
}

impl Default for Timing {
    /// The values of Kubernetes' own components.
    fn default() -> Self {
        Self::of(Duration::from_secs(15))
    }
}

impl Timing {
    /// For a lease of that length: renewed within two thirds of it, tried every two fifteenths.
    #[must_use]
    pub fn of(lease: Duration) -> Self {
        Self { lease, renew_within: lease * 2 / 3, retry: lease * 2 / 15 }
    }
}

/// A candidate.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    seen: Option<Sighting>,
    mandate: Mandate,
    /// The term in which this process leads.
    term: Option<i32>,
}

/// What one attempt came to.
enum Outcome {
    /// This process holds the lease.
    Holding,
    /// Another does.
    HeldBy { holder: String, wait: Duration },
    /// Somebody wrote the lease between our reading and our writing.
    Raced,
}

impl Election {
    /// `identity` must be different for every process that may run at one time: the pod's name.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
            seen: None,
            mandate: Mandate::default(),
            term: None,
        }
    }

    /// Grants this mandate while it leads, and takes it away when it no longer does.
    #[must_use]
    pub fn granting(self, mandate: Mandate) -> Self {
        Self { mandate, ..self }
    }

    /// Waits until this process leads; `None` when `stop` was cancelled first. API errors are logged and retried.
    pub async fn acquire(mut self, stop: &CancellationToken) -> Option<Term> {
        let mut told = String::new();
        loop {
            let pause = match self.attempt_in_time().await {
                Ok(Outcome::Holding) => {
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                    return Some(Term::begin(self));
                }
                Ok(Outcome::Raced) => self.timing.retry,
                Ok(Outcome::HeldBy { holder, wait }) => {
                    if holder != told {
                        tracing::info!(lease = self.name, holder, "following");
                        told = holder;
                    }
                    wait.min(self.timing.retry)
                }
                Err(error) => {
                    tracing::warn!(
                        lease = self.name,
                        error = crate::logging::chain(&error),
                        "cannot use the lease"
                    );
                    self.timing.retry
                }
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// A request that hangs must not keep the holder from noticing that its time is up.
    async fn attempt_in_time(&mut self) -> Result<Outcome, kube::Error> {
        let limit = self.timing.renew_within / 2;
        // The time of the request's start counts: the renewal may have happened at any moment since.
        let until = Instant::now() + self.timing.renew_within;
        match tokio::time::timeout(limit, self.attempt()).await {
            Ok(result) => {
                if let (Ok(Outcome::Holding), Some(term)) = (&result, self.term) {
                    self.mandate.grant(i64::from(term), until);
                }
                result
            }
            Err(_) => {
                let message = format!("no answer within {limit:?}");
                Err(kube::Error::Service(Box::new(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    message,
                ))))
            }
        }
    }

    async fn attempt(&mut self) -> Result<Outcome, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        let record = lease.as_ref().map(Record::of);
        self.seen = record.map(|record| Sighting::next(self.seen.take(), record, now));
        if let (Some(mine), Some(theirs)) = (self.term, lease.as_ref().and_then(transitions))
            && theirs != mine
        {
            // Whoever wrote it leads, even under our name: a container that was started again beside us.
            let holder = format!("term {theirs} (this process had {mine})");
            return Ok(Outcome::HeldBy { holder, wait: self.timing.lease });
        }
        let result = match decide(self.seen.as_ref(), &self.identity, now) {
            Decision::Wait { holder, wait } => return Ok(Outcome::HeldBy { holder, wait }),
            Decision::Create => self.api.create(&Default::default(), &self.claim(lease)).await,
            // Given up for us by a hand, or expired while we were stopped: a term that is over is not begun again.
            Decision::TakeOver(_) if self.term.is_some() => {
                return Ok(Outcome::HeldBy { holder: "nobody".to_owned(), wait: Duration::ZERO });
            }
            Decision::Renew | Decision::TakeOver(_) => {
                let claim = self.claim(lease);
                self.api.replace(&self.name, &Default::default(), &claim).await
            }
        };
        match result {
            Ok(written) => {
                self.term = transitions(&written);
                Ok(Outcome::Holding)
            }
            // Somebody was quicker: the API server's optimistic lock is what makes the election safe.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                Ok(Outcome::Raced)
            }
            Err(error) => Err(error),
        }
    }

    /// The lease with this process as its holder. Keeps metadata (and so the resourceVersion) of what was read.
    /// Each leadership begins with a higher `leaseTransitions` than all before it, also when the lease was released
    /// or this process has the name of the last holder; a term that was seen on an object is outranked.
    fn claim(&self, lease: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = lease.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..Default::default() },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_default();
        let before = spec.lease_transitions.unwrap_or(0);
        let outranked = self.mandate.outranked_by().and_then(|seen| i32::try_from(seen).ok()).unwrap_or(-1);
        let term = self.term.map_or(before.saturating_add(1), |mine| mine.max(before));
        spec.lease_transitions = Some(term.max(outranked.saturating_add(1)));
        if self.term.is_none() || spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.acquire_time = Some(now.clone());
            spec.holder_identity = Some(self.identity.clone());
        }
        spec.lease_duration_seconds =
            Some(i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX).max(1));
        spec.renew_time = Some(now);
        lease
    }
}

fn transitions(lease: &Lease) -> Option<i32> {
    lease.spec.as_ref().and_then(|spec| spec.lease_transitions)
}

/// Leadership, renewed in the background.
pub struct Term {
    lost: CancellationToken,
    resign: CancellationToken,
    mandate: Mandate,
    task: tokio::task::JoinHandle<()>,
}

impl Term {
    fn begin(election: Election) -> Self {
        let (lost, resign) = (CancellationToken::new(), CancellationToken::new());
        let mandate = election.mandate.clone();
        let task = tokio::spawn(renew(election, lost.clone(), resign.clone()));
        Self { lost, resign, mandate, task }
    }

    /// Cancelled when leadership is lost: the caller must write nothing more, best by exiting.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Stops renewing and releases nothing, as a process that is killed; others wait until the lease expires.
    pub fn abandon(self) {
        self.task.abort();
        self.mandate.end();
    }

    /// Gives the lease up, so that another replica need not wait for it to expire. Call it when nothing is being
    /// written any more.
    pub async fn release(self) {
        self.resign.cancel();
        if self.task.await.is_err() {
            tracing::warn!("the lease could not be released; it will expire");
        }
    }
}

async fn renew(mut election: Election, lost: CancellationToken, resign: CancellationToken) {
    let mandate = election.mandate.clone();
    let end = || {
        mandate.end();
        lost.cancel();
    };
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            () = resign.cancelled() => {
                end();
                return give_up(&mut election).await;
            }
            () = tokio::time::sleep(election.timing.retry) => {}
        }
        // The time of the request's start counts: the renewal may have happened at any moment since.
        let started = Instant::now();
        match election.attempt_in_time().await {
            Ok(Outcome::Holding) => renewed = started,
            Ok(Outcome::HeldBy { holder, .. }) => {
                tracing::error!(lease = election.name, holder, "leadership lost");
                return end();
            }
            Ok(Outcome::Raced) => {}
            Err(error) => {
                tracing::warn!(lease = election.name, error = crate::logging::chain(&error), "cannot renew");
            }
        }
        if renewed.elapsed() >= election.timing.renew_within {
            tracing::error!(lease = election.name, "leadership lost: not renewed in time");
            return end();
        }
    }
}

/// Empties the lease if it is still ours.
async fn give_up(election: &mut Election) {
    let Ok(Some(mut lease)) = election.api.get_opt(&election.name).await else { return };
    let ours = |spec: &LeaseSpec| spec.holder_identity.as_deref() == Some(election.identity.as_str());
    if !lease.spec.as_ref().is_some_and(ours) {
        return;
    }
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
    }
    match election.api.replace(&election.name, &Default::default(), &lease).await {
        Ok(_) => tracing::info!(lease = election.name, "lease released"),
        Err(error) => tracing::warn!(lease = election.name, %error, "lease not released; it will expire"),
    }
}
