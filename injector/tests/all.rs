//! The injector's tests over its public functions.

// A helper of a test may fail as the test itself may.
#![allow(clippy::unwrap_used)]

mod admission;
mod api;
mod cluster;
mod format;
mod fuzz;
mod golden;
mod rules;
mod validate;
