//! Committing to the git server that runs in the cluster, as a person would: clone, write, commit, push.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::cluster::{Cluster, Forward};
use crate::shell::output;

/// URL of the repository as the operator sees it.
pub const URL: &str = "http://git-server.git.svc.cluster.local:8080/policies.git";

/// A clone of the policies.
#[derive(Debug)]
pub struct Clone {
    folder: PathBuf,
    _forward: Forward,
}

impl Clone {
    /// Starts from an empty folder and the server's repository, whatever it holds.
    ///
    /// # Errors
    /// As git and kubectl say.
    pub fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        Self::of(cluster, "git-server")
    }

    /// The same, of another git server in the namespace `git`.
    ///
    /// # Errors
    /// As git and kubectl say.
    pub fn of(cluster: &Cluster, service: &str) -> anyhow::Result<Self> {
        let forward = cluster.forward("git", &format!("service/{service}"), 8080)?;
        let name = format!("meshwright-policies-{}-{service}-{}", cluster.name, std::process::id());
        let folder = std::env::temp_dir().join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let url = format!("http://127.0.0.1:{}/policies.git", forward.port);
        output(Command::new("git").args(["clone", "-q", &url]).arg(&folder))?;
        let clone = Self { folder, _forward: forward };
        clone.git(&["checkout", "-q", "-B", "main"])?;
        Ok(clone)
    }

    /// Writes a file (or deletes it, for `None`), commits and pushes; returns the commit.
    ///
    /// # Errors
    /// As git says.
    pub fn commit(&self, files: &[(&str, Option<&str>)], message: &str) -> anyhow::Result<String> {
        for (path, content) in files {
            let path = self.folder.join(path);
            match content {
                Some(content) => {
                    std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
                    std::fs::write(&path, content)?;
                }
                None => std::fs::remove_file(&path)?,
            }
        }
        self.git(&["add", "-A"])?;
        self.git(&[
            "-c",
            "user.name=Platform team",
            "-c",
            "user.email=platform@example.org",
            "commit",
            "-q",
            "-m",
            message,
        ])?;
        self.git(&["push", "-q", "origin", "main"])?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    fn git(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(Command::new("git").arg("-C").arg(&self.folder).args(arguments))
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
