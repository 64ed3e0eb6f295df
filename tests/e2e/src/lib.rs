//! Drives a real cluster as a person would: with `kubectl`, `git`, `meshwright` and the scripts of
//! `tests/cluster`. The demo (`make demo`) and the node tier of the tests are made of the same parts.
//!
//! ```text
//!  bin/demo ─┐                    ┌─ cluster ─▶ tests/cluster/cluster, kubectl
//!            ├─▶ story (phases) ──┼─ git ─────▶ git push, through a port-forward
//!  tests/* ──┘                    └─ load ────▶ the load generators' logs
//! ```
//!
//! Only tests and the demo may use it.

pub mod blink;
pub mod cluster;
pub mod git;
pub mod load;
pub mod node;
pub mod pod;
pub mod shell;
pub mod story;
pub mod summary;
