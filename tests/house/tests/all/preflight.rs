//! `tests/preflight` on machines that lack things: a machine is a folder of programs and a root of its own.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the script and the parts it reads call, besides what it looks for.
const SHELL: [&str; 18] = [
    "bash", "sh", "env", "awk", "sed", "sort", "head", "dirname", "basename", "cat", "tr", "seq", "grep",
    "mkdir", "rmdir", "printf", "readlink", "tail",
];
/// What it looks for, and what each says on a machine that lacks nothing.
const WHOLE: [(&str, &str); 13] = [
    ("gcc", ""),
    ("make", ""),
    ("git", ""),
    ("python3", "echo 3.11"),
    ("apt-get", ""),
    ("cargo", ""),
    ("rustc", "echo 'rustc 1.95.0 (59807616e 2026-04-14)'"),
    ("id", "echo 0"),
    ("ip", "echo default via 192.0.2.1"),
    (
        "df",
        "printf 'Filesystem 1024-blocks Used Available Capacity Mounted\\n/dev/a 999999999 1 99999999 1%% /\\n'",
    ),
    ("kubectl", ""),
    ("jq", ""),
    ("uname", "[ \"$1\" = -m ] && echo x86_64 || echo Linux"),
];

/// A machine with everything.
struct Machine(tempfile::TempDir);

impl Machine {
    fn whole() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for folder in ["bin", "home", "etc", "sys/fs/cgroup/pids"] {
            std::fs::create_dir_all(machine.path(folder)).unwrap();
        }
        for name in SHELL {
            let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
            let found = found
                .iter()
                .find(|path| path.exists())
                .unwrap_or_else(|| panic!("this machine has no {name}"));
            symlink(found, machine.path("bin").join(name)).unwrap();
        }
        for (name, does) in WHOLE {
            machine.program(name, does);
        }
        std::fs::write(machine.path("etc/os-release"), "VERSION_CODENAME=bookworm\n").unwrap();
        machine
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path().join(below)
    }

    fn program(&self, name: &str, does: &str) {
        let path = self.path("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn without(&self, name: &str) {
        std::fs::remove_file(self.path("bin").join(name)).unwrap();
    }

    /// Whether a verb may go on, and what was said.
    fn look(&self, verb: &str, kubeconfig: Option<&str>) -> (bool, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = Command::new(root.join("tests/preflight"));
        command.arg(verb).env_clear().env("PATH", self.path("bin")).env("HOME", self.path("home"));
        command.env("MESHWRIGHT_PREFLIGHT_ROOT", self.0.path()).env("CARGO_TARGET_DIR", self.path("target"));
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn a_machine_with_everything_passes_and_hears_nothing() {
    let machine = Machine::whole();
    for verb in ["fast", "api", "node", "all", "demo", "bench", "images"] {
        assert_eq!(machine.look(verb, None), (true, String::new()), "{verb}");
    }
    assert!(!machine.path("home/.cache").exists(), "looking changes nothing");
    assert_eq!(std::fs::read_dir(machine.path("sys/fs/cgroup/pids")).unwrap().count(), 0);
}

/// Each lack alone: what is said of it, and what to do.
#[test]
fn each_lack_is_named_with_what_to_do() {
    type Lack = fn(&Machine);
    let lacks: [(Lack, &str, &str); 11] = [
        (|m| m.program("id", "echo 1000"), "you are not root", "Run it as root"),
        (
            |m| std::fs::write(m.path("etc/os-release"), "VERSION_CODENAME=trixie\n").unwrap(),
            "'trixie'",
            "Debian 12",
        ),
        (|m| m.without("apt-get"), "no apt-get", "whole Debian 12"),
        (|m| std::fs::remove_dir_all(m.path("sys")).unwrap(), "cgroups cannot be made", "--cgroupns=private"),
        (|m| m.without("gcc"), "missing: gcc", "apt-get install --no-install-recommends gcc"),
        (|m| m.program("python3", "echo 3.7"), "python3 is version 3.7", "newer python3"),
        (
            |m| m.program("rustc", "echo 'rustc 1.90.0'"),
            "Rust is version 1.90.0",
            "rustup toolchain install 1.95.0",
        ),
        (
            |m| m.program("rustc", "echo 'error: no such toolchain' >&2; exit 1"),
            "no such toolchain",
            "rustup toolchain",
        ),
        (|m| m.without("cargo"), "no Rust on the PATH", "Install rustup"),
        (|m| m.program("ip", "echo 10.0.0.0/8 dev tun0"), "has a route already", "ip -4 route show"),
        (
            |m| m.program("df", "printf 'h\\n/dev/a 9 1 2097152 1%% /\\n'"),
            "2 GB are free for",
            "CARGO_TARGET_DIR for what is compiled",
        ),
    ];
    for (lack, said, advice) in lacks {
        let machine = Machine::whole();
        lack(&machine);
        let (passed, text) = machine.look("all", None);
        assert!(!passed, "passed without: {said}");
        assert!(text.contains(said), "{said:?} is not in: {text}");
        assert!(text.contains(advice), "{advice:?} is not in: {text}");
        assert!(text.contains("'make test' needs; nothing was compiled"), "{text}");
        assert_eq!(text.matches("\n  - ").count(), 1, "one lack, one line: {text}");
    }
}

#[test]
fn all_lacks_are_said_at_once() {
    let machine = Machine::whole();
    machine.program("id", "echo 1000");
    machine.without("gcc");
    machine.without("git");
    machine.program("rustc", "echo 'rustc 1.80.1'");
    std::fs::remove_file(machine.path("etc/os-release")).unwrap();
    let (_, text) = machine.look("demo", None);
    assert_eq!(text.matches("\n  - ").count(), 4, "{text}");
    assert!(text.contains("missing: gcc git"), "{text}");
    assert!(text.contains("or set KUBECONFIG to a cluster that you have"), "{text}");
}

/// With a cluster of the person's own, the demo makes none: neither root nor Debian matter.
#[test]
fn a_cluster_of_ones_own_needs_no_root() {
    let machine = Machine::whole();
    machine.program("id", "echo 1000");
    std::fs::remove_file(machine.path("etc/os-release")).unwrap();
    let file = machine.path("kubeconfig");
    std::fs::write(&file, "").unwrap();
    assert_eq!(machine.look("demo", file.to_str()), (true, String::new()));
    assert!(!machine.look("demo", Some("/nowhere/kubeconfig")).0);
    machine.without("kubectl");
    assert!(machine.look("demo", file.to_str()).1.contains("missing: kubectl"));
}

/// The cluster brings its own kubectl: nothing here may look for one on the `PATH`.
#[test]
fn a_cluster_of_ours_needs_no_kubectl() {
    let machine = Machine::whole();
    machine.without("kubectl");
    machine.without("jq");
    for verb in ["demo", "all", "node", "api"] {
        assert_eq!(machine.look(verb, None), (true, String::new()), "{verb}");
    }
}
