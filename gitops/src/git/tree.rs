//! Reads policy files out of a commit's tree. Nothing is ever written to a work tree.

use std::collections::BTreeMap;

use git2::{ObjectType, Oid, Repository, Tree, TreeEntry};
use k8s_openapi::jiff::Timestamp;

use super::{FetchError, Fetched};
use crate::bundle::{self, Commit, MAX_FILE_BYTES, MAX_FILES, MAX_TOTAL_BYTES};
use crate::path::RepoPath;
use crate::problem::{Problem, What};

/// Most entries that are looked at.
pub const MAX_ENTRIES: usize = 100_000;
/// Most bytes of one commit or tree object.
const MAX_OBJECT_BYTES: usize = 16 << 20;
/// Longest subject that is kept, in characters.
const MAX_SUBJECT: usize = 100;
const SYMBOLIC_LINK: i32 = 0o120_000;
const SUBMODULE: i32 = 0o160_000;

/// The policy files of a commit, below `path`.
pub fn read(repository: &Repository, id: Oid, path: Option<&RepoPath>) -> Result<Fetched, FetchError> {
    within(repository, id)?;
    let commit = repository.find_commit(id).map_err(|error| damaged(&error))?;
    within(repository, commit.tree_id())?;
    let mut tree = commit.tree().map_err(|error| damaged(&error))?;
    for part in path.into_iter().flat_map(|path| path.as_str().split('/')) {
        let missing = || FetchError::PathNotFound {
            path: path.map(ToString::to_string).unwrap_or_default(),
            commit: id.to_string().chars().take(12).collect(),
        };
        let folder = tree.get_name(part).filter(|entry| entry.kind() == Some(ObjectType::Tree));
        let id = folder.map(|entry| entry.id()).ok_or_else(missing)?;
        within(repository, id)?;
        tree = repository.find_tree(id).map_err(|error| damaged(&error))?;
    }
    let fetched = Fetched {
        commit: describe(&commit),
        seconds: commit.time().seconds(),
        files: BTreeMap::new(),
        problems: Vec::new(),
    };
    let mut reader = Reader { repository, fetched, entries: 0, bytes: 0 };
    reader.walk(&tree, path)?;
    Ok(reader.fetched)
}

fn describe(commit: &git2::Commit<'_>) -> Commit {
    let message = String::from_utf8_lossy(commit.message_bytes());
    let first = message.trim_start().lines().next().unwrap_or_default();
    let subject = first.chars().filter(|c| !c.is_control()).take(MAX_SUBJECT).collect();
    let time = Timestamp::from_second(commit.time().seconds()).unwrap_or(Timestamp::UNIX_EPOCH);
    Commit { id: commit.id().to_string(), subject, time: time.to_string() }
}

/// Refuses an object that would fill the memory, before it is read.
fn within(repository: &Repository, id: Oid) -> Result<(), FetchError> {
    let size = size(repository, id)?;
    if size > MAX_OBJECT_BYTES { Err(FetchError::TooLarge) } else { Ok(()) }
}

fn size(repository: &Repository, id: Oid) -> Result<usize, FetchError> {
    let header = repository.odb().and_then(|odb| odb.read_header(id));
    header.map(|(size, _)| size).map_err(|error| damaged(&error))
}

fn damaged(error: &git2::Error) -> FetchError {
    let message = error.message().chars().filter(|c| !c.is_control()).take(200).collect();
    FetchError::Protocol { place: "the fetched repository".to_owned(), message }
}

struct Reader<'a> {
    repository: &'a Repository,
    fetched: Fetched,
    entries: usize,
    bytes: usize,
}

/// Whether to go on with a folder.
#[derive(PartialEq, Eq)]
enum Walk {
    On,
    /// A limit is broken and reported; the rest is not read.
    Stop,
}

impl Reader<'_> {
    /// The depth is limited by the longest [`RepoPath`].
    fn walk(&mut self, tree: &Tree<'_>, folder: Option<&RepoPath>) -> Result<Walk, FetchError> {
        for entry in tree {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Ok(self.stop(What::TooMuch { of: "files and folders", limit: MAX_ENTRIES }));
            }
            if self.entry(&entry, folder)? == Walk::Stop {
                return Ok(Walk::Stop);
            }
        }
        Ok(Walk::On)
    }

    fn entry(&mut self, entry: &TreeEntry<'_>, folder: Option<&RepoPath>) -> Result<Walk, FetchError> {
        let name = String::from_utf8_lossy(entry.name_bytes()).into_owned();
        if name.starts_with('.') {
            return Ok(Walk::On);
        }
        let full = folder.map_or_else(|| name.clone(), |folder| format!("{folder}/{name}"));
        let is_text = std::str::from_utf8(entry.name_bytes()).is_ok() && !name.contains('/');
        let Some(path) = RepoPath::new(&full).ok().filter(|_| is_text) else {
            return Ok(self.problem(folder, What::BadPath(full.chars().take(80).collect())));
        };
        match (entry.filemode_raw() & 0o170_000, entry.kind()) {
            (SUBMODULE, _) => Ok(self.problem(Some(&path), What::Submodule)),
            // A link without an extension may stand for a folder of policies.
            (SYMBOLIC_LINK, _) if bundle::is_policy_file(&path) || !name.contains('.') => {
                Ok(self.problem(Some(&path), What::SymbolicLink))
            }
            (SYMBOLIC_LINK, _) => Ok(Walk::On),
            (_, Some(ObjectType::Tree)) => {
                within(self.repository, entry.id())?;
                let tree = self.repository.find_tree(entry.id()).map_err(|error| damaged(&error))?;
                self.walk(&tree, Some(&path))
            }
            (_, Some(ObjectType::Blob)) if bundle::is_policy_file(&path) => self.file(path, entry.id()),
            _ => Ok(Walk::On),
        }
    }

    fn file(&mut self, path: RepoPath, id: Oid) -> Result<Walk, FetchError> {
        let bytes = size(self.repository, id)?;
        if bytes > MAX_FILE_BYTES {
            return Ok(self.problem(Some(&path), What::FileTooLarge { bytes, limit: MAX_FILE_BYTES }));
        }
        self.bytes += bytes;
        if self.bytes > MAX_TOTAL_BYTES {
            return Ok(self.stop(What::TooMuch { of: "bytes of policies", limit: MAX_TOTAL_BYTES }));
        }
        if self.fetched.files.len() >= MAX_FILES {
            return Ok(self.stop(What::TooMuch { of: "files of policies", limit: MAX_FILES }));
        }
        let blob = self.repository.find_blob(id).map_err(|error| damaged(&error))?;
        match std::str::from_utf8(blob.content()) {
            Ok(text) => {
                self.fetched.files.insert(path, text.to_owned());
                Ok(Walk::On)
            }
            Err(_) => Ok(self.problem(Some(&path), What::NotText)),
        }
    }

    fn problem(&mut self, path: Option<&RepoPath>, what: What) -> Walk {
        self.fetched.problems.push(Problem { file: path.cloned(), line: 0, what });
        if self.fetched.problems.len() < bundle::MAX_PROBLEMS { Walk::On } else { Walk::Stop }
    }

    fn stop(&mut self, what: What) -> Walk {
        self.fetched.problems.push(Problem::of_commit(what));
        Walk::Stop
    }
}
