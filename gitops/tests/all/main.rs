//! Fetching through the worker's process: from real repositories, over the file system and over real git smart HTTP,
//! and from servers that mean harm.

mod confined;
mod corpus;
mod fetch;
mod git_server;
mod hostile;
mod https;
mod scripted;
mod work_tree;

use std::path::Path;

use gitops::worker::{Addresses, Program, Worker};

/// A worker whose servers may be on this machine, as those of these tests are.
fn worker(folder: &Path) -> Worker {
    let allowed = vec!["127.0.0.0/8".parse().expect("a range")];
    Worker {
        program: Program::at(env!("CARGO_BIN_EXE_git-worker")),
        folder: folder.to_owned(),
        addresses: Addresses { allowed, refused: Vec::new() },
    }
}
