//! Pid 1 of the sidecar. Of our crates it has `identity` alone.
//!
//! ```text
//!  init container             sidecar container (gid 1337)
//!  ┌───────────────┐   ┌────────────────────────────────────────────────────────────┐
//!  │ init          │   │ run ── certificate ──▶ controller :15012                   │
//!  │  rules (pure) │   │  │        │ sds (files)                                    │
//!  │  iptables     │   │  │        ▼                                                │
//!  └───────────────┘   │  ├─▶ Envoy (child) ◀── bootstrap (pure) ── environment     │
//!                      │  └─▶ server :15020  readyz, probe, hold, drain              │
//!  kubelet ──exec──────┼─▶ wait (postStart), drain (preStop) ──▶ server :15020       │
//!                      └────────────────────────────────────────────────────────────┘
//! ```
//!
//! Pure: [`init::rules`], [`environment`], [`guests`], [`bootstrap`], [`stats`], [`readiness`], [`drain`]'s state machines, [`swap::state`].
//! Everything else is a thin executor around them. Only `main.rs` and the tests use this library.

pub mod bootstrap;
pub mod certificate;
pub mod constants;
pub mod drain;
pub mod environment;
pub mod envoy;
pub mod grpc;
pub mod guests;
pub mod hook_key;
pub mod http_client;
pub mod init;
pub mod pod;
pub mod probe;
pub mod readiness;
pub mod run;
pub mod sds;
pub mod server;
pub mod sidecar;
pub mod stats;
pub mod supervise;
pub mod swap;
pub mod tls;
pub mod upkeep;
pub mod verbs;
