//! Servers and repositories that mean harm: each costs its own source a fetch and nobody else anything.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use crds::policy_source::{GitReference, GitSource};
use gitops::git::{FetchError, Outcome, Source};
use gitops::worker::{Addresses, Limits, Program, Worker};

use crate::git_server::GitServer;
use crate::scripted::{Answer, Pack, Scripted, varint};
use crate::work_tree::WorkTree;
use crate::worker;

fn source(url: &str) -> Source {
    Source::new(&GitSource { url: url.to_owned(), reference: GitReference::default(), path: String::new() })
        .expect("a source")
}

fn limits() -> Limits {
    Limits::within(Duration::from_secs(60))
}

/// Fetches; afterwards nothing of the child is left, neither a file nor a process.
fn fetch(url: &str, limits: &Limits) -> Result<Outcome, FetchError> {
    let folder = tempfile::tempdir().expect("a folder");
    let result = worker(folder.path()).fetch(&source(url), None, limits).result;
    assert_eq!(std::fs::read_dir(folder.path()).expect("it is there").count(), 0, "files are left");
    assert!(!runs_in(folder.path()), "a process is left");
    result
}

/// Whether a process has its working folder below this one.
fn runs_in(folder: &Path) -> bool {
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    processes
        .filter_map(|entry| std::fs::read_link(entry.path().join("cwd")).ok())
        .any(|cwd| cwd.starts_with(folder))
}

#[test]
fn a_server_that_never_answers_is_left_at_the_deadline() {
    for answer in [Answer::Silence, Answer::Drip] {
        let server = Scripted::start(answer);
        // On a busy machine the deadline may come before the child has even asked: then it gets more time.
        let (mut patience, mut fetches) = (Duration::from_millis(700), 0);
        while server.connections() == 0 {
            assert!(patience < Duration::from_secs(60), "the server was never asked");
            assert_eq!(fetch(&server.url, &Limits::within(patience)), Err(FetchError::Timeout));
            patience *= 2;
            fetches += 1;
        }
        // One that came just before the deadline may be counted only now.
        assert!(server.connections() <= fetches, "{} of {fetches} fetches", server.connections());
        let cancelled = limits();
        cancelled.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(fetch(&server.url, &cancelled), Err(FetchError::Cancelled));
    }
}

#[test]
fn a_child_that_never_answers_is_left_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let tree = WorkTree::init(&folder.path().join("r"));
    tree.commit("one", &[("a.yaml", "a")]);
    let children = tempfile::tempdir().unwrap();
    // One that starts another program, as a captured one may try.
    let script = "sleep 1000 & sleep 1000";
    let program = Program { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
    let worker = Worker { program, ..worker(children.path()) };
    let soon = Limits::within(Duration::from_millis(300));
    let local = source(&tree.path.display().to_string());
    assert_eq!(worker.fetch(&local, None, &soon).result, Err(FetchError::Timeout));
    // Killed; it is gone as soon as the kernel has cleaned up after it.
    while runs_in(children.path()) {
        std::thread::yield_now();
    }
}

#[test]
fn a_child_that_lies_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let tree = WorkTree::init(&folder.path().join("r"));
    tree.commit("one", &[("a.yaml", "a")]);
    let children = tempfile::tempdir().unwrap();
    for script in ["true", "yes", "echo MWGIT", "cat /dev/zero", "kill -SEGV $$"] {
        let program = Program { path: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
        let worker = Worker { program, ..worker(children.path()) };
        let result = worker.fetch(&source(&tree.path.display().to_string()), None, &limits()).result;
        assert_eq!(result, Err(FetchError::Broken), "{script}");
    }
    let program = Program::at("/does/not/exist");
    let worker = Worker { program, ..worker(children.path()) };
    let result = worker.fetch(&source(&tree.path.display().to_string()), None, &limits()).result;
    assert!(matches!(result, Err(FetchError::Local { .. })), "{result:?}");
}

#[test]
fn a_server_that_sends_without_end_is_cut_off() {
    let page =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/x-git-upload-pack-advertisement\r\n\r\n".to_vec();
    let endless = Scripted::start(Answer::Endless);
    let result = fetch(&endless.url, &limits());
    // Its first object is none, which libgit2 may notice first.
    assert!(matches!(result, Err(FetchError::TooLarge | FetchError::Protocol { .. })), "{result:?}");
    let mut advertised = page;
    advertised.resize(300 << 20, b'0');
    let result = fetch(&Scripted::start(Answer::Raw(advertised)).url, &limits());
    assert!(matches!(result, Err(FetchError::TooLarge | FetchError::Protocol { .. })), "{result:?}");
}

