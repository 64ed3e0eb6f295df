//! The operator's side: starts a child, waits until its deadline and not longer, and reads what it says.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::addresses::{Addresses, resolve};
use super::child::VERB;
use super::confine::{Confinement, is_secret};
use super::protocol::{self, BadAnswer, Checked, Failure, Request, Where, Which};
use super::relay::{Cut, Relay, Target};
use super::server;
use crate::git::{FetchError, Outcome, Place, Reference, Source};

/// How often a waiting caller looks whether it is cancelled.
const GLANCE: Duration = Duration::from_millis(20);
/// The relay ends by itself so long after the deadline; the child is gone by then.
const AFTER: Duration = Duration::from_secs(5);
/// Prefix of the folders of running fetches.
const FOLDER_PREFIX: &str = "meshwright-git-";

/// When a fetch has to end.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Latest end.
    pub deadline: Instant,
    /// Set by the caller to end earlier.
    pub cancel: Arc<AtomicBool>,
}

impl Limits {
    /// So long from now, never cancelled.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, cancel: Arc::default() }
    }

    /// Why to stop, if so.
    fn check(&self) -> Result<(), FetchError> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(FetchError::Cancelled)
        } else if Instant::now() >= self.deadline {
            Err(FetchError::Timeout)
        } else {
            Ok(())
        }
    }
}

/// The program that is started as a child; it calls [`super::child::serve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// Arguments.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// This very program, also when its file was replaced meanwhile.
    #[must_use]
    pub fn this() -> Self {
        Self::at("/proc/self/exe")
    }

    /// The program in a file.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), arguments: vec![VERB.into()] }
    }
}

/// Fetches in children.
#[derive(Debug, Clone)]
pub struct Worker {
    /// What is started.
    pub program: Program,
    /// Takes the folders of the children.
    pub folder: PathBuf,
    /// What they may reach.
    pub addresses: Addresses,
}

/// What became of a fetch, and what the child was held to while it was made.
#[derive(Debug)]
pub struct Ended {
    /// None when it said nothing that could be read.
    pub confinement: Option<Confinement>,
    /// The result.
    pub result: Result<Outcome, FetchError>,
}

impl Worker {
    /// Fetches the commit that a source names now, unless it is `known`. Blocks until the deadline at most, and then
    /// nothing of the child is left.
    pub fn fetch(&self, source: &Source, known: Option<&str>, limits: &Limits) -> Ended {
        if matches!((&source.reference, known), (Reference::Commit(id), Some(known)) if id == known) {
            return Ended { confinement: None, result: Ok(Outcome::Unchanged) };
        }
        let mut confinement = None;
        let result = self.attempt(source, known, limits, &mut confinement);
        Ended { confinement, result }
    }

    fn attempt(
        &self,
        source: &Source,
        known: Option<&str>,
        limits: &Limits,
        confinement: &mut Option<Confinement>,
    ) -> Result<Outcome, FetchError> {
        limits.check()?;
        let local =
            |what: &str, error: std::io::Error| FetchError::Local { message: format!("{what}: {error}") };
        let folder = tempfile::Builder::new()
            .prefix(FOLDER_PREFIX)
            .tempdir_in(&self.folder)
            .map_err(|error| local(&format!("cannot make a folder in {}", self.folder.display()), error))?;
        let (place, relay) = self.reach(&source.place, limits)?;
        let request = Request {
            place,
            reference: which(&source.reference),
            path: source.path.as_ref().map(ToString::to_string),
            known: known.map(str::to_owned),
            folder: folder.path().to_owned(),
        };
        let mut child = Running::start(&self.program, folder.path())
            .map_err(|error| local("cannot start the process that fetches", error))?;
        let answer = child.converse(&request, limits)?;
        let cut = relay.as_ref().and_then(Relay::cut);
        match (answer, cut) {
            (_, Some(Cut::TooLarge)) => Err(FetchError::TooLarge),
            (_, Some(Cut::Unreachable)) => Err(unreachable(&source.place)),
            (_, Some(Cut::Certificate(message))) => {
                Err(FetchError::Certificate { place: shown(&source.place), message })
            }
            (_, Some(Cut::NoTls)) => {
                let message = "it does not speak TLS; is it http://?".to_owned();
                Err(FetchError::Protocol { place: shown(&source.place), message })
            }
            (_, Some(Cut::Unexpected)) => Err(FetchError::Broken),
            (Err(bad), None) => Err(broken(bad, child.end())),
            (Ok((said, checked)), None) => {
                *confinement = said;
                judge(source, known, checked)
            }
        }
    }

