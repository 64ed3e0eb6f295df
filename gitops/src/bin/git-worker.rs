//! The process that fetches, as a program of its own: for tests and fuzzing. The operator starts itself with a verb.
//!
//! `git-worker git-worker` serves one request; `git-worker probe FOLDER PORT PATH…` enters the confinement and says of each
//! thing that a captured process would try whether it works.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use gitops::worker::{Needs, child, enter};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(child::VERB) => child::serve(),
        Some("probe") => probe(&arguments[2..]),
        _ => {
            eprintln!("usage: git-worker git-worker | git-worker probe FOLDER PORT PATH…");
            ExitCode::FAILURE
        }
    }
}

fn probe(arguments: &[String]) -> ExitCode {
    let [folder, port, paths @ ..] = arguments else { return ExitCode::FAILURE };
    let port = port.parse().ok();
    let needs = Needs { folder: PathBuf::from(folder), repository: None, port };
    let confinement = match enter(&needs) {
        Ok(confinement) => confinement,
        Err(error) => {
            println!("not confined: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("files {:?}", confinement.files);
    println!("calls {:?}", confinement.calls);
    let say = |what: &str, worked: bool| println!("{what} {}", if worked { "works" } else { "refused" });
    for path in paths {
        say(&format!("read {path}"), std::fs::read(path).is_ok());
    }
    say("write inside", std::fs::write(format!("{folder}/file"), "x").is_ok());
    say("write outside", std::fs::write(format!("{folder}-outside"), "x").is_ok());
    say("start a program", Command::new("/bin/true").status().is_ok());
    say("start a thread", std::thread::Builder::new().spawn(|| {}).is_ok());
    say("listen", TcpListener::bind("127.0.0.1:0").is_ok());
    let parent = std::os::unix::process::parent_id();
    say("read its parent's environment", std::fs::read(format!("/proc/{parent}/environ")).is_ok());
    let own = port.map(|port| TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok());
    say("connect to the relay", own == Some(true));
    let other = port.map(|port| TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port ^ 1))));
    let denied = |error: &std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    say("connect elsewhere", !matches!(other, Some(Err(error)) if denied(&error)));
    println!("variables {}", std::env::vars_os().count());
    ExitCode::SUCCESS
}
