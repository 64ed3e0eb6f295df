//! What is said of a workload with pods that escaped injection, and what people say about them.

use std::fmt;

use crate::waiting::{Place, WaitingOn};
use crate::workload::{Manner, Stays};

/// A person's word on a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Its pods may be restarted.
    Approved,
    /// They may not.
    Paused,
    /// Something else. Who wrote it meant something, so nothing is restarted, and it is said.
    Unknown(String),
}

/// Letters of an unknown word that are repeated.
const MOST_LETTERS: usize = 40;

impl Word {
    /// Reads the annotation.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "Approved" => Self::Approved,
            "Paused" => Self::Paused,
            other => Self::Unknown(other.chars().filter(|c| !c.is_control()).take(MOST_LETTERS).collect()),
        }
    }
}

/// What is done now, or why nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// One of its pods is restarted.
    Restarting(Manner),
    /// It is not restarted by anybody but a person.
    Left(Stays),
    /// An upgrade moves pods.
    Upgrade(String),
    /// A person has to approve.
    Approval,
    /// A person said that it may not be.
    Paused,
    /// A person said something that is neither.
    UnknownWord(String),
    /// The new pod would have no sidecar either.
    NotInjecting(WaitingOn),
    /// What an upgrade would wait for, too.
    Waiting(WaitingOn),
    /// Another workload is restarted first.
    Turn(Place),
    /// New pods had no sidecar either, so often.
    EscapedAgain(u32),
}

impl State {
    /// CamelCase.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Restarting(_) => "Restarting",
            Self::Left(Stays::Job) => "JobEndsByItself",
            Self::Left(Stays::BarePod) => "NobodyMakesItAgain",
            Self::Left(Stays::UnknownController) => "UnknownController",
            Self::Upgrade(_) => "UpgradeRuns",
            Self::Approval => "AwaitingApproval",
            Self::Paused => "Paused",
            Self::UnknownWord(_) => "UnknownWord",
            Self::NotInjecting(_) => "WouldNotBeInjected",
            Self::Waiting(wait) => wait.reason(),
            Self::Turn(_) => "OthersFirst",
            Self::EscapedAgain(_) => "EscapedAgain",
        }
    }

    /// Whether it may change without a person or an upgrade's end, so that it is worth looking again soon.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        match self {
            Self::Restarting(_) | Self::Turn(_) | Self::NotInjecting(_) => true,
            Self::Waiting(wait) => !wait.needs_a_person(),
            Self::Left(_) | Self::Upgrade(_) | Self::Approval | Self::EscapedAgain(_) => false,
            Self::Paused | Self::UnknownWord(_) => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = crds::labels::RESTART_UNINJECTED;
        match self {
            Self::Restarting(how) => write!(f, "restarted {how}"),
            Self::Left(Stays::Job) => write!(f, "left: pods of a Job end by themselves"),
            Self::Left(Stays::BarePod) => {
                write!(f, "left: nothing makes this pod again; delete and create it yourself")
            }
            Self::Left(Stays::UnknownController) => {
                write!(f, "left: its controller is unknown to Meshwright; replace its pods yourself")
            }
            Self::Upgrade(name) => write!(f, "waits for the end of MeshUpgrade {name}"),
            Self::Approval => write!(
                f,
                "waits for a person: spec.upgrade.approval is Manual; annotate the namespace with {word}=Approved"
            ),
            Self::Paused => write!(f, "left while the namespace is annotated with {word}=Paused"),
            Self::UnknownWord(said) => write!(
                f,
                "left: the namespace's annotation {word} is \"{said}\", and can only be Approved or Paused; correct it or \
                 take it away"
            ),
            Self::NotInjecting(wait) => write!(f, "new pods would have no sidecar either; waits for {wait}"),
            Self::Waiting(wait) => write!(f, "waits for {wait}"),
            Self::Turn(place) => write!(f, "waits for {place}, which is restarted first"),
            Self::EscapedAgain(times) => write!(
                f,
                "left: new pods had no sidecar either, after {times} restarts; find out why no injector is asked about them \
                 (the namespace's labels, the webhooks and who else changes them), then delete these pods"
            ),
        }
    }
}
