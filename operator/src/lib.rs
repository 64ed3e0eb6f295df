//! The operator: makes the cluster look like the MeshConfig says, and says in its status how far it is.
//!
//! ```text
//!            ┌ control_plane   MeshConfig → revisions, webhooks, namespaces, trust
//!  main ─────┼ policy_source   Git → policies            each: gather → build (pure) → apply → report
//!  (leader)  ├ upgrade         plan → waves of restarts
//!            └ completion      tells sidecars of pods that shall end
//!                  │
//!                  └ context, apply, conditions, events, fleet: shared by all
//! ```
//! Only the leader runs them; first it makes its own budget (`own`). Nobody depends on this crate; it is a library for its tests.

pub mod apply;
pub mod completion;
pub mod conditions;
pub mod context;
pub mod control_plane;
pub mod events;
pub mod fleet;
pub mod own;
pub mod pace;
pub mod policy_source;
#[cfg(test)]
mod testing;
pub mod upgrade;
