//! What holds for the repository as a whole, and what is generated from its manifests.
//!
//! ```text
//!  config/rbac/*.yaml ──▶ rights ──▶ docs/security/rights.md
//!  what `meshwright install` would apply ──▶ chart ──▶ config/helm/meshwright/templates
//!  fuzz/ ──▶ fuzz: the ways in as functions of bytes
//!  the programs' own text ──▶ source
//!  tests ──▶ tests/preflight, images/, config/, what operator and injector build
//! ```

pub mod chart;
pub mod fuzz;
pub mod pod_security;
pub mod rights;
pub mod source;

/// The repository's root.
#[must_use]
pub fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
