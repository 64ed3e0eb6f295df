//! Talks to the repository's server: which commit is it, and its objects.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use git2::{
    AutotagOption, Direction, ErrorClass, ErrorCode, FetchOptions, Oid, RemoteCallbacks, RemoteRedirect,
    Repository,
};

use super::source::{Place, Reference, Source};
use super::{FetchError, MAX_RECEIVED_BYTES};

/// Most names of branches or tags that an error lists.
const LISTED: usize = 5;
/// Most objects of one fetch: with each, libgit2's index of a pack grows in memory.
const MAX_OBJECTS: usize = 1_000_000;

/// Why our own callback ended a transfer; libgit2 only says that it was ended.
type Stop = Rc<RefCell<Option<FetchError>>>;

/// A repository that holds the commit, or none when it is the known one.
pub fn fetch(
    source: &Source,
    known: Option<&str>,
    folder: &Path,
) -> Result<Option<(Repository, Oid)>, FetchError> {
    let repository = empty_repository(folder)?;
    let stop = Stop::default();
    let failed = |error: git2::Error| stop.take().unwrap_or_else(|| explain(&error, &source.place));
    let wanted = {
        let mut remote = repository.remote_anonymous(&source.place.to_string()).map_err(failed)?;
        let mut connection =
            remote.connect_auth(Direction::Fetch, Some(callbacks(&stop)), None).map_err(failed)?;
        let heads = connection.list().map_err(failed)?;
        let heads: BTreeMap<_, _> = heads.iter().map(|head| (head.name(), head.oid())).collect();
        let wanted = resolve(&heads, &source.reference)?;
        if wanted.commit.is_some_and(|commit| known == Some(commit.to_string().as_str())) {
            return Ok(None);
        }
        let mut options = FetchOptions::new();
        options.remote_callbacks(callbacks(&stop)).download_tags(AutotagOption::None);
        options.follow_redirects(RemoteRedirect::None);
        // The local transport cannot fetch less than everything.
        if wanted.depth == Depth::Tip && matches!(source.place, Place::Web { .. }) {
            options.depth(1);
        }
        connection.remote().fetch(&wanted.refspecs, Some(&mut options), None).map_err(failed)?;
        wanted
    };
    let commit = repository.find_object(wanted.target, None).and_then(|object| object.peel_to_commit());
    let Ok(id) = commit.map(|commit| commit.id()) else {
        return Err(FetchError::CommitNotFound { id: wanted.target.to_string() });
    };
    Ok((known != Some(id.to_string().as_str())).then_some((repository, id)))
}

/// A new bare repository that refuses off-site redirects. Those inside a host (a missing `.git`) are followed.
fn empty_repository(folder: &Path) -> Result<Repository, FetchError> {
    let make = || {
        let repository = Repository::init_bare(folder)?;
        repository.config()?.set_str("http.followRedirects", "false")?;
        Ok(repository)
    };
    make().map_err(|error: git2::Error| FetchError::Local {
        message: format!("cannot make a repository in a temporary folder: {}", error.message()),
    })
}

/// Ends a transfer when it becomes too large.
fn callbacks<'a>(stop: &Stop) -> RemoteCallbacks<'a> {
    let mut callbacks = RemoteCallbacks::new();
    let stop = Rc::clone(stop);
    callbacks.transfer_progress(move |progress| {
        let fits = progress.received_bytes() <= MAX_RECEIVED_BYTES && progress.total_objects() <= MAX_OBJECTS;
        if !fits {
            stop.replace(Some(FetchError::TooLarge));
        }
        fits
    });
    callbacks
}

/// How much history has to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// The one commit.
    Tip,
    /// Everything: only that tells whether a branch or tag leads to a commit.
    All,
}

struct Wanted {
    refspecs: Vec<String>,
    depth: Depth,
    /// What will be there after the fetch: a commit or an annotated tag.
    target: Oid,
    /// The commit, where the server's list tells it.
    commit: Option<Oid>,
}

