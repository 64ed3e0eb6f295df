//! Upgrades as values: which releases exist, which may follow which, what has to happen next, and why not more.
//!
//! ```text
//!  releases/*.yaml ──▶ catalogue ──┐
//!  Observed, Desired ──────────────┴─▶ plan ──▶ Plan ──▶ display (people, MeshUpgrade.status.steps)
//!                                               │
//!                     Observed ─────────────────┴─▶ check ──▶ notes (none, or the executor refuses)
//! ```
//!
//! Pure: no clock, no network, no Kubernetes client. The operator executes plans; the CLI prints them.

pub mod catalogue;

pub use catalogue::{Catalogue, Release, UnknownVersion, Unreachable};
