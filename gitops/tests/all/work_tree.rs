//! A work tree made with the real git, to commit into.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository with a work tree on branch `main`.
pub struct WorkTree {
    /// Its folder.
    pub path: PathBuf,
}

impl WorkTree {
    /// A new, empty one.
    pub fn init(path: &Path) -> Self {
        std::fs::create_dir_all(path).expect("folder");
        let tree = Self { path: path.to_owned() };
        tree.git(&["init", "-q", "-b", "main"]);
        tree
    }

    /// Runs git; returns what it prints.
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"])
            .args(["-c", "protocol.file.allow=always"])
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .expect("git is installed");
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Writes files and commits everything; returns the commit's id.
    pub fn commit(&self, subject: &str, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let path = self.path.join(path);
            std::fs::create_dir_all(path.parent().expect("inside the work tree")).expect("folder");
            std::fs::write(path, text).expect("file");
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", subject]);
        self.git(&["rev-parse", "HEAD"])
    }
}
