//! What to do about a lease: pure, so that expiry, skew and takeover are tables.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// No holder's promise is believed to be longer than this; a typing mistake must not end all elections.
const LONGEST: Duration = Duration::from_secs(300);

/// The facts of a Lease that matter. Its times are only compared with themselves, never with our clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Who holds it, if anybody.
    pub holder: Option<String>,
    /// How long its holder asked others to wait.
    pub duration: Duration,
    /// Changes with every write.
    pub version: Option<String>,
}

impl Record {
    /// Reads a Lease; whatever is missing or senseless counts as vacant or as the shortest duration.
    #[must_use]
    pub fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(1).max(1);
        Self {
            holder: spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty()),
            duration: Duration::from_secs(u64::from(seconds.unsigned_abs())).min(LONGEST),
            version: lease.metadata.resource_version.clone(),
        }
    }
}

/// A record, and since when this process has seen it unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// What was seen.
    pub record: Record,
    /// When it was seen first, by our own monotonic clock.
    pub since: Instant,
}

impl Sighting {
    /// The sighting after reading `record` at `now`.
    #[must_use]
    pub fn next(before: Option<Self>, record: Record, now: Instant) -> Self {
        match before {
            Some(before) if before.record == record => before,
            _ => Self { record, since: now },
        }
    }
}

/// Why a lease can be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vacancy {
    /// It names no holder.
    Released,
    /// Its holder has not renewed it for as long as it promised.
    Expired,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// There is no Lease: create it.
    Create,
    /// It is ours: renew it.
    Renew,
    /// It is nobody's any more: take it.
    TakeOver(Vacancy),
    /// Another holds it, at least for this long.
    Wait {
        /// Who.
        holder: String,
        /// How long until it may be taken over if it is not renewed.
        wait: Duration,
    },
}

/// Decides from what was last seen. `None` means that there is no Lease.
#[must_use]
pub fn decide(seen: Option<&Sighting>, me: &str, now: Instant) -> Decision {
    let Some(Sighting { record, since }) = seen else { return Decision::Create };
    let Some(holder) = &record.holder else { return Decision::TakeOver(Vacancy::Released) };
    if holder == me {
        return Decision::Renew;
    }
    let unchanged = now.saturating_duration_since(*since);
    match record.duration.checked_sub(unchanged) {
        None | Some(Duration::ZERO) => Decision::TakeOver(Vacancy::Expired),
        Some(wait) => Decision::Wait { holder: holder.clone(), wait },
    }
}
