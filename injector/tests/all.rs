//! The injector's tests over its public functions.

// A helper of a test may fail as the test itself may.
#![allow(clippy::unwrap_used)]

mod admission;
mod format;
mod fuzz;
mod golden;
mod rules;
mod validate;
