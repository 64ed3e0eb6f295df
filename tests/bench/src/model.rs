//! The table of what Criterion measured (`benches/model.rs`).

use std::path::Path;

use anyhow::Context;

/// Reads the newest estimate of each benchmark in Criterion's folder.
pub fn table(folder: &Path) -> anyhow::Result<String> {
    let mut text = "\n**Pure parts, on one core** (Criterion; median and its 95 % interval)\n\n| | time | interval |\n|---|---|---|\n"
        .to_owned();
    for group in sorted(folder)? {
        for case in sorted(&group)? {
            let new = case.join("new");
            let Ok(estimates) = std::fs::read_to_string(new.join("estimates.json")) else { continue };
            let about = std::fs::read_to_string(new.join("benchmark.json")).context("benchmark.json")?;
            let [estimates, about] =
                [&estimates, &about].map(|text| serde_json::from_str::<serde_json::Value>(text));
            let (median, about) = (&estimates?["median"], about?);
            let micros = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN) / 1000.0;
            let interval = &median["confidence_interval"];
            text.push_str(&format!(
                "| {} ({}) | {:.1} µs | {:.1} to {:.1} µs |\n",
                about["group_id"].as_str().unwrap_or("?"),
                about["function_id"].as_str().unwrap_or("?"),
                micros(&median["point_estimate"]),
                micros(&interval["lower_bound"]),
                micros(&interval["upper_bound"]),
            ));
        }
    }
    Ok(text)
}

fn sorted(folder: &Path) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut all: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    all.retain(|path| path.is_dir());
    all.sort();
    Ok(all)
}
