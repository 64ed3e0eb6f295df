//! What keeps a commit from being applied: where it is, what it is, what to do.

use std::fmt;

use crds::PolicyKind;
use crds::policy_source::SourceProblem;
use serde::Serialize;

use crate::path::RepoPath;
use crate::policy::Key;

/// One thing that is wrong with a commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file; none when the problem is about the whole commit.
    pub file: Option<RepoPath>,
    /// Line of the file, from 1; 0 when it is about the whole file.
    pub line: usize,
    /// What is wrong.
    pub what: What,
}

/// What is wrong, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
pub enum What {
    /// Not YAML or JSON.
    #[error("cannot be read: {0}")]
    Syntax(String),
    /// The bytes are not UTF-8.
    #[error("is not UTF-8 text; save it as UTF-8")]
    NotText,
    /// A link in the tree; what it points to may be anywhere.
    #[error("is a symbolic link; only plain files are read, so commit the file itself")]
    SymbolicLink,
    /// Another repository inside this one.
    #[error(
        "is a submodule, which is not fetched; commit the files themselves, or make it a source of its own"
    )]
    Submodule,
    /// A path with a control character or a way out of the repository.
    #[error("{0:?} is not a path that is read; rename the file")]
    BadPath(String),
    /// A file over the limit.
    #[error("has {bytes} bytes, at most {limit} are read; split the file")]
    FileTooLarge {
        /// Its size.
        bytes: usize,
        /// Limit.
        limit: usize,
    },
    /// The commit is over a limit.
    #[error(
        "holds more than {limit} {of}; point `path` at the folder of policies, or split it among sources"
    )]
    TooMuch {
        /// `files`, `objects`, `bytes of policies`, …
        of: &'static str,
        /// Limit.
        limit: usize,
    },
    /// Neither a kind nor an API version.
    #[error(
        "is not a Kubernetes object: `apiVersion` and `kind` are missing; keep other YAML outside `path`"
    )]
    NotAnObject,
    /// A kind that is not a policy.
    #[error(
        "{kind} ({api_version}) is not a policy and is never applied from Git; move it out of `path` \
         (accepted: {})",
        PolicyKind::names()
    )]
    NotAPolicy {
        /// Its kind.
        kind: String,
        /// Its API version.
        api_version: String,
    },
    /// A policy kind in a version that isn't served.
    #[error("{kind} {found} is not served; write apiVersion: {served}")]
    UnknownVersion {
        /// Its kind.
        kind: String,
        /// What was written.
        found: String,
        /// What to write.
        served: String,
    },
    /// A file for kustomize.
    #[error(
        "is for kustomize, which is not run here: without it the other files may mean something else; \
         commit the output of `kustomize build` and point `path` at that"
    )]
    Kustomization,
    /// The type doesn't fit.
    #[error("{kind}: {message}")]
    Schema {
        /// Its kind.
        kind: String,
        /// The parser's words.
        message: String,
    },
    /// A field that the kind doesn't have; dropping it silently could widen a policy.
    #[error("{kind} has no field `{field}`; correct or remove it")]
    UnknownField {
        /// Its kind.
        kind: String,
        /// Path of the field.
        field: String,
    },
    /// A part of `metadata` that Git may not set.
    #[error("`metadata.{0}` may not be set from Git; remove it")]
    ForbiddenMetadata(String),
    /// `metadata.name` is missing or no Kubernetes name.
    #[error("{kind} needs a `metadata.name` of lower-case letters, digits, '-' and '.'; found {found:?}")]
    BadName {
        /// Its kind.
        kind: String,
        /// What was written.
        found: String,
    },
    /// `metadata.namespace` is missing or no Kubernetes namespace.
    #[error(
        "{kind} {name} needs a `metadata.namespace` of lower-case letters, digits and '-'; found {found:?}"
    )]
    BadNamespace {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// What was written.
        found: String,
    },
    /// A team's source with another team's object.
    #[error(
        "{key} is outside namespace {allowed}, and a PolicySource of {allowed} may hold only objects of {allowed}"
    )]
    ForeignNamespace {
        /// The object.
        key: Key,
        /// The source's namespace.
        allowed: String,
    },
    /// A namespace that isn't part of the mesh.
    #[error(
        "{key} is in a namespace that is not part of the mesh; label it {label}, or name it in the MeshConfig's \
         watchedNamespaces",
        label = crds::labels::MESH
    )]
    NamespaceNotInMesh {
        /// The object.
        key: Key,
    },
    /// The same object twice.
    #[error("{key} is also in {other}; remove one of them")]
    Duplicate {
        /// The object.
        key: Key,
        /// Place of the first.
        other: String,
    },
    /// Well-formed, but can never work.
    #[error("{key}: {message}")]
    NeverRight {
        /// The object.
        key: Key,
        /// What and why.
        message: String,
    },
    /// The object exists and nobody put it there from Git.
    #[error(
        "{key} already exists in the cluster, with another spec and not from Git; delete it, or make its spec \
         equal to the one in Git, and it is taken over"
    )]
    AlreadyExists {
        /// The object.
        key: Key,
    },
    /// The object belongs to another source.
    #[error("{key} belongs to PolicySource {owner}; keep it in one of the two repositories")]
    OwnedByOther {
        /// The object.
        key: Key,
        /// `namespace/name` of the other source.
        owner: String,
    },
    /// The API server would store another content than Git says.
    #[error(
        "{key} would not be stored as it is in Git: `{field}` is changed on the way, by an admission webhook or a foreign \
         definition of the kind; nothing of the commit is applied until that is mended"
    )]
    ContentChanged {
        /// The object.
        key: Key,
        /// Path of the first field that differs.
        field: String,
    },
    /// The API server refused the object.
    #[error("{key} was refused by the API server: {message}")]
    Refused {
        /// The object.
        key: Key,
        /// Its words.
        message: String,
    },
}

