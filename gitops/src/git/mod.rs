//! Fetches the files of one commit, by libgit2. It runs in the child process of [`crate::worker`] and nowhere else.
//!
//! ```text
//!  Source ──▶ ls-remote ─same head─▶ Unchanged
//!                └─ fresh bare fetch (depth 1 over http) ─tree::read─▶ Fetched
//! ```
//!
//! Each fetch is a new bare repository in a new folder that is gone afterwards: no state to go stale, nothing to
//! lock, no work tree to be attacked through. Nothing here looks at the time: whoever started the child ends it.

mod error;
mod remote;
mod source;
pub(crate) mod tree;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::FetchError;
pub use source::{Place, Reference, Source};
pub(crate) use tree::MAX_ENTRIES;

use crate::bundle::Commit;
use crate::path::RepoPath;
use crate::problem::Problem;

/// Most bytes that are taken from a repository's server in one fetch.
pub const MAX_RECEIVED_BYTES: usize = 256 << 20;

/// What a fetch found.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The head is still the commit that the caller knows.
    Unchanged,
    /// Another commit.
    Fetched(Box<Fetched>),
}

/// The policy files of one commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// The commit.
    pub commit: Commit,
    /// When it was committed, in seconds since 1970.
    pub seconds: i64,
    /// Policy files below the source's path, by their path from the repository's root.
    pub files: BTreeMap<RepoPath, String>,
    /// Files that could not be taken; with any of these the commit is not applied.
    pub problems: Vec<Problem>,
}

/// Fetches the commit that a source names now, unless it is `known`. Blocks for as long as the server likes; `folder`
/// must not exist yet.
pub(crate) fn fetch(source: &Source, known: Option<&str>, folder: &Path) -> Result<Outcome, FetchError> {
    let found = remote::fetch(source, known, folder)?;
    let Some((repository, id)) = found else { return Ok(Outcome::Unchanged) };
    let fetched = tree::read(&repository, id, source.path.as_ref())?;
    Ok(Outcome::Fetched(Box::new(fetched)))
}
