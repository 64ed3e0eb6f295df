//! What holds for the repository as a whole.
#![allow(clippy::unwrap_used)] // A test binary: a helper that fails should fail the test.

mod fuzz;
mod images;
mod names;
mod pods;
mod preflight;
mod rights;
