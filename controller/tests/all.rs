//! The controller with real parts: Envoy, and an API server.

#[path = "all/api.rs"]
mod api;
#[path = "all/envoy.rs"]
mod envoy;
#[path = "all/support.rs"]
mod support;
