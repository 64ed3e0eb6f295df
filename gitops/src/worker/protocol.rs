//! What operator and child say to each other, in frames.
//!
//! ```text
//!  either way:  "MWGIT" version(u8)   then frames: length(u32, big-endian) bytes
//!  request:     one frame, JSON [`Request`]
//!  answer:      one frame, JSON [`Answer`]; after `Fetched` a frame for each file: length of path (u16) path content
//! ```
//! The child may be in somebody else's hands: the reader of an answer believes no length, count, path or text. Both
//! ends are the same program; the version is there so that a mistake in that is an error and not a misreading.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;

use k8s_openapi::jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::confine::Confinement;
use crate::bundle::{Commit, MAX_FILE_BYTES, MAX_FILES, MAX_PROBLEMS, MAX_TOTAL_BYTES};
use crate::git::{Fetched, MAX_ENTRIES};
use crate::path::RepoPath;
use crate::problem::{Problem, What};

/// Version of the frames and of what is in them.
pub const VERSION: u8 = 1;
const MAGIC: &[u8; 5] = b"MWGIT";
/// Longest frame of JSON.
const MAX_JSON: usize = 1 << 20;
/// Longest text that is taken from a child, in characters.
const LONGEST_TEXT: usize = 200;

/// What is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Where from.
    pub place: Where,
    /// Which commit.
    pub reference: Which,
    /// Folder below the root of the repository.
    #[serde(default)]
    pub path: Option<String>,
    /// The commit that is known already.
    #[serde(default)]
    pub known: Option<String>,
    /// The child's own folder.
    pub folder: PathBuf,
}

/// Where from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Where {
    /// Through the relay.
    Web {
        /// What libgit2 is given: it leads to the relay, by http also where the server speaks https.
        url: String,
        /// `127.a.b.c`.
        relay: std::net::SocketAddr,
    },
    /// A path on this machine.
    Local(PathBuf),
}

/// Which commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// The newest of a branch.
    Branch(String),
    /// The one of a tag.
    Tag(String),
    /// This one.
    Commit(String),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What the kernel held the child to; a child that answers before it is confined says nothing.
    #[serde(default)]
    pub confinement: Option<Confinement>,
    /// The result.
    pub result: Found,
}

/// The result of a fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// The head is the known commit.
    Unchanged,
    /// A commit; its files follow.
    Fetched {
        /// 40 hexadecimal digits.
        id: String,
        /// First line of the message.
        subject: String,
        /// Seconds since 1970.
        seconds: i64,
        /// How many frames of files follow.
        files: usize,
        /// What cannot be taken.
        problems: Vec<Flaw>,
    },
    /// Nothing.
    Failed(Failure),
}

/// Why there is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `git::FetchError::reason`.
    pub reason: String,
    /// The name, message or status that goes with it.
    #[serde(default)]
    pub detail: String,
    /// Names that there are instead.
    #[serde(default)]
    pub existing: Vec<String>,
}

/// A file that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flaw {
    /// Which; none for the whole commit.
    #[serde(default)]
    pub file: Option<String>,
    /// What is wrong with it.
    pub kind: Kind,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Not UTF-8.
    NotText,
    /// A link.
    SymbolicLink,
    /// Another repository.
    Submodule,
    /// A name that is not read.
    BadPath(String),
    /// Too large, with its size.
    FileTooLarge(usize),
    /// Too many files and folders.
    TooManyEntries,
    /// Too many files of policies.
    TooManyFiles,
    /// Too many bytes of policies.
    TooManyBytes,
}

impl From<&Problem> for Flaw {
    fn from(problem: &Problem) -> Self {
        let kind = match &problem.what {
            What::NotText => Kind::NotText,
            What::SymbolicLink => Kind::SymbolicLink,
            What::Submodule => Kind::Submodule,
            What::FileTooLarge { bytes, .. } => Kind::FileTooLarge(*bytes),
            What::TooMuch { limit: MAX_ENTRIES, .. } => Kind::TooManyEntries,
            What::TooMuch { limit: MAX_FILES, .. } => Kind::TooManyFiles,
            What::TooMuch { .. } => Kind::TooManyBytes,
            What::BadPath(path) => Kind::BadPath(path.clone()),
            // Reading a tree makes no other; were there one, the file would not be taken all the same.
            other => Kind::BadPath(other.to_string()),
        };
        Self { file: problem.file.as_ref().map(ToString::to_string), kind }
    }
}

impl Flaw {
    fn problem(self) -> Result<Problem, BadAnswer> {
        let file = self.file.map(|file| RepoPath::new(&file)).transpose().map_err(|_| BadAnswer::Path)?;
        let what = match self.kind {
            Kind::NotText => What::NotText,
            Kind::SymbolicLink => What::SymbolicLink,
            Kind::Submodule => What::Submodule,
            Kind::BadPath(path) => What::BadPath(printable(&path).chars().take(80).collect()),
            Kind::FileTooLarge(bytes) => What::FileTooLarge { bytes, limit: MAX_FILE_BYTES },
            Kind::TooManyEntries => What::TooMuch { of: "files and folders", limit: MAX_ENTRIES },
            Kind::TooManyFiles => What::TooMuch { of: "files of policies", limit: MAX_FILES },
            Kind::TooManyBytes => What::TooMuch { of: "bytes of policies", limit: MAX_TOTAL_BYTES },
        };
        Ok(Problem { file, line: 0, what })
    }
}

