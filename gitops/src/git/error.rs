//! Why a commit could not be fetched, and what to do about it.

use super::MAX_RECEIVED_BYTES;

/// Why a commit could not be fetched. The text says what to do; it holds no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The URL cannot be used.
    #[error("the URL cannot be used: {message}")]
    InvalidUrl {
        /// What is wrong with it.
        message: String,
    },
    /// The branch, tag or commit cannot be the name of one.
    #[error("{what} {name:?} is not a valid name; correct `ref`")]
    InvalidReference {
        /// `branch`, `tag` or `commit`.
        what: &'static str,
        /// What was written, shortened.
        name: String,
    },
    /// `path` leads out of the repository or the like.
    #[error("{0}")]
    InvalidPath(#[from] crate::path::NotARepoPath),
    /// Hidden files are never read.
    #[error(
        "`path` {path:?} holds a name that begins with '.', and such folders are not read; use another folder"
    )]
    HiddenPath {
        /// What was written.
        path: String,
    },
    /// There is no repository.
    #[error("there is no repository at {place}; check `url` (a private repository may look the same)")]
    RepositoryNotFound {
        /// Host or path.
        place: String,
    },
    /// The server wants credentials.
    #[error("{place} demands credentials, which are not supported yet; make the repository readable without")]
    AuthenticationRequired {
        /// Host.
        place: String,
    },
    /// No commit at all.
    #[error("the repository is empty; push a first commit")]
    EmptyRepository,
    /// The branch isn't there.
    #[error("there is no branch {name:?}{}", others(.existing))]
    BranchNotFound {
        /// What was asked for.
        name: String,
        /// Some that exist.
        existing: Vec<String>,
    },
    /// The tag isn't there.
    #[error("there is no tag {name:?}{}", others(.existing))]
    TagNotFound {
        /// What was asked for.
        name: String,
        /// Some that exist.
        existing: Vec<String>,
    },
    /// The commit isn't there, or no branch or tag leads to it.
    #[error("no branch or tag leads to commit {id}; push it to a branch, or correct `ref.commit`")]
    CommitNotFound {
        /// What was asked for.
        id: String,
    },
    /// The folder isn't there.
    #[error("there is no folder {path:?} in commit {commit}; correct `path` or commit the folder")]
    PathNotFound {
        /// What was asked for.
        path: String,
        /// Commit, shortened.
        commit: String,
    },
    /// The server sends the caller to another host.
    #[error(
        "the server redirects to another host, which is not followed; write the new address into `url` ({message})"
    )]
    Redirected {
        /// Which.
        message: String,
    },
    /// The local repository belongs to somebody else (git's `safe.directory`).
    #[error(
        "{path} belongs to another user than the operator; change its owner, add it to safe.directory in the \
         operator's git configuration, or serve it over http"
    )]
    NotOwned {
        /// Path.
        path: String,
    },
    /// No answer.
    #[error("{place} cannot be reached: {message}")]
    Unreachable {
        /// Host.
        place: String,
        /// Which way.
        message: String,
    },
    /// An answer that isn't git's.
    #[error("{place} does not answer as a git server: {message}")]
    Protocol {
        /// Host or path.
        place: String,
        /// libgit2's words.
        message: String,
    },
    /// Certificate of the server.
    #[error("the TLS certificate of {place} is not trusted: {message}")]
    Certificate {
        /// Host.
        place: String,
        /// libgit2's words.
        message: String,
    },
    /// The deadline is over.
    #[error("no complete answer in time; the server is slow, hangs or the repository is large")]
    Timeout,
    /// The caller said so.
    #[error("cancelled")]
    Cancelled,
    /// More than we take.
    #[error("the repository sends more than {} MiB; keep policies in a repository of their own", MAX_RECEIVED_BYTES >> 20)]
    TooLarge,
    /// Too many earlier fetches hang in the network.
    #[error("too many earlier fetches still hang without an answer; nothing new is fetched until they end")]
    TooManyStuck,
    /// The server's answer broke the client.
    #[error("the server's answer cannot be read; it is not a sound git repository")]
    Broken,
    /// Our own disk or process.
    #[error("{message}")]
    Local {
        /// What.
        message: String,
    },
}

fn others(existing: &[String]) -> String {
    if existing.is_empty() {
        "; correct `ref` or push it".to_owned()
    } else {
        format!("; there are {}; correct `ref` or push it", existing.join(", "))
    }
}

impl FetchError {
    /// The variant's name: CamelCase, for conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidUrl { .. } => "InvalidUrl",
            Self::InvalidReference { .. } => "InvalidReference",
            Self::InvalidPath(_) => "InvalidPath",
            Self::HiddenPath { .. } => "HiddenPath",
            Self::RepositoryNotFound { .. } => "RepositoryNotFound",
            Self::AuthenticationRequired { .. } => "AuthenticationRequired",
            Self::EmptyRepository => "EmptyRepository",
            Self::BranchNotFound { .. } => "BranchNotFound",
            Self::TagNotFound { .. } => "TagNotFound",
            Self::CommitNotFound { .. } => "CommitNotFound",
            Self::PathNotFound { .. } => "PathNotFound",
            Self::Redirected { .. } => "Redirected",
            Self::NotOwned { .. } => "NotOwned",
            Self::Unreachable { .. } => "Unreachable",
            Self::Protocol { .. } => "Protocol",
            Self::Certificate { .. } => "Certificate",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
            Self::TooLarge => "TooLarge",
            Self::TooManyStuck => "TooManyStuck",
            Self::Broken => "Broken",
            Self::Local { .. } => "Local",
        }
    }

    /// Whether it may go away without anybody changing the source or the repository.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Protocol { .. }
                | Self::Timeout
                | Self::Cancelled
                | Self::TooManyStuck
                | Self::Broken
                | Self::Local { .. }
        )
    }
}
