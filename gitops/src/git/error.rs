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
        "the server redirects to another host or port, which is not followed; write the new address into `url` \
         ({message})"
    )]
    Redirected {
        /// Which.
        message: String,
    },
    /// The local repository belongs to somebody else (git's `safe.directory`).
    #[error(
        "{path} belongs to another user than the operator; change its owner, add it to safe.directory in the \
         operator's /etc/gitconfig, or serve it over http"
    )]
    NotOwned {
        /// Path.
        path: String,
    },
    /// Nothing that a repository may have.
    #[error(
        "{host} has an address that no repository is fetched from ({class}); use another host, or have the operator \
         started with --git-allow for it"
    )]
    ForbiddenAddress {
        /// Host.
        host: String,
        /// `loopback`, `link-local`, …
        class: &'static str,
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
            Self::ForbiddenAddress { .. } => "ForbiddenAddress",
            Self::Unreachable { .. } => "Unreachable",
            Self::Protocol { .. } => "Protocol",
            Self::Certificate { .. } => "Certificate",
            Self::Timeout => "Timeout",
            Self::Cancelled => "Cancelled",
            Self::TooLarge => "TooLarge",
            Self::Broken => "Broken",
            Self::Local { .. } => "Local",
        }
    }

    /// What a child tells besides the reason; the rest its parent knows better.
    pub(crate) fn detail(&self) -> (String, Vec<String>) {
        match self {
            Self::BranchNotFound { existing, .. } | Self::TagNotFound { existing, .. } => {
                (String::new(), existing.clone())
            }
            Self::PathNotFound { commit, .. } => (commit.clone(), Vec::new()),
            Self::InvalidUrl { message }
            | Self::Redirected { message }
            | Self::Unreachable { message, .. }
            | Self::Protocol { message, .. }
            | Self::Certificate { message, .. }
            | Self::Local { message } => (message.clone(), Vec::new()),
            Self::InvalidReference { .. }
            | Self::InvalidPath(_)
            | Self::HiddenPath { .. }
            | Self::RepositoryNotFound { .. }
            | Self::AuthenticationRequired { .. }
            | Self::EmptyRepository
            | Self::CommitNotFound { .. }
            | Self::NotOwned { .. }
            | Self::ForbiddenAddress { .. }
            | Self::Timeout
            | Self::Cancelled
            | Self::TooLarge
            | Self::Broken => (String::new(), Vec::new()),
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
                | Self::Broken
                | Self::Local { .. }
        )
    }
}
