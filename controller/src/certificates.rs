//! Certificates: who may have one, and making it.
//!
//! ```text
//!  POST /v1/certificates ─▶ endpoint ─▶ verifier (token: keys or review) ─▶ pod in the cache?
//!                                          │                                    │
//!                                          ▼                                    ▼
//!                                       Identity ──────────▶ csr ──▶ authority (root) ──▶ chain
//!  Secrets meshwright-root-ca* ─▶ root ─┐
//!  MeshConfig status (what signs) ──────┴▶ trust ─▶ keeper ─▶ authority, own serving certificate, published bundle
//!  POST /v1/holdings ─▶ holdings: who trusts and holds what, for the operator
//! ```
//! The key never leaves the pod (DESIGN, rule 4); nothing here stores or logs a token or a key.

pub mod authority;
pub mod csr;
pub mod endpoint;
pub mod holdings;
pub mod keeper;
pub mod kubernetes;
pub mod refusal;
mod reviews;
pub mod root;
pub mod store;
pub mod token;
pub mod trust;
pub mod verifier;

#[cfg(test)]
pub(crate) mod testing;
