//! The controller: see `main.rs` for the picture, the flags and what it may do.
//!
//! A library so that tests and benches run the real thing in their own process.

pub mod certificates;
pub mod daemon;
pub mod fleet;
pub mod identity;
pub mod metrics;
pub mod snapshots;
pub mod watch;
pub mod xds;
