//! Upgrades played against a small model of a cluster: stories with printed plans, and many random ones.
//!
//! ```text
//!  World ──observe──▶ plan ──▶ check ──▶ execute (all, some or stale) ──▶ World ──tick──▶ …
//! ```

#![allow(clippy::unwrap_used)] // A test binary: a helper that fails should fail the test.

mod record;
mod safety;
mod simulation;
mod stories;
mod world;