    /// How the child reaches a place: a web server by a relay that leads nowhere else.
    fn reach(&self, place: &Place, limits: &Limits) -> Result<(Where, Option<Relay>), FetchError> {
        let (url, host, port) = match place {
            Place::Local(path) => return local_path(path).map(|path| (Where::Local(path), None)),
            Place::Web { url, host, port } => (url, host.to_ascii_lowercase(), *port),
        };
        let addresses = resolve(&self.addresses, &host, port, limits.deadline)?;
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let tls = match scheme.eq_ignore_ascii_case("https") {
            true => Some(server::config().map_err(|message| FetchError::Local { message })?),
            false => None,
        };
        let target = Target { host, port, tls, addresses };
        let relay = Relay::start(target, limits.deadline + AFTER).map_err(|error| FetchError::Local {
            message: format!("cannot listen on the loopback interface: {error}"),
        })?;
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let url = format!("http://{}/{path}", relay.address());
        Ok((Where::Web { url, relay: relay.address() }, Some(relay)))
    }
}

fn local_path(path: &Path) -> Result<PathBuf, FetchError> {
    let missing = || FetchError::RepositoryNotFound { place: path.display().to_string() };
    let real = path.canonicalize().ok().filter(|path| path.is_dir()).ok_or_else(missing)?;
    if is_secret(&real) {
        let message = "a repository in a place of the operating system or of secrets is not read".to_owned();
        return Err(FetchError::InvalidUrl { message });
    }
    Ok(real)
}

fn which(reference: &Reference) -> Which {
    match reference {
        Reference::Branch(name) => Which::Branch(name.clone()),
        Reference::Tag(name) => Which::Tag(name.clone()),
        Reference::Commit(id) => Which::Commit(id.clone()),
    }
}

fn unreachable(place: &Place) -> FetchError {
    // One text for whatever keeps a connection from being made: it must not tell what listens where.
    FetchError::Unreachable { place: shown(place), message: "no connection".to_owned() }
}

fn shown(place: &Place) -> String {
    match place {
        Place::Web { host, port, .. } => format!("{host}:{port}"),
        Place::Local(path) => path.display().to_string(),
    }
}

/// An answer that cannot be read, by how the child ended.
fn broken(bad: BadAnswer, status: Option<ExitStatus>) -> FetchError {
    let signal = status.and_then(|status| status.signal());
    let is = |signal: Signal, found: Option<i32>| found == Some(signal.as_raw());
    match bad {
        BadAnswer::Short if is(Signal::XFSZ, signal) => FetchError::TooLarge,
        BadAnswer::Short if is(Signal::XCPU, signal) => FetchError::Timeout,
        BadAnswer::Short
        | BadAnswer::Version
        | BadAnswer::TooLarge
        | BadAnswer::Content
        | BadAnswer::Path => FetchError::Broken,
    }
}

fn judge(source: &Source, known: Option<&str>, checked: Checked) -> Result<Outcome, FetchError> {
    match checked {
        Checked::Unchanged if known.is_some() => Ok(Outcome::Unchanged),
        Checked::Unchanged => Err(FetchError::Broken),
        Checked::Fetched(fetched) => match &source.reference {
            // A commit by its id is that commit, whoever says what.
            Reference::Commit(id) if *id != fetched.commit.id => Err(FetchError::Broken),
            _ => Ok(Outcome::Fetched(fetched)),
        },
        Checked::Failed(failure) => Err(failed(source, failure)),
    }
}

