//! Upgrades as values: which releases exist, which may follow which, what has to happen next, and why not more.
//!
//! ```text
//!  releases/*.yaml ──▶ catalogue ──┐
//!  Observed, Desired ──────────────┴─▶ plan ──▶ Plan ──▶ display (people, MeshUpgrade.status.steps)
//!                                               │
//!                     Observed ─────────────────┴─▶ check ──▶ notes (none, or the executor refuses)
//!
//!  record before + Plan ──▶ ledger::intend ──▶ (executor) ──▶ ledger::settle ──▶ record after: facts are only added
//! ```
//!
//! Pure: no clock, no network, no Kubernetes client. The operator executes plans; the CLI prints them.

pub mod catalogue;
pub mod check;
pub mod display;
pub mod facts;
pub mod ledger;
pub mod plan;
pub mod planner;
pub mod records;
pub mod soak;
pub mod swap;
pub mod uninjected;
pub mod users;
pub mod waiting;
pub mod workload;

pub use catalogue::{Catalogue, Release, UnknownVersion, Unreachable};
pub use check::{Note, check};
pub use facts::{Desired, Observed};
pub use plan::{Action, Plan};
pub use planner::plan;
pub use waiting::WaitingOn;
