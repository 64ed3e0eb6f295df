//! Certificates: who may have one, and making it.
//!
//! ```text
//!  POST /v1/certificates ─▶ endpoint ─▶ verifier (token: keys or review) ─▶ pod in the cache?
//!                                          │                                    │
//!                                          ▼                                    ▼
//!                                       Identity ──────────▶ csr ──▶ authority (root) ──▶ chain
//!  Secret meshwright-root-ca ─▶ keeper ─▶ authority, own serving certificate, ConfigMap meshwright-trust-bundle
//! ```
//! The key never leaves the pod (DESIGN, rule 4); nothing here stores or logs a token or a key.

pub mod authority;
pub mod csr;
pub mod endpoint;
pub mod keeper;
pub mod kubernetes;
pub mod refusal;
pub mod token;
pub mod verifier;

#[cfg(test)]
pub(crate) mod testing;
