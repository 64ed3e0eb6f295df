//! Adds up what the load generators in the mesh print.
//!
//! Each generator prints its counters every half second and once more when it ends; a thread per pod follows its
//! log and keeps the last line. Pods come and go while an upgrade moves them, so a scout looks for new ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;

/// Counters of all generators since they began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Requests with an answer or an error.
    pub sent: u64,
    /// Those without a 200.
    pub failed: u64,
    /// What went wrong, how often.
    pub failures: BTreeMap<String, u64>,
    /// Generators seen.
    pub generators: usize,
    /// Generators whose last line was seen.
    pub ended: usize,
}

type Lines = Arc<Mutex<BTreeMap<String, Value>>>;
/// Generators whose log is being read.
type Following = Arc<Mutex<BTreeSet<String>>>;

/// Follows every generator of a Deployment until it is stopped.
#[derive(Debug)]
pub struct Follower {
    lines: Lines,
    stop: Arc<AtomicBool>,
    scout: Option<JoinHandle<()>>,
}

impl Follower {
    /// Begins. The pods of the Deployment `app` have the label `app` and a container of that name.
    #[must_use]
    pub fn start(cluster: &Cluster, namespace: &str, app: &'static str) -> Self {
        let lines = Lines::default();
        let stop = Arc::new(AtomicBool::new(false));
        let scout = std::thread::spawn({
            let (cluster, namespace) = (cluster.clone(), namespace.to_owned());
            let (lines, stop) = (Arc::clone(&lines), Arc::clone(&stop));
            move || scout(&cluster, &namespace, app, &lines, &stop)
        });
        Self { lines, stop, scout: Some(scout) }
    }

    /// What was counted until now.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut totals = Totals::default();
        for line in lines.values() {
            totals.generators += 1;
            totals.ended += usize::from(line["final"] == true);
            totals.sent += line["sent"].as_u64().unwrap_or(0);
            totals.failed += line["failed"].as_u64().unwrap_or(0);
            for (what, number) in line["failures"].as_object().into_iter().flatten() {
                *totals.failures.entry(what.clone()).or_default() += number.as_u64().unwrap_or(0);
            }
        }
        totals
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(scout) = self.scout.take() {
            let _ = scout.join();
        }
    }
}

fn scout(cluster: &Cluster, namespace: &str, app: &'static str, lines: &Lines, stop: &AtomicBool) {
    let following = Following::default();
    while !stop.load(Ordering::Relaxed) {
        let selector = format!("app={app}");
        for pod in cluster.list(&["pods", "-n", namespace, "-l", &selector]).unwrap_or_default() {
            let running = pod["status"]["containerStatuses"]
                .as_array()
                .is_some_and(|all| all.iter().any(|c| c["name"] == app && !c["state"]["running"].is_null()));
            let Some(name) = pod["metadata"]["name"].as_str() else { continue };
            let mut read = following.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if running && read.insert(name.to_owned()) {
                lines
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .entry(name.to_owned())
                    .or_insert(Value::Null);
                let (cluster, namespace) = (cluster.clone(), namespace.to_owned());
                let (lines, name, following) = (Arc::clone(lines), name.to_owned(), Arc::clone(&following));
                // Ends when the pod's log ends, or the API server does that hands it on; then it is read again.
                std::thread::spawn(move || {
                    follow(&cluster, &namespace, app, &name, &lines);
                    following.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&name);
                });
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn follow(cluster: &Cluster, namespace: &str, app: &str, pod: &str, lines: &Lines) {
    let child = cluster
        .kubectl()
        .args(["logs", "-f", "--tail=4", "-n", namespace, pod, "-c", app])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return };
    for line in BufReader::new(child.stdout.take().expect("standard output was piped")).lines() {
        let Ok(value) = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?))
        else {
            continue;
        };
        lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(pod.to_owned(), value);
    }
    let _ = child.wait();
}
