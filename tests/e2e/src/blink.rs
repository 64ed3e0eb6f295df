//! How long Kubernetes took endpoints for not ready, as somebody who watches EndpointSlices sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use crate::cluster::Cluster;

/// A running watch of a namespace's EndpointSlices.
#[derive(Debug)]
pub struct Blinks {
    kubectl: Child,
    reader: JoinHandle<Summary>,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Summary {
    /// From not ready to ready again.
    pub lengths: Vec<Duration>,
    /// Events that were seen; none would mean that nobody watched.
    pub events: usize,
}

impl Blinks {
    /// Begins.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn watch(cluster: &Cluster, namespace: &str) -> anyhow::Result<Self> {
        let mut kubectl = cluster
            .kubectl()
            .args(["get", "endpointslices", "-n", namespace, "-w", "-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = kubectl.stdout.take().context("kubectl has no standard output")?;
        let reader = std::thread::spawn(move || {
            let slices = serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<Value>();
            summarize(slices.map_while(Result::ok).map(|slice| (Instant::now(), slice)))
        });
        Ok(Self { kubectl, reader })
    }

    /// Ends the watch.
    #[must_use]
    pub fn stop(mut self) -> Summary {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
        self.reader.join().unwrap_or_default()
    }
}

fn summarize(slices: impl Iterator<Item = (Instant, Value)>) -> Summary {
    let mut summary = Summary::default();
    let mut down = BTreeMap::<String, Instant>::new();
    for (now, slice) in slices {
        summary.events += 1;
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let key = format!("{} {}", slice["metadata"]["name"], endpoint["addresses"][0]);
            if endpoint["conditions"]["ready"] == true {
                summary.lengths.extend(down.remove(&key).map(|since| now.duration_since(since)));
            } else {
                down.entry(key).or_insert(now);
            }
        }
    }
    summary
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lengths = self.lengths.clone();
        lengths.sort();
        match (lengths.get(lengths.len() / 2), lengths.last()) {
            (Some(median), Some(longest)) => {
                write!(f, "{} times, median {median:.1?}, longest {longest:.1?}", lengths.len())
            }
            _ => write!(f, "never"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_blink_is_from_not_ready_to_ready() {
        let slice = |ready: bool| {
            let endpoints = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]);
            json!({"metadata": {"name": "s"}, "endpoints": endpoints})
        };
        let start = Instant::now();
        let at = |seconds, ready| (start + Duration::from_secs(seconds), slice(ready));
        let seen =
            summarize([at(0, true), at(1, false), at(2, false), at(4, true), at(9, false)].into_iter());
        assert_eq!((seen.lengths, seen.events), (vec![Duration::from_secs(3)], 5));
    }
}
