//! The controller with real parts: Envoy, and an API server.

// clippy.toml allows them in `#[test]` functions and `cfg(test)` modules only; this whole file is a test.
#![allow(clippy::unwrap_used)]

#[path = "all/api.rs"]
mod api;
#[path = "all/envoy.rs"]
mod envoy;
#[path = "all/last_good.rs"]
mod last_good;
#[path = "all/leave.rs"]
mod leave;
#[path = "all/snapshots.rs"]
mod snapshots;
#[path = "all/streams.rs"]
mod streams;
#[path = "all/support.rs"]
mod support;
