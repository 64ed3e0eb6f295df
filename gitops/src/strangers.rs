//! The ways in for bytes of strangers, without a server and without a child: what `house::fuzz` feeds.
//!
//! ```text
//!  pack ──▶ libgit2's index ──▶ its first commit ─┐
//!  tree ──▶ written as an object, under a commit ─┴─▶ tree::read ──▶ files
//!  what a child answers ──▶ worker::protocol
//! ```

use std::io::Write;
use std::path::Path;

use git2::{ObjectType, Oid, Repository, Signature};

use crate::git::tree;
use crate::worker;

/// The pack that a server sends, into a bare repository at `folder`, which must not exist yet. Whether a commit could
/// be read out of it.
#[must_use]
pub fn pack(bytes: &[u8], folder: &Path) -> bool {
    let read = || -> Result<bool, git2::Error> {
        let repository = Repository::init_bare(folder)?;
        let store = repository.odb()?;
        let mut writer = store.packwriter()?;
        writer.write_all(bytes).map_err(|error| git2::Error::from_str(&error.to_string()))?;
        writer.commit()?;
        drop(writer);
        let mut commit = None;
        store.foreach(|id| {
            let kind = store.read_header(*id).ok().map(|(_, kind)| kind);
            commit = commit.or((kind == Some(ObjectType::Commit)).then_some(*id));
            true
        })?;
        Ok(commit.is_some_and(|id| tree::read(&repository, id, None).is_ok()))
    };
    read().unwrap_or_default()
}

/// The content of a tree object, as it lies in a repository at `folder`, which must not exist yet. Its entries may name
/// [`blob`], which is there. Whether it could be read.
#[must_use]
pub fn tree(bytes: &[u8], folder: &Path) -> bool {
    let write = || -> Result<(Repository, Oid), git2::Error> {
        let repository = Repository::init_bare(folder)?;
        let store = repository.odb()?;
        store.write(ObjectType::Blob, BLOB)?;
        let tree = store.write(ObjectType::Tree, bytes)?;
        let author = Signature::new("somebody", "somebody@example.org", &git2::Time::new(0, 0))?;
        let header =
            format!("tree {tree}\nauthor {author} 0 +0000\ncommitter {author} 0 +0000\n\nA commit\n");
        let commit = store.write(ObjectType::Commit, header.as_bytes())?;
        drop(store);
        Ok((repository, commit))
    };
    write().is_ok_and(|(repository, commit)| {
        tree::read(&repository, commit, None).is_ok_and(|fetched| !fetched.files.is_empty())
    })
}

/// The object that [`tree`] has beside the tree.
const BLOB: &[u8] = b"kind: TrafficTarget\n";

/// What a child says that it fetched.
#[must_use]
pub fn answer(bytes: &[u8]) -> bool {
    worker::is_answer(bytes)
}
