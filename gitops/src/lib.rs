//! One Git commit as a bundle of policies.
//!
//! ```text
//!  repository ──worker ──▶ files + problems ──bundle::parse──▶ Bundle + problems ──diff──▶ what changes
//!               (the only IO)                      (pure; yaml)
//! ```
//!
//! The operator applies a [`Bundle`] when there is no [`Problem`] at all; the command line prints both. Whatever
//! comes from a repository is hostile: every size has a limit, every limit has an error that says what to do.

pub mod bundle;
pub mod diff;
pub mod git;
mod judge;
mod metadata;
mod path;
mod policy;
mod problem;
pub mod strangers;
mod unknown;
pub mod worker;
pub mod yaml;

pub use bundle::{Bundle, Commit, Namespaces, Reach, Scope, parse};
pub use diff::{Change, Diff, diff};
pub use path::{NotARepoPath, RepoPath};
pub use policy::{Key, Policy, PolicyKind, PolicySpec};
pub use problem::{Problem, What};
