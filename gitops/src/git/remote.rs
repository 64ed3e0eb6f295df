//! Talks to the repository's server: which commit is it, and its objects.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use git2::{AutotagOption, Direction, ErrorClass, ErrorCode, FetchOptions, Oid, RemoteCallbacks, Repository};

use super::source::{Place, Reference, Source};
use super::{FetchError, Limits, MAX_RECEIVED_BYTES};

/// Most names of branches or tags that an error lists.
const LISTED: usize = 5;
/// Longest wait for a TCP connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Why our own callback ended a transfer; libgit2 only says that it was ended.
type Stop = Rc<RefCell<Option<FetchError>>>;

/// A repository that holds the commit, or none when it is the known one.
pub fn fetch(
    source: &Source,
    known: Option<&str>,
    folder: &Path,
    limits: &Limits,
) -> Result<Option<(Repository, Oid)>, FetchError> {
    if matches!((&source.reference, known), (Reference::Commit(id), Some(known)) if id == known) {
        return Ok(None);
    }
    reachable(&source.place, limits)?;
    let repository = empty_repository(folder)?;
    let stop = Stop::default();
    let failed = |error: git2::Error| stop.take().unwrap_or_else(|| explain(&error, &source.place));
    let wanted = {
        let mut remote = repository.remote_anonymous(&source.place.to_string()).map_err(failed)?;
        let mut connection =
            remote.connect_auth(Direction::Fetch, Some(callbacks(limits, &stop)), None).map_err(failed)?;
        let heads = connection.list().map_err(failed)?;
        let heads: BTreeMap<_, _> = heads.iter().map(|head| (head.name(), head.oid())).collect();
        let wanted = resolve(&heads, &source.reference)?;
        if wanted.commit.is_some_and(|commit| known == Some(commit.to_string().as_str())) {
            return Ok(None);
        }
        let mut options = FetchOptions::new();
        options.remote_callbacks(callbacks(limits, &stop)).download_tags(AutotagOption::None);
        // The local transport cannot fetch less than everything.
        if wanted.depth == Depth::Tip && matches!(source.place, Place::Web { .. }) {
            options.depth(1);
        }
        connection.remote().fetch(&wanted.refspecs, Some(&mut options), None).map_err(failed)?;
        wanted
    };
    limits.check()?;
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

/// Ends a transfer at the deadline, when cancelled or when it becomes too large.
fn callbacks<'a>(limits: &'a Limits, stop: &Stop) -> RemoteCallbacks<'a> {
    let mut callbacks = RemoteCallbacks::new();
    let (transfer, sideband) = (Rc::clone(stop), Rc::clone(stop));
    let go_on = move |stop: &Stop, received: usize| {
        let checked = limits.check();
        let result = if received > MAX_RECEIVED_BYTES { Err(FetchError::TooLarge) } else { checked };
        result.map_err(|error| stop.replace(Some(error))).is_ok()
    };
    callbacks.transfer_progress(move |progress| go_on(&transfer, progress.received_bytes()));
    callbacks.sideband_progress(move |_| go_on(&sideband, 0));
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

/// Finds a dead address by ourselves: libgit2 would wait for minutes and cannot be told not to.
fn reachable(place: &Place, limits: &Limits) -> Result<(), FetchError> {
    let (host, port) = match place {
        Place::Local(path) if path.is_dir() => return Ok(()),
        Place::Local(path) => {
            return Err(FetchError::RepositoryNotFound { place: path.display().to_string() });
        }
        Place::Web { host, port, .. } => (host, *port),
    };
    let unreachable = |message: String| FetchError::Unreachable { place: format!("{host}:{port}"), message };
    let addresses =
        (host.as_str(), port).to_socket_addrs().map_err(|error| unreachable(error.to_string()))?;
    let mut last = "its name has no address".to_owned();
    for address in addresses {
        limits.check()?;
        let left = limits.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left.min(CONNECT)) {
            Ok(_) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(unreachable(last))
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
        (ErrorClass::Net, _) if message.contains("cannot redirect") => FetchError::Redirected { message },
        (_, ErrorCode::Certificate) | (ErrorClass::Ssl, _) => {
            FetchError::Certificate { place: shown, message }
        }
        (_, ErrorCode::Timeout) => FetchError::Timeout,
        (ErrorClass::Repository, _) | (_, ErrorCode::NotFound) if matches!(place, Place::Local(_)) => {
            FetchError::RepositoryNotFound { place: shown }
        }
        (ErrorClass::Os, _) => FetchError::Unreachable { place: shown, message },
        _ => FetchError::Protocol { place: shown, message },
    }
}