fn resolve(heads: &BTreeMap<&str, Oid>, reference: &Reference) -> Result<Wanted, FetchError> {
    if !heads.keys().any(|name| name.starts_with("refs/")) {
        return Err(FetchError::EmptyRepository);
    }
    let existing = |prefix: &str| {
        let names = heads.keys().filter_map(|name| name.strip_prefix(prefix));
        let printable = |name: &&str| !name.ends_with("^{}") && !name.contains(char::is_control);
        names.filter(printable).take(LISTED).map(|name| name.chars().take(80).collect()).collect()
    };
    let tip = |full: String, target: Oid, commit: Oid| Wanted {
        refspecs: vec![format!("+{full}:refs/fetched")],
        depth: Depth::Tip,
        target,
        commit: Some(commit),
    };
    match reference {
        Reference::Branch(name) => {
            let full = format!("refs/heads/{name}");
            let missing =
                || FetchError::BranchNotFound { name: name.clone(), existing: existing("refs/heads/") };
            let id = *heads.get(full.as_str()).ok_or_else(missing)?;
            Ok(tip(full, id, id))
        }
        Reference::Tag(name) => {
            let full = format!("refs/tags/{name}");
            let missing = || FetchError::TagNotFound { name: name.clone(), existing: existing("refs/tags/") };
            let id = *heads.get(full.as_str()).ok_or_else(missing)?;
            let peeled = heads.get(format!("{full}^{{}}").as_str()).copied().unwrap_or(id);
            Ok(tip(full, id, peeled))
        }
        Reference::Commit(id) => {
            let target = Oid::from_str(id).map_err(|_| FetchError::CommitNotFound { id: id.clone() })?;
            // Asking a server for a bare commit id may return one of a fork; what a branch or tag leads to cannot.
            let all = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"].map(str::to_owned).to_vec();
            Ok(Wanted { refspecs: all, depth: Depth::All, target, commit: None })
        }
    }
}

/// Our words for libgit2's. Its messages name hosts and paths, never a body or credentials.
fn explain(error: &git2::Error, place: &Place) -> FetchError {
    let shown = match place {
        Place::Web { host, .. } => host.clone(),
        Place::Local(path) => path.display().to_string(),
    };
    let message: String = error.message().chars().filter(|c| !c.is_control()).take(200).collect();
    let status = message.rsplit_once("unexpected http status code: ").map(|(_, code)| code);
    match (error.class(), error.code()) {
        (_, ErrorCode::Owner) => FetchError::NotOwned { path: shown },
        (_, ErrorCode::Auth) => FetchError::AuthenticationRequired { place: shown },
        (ErrorClass::Http, _)
            if matches!(status, Some("401" | "403")) || message.contains("authentication") =>
        {
            FetchError::AuthenticationRequired { place: shown }
        }
        (ErrorClass::Http, _) if matches!(status, Some("404" | "410")) => {
            FetchError::RepositoryNotFound { place: place.to_string() }
        }
        (ErrorClass::Net, _) if message.contains("cannot redirect") => {
            let to = message.rsplit_once(" to '").map_or("", |(_, to)| to.trim_end_matches('\''));
            FetchError::Redirected { message: format!("to {to}") }
        }
        (ErrorClass::NoMemory, _) => FetchError::TooLarge,
        (_, ErrorCode::Certificate) | (ErrorClass::Ssl, _) => {
            FetchError::Certificate { place: shown, message }
        }
        (_, ErrorCode::Timeout) => FetchError::Timeout,
        (ErrorClass::Repository, _) | (_, ErrorCode::NotFound) if matches!(place, Place::Local(_)) => {
            FetchError::RepositoryNotFound { place: shown }
        }
        (ErrorClass::Os, _) => FetchError::Unreachable { place: shown, message },
        // What something that is no git server says is told to nobody: it may be anything that listens somewhere.
        _ if matches!(place, Place::Web { .. }) => {
            let code = status.filter(|code| code.len() == 3 && code.bytes().all(|c| c.is_ascii_digit()));
            let message = match code {
                Some(code) => format!("its answer has the HTTP status {code}"),
                None => "its answer is not one of git's".to_owned(),
            };
            FetchError::Protocol { place: shown, message }
        }
        _ => FetchError::Protocol { place: shown, message },
    }
}
