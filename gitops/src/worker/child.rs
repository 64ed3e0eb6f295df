//! The child's side: confined first, then one fetch, one answer, the end.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::confine::{self, Needs};
use super::protocol::{self, Answer, Failure, Flaw, Found, Request, Where, Which};
use crate::git::{self, Fetched, Outcome, Place, Reference, Source};
use crate::path::RepoPath;

/// The verb under which a program calls [`serve`]; before it starts any thread.
pub const VERB: &str = "git-worker";

/// Reads a request from standard input, fetches, and writes the answer to standard output.
#[must_use]
pub fn serve() -> ExitCode {
    // What a panic says could only mislead whoever reads the operator's log.
    std::panic::set_hook(Box::new(|_| {}));
    match answer(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer(input: &mut impl Read, output: &mut impl Write) -> std::io::Result<()> {
    let request: Request = protocol::read(input).map_err(std::io::Error::other)?;
    let confinement = match confine::enter(&needs(&request)) {
        Ok(confinement) => confinement,
        Err(message) => {
            let failure = Failure { reason: "Local".to_owned(), detail: message, existing: Vec::new() };
            return protocol::write(output, &Answer { confinement: None, result: Found::Failed(failure) });
        }
    };
    let (result, fetched) = match fetch(&request) {
        Ok(Outcome::Unchanged) => (Found::Unchanged, None),
        Ok(Outcome::Fetched(fetched)) => (found(&fetched), Some(fetched)),
        Err(error) => {
            let (detail, existing) = error.detail();
            (Found::Failed(Failure { reason: error.reason().to_owned(), detail, existing }), None)
        }
    };
    protocol::write(output, &Answer { confinement: Some(confinement), result })?;
    for (path, text) in fetched.iter().flat_map(|fetched| &fetched.files) {
        protocol::write_file(output, path.as_str(), text)?;
    }
    output.flush()
}

fn needs(request: &Request) -> Needs {
    let (repository, port) = match &request.place {
        Where::Web { relay, .. } => (None, Some(relay.port())),
        Where::Local(path) => (Some(path.clone()), None),
    };
    Needs { folder: request.folder.clone(), repository, port }
}

fn fetch(request: &Request) -> Result<Outcome, git::FetchError> {
    let place = match &request.place {
        Where::Web { url, relay: _ } => Place::Web { url: url.clone(), host: String::new(), port: 0 },
        Where::Local(path) => Place::Local(path.clone()),
    };
    let reference = match &request.reference {
        Which::Branch(name) => Reference::Branch(name.clone()),
        Which::Tag(name) => Reference::Tag(name.clone()),
        Which::Commit(id) => Reference::Commit(id.clone()),
    };
    let path = request.path.as_deref().map(RepoPath::new).transpose()?;
    let source = Source { place, reference, path };
    let folder: PathBuf = request.folder.join("repository");
    git::fetch(&source, request.known.as_deref(), &folder)
}

fn found(fetched: &Fetched) -> Found {
    Found::Fetched {
        id: fetched.commit.id.clone(),
        subject: fetched.commit.subject.clone(),
        seconds: fetched.seconds,
        files: fetched.files.len(),
        problems: fetched.problems.iter().map(Flaw::from).collect(),
    }
}
