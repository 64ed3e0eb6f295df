//! What a pass came to → status and Event. Pure.

use crds::PolicySource;
use crds::policy_source::{CommitStatus, InventoryEntry, PolicySourceStatus};
use gitops::git::FetchError;
use gitops::{Bundle, Commit, Problem, What};
use k8s_openapi::jiff::Timestamp;

use super::settings::Invalid;
use crate::conditions::{Conditions, Standing, State};
use crate::events::Weight;

/// Most problems that a status lists.
const LISTED: usize = 20;
/// Condition of a source some of whose objects are left out.
const NAMESPACES_MISSING: &str = "NamespacesMissing";
/// Most problems that a message names.
const NAMED: usize = 3;

/// What a pass came to.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// `spec.suspend`.
    Suspended,
    /// Nothing can be done with the spec.
    Invalid(Invalid),
    /// No commit.
    FetchFailed(FetchError),
    /// A new commit is being looked at.
    Attempting {
        /// Which.
        commit: &'a Commit,
    },
    /// A commit that is not applied.
    InvalidCommit {
        /// Which.
        commit: Commit,
        /// Why; never empty.
        problems: Vec<Problem>,
    },
    /// A commit is applied: this is the seal.
    InForce {
        /// What it holds.
        bundle: &'a Bundle,
    },
    /// The API server failed; tried again.
    Failed {
        /// Its words.
        message: String,
    },
}

/// The seal's list. A definition of before drops the groups, so whatever reads the list has them filled in.
pub fn inventory(source: &PolicySource) -> Vec<InventoryEntry> {
    let entries = source.status.iter().flat_map(|status| status.inventory.iter().cloned());
    entries.map(InventoryEntry::with_group).collect()
}

/// The status after a pass.
pub fn status(source: &PolicySource, verdict: &Verdict<'_>, now: Timestamp) -> PolicySourceStatus {
    let before = source.status.clone().unwrap_or_default();
    let mut conditions = Conditions::from(&before.conditions, source.metadata.generation, now);
    conditions.stand(&standing(&before, verdict));
    left_out(&mut conditions, verdict);
    let mut after = PolicySourceStatus {
        observed_generation: source.metadata.generation,
        conditions: conditions.finish(),
        ..before
    };
    match verdict {
        Verdict::Suspended | Verdict::Failed { .. } => {}
        Verdict::Invalid(_) | Verdict::FetchFailed(_) => after.problems = Vec::new(),
        Verdict::Attempting { commit } => {
            after.attempted = Some(handled(after.attempted.take(), commit, now));
            after.problems = Vec::new();
        }
        Verdict::InvalidCommit { commit, problems } => {
            after.attempted = Some(handled(after.attempted.take(), commit, now));
            after.problems = problems.iter().take(LISTED).map(Into::into).collect();
        }
        Verdict::InForce { bundle } => {
            after.attempted = Some(handled(after.attempted.take(), &bundle.commit, now));
            after.applied = Some(handled(after.applied.take(), &bundle.commit, now));
            after.inventory = bundle.inventory();
            after.problems = Vec::new();
        }
    }
    after
}

/// A commit that is there already keeps the time when it was first handled.
fn handled(before: Option<CommitStatus>, commit: &Commit, now: Timestamp) -> CommitStatus {
    match before {
        Some(before) if before.commit == commit.id => before,
        _ => CommitStatus {
            commit: commit.id.clone(),
            subject: commit.subject.clone(),
            time: Timestamp::from_second(now.as_second()).unwrap_or(now).to_string(),
        },
    }
}

