//! Fetches the files of one commit: this crate's only IO.
//!
//! ```text
//!  GitSource ─source::Source::new─▶ Source ─fetch─▶ ls-remote ─same head─▶ Unchanged
//!                                                      └─ fresh bare fetch (depth 1 over http) ─tree::read─▶ Fetched
//! ```
//!
//! Each fetch is a new bare repository in a new folder that is gone afterwards: no state to go stale, nothing to
//! lock, no work tree to be attacked through. Off-site redirects are refused, so a source never reaches a host that
//! its URL does not name. libgit2 blocks, so [`fetch`] runs it on a thread of its own and leaves it at the deadline.

mod error;
mod remote;
mod source;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub use error::FetchError;
pub use source::{Place, Reference, Source};

use crate::bundle::Commit;
use crate::path::RepoPath;
use crate::problem::Problem;

/// Most bytes that are taken from a repository's server in one fetch.
pub const MAX_RECEIVED_BYTES: usize = 256 << 20;
/// Fetches that hang inside libgit2 beyond their deadline before new ones are refused.
const MAX_STUCK: usize = 16;
/// How often a waiting caller looks whether it is cancelled.
const GLANCE: Duration = Duration::from_millis(50);
/// Prefix of the folders of running fetches.
const FOLDER_PREFIX: &str = "meshwright-git-";

static STUCK: AtomicUsize = AtomicUsize::new(0);

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
    /// Policy files below the source's path, by their path from the repository's root.
    pub files: BTreeMap<RepoPath, String>,
    /// Files that could not be taken; with any of these the commit is not applied.
    pub problems: Vec<Problem>,
}

/// When a fetch has to end.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Latest end.
    pub deadline: Instant,
    /// Set by the caller to end earlier.
    pub cancel: Arc<AtomicBool>,
}

impl Limits {
    /// So long from now, never cancelled.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, cancel: Arc::default() }
    }

    /// Why to stop, if so.
    fn check(&self) -> Result<(), FetchError> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(FetchError::Cancelled)
        } else if Instant::now() >= self.deadline {
            Err(FetchError::Timeout)
        } else {
            Ok(())
        }
    }
}

/// Fetches the commit that a source names now, unless it is `known`. Blocks; `folder` takes the temporary files.
///
/// # Errors
/// [`FetchError`]; its text says what to do. It never holds more than the host of a URL.
pub fn fetch(
    source: &Source,
    known: Option<&str>,
    folder: &Path,
    limits: &Limits,
) -> Result<Outcome, FetchError> {
    if STUCK.load(Ordering::Relaxed) >= MAX_STUCK {
        return Err(FetchError::TooManyStuck);
    }
    let (sender, receiver) = channel();
    let abandoned = Arc::new(AtomicBool::new(false));
    let job = Job {
        source: source.clone(),
        known: known.map(str::to_owned),
        folder: folder.to_owned(),
        limits: limits.clone(),
    };
    let end = End(Arc::clone(&abandoned));
    let body = move || {
        let _end = end;
        // The caller may have left.
        let _ = sender.send(job.run());
    };
    std::thread::Builder::new()
        .name("git-fetch".to_owned())
        .spawn(body)
        .map_err(|error| FetchError::Local { message: format!("cannot start a thread: {error}") })?;
    loop {
        match receiver.recv_timeout(GLANCE) {
            Ok(result) => return result,
            // git2 panics on a reference whose name is not UTF-8; only that thread is lost.
            Err(RecvTimeoutError::Disconnected) => return Err(FetchError::Broken),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(stop) = limits.check() {
            STUCK.fetch_add(1, Ordering::Relaxed);
            if abandoned.swap(true, Ordering::AcqRel) {
                // It ended just now, before it could see that it was given up.
                STUCK.fetch_sub(1, Ordering::Relaxed);
            }
            return receiver.try_recv().unwrap_or(Err(stop));
        }
    }
}

/// The end of a fetching thread, also by a panic: when the caller has left, it was counted as stuck until now.
struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        if self.0.swap(true, Ordering::AcqRel) {
            STUCK.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

struct Job {
    source: Source,
    known: Option<String>,
    folder: PathBuf,
    limits: Limits,
}

impl Job {
    fn run(&self) -> Result<Outcome, FetchError> {
        let local = |error: std::io::Error| FetchError::Local {
            message: format!("cannot make a folder in {}: {error}", self.folder.display()),
        };
        let folder =
            tempfile::Builder::new().prefix(FOLDER_PREFIX).tempdir_in(&self.folder).map_err(local)?;
        let found = remote::fetch(&self.source, self.known.as_deref(), folder.path(), &self.limits)?;
        let Some((repository, id)) = found else { return Ok(Outcome::Unchanged) };
        let fetched = tree::read(&repository, id, self.source.path.as_ref(), &self.limits)?;
        Ok(Outcome::Fetched(Box::new(fetched)))
    }
}

/// Deletes folders that a killed process left behind. Only for a folder that no other process uses.
pub fn sweep(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX)) {
        // What cannot be deleted now only takes space.
        let _ = std::fs::remove_dir_all(entry.path());
    }
}
