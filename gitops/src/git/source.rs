//! A `GitSource` that is fit to be fetched: address, reference and path are checked once, here.

use std::path::PathBuf;

use crds::policy_source::GitSource;

use super::FetchError;
use crate::path::RepoPath;

/// Branch that is followed when nothing is said.
const DEFAULT_BRANCH: &str = "main";

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `http://` or `https://`.
    Web {
        /// The whole URL; without user, query or fragment.
        url: String,
        /// Host, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// An absolute path on this machine.
    Local(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Web { url, .. } => f.write_str(url),
            Self::Local(path) => path.display().fmt(f),
        }
    }
}

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The newest commit of a branch.
    Branch(String),
    /// The commit of a tag.
    Tag(String),
    /// One commit, forever.
    Commit(String),
}

/// What is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The repository.
    pub place: Place,
    /// The commit.
    pub reference: Reference,
    /// Folder below the root; all of it when none.
    pub path: Option<RepoPath>,
}

impl Source {
    /// Checks what a person wrote.
    ///
    /// # Errors
    /// [`FetchError::InvalidUrl`], [`FetchError::InvalidReference`], [`FetchError::InvalidPath`].
    pub fn new(source: &GitSource) -> Result<Self, FetchError> {
        let path = source.path.trim_start_matches("./").trim_matches('/');
        let path = if path.is_empty() || path == "." { None } else { Some(RepoPath::new(path)?) };
        if let Some(hidden) = path.as_ref().filter(|path| path.is_hidden()) {
            return Err(FetchError::HiddenPath { path: hidden.to_string() });
        }
        Ok(Self { place: place(&source.url)?, reference: reference(source)?, path })
    }
}

fn reference(source: &GitSource) -> Result<Reference, FetchError> {
    let wanted = &source.reference;
    let invalid =
        |what, name: &str| FetchError::InvalidReference { what, name: name.chars().take(80).collect() };
    let valid = |kind: &str, name: &str| git2::Reference::is_valid_name(&format!("refs/{kind}/{name}"));
    match (&wanted.commit, &wanted.tag, &wanted.branch) {
        (Some(id), _, _) if id.len() == 40 && id.bytes().all(|c| c.is_ascii_hexdigit()) => {
            Ok(Reference::Commit(id.to_ascii_lowercase()))
        }
        (Some(id), _, _) => Err(invalid("commit", id)),
        (None, Some(tag), _) if valid("tags", tag) => Ok(Reference::Tag(tag.clone())),
        (None, Some(tag), _) => Err(invalid("tag", tag)),
        (None, None, branch) => {
            let branch = branch.as_deref().unwrap_or(DEFAULT_BRANCH);
            let valid = valid("heads", branch);
            if valid { Ok(Reference::Branch(branch.to_owned())) } else { Err(invalid("branch", branch)) }
        }
    }
}

fn place(url: &str) -> Result<Place, FetchError> {
    let invalid = |message: &str| FetchError::InvalidUrl { message: message.to_owned() };
    if url.is_empty() || url.len() > 2048 || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(invalid("it is empty, too long or holds spaces; write it as https://host/path.git"));
    }
    if url.starts_with('/') {
        return Ok(Place::Local(PathBuf::from(url)));
    }
    match url.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest)) {
        Some((scheme, rest)) if scheme == "file" => match rest.starts_with('/') && !rest.contains('%') {
            true => Ok(Place::Local(PathBuf::from(rest))),
            false => Err(invalid("write a file URL as file:///absolute/path, without host and without '%'")),
        },
        Some((scheme, rest)) if scheme == "http" => web(url, rest, 80),
        Some((scheme, rest)) if scheme == "https" => web(url, rest, 443),
        Some((scheme, _)) if scheme == "ssh" || scheme == "git" => Err(invalid(&format!(
            "{scheme}:// is not supported yet; use https://, http:// or an absolute path"
        ))),
        None if url.contains('@') => Err(invalid(
            "user@host:path (ssh) is not supported yet; use https://, http:// or an absolute path",
        )),
        _ => Err(invalid("only https://, http://, file:/// and absolute paths are supported")),
    }
}

