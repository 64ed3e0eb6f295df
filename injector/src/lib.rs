//! Admission: gives pods their sidecar ([`inject`]) and refuses policies that can never be right ([`validate`]).
//!
//! ```text
//!  Pod + NamespaceMeta + Settings ──inject──▶ Inject(Patch) | Skip(Reason, Patch) | Deny(Problem)
//!        ▲                ▲    ▲
//!        │                │    └ settings: MeshConfig + command line      eligibility: why not
//!  AdmissionReview    watched namespaces                                  overrides: annotations of the pod
//!        └── admission ──▶ AdmissionReview                                sidecar, probes: what is added
//! ```
//!
//! Everything here is pure: no clock, no socket, no Kubernetes client. The daemon (`main.rs`) is the thin shell
//! around it; the command line uses the same functions offline.

pub mod admission;
pub mod advice;
pub mod config;
pub mod decision;
mod eligibility;
pub mod inject;
pub mod overrides;
mod probes;
mod resources;
pub mod settings;
mod sidecar;
pub mod validate;

pub use decision::{Decision, DenyReason, Problem, Reason};
pub use inject::inject;
pub use settings::{NamespaceMeta, Settings};
pub use sidecar::FORMAT;
