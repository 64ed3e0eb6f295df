//! Plans in words: for the CLI, for `MeshUpgrade.status.steps`, and for golden files.

use std::fmt;

use crds::mesh_upgrade::{StepState, StepStatus, UpgradePhase};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::facts::Direction;
use crate::plan::{Action, Cost, Plan, Step, What};

/// Seconds since 1970 as RFC 3339.
#[must_use]
pub fn time(seconds: u64) -> String {
    let time =
        i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{seconds} s after 1970"))
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
            Self::Soak { wave } => write!(f, "watch wave {wave}"),
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
            Self::BeginSoak { wave, since } => write!(f, "watch wave {wave} from {}", time(*since)),
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

impl Step {
    /// The step as the record shows it.
    #[must_use]
    pub fn status(&self) -> StepStatus {
        let reason = self.waiting.as_ref().map(ToString::to_string).unwrap_or_default();
        StepStatus { step: self.what.to_string(), state: self.state, reason }
    }
}

impl Plan {
    /// The steps as the record shows them: at most `most`; what is done or far away is counted instead.
    #[must_use]
    pub fn statuses(&self, most: usize) -> Vec<StepStatus> {
        let first =
            self.steps.iter().position(|step| step.state != StepState::Done).unwrap_or(self.steps.len());
        let skip = if self.steps.len() > most { first.min(self.steps.len().saturating_sub(most)) } else { 0 };
        let counted =
            |count: usize, state| StepStatus { step: format!("{count} more"), state, reason: String::new() };
        let mut statuses = Vec::new();
        if skip > 0 {
            statuses.push(counted(skip, StepState::Done));
        }
        statuses.extend(self.steps.iter().skip(skip).take(most).map(Step::status));
        let left = self.steps.len().saturating_sub(skip + most);
        if left > 0 {
            statuses.push(counted(left, StepState::Pending));
        }
        statuses
    }

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
        let Self { desired, phase, steps, actions, waiting, moved: _, total: _ } = self;
        let (from, to) = (&desired.from, &desired.to);
        let way = match desired.direction() {
            Direction::Forward => format!("{from} to {to}"),
            Direction::BackOnAbort => format!("{from} to {to}, going back since spec.abort is set"),
            Direction::BackOnEdit => {
                format!("{from} to {to}, going back since the MeshConfig asks for {from}")
            }
        };
        writeln!(f, "mesh {}, {way}: {phase:?}, {}", desired.mesh, self.progress())?;
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
