//! Plans in words: for the CLI, for `MeshUpgrade.status.steps`, and for golden files.

use std::fmt;

use crds::mesh_upgrade::{StepState, UpgradePhase};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::facts::Direction;
use crate::plan::{Action, Cost, Notice, Plan, What};

/// Seconds since 1970 as RFC 3339.
#[must_use]
pub fn time(seconds: u64) -> String {
    let time =
        i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{seconds} s after 1970"))
}

/// The seconds since 1970 of a time in RFC 3339; none for what is no such time or before that.
#[must_use]
pub fn seconds(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp()).ok()
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Approve => write!(f, "approve"),
            Self::BringUp { version } => write!(f, "bring up the control plane of {version}"),
            Self::Label { namespace, version } => write!(f, "label namespace {namespace} for {version}"),
            Self::Move { place, manner, no_swap, moved, total } => {
                write!(f, "move {place} ({moved}/{total}) {manner}")?;
                no_swap.as_ref().map_or(Ok(()), |why| write!(f, "; {why}"))
            }
            Self::Leave { place, why } => {
                write!(f, "leave {place}: {}", crate::workload::Manner::Stays(*why))
            }
            Self::Soak { wave } => write!(f, "watch {wave}"),
            Self::Retire { version } => write!(f, "remove the control plane of {version}"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relabel { namespace, expect, to } => {
                let from = expect.as_deref().unwrap_or("no revision");
                write!(f, "label namespace {namespace}: {from} becomes {to}")
            }
            Self::Evict { namespace, workload, pod, uid: _, cost } => {
                write!(f, "evict pod {pod} of {workload} in {namespace}: {cost}")
            }
            Self::Swap { namespace, workload, pod, uid: _, expect, to, at: _ } => {
                let slot = expect.other().name();
                write!(
                    f,
                    "swap the sidecar of pod {pod} of {workload} in {namespace}: slot {slot} takes over with {to}"
                )
            }
            Self::Surge { namespace, deployment, expect: _, mark } => {
                write!(f, "roll Deployment {deployment} in {namespace}: annotation moved-to becomes {mark}")
            }
            Self::BeginSoak { wave, since } => write!(f, "watch {wave} from {}", time(*since)),
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "it isn't ready, so nothing is lost"),
            Self::Replica => write!(f, "all replicas are ready, and no budget covers it"),
            Self::Budget(budget) => {
                write!(f, "all replicas are ready, and PodDisruptionBudget {budget} allows it")
            }
            Self::Gap { budget: None } => write!(f, "a gap, since no other pod stands in"),
            Self::Gap { budget: Some(budget) } => {
                write!(f, "a gap, which PodDisruptionBudget {budget} allows")
            }
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restarts { pods, of, why } => {
                write!(f, "{pods} of {of} pods are restarted, although strategy HotSwap is asked for: ")?;
                for (place, (reason, count)) in why.iter().enumerate() {
                    let separator = if place == 0 { "" } else { "; " };
                    write!(f, "{separator}{count} {reason}")?;
                }
                Ok(())
            }
        }
    }
}

impl Plan {
    /// What is waited for, in one line; empty when something is done now or everything is.
    #[must_use]
    pub fn waiting_line(&self) -> String {
        let Some(first) = self.waiting.first() else { return String::new() };
        match self.waiting.len() {
            1 => first.to_string(),
            more => format!("{first} (and {} more)", more - 1),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { desired, phase, notices, steps, actions, waiting, retire: _, moved: _, total: _ } = self;
        let (from, to) = (&desired.from, &desired.to);
        let way = match desired.direction() {
            Direction::Forward => format!("{from} to {to}"),
            Direction::BackOnAbort => format!("{from} to {to}, going back since spec.abort is set"),
            Direction::BackOnEdit => {
                format!("{from} to {to}, going back since the MeshConfig asks for {from}")
            }
        };
        writeln!(f, "mesh {}, {way}: {phase:?}, {}", desired.mesh, self.progress())?;
        for notice in notices {
            writeln!(f, "  note: {notice}")?;
        }
        for step in steps {
            write!(f, "  {:8} {}", word(step.state), step.what)?;
            match &step.waiting {
                Some(wait) => writeln!(f, " | waits for {wait}")?,
                None => writeln!(f)?,
            }
        }
        for action in actions {
            writeln!(f, "  now: {action}")?;
        }
        if actions.is_empty() && !matches!(phase, UpgradePhase::Complete) {
            for wait in waiting {
                writeln!(f, "  nothing now: waiting for {wait}")?;
            }
        }
        Ok(())
    }
}

fn word(state: StepState) -> &'static str {
    match state {
        StepState::Pending => "later",
        StepState::Running => "running",
        StepState::Waiting => "waiting",
        StepState::Done => "done",
    }
}
