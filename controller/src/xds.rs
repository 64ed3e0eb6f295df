//! Delta ADS: what a sidecar is told.
//!
//! ```text
//!  snapshots ──Served──▶ stream (one task per sidecar) ──▶ session (pure) ──▶ wire ──▶ Envoy
//!                             ▲                                                         │
//!                             └──────────────── requests, ACK, NACK ◀───────────────────┘
//! ```

pub mod body;
pub mod door;
pub mod leave;
pub mod pace;
pub mod served;
pub mod server;
pub mod session;
pub mod share;
pub mod text;
pub mod trial;
pub mod wire;