/// The child's reason in our words.
fn failed(source: &Source, failure: Failure) -> FetchError {
    let Failure { reason, detail, existing } = failure;
    let place = shown(&source.place);
    let id = || match &source.reference {
        Reference::Commit(id) | Reference::Branch(id) | Reference::Tag(id) => id.clone(),
    };
    match reason.as_str() {
        "RepositoryNotFound" => FetchError::RepositoryNotFound { place: source.place.to_string() },
        "AuthenticationRequired" => FetchError::AuthenticationRequired { place },
        "EmptyRepository" => FetchError::EmptyRepository,
        "BranchNotFound" => FetchError::BranchNotFound { name: id(), existing },
        "TagNotFound" => FetchError::TagNotFound { name: id(), existing },
        "CommitNotFound" => FetchError::CommitNotFound { id: id() },
        "PathNotFound" => {
            let path = source.path.as_ref().map(ToString::to_string).unwrap_or_default();
            FetchError::PathNotFound { path, commit: detail }
        }
        "Redirected" => FetchError::Redirected { message: detail },
        "NotOwned" => FetchError::NotOwned { path: place },
        "Unreachable" => unreachable(&source.place),
        "Timeout" => FetchError::Timeout,
        "TooLarge" => FetchError::TooLarge,
        "Protocol" => FetchError::Protocol { place, message: detail },
        "Local" => FetchError::Local { message: detail },
        _ => FetchError::Broken,
    }
}

/// A child that runs; when this is dropped it does not any more.
struct Running {
    child: Child,
    status: Option<ExitStatus>,
}

impl Running {
    fn start(program: &Program, folder: &Path) -> std::io::Result<Self> {
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).env_clear().env("HOME", folder).env("XDG_CONFIG_HOME", folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.current_dir(folder).process_group(0).spawn()?;
        Ok(Self { child, status: None })
    }

    /// Asks, and reads the answer until the deadline. The outer error is why nobody waited for it.
    #[allow(clippy::type_complexity, reason = "told apart by who is at fault")]
    fn converse(
        &mut self,
        request: &Request,
        limits: &Limits,
    ) -> Result<Result<(Option<Confinement>, Checked), BadAnswer>, FetchError> {
        let (Some(mut input), Some(mut output)) = (self.child.stdin.take(), self.child.stdout.take()) else {
            return Err(FetchError::Broken);
        };
        let request = request.clone();
        let (sender, receiver) = channel();
        // Ends with the child: killing it closes both pipes.
        let talk = move || {
            // A child that does not listen says nothing either.
            let _ = protocol::write(&mut input, &request);
            drop(input);
            let _ = sender.send(protocol::read_answer(&mut output));
        };
        std::thread::Builder::new()
            .name("git-worker".to_owned())
            .spawn(talk)
            .map_err(|error| FetchError::Local { message: format!("cannot start a thread: {error}") })?;
        loop {
            match receiver.recv_timeout(GLANCE) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(FetchError::Broken),
                Err(RecvTimeoutError::Timeout) => limits.check()?,
            }
        }
    }

    /// Kills whatever is left of it, and waits until it is gone.
    fn end(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            // One that has said all it has to say is about to end by itself; its status is worth a moment.
            for _ in 0..5 {
                if let Ok(Some(status)) = self.child.try_wait() {
                    self.status = Some(status);
                    return self.status;
                }
                std::thread::sleep(GLANCE);
            }
            // Its own group, so nothing that it may have started stays.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            self.status = self.child.wait().ok();
        }
        self.status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            // Killed: it ends, and its place in the table of processes is freed.
            let _ = self.child.wait();
        }
    }
}

/// Deletes folders that a killed process left behind. Only for a folder that no other process uses.
pub fn sweep(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX)) {
        // What cannot be deleted now only takes space.
        let _ = std::fs::remove_dir_all(entry.path());
    }
}
