//! All tests of this crate, in one binary. Those that touch the network re-execute themselves in namespaces of
//! their own (`support::isolated`), so they need root and disturb nobody.

// Clippy exempts only functions that are tests themselves, not their helpers.
#![allow(clippy::unwrap_used)]

#[path = "all/support.rs"]
mod support;

#[path = "all/bootstrap.rs"]
mod bootstrap;
#[path = "all/certificate.rs"]
mod certificate;
#[path = "all/controller.rs"]
mod controller;
#[path = "all/end_of_a_pod.rs"]
mod end_of_a_pod;
#[path = "all/environment.rs"]
mod environment;
#[path = "all/judgement.rs"]
mod judgement;
#[path = "all/load.rs"]
mod load;
#[path = "all/neighbours.rs"]
mod neighbours;
#[path = "all/redirect_network.rs"]
mod redirect_network;
#[path = "all/redirect_rules.rs"]
mod redirect_rules;
#[path = "all/rotation.rs"]
mod rotation;
#[path = "all/sidecar.rs"]
mod sidecar;
#[path = "all/swap.rs"]
mod swap;
