//! What the worker finds, and what it says when it finds nothing.

use std::path::Path;
use std::time::Duration;

use crds::policy_source::{GitReference, GitSource};
use gitops::git::{FetchError, Fetched, Outcome, Source};
use gitops::worker::{Limits, sweep};

use crate::git_server::GitServer;
use crate::work_tree::WorkTree;
use crate::worker;

/// A folder with repository `r`, served over HTTP.
struct Fixture {
    folder: tempfile::TempDir,
    tree: WorkTree,
    server: GitServer,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().expect("works");
    let tree = WorkTree::init(&folder.path().join("r"));
    let server = GitServer::start(folder.path());
    Fixture { folder, tree, server }
}

impl Fixture {
    fn web(&self) -> String {
        format!("{}/r/.git", self.server.url)
    }

    fn local(&self) -> String {
        self.tree.path.display().to_string()
    }
}

fn source(url: &str, path: &str, reference: GitReference) -> Source {
    Source::new(&GitSource { url: url.to_owned(), reference, path: path.to_owned() }).expect("works")
}

fn branch(name: &str) -> GitReference {
    GitReference { branch: Some(name.to_owned()), ..GitReference::default() }
}

fn limits() -> Limits {
    Limits::within(Duration::from_secs(60))
}

fn run(source: &Source, known: Option<&str>) -> Result<Outcome, FetchError> {
    let folder = tempfile::tempdir().expect("works");
    let result = worker(folder.path()).fetch(source, known, &limits()).result;
    assert_eq!(std::fs::read_dir(folder.path()).expect("works").count(), 0, "temporary files are left");
    result
}

fn fetched(source: &Source) -> Fetched {
    match run(source, None) {
        Ok(Outcome::Fetched(fetched)) => *fetched,
        other => panic!("{other:?}"),
    }
}

fn reason(source: &Source) -> &'static str {
    run(source, None).expect_err("nothing to fetch").reason()
}

fn names(fetched: &Fetched) -> Vec<&str> {
    fetched.files.keys().map(gitops::RepoPath::as_str).collect()
}

#[test]
fn the_newest_commit_of_a_branch_over_http_and_from_a_path() {
    let fixture = fixture();
    fixture.tree.commit("one", &[("policies/a.yaml", "old"), ("README.md", "x"), (".github/w.yaml", "x")]);
    let files = [("policies/a.yaml", "new"), ("policies/deep/b.yml", "b"), ("other/c.json", "{}")];
    let id = fixture.tree.commit("two: ünï\n\nbody", &files);
    for url in [fixture.web(), fixture.local(), format!("file://{}", fixture.local())] {
        let all = fetched(&source(&url, "", GitReference::default()));
        assert_eq!((all.commit.id.as_str(), all.commit.subject.as_str()), (id.as_str(), "two: ünï"), "{url}");
        assert!(all.commit.time.ends_with('Z'), "{}", all.commit.time);
        assert_eq!(names(&all), ["other/c.json", "policies/a.yaml", "policies/deep/b.yml"]);
        assert_eq!(all.files.values().collect::<Vec<_>>(), ["{}", "new", "b"]);
        let below = fetched(&source(&url, "policies/", branch("main")));
        assert_eq!(names(&below), ["policies/a.yaml", "policies/deep/b.yml"]);
        assert_eq!(below.problems, []);
    }
}

#[test]
fn an_unchanged_head_costs_one_request() {
    let fixture = fixture();
    let id = fixture.tree.commit("one", &[("a.yaml", "a")]);
    let source = source(&fixture.web(), "", branch("main"));
    let before = fixture.server.requests();
    assert_eq!(run(&source, Some(&id)), Ok(Outcome::Unchanged));
    assert_eq!(fixture.server.requests() - before, 1);
}