impl Problem {
    /// A problem at a line of a file.
    #[must_use]
    pub fn at(file: &RepoPath, line: usize, what: What) -> Self {
        Self { file: Some(file.clone()), line, what }
    }

    /// A problem of the whole commit.
    #[must_use]
    pub fn of_commit(what: What) -> Self {
        Self { file: None, line: 0, what }
    }

    /// Whether it says that an object is stored in another way than it was meant.
    #[must_use]
    pub fn is_about(&self, object: &Key) -> bool {
        matches!(&self.what, What::ContentChanged { key, .. } if key == object)
    }

    /// The variant's name: CamelCase, for conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self.what {
            What::Syntax(_) => "Syntax",
            What::NotText => "NotText",
            What::SymbolicLink => "SymbolicLink",
            What::Submodule => "Submodule",
            What::BadPath(_) => "BadPath",
            What::FileTooLarge { .. } => "FileTooLarge",
            What::TooMuch { .. } => "TooMuch",
            What::NotAnObject => "NotAnObject",
            What::NotAPolicy { .. } => "NotAPolicy",
            What::UnknownVersion { .. } => "UnknownVersion",
            What::Kustomization => "Kustomization",
            What::Schema { .. } => "Schema",
            What::UnknownField { .. } => "UnknownField",
            What::ForbiddenMetadata(_) => "ForbiddenMetadata",
            What::BadName { .. } => "BadName",
            What::BadNamespace { .. } => "BadNamespace",
            What::ForeignNamespace { .. } => "ForeignNamespace",
            What::NamespaceNotInMesh { .. } => "NamespaceNotInMesh",
            What::Duplicate { .. } => "Duplicate",
            What::NeverRight { .. } => "NeverRight",
            What::AlreadyExists { .. } => "AlreadyExists",
            What::OwnedByOther { .. } => "OwnedByOther",
            What::ContentChanged { .. } => "ContentChanged",
            What::Refused { .. } => "Refused",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), 0) => write!(f, "{file}: {}", self.what),
            (Some(file), line) => write!(f, "{file}:{line}: {}", self.what),
            (None, _) => write!(f, "the commit {}", self.what),
        }
    }
}

impl From<&Problem> for SourceProblem {
    fn from(problem: &Problem) -> Self {
        Self {
            file: problem.file.as_ref().map(ToString::to_string).unwrap_or_default(),
            line: i32::try_from(problem.line).unwrap_or(0),
            message: problem.what.to_string(),
        }
    }
}
