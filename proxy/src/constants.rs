//! Numbers and names that ARCHITECTURE fixes for the sidecar.
//!
//! They repeat `crds::labels` (this crate depends on no other of ours); `tests/all.rs` asserts that both agree.

use std::ops::RangeInclusive;

/// Group id of the sidecar. Traffic of this group and one of [`PROXY_USERS`] is the sidecar's own, and not redirected.
pub const PROXY_GID: u32 = 1337;
/// User ids of sidecars, of which each pod's has one.
pub const PROXY_USERS: RangeInclusive<u32> = 20_000..=59_999;
/// Envoy's virtual outbound listener.
pub const OUTBOUND_PORT: u16 = 15001;
/// Envoy's virtual inbound listener.
pub const INBOUND_PORT: u16 = 15003;
/// Envoy's admin interface in sidecars of 0.2.0; later ones have a socket in the file system instead.
pub const ENVOY_ADMIN_PORT: u16 = 15000;
/// Readiness, drain and rewritten probes, served by this program.
pub const PROXY_PORT: u16 = 15020;
/// Prometheus metrics of Envoy.
pub const PROMETHEUS_PORT: u16 = 15090;

/// Source address of connections from the sidecar to the application of its own pod (IPv4). The redirect rules
/// tell by it "deliver to the application" from "a call of the pod to its own service", which must come in
/// through the inbound listener like anybody else's.
pub const DELIVERY_SOURCE_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6, where the loopback network has just one address.
pub const DELIVERY_SOURCE_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::LOCALHOST;
