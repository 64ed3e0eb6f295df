//! What the story measured: a table for people, `target/demo/summary.json` for machines.

use serde::Serialize;

use crate::shell::root;

/// Facts of one run of the story. Nothing here is assumed: each field is read from the cluster or counted.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Version of the API server.
    pub kubernetes: String,
    /// Envoy's version in the store's sidecars before the upgrade.
    pub envoy_from: String,
    /// And after.
    pub envoy_to: String,
    /// The last commit that was applied.
    pub commit: String,
    /// The buyer's status before a policy allowed it.
    pub buyer_status_before: u16,
    /// The buyer's status once a policy allowed it.
    pub buyer_status: u16,
    /// The thief's status, then.
    pub thief_status_code: u16,
    /// From `git push` to the buyer's first 200, in seconds.
    pub push_to_enforced_seconds: f64,
    /// Share of calls that version 2 of the store answered, in percent.
    pub split_percent_v2: f64,
    /// From editing the version to the old control plane being gone, in seconds.
    pub upgrade_seconds: f64,
    /// Requests that the load generators in the mesh sent while the upgrade ran.
    pub requests: u64,
    /// Those that did not get a 200.
    pub failed: u64,
    /// What each phase took, in seconds.
    pub phases: Vec<(String, f64)>,
    /// Claims that did not hold; empty in a good run.
    pub broken: Vec<String>,
}

impl Summary {
    /// Notes a claim that must hold.
    pub fn claim(&mut self, holds: bool, claim: impl Into<String>) {
        if !holds {
            self.broken.push(claim.into());
        }
    }

    /// Writes `target/demo/summary.json` and returns its path.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self) -> anyhow::Result<String> {
        let folder = root().join("target/demo");
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("summary.json"), serde_json::to_string_pretty(self)? + "\n")?;
        Ok("target/demo/summary.json".to_owned())
    }

    /// The closing table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut rows = vec![
            ("Kubernetes".to_owned(), self.kubernetes.clone()),
            ("Envoy".to_owned(), format!("{} -> {}", self.envoy_from, self.envoy_to)),
            ("commit in force".to_owned(), self.commit.chars().take(12).collect()),
            ("buyer".to_owned(), format!("{} -> {}", self.buyer_status_before, self.buyer_status)),
            ("thief".to_owned(), self.thief_status_code.to_string()),
            ("push to enforced".to_owned(), format!("{:.1} s", self.push_to_enforced_seconds)),
            ("split, share of v2".to_owned(), format!("{:.1} % (10 wanted)", self.split_percent_v2)),
            ("upgrade".to_owned(), format!("{:.0} s", self.upgrade_seconds)),
            ("requests during it".to_owned(), self.requests.to_string()),
            ("failed".to_owned(), self.failed.to_string()),
        ];
        rows.extend(
            self.phases.iter().map(|(name, seconds)| (format!("took: {name}"), format!("{seconds:.0} s"))),
        );
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        rows.iter().map(|(name, value)| format!("  {name:width$}  {value}\n")).collect()
    }
}
