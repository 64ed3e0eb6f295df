//! A view as Envoy resources. Takes no decision.
//!
//! ```text
//!  outbound.rs  clusters, load assignments, listeners and routes of the services that are called
//!  inbound.rs   the inbound listener, its routes and clusters
//!  egress.rs    what is called outside the mesh   ingress.rs  callers outside the mesh, rate limits
//!  upstream.rs  limits, timeouts, retries of what is called
//!  http.rs      connection managers and request matching     tcp.rs  connections      rbac.rs  who may do what
//!  admit.rs     who may connect at all
//!  listen.rs    what listeners look at first                  tls.rs  identities       log.rs   access log
//!  wire.rs      encoding                                      references.rs  which clusters a message names
//! ```
//!
//! Each resource is rendered from one small part of the view ([`piece`] for what belongs to one service), so that a
//! change renders only what it touches.
//!
//! Everything here is understood by Envoy 1.36 to 1.40. The names of resources are a contract: docs/ARCHITECTURE.md.

mod admit;
mod egress;
mod http;
mod inbound;
mod ingress;
mod listen;
mod log;
mod outbound;
mod rbac;
mod references;
mod tcp;
mod tls;
mod upstream;
mod wire;

use crate::snapshot::{ResourceType, Snapshot};
use crate::view::{Destination, Service, ServicePort, View};
use wire::Resources;

/// Where a sidecar keeps its secrets (docs/ARCHITECTURE.md, "Secrets inside the pod").
pub const SECRETS: &str = crds::labels::SECRETS_DIR;

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

/// A part of a view, which is rendered as it would be with the whole. It may use nothing of `base` but what every
/// audience's view begins with.
#[derive(Clone, Copy)]
pub(crate) enum Piece<'a> {
    /// A service that is dialed: listener and routes.
    Dialed(&'a ServicePort, &'a Service),
    /// A receiver, without its endpoints.
    Cluster(&'a ServicePort, &'a Destination),
    /// The endpoints of a receiver.
    Endpoints(&'a ServicePort, &'a Destination),
}

/// Renders a part of a view.
pub(crate) fn piece(base: &View, piece: Piece<'_>) -> Snapshot {
    let context = Context { view: base, secrets: SECRETS };
    let mut resources = Resources::default();
    match piece {
        Piece::Dialed(key, service) => outbound::dialed(context, key, service, &mut resources),
        Piece::Cluster(key, destination) => outbound::cluster(context, key, destination, &mut resources),
        Piece::Endpoints(key, destination) => outbound::endpoints(key, destination, &mut resources),
    }
    resources.snapshot()
}

/// What every part of a snapshot may need.
#[derive(Clone, Copy)]
struct Context<'a> {
    view: &'a View,
    secrets: &'a str,
}
