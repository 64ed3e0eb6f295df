//! The mesh model: Kubernetes and SMI objects in, what one kind of sidecar may do out, rendered for Envoy.
//!
//! ```text
//!  object ──ingest──▶ part or Problem ──▶ Mesh (index) ──view──▶ View ──render──▶ Snapshot (Envoy's bytes)
//!                                              │                  ▲
//!                                              └── Audience ──────┘        decide: may A call B like this?
//! ```
//!
//! * [`ingest`]: an untrusted object becomes the few facts that matter, or a [`Problem`] that names it.
//! * [`Mesh`]: all parts, and the seal of each Git source (DESIGN, rule 3). Synchronous, no IO.
//! * [`view()`]: every decision, for one [`Audience`], in the words of the mesh.
//! * [`render()`]: the view as Envoy resources. Takes no decision.
//! * [`ResourceName`]: what such a resource is called; a contract.
//! * [`Incremental`]: the same for many audiences, computing only what a change touches.
//! * [`decide()`]: the same model, asked about one call; names the object that says so.
//!
//! Pure: no sockets, no clock, no randomness. The same objects in any order give the same bytes. Everything of ours
//! but `crds` may depend on it.

pub mod audience;
mod authors;
mod budget;
pub mod decide;
pub mod incremental;
pub mod index;
pub mod ingest;
pub mod object;
pub mod problem;
pub mod render;
pub mod resource_name;
pub mod settings;
pub mod snapshot;
pub mod view;

pub use audience::{Audience, Families, NotOurs, PodFacts};
pub use authors::authors;
pub use decide::{Call, Verdict, decide};
pub use incremental::{Delta, Incremental, Work};
pub use index::{Changed, Mesh, What};
pub use object::{Kind, Object, ObjectRef};
pub use problem::{Problem, Reason};
pub use render::render;
pub use resource_name::ResourceName;
pub use settings::Settings;
pub use snapshot::{Resource, ResourceType, Snapshot};
pub use view::{View, view};
