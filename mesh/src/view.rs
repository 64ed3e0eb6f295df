//! What one audience may do: every decision, in the words of the mesh.

mod types;

pub use types::{
    Access, Grant, Inbound, InboundPort, Otherwise, Outbound, PolicyName, Requests, Route, ServicePort,
    Upstream, View,
};

use crate::audience::Audience;
use crate::index::Mesh;

/// What the sidecars of an audience may do.
#[must_use]
pub fn view(mesh: &Mesh, audience: &Audience) -> View {
    let settings = mesh.settings();
    View {
        trust_domain: settings.trust_domain.clone(),
        access_log: settings.access_log,
        outbound: Outbound { otherwise: Otherwise::MeshOnly, services: std::collections::BTreeMap::new() },
        inbound: Inbound { mtls: audience.mtls.0, ports: std::collections::BTreeMap::new() },
    }
}
