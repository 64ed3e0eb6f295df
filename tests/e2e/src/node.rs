//! A node as root sees it: the processes of its containers, and what lies on its disk.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::pod::statuses;

impl Cluster {
    /// The folder of all data of the cluster: etcd's, containerd's, the kubelet's, and every log.
    ///
    /// # Errors
    /// When the cluster is not one of ours.
    pub fn folder(&self) -> anyhow::Result<PathBuf> {
        let folder = Path::new(&self.kubeconfig).parent().context("the kubeconfig has no folder")?;
        anyhow::ensure!(folder.join("etcd").is_dir(), "{} holds no cluster", folder.display());
        Ok(folder.to_owned())
    }

    /// Process ids of a container of a pod, as the machine counts them, the oldest first.
    ///
    /// # Errors
    /// When it does not run, and as containerd says.
    pub fn processes(&self, pod: &Value, container: &str) -> anyhow::Result<Vec<u32>> {
        let id = container_id(pod, container)?;
        let listed = self.ctr(&["tasks", "ps", &id])?;
        let mut all: Vec<u32> =
            listed.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        all.sort_unstable();
        anyhow::ensure!(!all.is_empty(), "{container} has no process: {listed}");
        Ok(all)
    }

    /// Sends a signal to the first process of a container.
    ///
    /// # Errors
    /// As containerd says.
    pub fn signal(&self, pod: &Value, container: &str, signal: &str) -> anyhow::Result<()> {
        let id = container_id(pod, container)?;
        self.ctr(&["tasks", "kill", "--signal", signal, &id]).map(drop)
    }
}

fn container_id(pod: &Value, container: &str) -> anyhow::Result<String> {
    let status = statuses(pod).into_iter().find(|status| status["name"] == container);
    let id = status.and_then(|status| status["containerID"].as_str());
    let id = id.with_context(|| format!("{container} does not run"))?;
    Ok(id.trim_start_matches("containerd://").to_owned())
}

/// Where a sidecar keeps its certificate and key.
pub const IDENTITY: &str = "run/meshwright/sds/identity.json";

/// A path as a process sees it.
#[must_use]
pub fn inside(pid: u32, path: &str) -> PathBuf {
    Path::new(&format!("/proc/{pid}/root")).join(path)
}

/// Certificate and key of the sidecar that a process is of, as it gave them to its Envoy.
///
/// # Errors
/// When it has none.
pub fn identity(pid: u32) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(inside(pid, IDENTITY)).context(IDENTITY)?;
    let file: Value = serde_json::from_str(&text)?;
    file.pointer("/resources/0/tls_certificate").cloned().context("no certificate")
}

/// A field of `/proc/<pid>/status`.
///
/// # Errors
/// When there is no such process or field.
pub fn status(pid: u32, field: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.with_context(|| format!("no {field}"))?.trim().to_owned())
}

/// TCP ports that a process' network listens on, loopback left out.
///
/// # Errors
/// When there is no such process.
pub fn listens(pid: u32) -> anyhow::Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace().skip(1);
            let (Some(local), state) = (fields.next(), fields.nth(1)) else { continue };
            let Some((address, port)) = local.split_once(':') else { continue };
            // 127.0.0.1 and ::1, as the kernel writes them; 0A is LISTEN.
            let loopback = address == "0100007F" || address == "00000000000000000000000001000000";
            if state == Some("0A") && !loopback {
                ports.insert(u16::from_str_radix(port, 16)?);
            }
        }
    }
    Ok(ports)
}

/// Files below a folder that hold one of these texts, whatever else they hold. Only the folder's own file system.
///
/// # Errors
/// When the folder cannot be read.
pub fn files_with(folder: &Path, texts: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut find = Command::new("find");
    // Sockets and pipes would be waited for.
    find.arg(folder).args(["-xdev", "-type", "f", "-exec", "grep", "-laF"]);
    for text in texts {
        find.args(["-e", text]);
    }
    find.args(["--", "{}", "+"]);
    let found = find.output()?;
    let said = String::from_utf8_lossy(&found.stderr);
    // grep ends with 1 where nothing is found; files that ended meanwhile are none.
    let real = |line: &&str| !line.contains("No such file or directory");
    if let Some(line) = said.lines().find(real) {
        bail!("{}: {line}", folder.display());
    }
    Ok(String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_by_what_they_hold() {
        let folder = std::env::temp_dir().join(format!("meshwright-files-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("deep")).unwrap();
        std::fs::write(folder.join("deep/one"), b"\0\xffneedle\0").unwrap();
        std::fs::write(folder.join("two"), b"hay").unwrap();
        let found = files_with(&folder, &["-nothing", "needle"]).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, [folder.join("deep/one").display().to_string()]);
    }

    #[test]
    fn a_listener_is_seen() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let hidden = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = listens(std::process::id()).unwrap();
        assert!(ports.contains(&listener.local_addr().unwrap().port()));
        assert!(!ports.contains(&hidden.local_addr().unwrap().port()));
    }
}