fn standing(before: &PolicySourceStatus, verdict: &Verdict<'_>) -> Standing {
    let stays = stays(before);
    match verdict {
        Verdict::Suspended => {
            Standing::Ready { message: format!("suspended: nothing is fetched or put back; {stays}") }
        }
        Verdict::Invalid(invalid) => {
            Standing::Stalled { reason: invalid.reason, message: format!("{}; {stays}", invalid.message) }
        }
        Verdict::FetchFailed(error) => {
            let message = format!("{}: {error}; {stays}", error.reason());
            match error.is_passing() {
                true => Standing::Reconciling { reason: "FetchFailed", message },
                false => Standing::Stalled { reason: "FetchFailed", message },
            }
        }
        Verdict::Attempting { commit } => {
            let message = format!("looking at commit {}; {stays}", short(&commit.id));
            Standing::Reconciling { reason: "Applying", message }
        }
        Verdict::InvalidCommit { commit, problems } => {
            let message =
                format!("commit {} is not applied: {}; {stays}", short(&commit.id), named(problems));
            Standing::Stalled { reason: reason(problems), message }
        }
        Verdict::InForce { bundle } => {
            let (commit, objects) = (short(&bundle.commit.id), bundle.policies.len());
            let left_out = match bundle.absent.len() {
                0 => String::new(),
                some => format!("; {some} are left out because their namespaces do not exist"),
            };
            Standing::Ready { message: format!("commit {commit} is in force, {objects} objects{left_out}") }
        }
        Verdict::Failed { message } => Standing::Reconciling {
            reason: "ApplyFailed",
            message: format!("{message}; tried again; {stays}"),
        },
    }
}

/// Whether it is the commit that is at fault, or what the API server makes of it.
fn reason(problems: &[Problem]) -> &'static str {
    let changed = |problem: &Problem| matches!(problem.what, What::ContentChanged { .. });
    if problems.iter().all(changed) { "ContentChanged" } else { "InvalidCommit" }
}

/// Names the objects that are left out because their namespaces do not exist.
fn left_out(conditions: &mut Conditions, verdict: &Verdict<'_>) {
    let Verdict::InForce { bundle } = verdict else { return };
    if bundle.absent.is_empty() {
        return conditions.remove(NAMESPACES_MISSING);
    }
    let shown: Vec<_> = bundle.absent.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match bundle.absent.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "left out until their namespaces exist: {}{more}; create the namespaces, or remove the objects from Git",
        shown.join(", ")
    );
    conditions.set(NAMESPACES_MISSING, State::True, "NamespaceDoesNotExist", &message);
}

/// Whether a bundle is what a seal lists, apart from what is left out of the bundle.
pub fn is_of(bundle: &Bundle, inventory: &[InventoryEntry]) -> bool {
    let absent = |entry: &InventoryEntry| {
        bundle.absent.iter().any(|key| {
            Some(key.kind) == entry.policy_kind()
                && key.namespace == entry.namespace
                && key.name == entry.name
        })
    };
    let present = inventory.iter().filter(|entry| !absent(entry));
    bundle.inventory().iter().eq(present)
}

fn stays(before: &PolicySourceStatus) -> String {
    match &before.applied {
        Some(applied) => format!("commit {} stays in force", short(&applied.commit)),
        None => "nothing of it is in force".to_owned(),
    }
}

fn named(problems: &[Problem]) -> String {
    let shown: Vec<_> = problems.iter().take(NAMED).map(ToString::to_string).collect();
    let more = problems.len().saturating_sub(NAMED);
    if more > 0 {
        format!("{} (and {more} more in status.problems)", shown.join("; "))
    } else {
        shown.join("; ")
    }
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// What a person would want to have been told about a pass.
pub fn event(source: &PolicySource, verdict: &Verdict<'_>) -> Option<(Weight, &'static str, String)> {
    let before = source.status.clone().unwrap_or_default();
    let (weight, reason) = match verdict {
        Verdict::Suspended | Verdict::Attempting { .. } | Verdict::Failed { .. } => return None,
        Verdict::Invalid(invalid) => (Weight::Warning, invalid.reason),
        Verdict::FetchFailed(_) => (Weight::Warning, "FetchFailed"),
        Verdict::InvalidCommit { problems, .. } => (Weight::Warning, reason(problems)),
        Verdict::InForce { bundle } => {
            if before.applied.as_ref().is_some_and(|applied| applied.commit == bundle.commit.id) {
                return None;
            }
            (Weight::Normal, "Applied")
        }
    };
    let note = match standing(&before, verdict) {
        Standing::Ready { message }
        | Standing::Reconciling { message, .. }
        | Standing::Stalled { message, .. } => message,
    };
    Some((weight, reason, note))
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