fn web(url: &str, rest: &str, default_port: u16) -> Result<Place, FetchError> {
    let invalid = |message: &str| FetchError::InvalidUrl { message: message.to_owned() };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if rest.contains(['?', '#', '\\']) {
        return Err(invalid("a query, a fragment or '\\' has no place in it; remove them"));
    }
    // Whatever stands before '@' may be a password, so it is not repeated.
    if authority.contains('@') {
        return Err(invalid(
            "it holds a user name or password, which everybody who may read this object sees; \
                            remove them from the URL (and change the password)",
        ));
    }
    if path.is_empty() {
        return Err(invalid("it names a host but no repository; write it as https://host/path.git"));
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        None => authority.rsplit_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port
        .map_or(Ok(default_port), |port| port.parse::<u16>().map_err(|_| invalid("its port is no number")))?;
    if host.is_empty() {
        return Err(invalid("it has no host; write it as https://host/path.git"));
    }
    Ok(Place::Web { url: url.to_owned(), host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::policy_source::GitReference;

    fn source(url: &str, reference: GitReference, path: &str) -> Result<Source, FetchError> {
        Source::new(&GitSource { url: url.to_owned(), reference, path: path.to_owned() })
    }

    #[test]
    fn addresses() {
        let host = |url: &str| match source(url, GitReference::default(), "").unwrap().place {
            Place::Web { host, port, .. } => (host, port),
            Place::Local(path) => (path.display().to_string(), 0),
        };
        assert_eq!(host("https://example.com/a.git"), ("example.com".into(), 443));
        assert_eq!(host("http://example.com:8080/a"), ("example.com".into(), 8080));
        assert_eq!(host("HTTP://[::1]:81/a"), ("::1".into(), 81));
        assert_eq!(host("file:///srv/a"), ("/srv/a".into(), 0));
        assert_eq!(host("/srv/a"), ("/srv/a".into(), 0));
        for bad in [
            "",
            "srv/a",
            "git@host:a/b",
            "ssh://h/a",
            "git://h/a",
            "ftp://h/a",
            "https://",
            "https:///a",
            "https://h",
            "https://h:x/a",
            "https://h/a?token=x",
            "https://h/a#b",
            "file://h/a",
            "https://h/a b",
            "ext::sh -c x",
            "https://h\\@e/a",
        ] {
            assert!(source(bad, GitReference::default(), "").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        for url in ["https://u:hunter2@h/a", "http://hunter2@h:1/a"] {
            let error = source(url, GitReference::default(), "").unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn references_and_paths() {
        let named = |branch: Option<&str>, tag: Option<&str>, commit: Option<&str>| GitReference {
            branch: branch.map(str::to_owned),
            tag: tag.map(str::to_owned),
            commit: commit.map(str::to_owned),
        };
        let id = "A".repeat(40);
        let good = source("/a", named(Some("b"), Some("t"), Some(&id)), "./x/y/").unwrap();
        assert_eq!(good.reference, Reference::Commit("a".repeat(40)));
        assert_eq!(good.path.unwrap().as_str(), "x/y");
        assert_eq!(
            source("/a", named(None, None, None), "/").unwrap().reference,
            Reference::Branch("main".into())
        );
        for bad in [
            named(Some("a..b"), None, None),
            named(Some("*"), None, None),
            named(None, Some(""), None),
            named(None, None, Some("abc")),
            named(None, None, Some("HEAD")),
        ] {
            assert!(source("/a", bad, "").is_err());
        }
        assert!(source("/a", named(None, None, None), "../x").is_err());
        assert!(source("/a", named(None, None, None), "a/../../x").is_err());
        assert_eq!(source("/a", named(None, None, None), "a/.b").unwrap_err().reason(), "HiddenPath");
    }
}
