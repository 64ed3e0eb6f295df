//! The same inputs that a fuzzer starts from, as plain tests: packs and trees through the worker's process, bundles
//! through the parser. Whatever comes, the answer is a commit, a problem or an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crds::policy_source::{GitReference, GitSource};
use gitops::git::{FetchError, Source};
use gitops::worker::Limits;
use gitops::{Commit, Namespaces, RepoPath};

use crate::scripted::{Answer, Scripted};
use crate::work_tree::WorkTree;
use crate::worker;

fn corpus(kind: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| entry.expect("readable").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("readable")))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Cheap, fixed noise: the same mutations each time.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn spoil(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.next(4) {
            let at = self.next(bytes.len());
            match self.next(4) {
                0 => bytes[at] ^= 1 << self.next(8),
                1 => bytes[at] = [0, 0x7f, 0x80, 0xff][self.next(4)],
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let end = (at + self.next(32)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }
}

#[test]
fn packs_of_the_corpus_and_spoiled_ones() {
    let folder = tempfile::tempdir().unwrap();
    let worker = worker(folder.path());
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for (path, pack) in corpus("packs") {
        let spoiled = std::iter::repeat_with(|| noise.spoil(&pack)).take(12);
        for bytes in std::iter::once(pack.clone()).chain(spoiled) {
            let server = Scripted::start(Answer::Pack(bytes));
            let reference = GitReference::default();
            let source = Source::new(&GitSource { url: server.url.clone(), reference, path: String::new() });
            let ended = worker.fetch(&source.unwrap(), None, &Limits::within(Duration::from_secs(60)));
            // The commit that the server claims is in none of them.
            let expected = matches!(
                ended.result,
                Err(FetchError::Protocol { .. } | FetchError::CommitNotFound { .. } | FetchError::Broken)
            );
            assert!(expected, "{}: {:?}", path.display(), ended.result);
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Trees that `git mktree` makes without asking whether they make sense.
#[test]
fn trees_that_no_honest_git_writes() {
    let folder = tempfile::tempdir().unwrap();
    let tree = WorkTree::init(&folder.path().join("r"));
    tree.commit("one", &[("a.yaml", "a")]);
    let blob = tree.git(&["rev-parse", "HEAD:a.yaml"]);
    let deep = (0..600).fold(tree.git(&["rev-parse", "HEAD^{tree}"]), |below, _| {
        mktree(&tree, &format!("040000 tree {below}\td\n"))
    });
    let missing = "2".repeat(40);
    let entries = [
        format!("100644 blob {blob}\t..\n"),
        format!("100644 blob {blob}\t.git\n"),
        format!("100644 blob {blob}\ta\\b.yaml\n"),
        format!("100644 blob {blob}\t\"a\\nb.yaml\"\n"),
        format!("100644 blob {blob}\t\"\\377.yaml\"\n"),
        format!("120000 blob {blob}\tlink.yaml\n"),
        format!("160000 commit {missing}\tmodule\n"),
        format!("100644 blob {missing}\tmissing.yaml\n"),
        format!("040000 tree {missing}\tmissing\n"),
        format!("040000 tree {deep}\td\n"),
    ];
    let children = tempfile::tempdir().unwrap();
    for entry in entries {
        let id = mktree(&tree, &entry);
        let commit = tree.git(&["commit-tree", "-m", "x", &id]);
        tree.git(&["update-ref", "refs/heads/main", &commit]);
        let local = tree.path.display().to_string();
        let reference = GitReference::default();
        let source = Source::new(&GitSource { url: local, reference, path: String::new() }).unwrap();
        let ended = worker(children.path()).fetch(&source, None, &Limits::within(Duration::from_secs(60)));
        match ended.result {
            Ok(gitops::git::Outcome::Fetched(found)) => {
                assert!(found.files.keys().all(|path| !path.is_hidden()), "{entry:?}: {:?}", found.files);
            }
            Ok(other) => panic!("{entry:?}: {other:?}"),
            Err(error) => {
                let expected =
                    matches!(error, FetchError::Protocol { .. } | FetchError::RepositoryNotFound { .. });
                assert!(expected, "{entry:?}: {error}");
            }
        }
    }
}

fn mktree(tree: &WorkTree, entries: &str) -> String {
    let list = tree.path.join(".git/entries");
    std::fs::write(&list, entries).expect("a file");
    let output = Command::new("git")
        .args(["mktree", "--missing"])
        .current_dir(&tree.path)
        .stdin(std::fs::File::open(list).expect("a file"))
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{entries:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("hexadecimal").trim().to_owned()
}

#[test]
fn bundles_of_the_corpus_and_spoiled_ones() {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    for (path, text) in corpus("bundles") {
        let spoiled = std::iter::repeat_with(|| noise.spoil(&text)).take(200);
        for bytes in std::iter::once(text.clone()).chain(spoiled) {
            let name = path.file_name().and_then(|name| name.to_str()).expect("text");
            let files = BTreeMap::from([(
                RepoPath::new(name).expect("a path"),
                String::from_utf8_lossy(&bytes).into_owned(),
            )]);
            let commit = Commit { id: "1".repeat(40), subject: String::new(), time: String::new() };
            let (bundle, problems) = gitops::parse(commit, &files, &Namespaces::Own("shop".into()));
            assert!(problems.len() <= gitops::bundle::MAX_PROBLEMS);
            assert!(bundle.policies.iter().all(|policy| policy.key.namespace == "shop"), "{bundle}");
            for problem in problems {
                let words = problem.to_string();
                assert!(words.len() < 4096 && !words.contains('\u{1b}'), "{words:?}");
            }
        }
    }
}
