//! All tests of this crate, in one binary. Those that touch the network re-execute themselves in namespaces of
//! their own (`support::isolated`), so they need root and disturb nobody.

#[path = "all/support.rs"]
mod support;

#[path = "all/bootstrap.rs"]
mod bootstrap;
#[path = "all/certificate.rs"]
mod certificate;
#[path = "all/environment.rs"]
mod environment;
#[path = "all/judgement.rs"]
mod judgement;
#[path = "all/redirect_network.rs"]
mod redirect_network;
#[path = "all/redirect_rules.rs"]
mod redirect_rules;
#[path = "all/sidecar.rs"]
mod sidecar;