#[test]
fn what_inflates_without_end_is_refused() {
    // A megabyte that a delta of a few kilobytes makes four gigabytes of.
    let base = vec![0u8; 1 << 20];
    let times = 4096;
    let mut delta = varint(base.len());
    delta.extend(varint(base.len() * times));
    for _ in 0..times {
        // Copy 0x100000 bytes from 0.
        delta.extend_from_slice(&[0x80 | 0x40, 0x10]);
    }
    let bomb = Pack::new().blob(&base).delta(&delta).finish();
    assert!(bomb.len() < 2 << 20);
    let result = fetch(&Scripted::start(Answer::Pack(bomb)).url, &limits());
    let refused =
        matches!(result, Err(FetchError::TooLarge | FetchError::Broken | FetchError::Protocol { .. }));
    assert!(refused, "{result:?}");
    // An object that promises more than it has, and one that promises less.
    for pack in [
        Pack::new().lie(3, 3 << 30, b"short").finish(),
        Pack::new().lie(1, 1, &base).finish(),
        Pack::new().lie(7, 20, &base).finish(),
    ] {
        let result = fetch(&Scripted::start(Answer::Pack(pack)).url, &limits());
        assert!(matches!(result, Err(FetchError::Protocol { .. } | FetchError::Broken)), "{result:?}");
    }
}

#[test]
fn a_repository_of_too_many_files_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tree = WorkTree::init(&folder.path().join("r"));
    let names: Vec<String> = (0..=gitops::bundle::MAX_FILES).map(|n| format!("f/{n}.yaml")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), "a: 1\n")).collect();
    tree.commit("many", &files);
    let server = GitServer::start(folder.path());
    match fetch(&format!("{}/r/.git", server.url), &limits()) {
        Ok(Outcome::Fetched(found)) => {
            let words = found.problems[0].to_string();
            assert_eq!(
                words,
                "the commit holds more than 2000 files of policies; point `path` at the folder of \
                               policies, or split it among sources"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn addresses_that_are_no_git_servers_are_not_even_connected_to() {
    let server = Scripted::start(Answer::Silence);
    let folder = tempfile::tempdir().unwrap();
    let strict = Worker { addresses: Addresses::default(), ..worker(folder.path()) };
    let port = server.port;
    for url in [
        server.url.clone(),
        format!("http://localhost:{port}/r.git"),
        format!("http://[::ffff:127.0.0.1]:{port}/r.git"),
        format!("http://2130706433:{port}/r.git"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        format!("http://0.0.0.0:{port}/r.git"),
    ] {
        let error = strict.fetch(&source(&url), None, &limits()).result.unwrap_err();
        assert_eq!(error.reason(), "ForbiddenAddress", "{url}: {error}");
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn redirects_to_another_port_or_host_are_not_followed() {
    let inner = Scripted::start(Answer::Silence);
    let port = inner.port;
    for to in [
        format!("http://127.0.0.1:{port}/info/refs"),
        format!("http://localhost:{port}/info/refs"),
        format!("https://127.0.0.1:{port}/info/refs"),
        "http://169.254.169.254/info/refs".to_owned(),
    ] {
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        let server = Scripted::start(Answer::Raw(answer.into_bytes()));
        let error = fetch(&server.url, &limits()).unwrap_err();
        assert_eq!(error.reason(), "Redirected", "{to}: {error}");
    }
    assert_eq!(inner.connections(), 0);
}

#[test]
fn an_error_does_not_tell_what_listens() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = fetch(&format!("http://127.0.0.1:{closed}/r.git"), &limits()).unwrap_err();
    assert_eq!(error.to_string(), format!("127.0.0.1:{closed} cannot be reached: no connection"));
    let banner = Scripted::start(Answer::Raw(b"SSH-2.0-OpenSSH_9.2 hunter2\r\n".to_vec()));
    let page = "HTTP/1.1 500 hunter2\r\nserver: hunter2\r\ncontent-type: text/hunter2\r\ncontent-length: 7\r\n\r\nhunter2";
    let page = Scripted::start(Answer::Raw(page.as_bytes().to_vec()));
    let html = "HTTP/1.1 200 OK\r\ncontent-type: text/hunter2\r\ncontent-length: 7\r\n\r\nhunter2";
    let html = Scripted::start(Answer::Raw(html.as_bytes().to_vec()));
    for server in [&banner, &page, &html] {
        let error = fetch(&server.url, &limits()).unwrap_err();
        assert_eq!(error.reason(), "Protocol", "{error}");
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{error}");
    }
    assert!(fetch(&page.url, &limits()).unwrap_err().to_string().contains("HTTP status 500"));
}

#[test]
fn secrets_and_the_system_are_no_repositories() {
    for path in ["/", "/etc", "/proc/self", "/var", "/run", "/sys"] {
        let error = fetch(path, &limits()).unwrap_err();
        assert_eq!(error.reason(), "InvalidUrl", "{path}: {error}");
    }
    // By another name, too.
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    assert_eq!(fetch(&link.display().to_string(), &limits()).unwrap_err().reason(), "InvalidUrl");
}
