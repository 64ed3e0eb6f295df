//! What whoever captures the process that fetches could do with it: nothing.

use std::net::TcpListener;
use std::process::Command;

#[test]
fn the_process_that_fetches_has_no_rights() {
    let folder = tempfile::tempdir().unwrap();
    // As a pod has it: a token, which everybody of the pod may read by its mode.
    let secrets = folder.path().join("var/run/secrets/kubernetes.io/serviceaccount");
    std::fs::create_dir_all(&secrets).unwrap();
    let token = secrets.join("token");
    std::fs::write(&token, "token").unwrap();
    let own = folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let through_link = own.join("link");
    std::os::unix::fs::symlink(&token, &through_link).unwrap();
    let around = own.join("../var/run/secrets/kubernetes.io/serviceaccount/token");
    let paths = [&token, &through_link, &around];
    let output = Command::new(env!("CARGO_BIN_EXE_git-worker"))
        .arg("probe")
        .args([own.display().to_string(), port.to_string()])
        .args(paths)
        .args(["/proc/1/environ", "/etc/shadow"])
        .env_clear()
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    // Landlock came with Linux 5.13; a machine that tests it has it, or this test says so.
    assert_eq!(&lines[..2], ["files Fully", "calls Fully"], "{said}");
    for line in &lines[2..] {
        let works = ["write inside", "connect to the relay"].iter().any(|what| line.starts_with(what));
        let expected = if works { "works" } else { "refused" };
        let variables = line.strip_prefix("variables ");
        assert!(line.ends_with(expected) || variables == Some("0"), "{line}\n{said}");
    }
    assert_eq!(lines.len(), 2 + paths.len() + 2 + 9, "{said}");
    assert!(!folder.path().join("own-outside").exists());
}
