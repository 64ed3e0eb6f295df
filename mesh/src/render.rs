//! A view as Envoy resources. Takes no decision.
//!
//! ```text
//!  outbound.rs  clusters, load assignments, listeners and routes of the services that are called
//!  inbound.rs   the inbound listener, its routes and clusters
//!  http.rs      connection managers and request matching     tcp.rs  connections      rbac.rs  who may do what
//!  tls.rs       identities                                    log.rs  access log       wire.rs  encoding
//! ```
//!
//! Everything here is understood by Envoy 1.36 to 1.40. The names of resources are a contract: docs/ARCHITECTURE.md.

mod http;
mod inbound;
mod log;
mod outbound;
mod rbac;
mod tcp;
mod tls;
mod wire;

use crate::snapshot::{ResourceType, Snapshot};
use crate::view::View;
use wire::Resources;

/// Where a sidecar keeps its secrets (docs/ARCHITECTURE.md, "Secrets inside the pod").
pub const SECRETS: &str = "/run/meshwright/sds";

/// Renders a view. Equal views give equal bytes.
#[must_use]
pub fn render(view: &View) -> Snapshot {
    render_with(view, SECRETS)
}

/// Renders a view for an Envoy that keeps its secrets in another folder, as in tests.
#[must_use]
pub fn render_with(view: &View, secrets: &str) -> Snapshot {
    let context = Context { view, secrets };
    let mut resources = Resources::default();
    inbound::inbound(context, &mut resources);
    outbound::outbound(context, &mut resources);
    let mut snapshot = resources.snapshot();
    for kind in ResourceType::ALL {
        snapshot.resources.entry(kind).or_default();
    }
    snapshot
}

/// What every part of a snapshot may need.
#[derive(Clone, Copy)]
struct Context<'a> {
    view: &'a View,
    secrets: &'a str,
}
