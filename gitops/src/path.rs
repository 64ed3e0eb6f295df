//! A path of a file inside a repository: relative, without any way out of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest path that is accepted, in bytes.
const MAX_LENGTH: usize = 1024;

/// A file's path from the root of the repository, with `/` between its parts.
///
/// Never absolute, never with `.`, `..`, empty parts, backslashes or control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoPath(String);

/// Why a text is not a path inside a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a path inside a repository; write it relative to the repository's root, without '..', '.', \
     empty parts, backslashes or control characters"
)]
pub struct NotARepoPath {
    /// What was written, shortened.
    pub text: String,
}

impl RepoPath {
    /// Checks a path.
    ///
    /// # Errors
    /// [`NotARepoPath`] when it could lead out of the repository or cannot be printed safely.
    pub fn new(text: &str) -> Result<Self, NotARepoPath> {
        let fits = text.len() <= MAX_LENGTH && text.split('/').all(is_part);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotARepoPath { text: text.chars().take(80).collect() })
        }
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a part of the path begins with a dot; such files belong to tools (`.github/`) and are not read.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.0.split('/').any(|part| part.starts_with('.'))
    }

    /// The last part.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

fn is_part(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && !part.contains(|c: char| c == '\\' || c.is_control())
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RepoPath {
    type Error = NotARepoPath;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl From<RepoPath> for String {
    fn from(path: RepoPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out() {
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\nb", "a\0b", "a/.."] {
            assert!(RepoPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(RepoPath::new(&"a".repeat(MAX_LENGTH + 1)).is_err());
        for good in ["a", "a/b.yaml", "..a/b", "ü.yaml", "a b"] {
            assert!(RepoPath::new(good).is_ok(), "{good:?}");
        }
        assert!(RepoPath::new(".github/w.yml").unwrap().is_hidden());
        assert!(!RepoPath::new("a.b/c.yml").unwrap().is_hidden());
    }
}