#[test]
fn a_force_push_is_followed() {
    let fixture = fixture();
    fixture.tree.commit("one", &[("a.yaml", "1")]);
    let gone = fixture.tree.commit("two", &[("a.yaml", "2")]);
    fixture.tree.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let id = fixture.tree.commit("three", &[("a.yaml", "3")]);
    for url in [fixture.web(), fixture.local()] {
        let source = source(&url, "", branch("main"));
        match run(&source, Some(&gone)) {
            Ok(Outcome::Fetched(fetched)) => assert_eq!(fetched.commit.id, id),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn tags_and_commits() {
    let fixture = fixture();
    let first = fixture.tree.commit("one", &[("a.yaml", "1")]);
    fixture.tree.git(&["tag", "light"]);
    fixture.tree.git(&["tag", "-a", "-m", "x", "annotated"]);
    fixture.tree.commit("two", &[("a.yaml", "2")]);
    let unreachable = fixture.tree.commit("three", &[("a.yaml", "3")]);
    fixture.tree.git(&["reset", "-q", "--hard", "HEAD~1"]);
    for url in [fixture.web(), fixture.local()] {
        for tag in ["light", "annotated"] {
            let reference = GitReference { tag: Some(tag.to_owned()), ..GitReference::default() };
            let source = source(&url, "", reference);
            assert_eq!(fetched(&source).commit.id, first, "{tag}");
            assert_eq!(run(&source, Some(&first)), Ok(Outcome::Unchanged), "{tag}");
        }
        let commit = |id: &str| {
            source(&url, "", GitReference { commit: Some(id.to_owned()), ..GitReference::default() })
        };
        assert_eq!(fetched(&commit(&first)).commit.id, first);
        assert_eq!(run(&commit(&first), Some(&first)), Ok(Outcome::Unchanged));
        assert_eq!(reason(&commit(&"1".repeat(40))), "CommitNotFound");
        let tag = GitReference { tag: Some("nope".to_owned()), ..GitReference::default() };
        assert_eq!(reason(&source(&url, "", tag)), "TagNotFound");
        // The local transport copies only what branches and tags lead to, http-backend sends no more.
        assert_eq!(reason(&commit(&unreachable)), "CommitNotFound");
    }
}

#[test]
fn what_is_not_there_is_named() {
    let fixture = fixture();
    let web = |path: &str| source(&format!("{}{path}", fixture.server.url), "", GitReference::default());
    for url in [fixture.web(), fixture.local()] {
        assert_eq!(reason(&source(&url, "", GitReference::default())), "EmptyRepository", "{url}");
    }
    fixture.tree.commit("one", &[("a.yaml", "a")]);
    for url in [fixture.web(), fixture.local()] {
        let error = run(&source(&url, "", branch("nope")), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no branch \"nope\"; there are main; correct `ref` or push it"
        );
        assert_eq!(reason(&source(&url, "nope", branch("main"))), "PathNotFound");
        assert_eq!(reason(&source(&url, "a.yaml", branch("main"))), "PathNotFound");
    }
    assert_eq!(reason(&web("/missing.git")), "RepositoryNotFound");
    assert_eq!(reason(&web("/private/r.git")), "AuthenticationRequired");
    assert_eq!(reason(&web("/elsewhere/r.git")), "Redirected");
    assert_eq!(reason(&source("/does/not/exist", "", branch("main"))), "RepositoryNotFound");
    let plain = fixture.folder.path().display().to_string();
    assert_eq!(reason(&source(&plain, "", branch("main"))), "RepositoryNotFound");
    assert_eq!(reason(&source("http://127.0.0.1:1/r.git", "", branch("main"))), "Unreachable");
}

#[test]
fn a_server_that_hangs_is_left_at_the_deadline() {
    let fixture = fixture();
    let hanging = source(&format!("{}/hang/r.git", fixture.server.url), "", branch("main"));
    let folder = tempfile::tempdir().unwrap();
    let soon = Limits::within(Duration::from_millis(300));
    assert_eq!(worker(folder.path()).fetch(&hanging, None, &soon).result, Err(FetchError::Timeout));
    let cancelled = limits();
    cancelled.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(worker(folder.path()).fetch(&hanging, None, &cancelled).result, Err(FetchError::Cancelled));
}

#[test]
fn links_submodules_and_binary_files_are_problems() {
    let fixture = fixture();
    fixture.tree.commit("one", &[("a.yaml", "a")]);
    let at = |name: &str| fixture.tree.path.join(name);
    std::os::unix::fs::symlink("/etc/passwd", at("link.yaml")).unwrap();
    std::os::unix::fs::symlink("/etc", at("folder")).unwrap();
    std::os::unix::fs::symlink("README", at("harmless.md")).unwrap();
    std::fs::write(at("binary.yaml"), [0xff, 0xfe]).unwrap();
    std::fs::write(at("big.yaml"), vec![b'#'; (1 << 20) + 1]).unwrap();
    let inner = WorkTree::init(&fixture.folder.path().join("inner"));
    inner.commit("inner", &[("x.yaml", "x")]);
    fixture.tree.git(&["submodule", "--quiet", "add", &inner.path.display().to_string(), "module"]);
    fixture.tree.commit("two", &[]);
    let found = fetched(&source(&fixture.web(), "", branch("main")));
    let problems: Vec<_> =
        found.problems.iter().map(|p| format!("{} {}", p.reason(), p.file.as_ref().unwrap())).collect();
    let expected = [
        "FileTooLarge big.yaml",
        "NotText binary.yaml",
        "SymbolicLink folder",
        "SymbolicLink link.yaml",
        "Submodule module",
    ];
    assert_eq!(problems, expected);
    assert_eq!(names(&found), ["a.yaml"]);
}

#[test]
fn leftovers_of_a_killed_process_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str| std::fs::create_dir_all(folder.path().join(name).join("objects")).unwrap();
    make("meshwright-git-dead");
    make("else");
    sweep(folder.path());
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["else"]);
    sweep(Path::new("/does/not/exist"));
}
