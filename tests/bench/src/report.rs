//! Where the tables go, and what they were measured on.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::figures;

/// What the numbers were measured on; `note` says who shared it.
#[must_use]
pub fn machine(note: &str) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or("?").trim_matches([' ', '\t', ':']).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "dev profile: not for comparison" } else { "release profile" };
    format!(
        "{} ({cores} cores, {note}), memory {}, kernel {}, load {} at the start, {profile}.\n",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split_whitespace().next().unwrap_or("?"),
    )
}

/// Puts a report between the marks of its name, and its numbers into the JSON file beside (`benchmarks.md`,
/// `benchmarks.json`).
///
/// # Errors
/// When the file cannot be read or written, or has no such marks.
pub fn write(path: &Path, name: &str, report: &str) -> anyhow::Result<()> {
    let (begin, end) = (format!("<!-- {name}: written by `make bench` -->"), format!("<!-- {name}: end -->"));
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let (before, rest) = text.split_once(&begin).with_context(|| format!("no mark {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("no mark {end}"))?;
    ensure!(!report.contains(&end), "the report ends itself");
    std::fs::write(path, format!("{before}{begin}\n{report}{end}{after}"))
        .with_context(|| format!("writing {}", path.display()))?;
    let today = time::OffsetDateTime::now_utc().date().to_string();
    figures::write(&path.with_extension("json"), name, figures::of(name, report, &today))
}

/// The value that `percent` of the values do not exceed.
#[must_use]
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(place).copied().unwrap_or(f64::NAN)
}

/// The middle value.
#[must_use]
pub fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50)
}
