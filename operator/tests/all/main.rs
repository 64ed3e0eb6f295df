//! Tests of the operator against a real API server. They fail, with words, when there is none.
#![allow(
    clippy::large_futures,
    reason = "each test awaits its scene once; boxing it would only hide the story"
)]
#![allow(clippy::unwrap_used)] // A test binary: a helper that fails should fail the test.

mod cluster;
mod control_plane;
mod fences;
mod lease;
mod policy_source;
mod restarts;
mod rights;
mod root;
mod rotation;
mod upgrade;
