//! Numbers and names that ARCHITECTURE fixes for the sidecar.

use std::ops::RangeInclusive;

/// Envoy's admin interface in sidecars of 0.2.0; later ones have a socket in the file system instead.
pub use names::ENVOY_ADMIN_PORT;
pub use names::{INBOUND_PORT, OUTBOUND_PORT, PROMETHEUS_PORT, PROXY_PORT};

/// Group id of the sidecar. Traffic of this group and one of [`PROXY_USERS`] is the sidecar's own, and not redirected.
pub const PROXY_GID: u32 = names::PROXY_GID as u32;
/// User ids of sidecars, of which each pod's has one.
pub const PROXY_USERS: RangeInclusive<u32> =
    *names::PROXY_USERS.start() as u32..=*names::PROXY_USERS.end() as u32;

/// Source address of connections from the sidecar to the application of its own pod (IPv4). The redirect rules
/// tell by it "deliver to the application" from "a call of the pod to its own service", which must come in
/// through the inbound listener like anybody else's.
pub const DELIVERY_SOURCE_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6, where the loopback network has just one address.
pub const DELIVERY_SOURCE_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::LOCALHOST;