/// Why an answer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It ended too early, or is not in frames.
    #[error("it is cut short")]
    Short,
    /// Not ours.
    #[error("it is of another version of the program")]
    Version,
    /// A frame that is too long, or too many of them.
    #[error("it is larger than anything that is taken")]
    TooLarge,
    /// Not what the frame should hold.
    #[error("it cannot be read")]
    Content,
    /// A path that is none.
    #[error("it names a path that is none")]
    Path,
}

/// Writes the beginning and one value.
pub fn write<T: Serialize>(to: &mut impl Write, value: &T) -> std::io::Result<()> {
    to.write_all(MAGIC)?;
    to.write_all(&[VERSION])?;
    frame(to, &[&serde_json::to_vec(value)?])
}

/// Writes the file of a commit.
pub fn write_file(to: &mut impl Write, path: &str, text: &str) -> std::io::Result<()> {
    let length = u16::try_from(path.len()).unwrap_or(u16::MAX);
    frame(to, &[&length.to_be_bytes(), path.as_bytes(), text.as_bytes()])
}

fn frame(to: &mut impl Write, parts: &[&[u8]]) -> std::io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    to.write_all(&length.to_be_bytes())?;
    parts.iter().try_for_each(|part| to.write_all(part))
}

/// Reads the beginning and one value.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, BadAnswer> {
    let mut magic = [0; MAGIC.len() + 1];
    from.read_exact(&mut magic).map_err(|_| BadAnswer::Short)?;
    if !magic.starts_with(MAGIC) || magic[MAGIC.len()] != VERSION {
        return Err(BadAnswer::Version);
    }
    serde_json::from_slice(&next(from, MAX_JSON)?).map_err(|_| BadAnswer::Content)
}

fn next(from: &mut impl Read, most: usize) -> Result<Vec<u8>, BadAnswer> {
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(|_| BadAnswer::Short)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > most {
        return Err(BadAnswer::TooLarge);
    }
    let mut bytes = Vec::new();
    // Grows with what comes, not with what is promised.
    from.take(length as u64).read_to_end(&mut bytes).map_err(|_| BadAnswer::Short)?;
    if bytes.len() == length { Ok(bytes) } else { Err(BadAnswer::Short) }
}

/// What a child answered, checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Checked {
    /// The head is the known commit.
    Unchanged,
    /// A commit and its files.
    Fetched(Box<Fetched>),
    /// Nothing, and why.
    Failed(Failure),
}

/// Reads a whole answer.
pub fn read_answer(from: &mut impl Read) -> Result<(Option<Confinement>, Checked), BadAnswer> {
    let answer: Answer = read(from)?;
    let checked = match answer.result {
        Found::Unchanged => Checked::Unchanged,
        Found::Failed(failure) => Checked::Failed(Failure {
            reason: printable(&failure.reason),
            detail: printable(&failure.detail),
            existing: failure.existing.iter().take(5).map(|name| printable(name)).collect(),
        }),
        Found::Fetched { id, subject, seconds, files, problems } => {
            if id.len() != 40 || !id.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(BadAnswer::Content);
            }
            if files > MAX_FILES || problems.len() > MAX_PROBLEMS {
                return Err(BadAnswer::TooLarge);
            }
            let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
            let commit = Commit {
                id,
                subject: printable(&subject).chars().take(100).collect(),
                time: time.to_string(),
            };
            let problems = problems.into_iter().map(Flaw::problem).collect::<Result<_, _>>()?;
            Checked::Fetched(Box::new(Fetched { commit, seconds, files: read_files(from, files)?, problems }))
        }
    };
    Ok((answer.confinement, checked))
}

fn read_files(from: &mut impl Read, count: usize) -> Result<BTreeMap<RepoPath, String>, BadAnswer> {
    let mut files = BTreeMap::new();
    let mut bytes = 0;
    for _ in 0..count {
        let frame = next(from, 2 + usize::from(u16::MAX) + MAX_FILE_BYTES)?;
        let (length, rest) = frame.split_at_checked(2).ok_or(BadAnswer::Content)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let (path, text) = rest.split_at_checked(length).ok_or(BadAnswer::Content)?;
        bytes += text.len();
        if text.len() > MAX_FILE_BYTES || bytes > MAX_TOTAL_BYTES {
            return Err(BadAnswer::TooLarge);
        }
        let path = std::str::from_utf8(path).map_err(|_| BadAnswer::Path)?;
        let path = RepoPath::new(path).map_err(|_| BadAnswer::Path)?;
        let text = std::str::from_utf8(text).map_err(|_| BadAnswer::Content)?;
        if files.insert(path, text.to_owned()).is_some() {
            return Err(BadAnswer::Content);
        }
    }
    Ok(files)
}

/// Fit to be shown: without control characters, shortened.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
