//! What one audience may do: every decision, in the words of the mesh.
//!
//! ```text
//!  view(audience) = rest(audience)                  inbound.rs: who may do what at its ports (TrafficTargets); and
//!                                                   everything else that is not about one service that it calls
//!                 + dialed(service, sight)          outbound.rs: for every service, if and how it can be called,
//!                                                   and where the calls go (TrafficSplits)
//!                 + destination(receiver, sight)    outbound.rs: the pods behind each receiver of those
//! ```
//! OSM's kinds: `egress.rs` what it can call outside the mesh, `ingress.rs` who outside may call it and how much it
//! takes (both in the rest), `upstream.rs` how services are called.
//!
//! A [`Sight`] is all of a caller that matters at one service. The last two are given nothing else of the caller, so
//! callers with the same sight share what is computed and rendered, and [`crate::Incremental`] computes only what a
//! change touches. Which change touches what is said in `touch.rs`: a part that begins to depend on something new
//! must say so there (`tests/all/incremental.rs` finds what was forgotten).

mod egress;
mod headless;
mod inbound;
mod ingress;
mod outbound;
mod touch;
mod types;
mod upstream;

use std::collections::{BTreeMap, BTreeSet};

pub use egress::{EgressHosts, EgressPort, EgressRoute, EgressScope, Scope, Target};
pub use ingress::{Certificate, Ingress, IngressGrant};
pub use types::{
    Access, Destination, Grant, Headless, Inbound, InboundPort, Otherwise, Outbound, PolicyName, Requests,
    Route, Service, ServicePort, View,
};

pub use upstream::Handling;

pub(crate) use egress::{large, openings};
pub(crate) use inbound::{fitting, inbound};
pub(crate) use ingress::{is_member, limits_size};
pub(crate) use outbound::{Sight, accounts, destination, dialed, endpoints, fitting_splits, routes};
pub(crate) use touch::{Reach, ServiceName, Touched, Whole};

use crate::audience::{Audience, Families};
use crate::index::Mesh;
use crate::ingest::ServiceAccount;
use crate::settings::Settings;

/// What the sidecars of an audience do.
#[must_use]
pub fn view(mesh: &Mesh, audience: &Audience) -> View {
    let mut view = rest(mesh, audience);
    let me = ServiceAccount::new(&audience.namespace, &audience.service_account);
    let none = BTreeSet::new();
    for (namespace, space) in mesh.spaces() {
        let reach = Reach::of(mesh, namespace);
        let opened = reach.opened.get(&me).unwrap_or(&none);
        let sight =
            |service: &str| Sight::new(opened, &accounts(mesh, namespace, service), audience.families);
        for service in space.services.keys() {
            let own = sight(service).retrying(mesh, &me, namespace, service);
            let Some(services) = dialed(mesh, namespace, service, &own) else { continue };
            for receiver in receivers(&services) {
                if let Some(destination) = destination(mesh, receiver, &sight(&receiver.service)) {
                    view.outbound.destinations.insert(receiver.clone(), destination);
                }
            }
            view.outbound.services.extend(services);
        }
    }
    view
}

/// Where the calls to some services go.
pub(crate) fn receivers(services: &BTreeMap<ServicePort, Service>) -> BTreeSet<&ServicePort> {
    let to = services.iter().flat_map(|(key, service)| {
        let receivers = service.routes.iter().flat_map(|route| route.to.keys());
        let receivers = receivers.chain(service.connections.keys());
        // What goes to a headless service itself goes to the pod that was dialed.
        receivers.filter(move |receiver| service.headless.is_none() || *receiver != key)
    });
    to.collect()
}

/// What is neither about a service that is called nor about the pods behind one.
pub(crate) fn rest(mesh: &Mesh, audience: &Audience) -> View {
    let inbound = inbound(mesh, audience);
    let mut view = View { families: audience.families, inbound, ..base(mesh.settings()) };
    let me = ServiceAccount::new(&audience.namespace, &audience.service_account);
    view.outbound.egress = egress::egress(mesh, &me);
    view
}

/// What every audience's view begins with.
pub(crate) fn base(settings: &Settings) -> View {
    View {
        trust_domain: settings.trust_domain.clone(),
        access_log: settings.access_log,
        families: Families::V4,
        outbound: outbound::nothing(settings),
        inbound: Inbound { mtls: settings.mtls, ports: BTreeMap::new() },
    }
}
