//! What one audience may do: every decision, in the words of the mesh.
//!
//! ```text
//!  outbound.rs  which services it can call, how, and where the calls go (TrafficSplits)
//!  inbound.rs   who may do what at its ports (TrafficTargets)
//! ```

mod inbound;
mod outbound;
mod types;

pub use types::{
    Access, Destination, Grant, Inbound, InboundPort, Otherwise, Outbound, PolicyName, Requests, Route,
    Service, ServicePort, View,
};

pub(crate) use inbound::inbound;
pub(crate) use outbound::{endpoints, routes};

use crate::audience::Audience;
use crate::index::Mesh;

/// What the sidecars of an audience do.
#[must_use]
pub fn view(mesh: &Mesh, audience: &Audience) -> View {
    let settings = mesh.settings();
    View {
        trust_domain: settings.trust_domain.clone(),
        access_log: settings.access_log,
        outbound: outbound::outbound(mesh, audience),
        inbound: inbound(mesh, audience),
    }
}
