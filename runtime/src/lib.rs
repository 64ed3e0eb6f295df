//! What every daemon needs, and no word of the mesh's domain.
//!
//! ```text
//!              ┌ logging   lines for people on a terminal, JSON elsewhere
//!              ├ admin     /metrics /livez /readyz /debug/state
//!  main.rs ────┼ shutdown  signal → token → drain deadline
//!              ├ lease     one leader among replicas
//!              ├ certificates ──▶ tls (swappable certificate and roots, acceptor)
//!              └ https     one request to one peer over that TLS
//! ```
//!
//! Any daemon may use it; it depends on none of our crates.

pub mod admin;
pub mod certificates;
pub mod https;
pub mod lease;
pub mod logging;
pub mod shutdown;
pub mod tls;

/// Selects the one TLS provider of the process. The first thing that every `main` and test binary does: with no
/// provider selected rustls panics at the first handshake. Calling it again changes nothing.
pub fn install_default() {
    // An error means that a provider is already installed, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
