//! The numbers of the tables by stable names, for programs: `docs/benchmarks.json`. They are read out of the very tables
//! that people read, so that the two never say different things.
//!
//! ```text
//!  | path | p50 / p90 | ratio |        "dataplane/http-meshwright/p50": {"value": 71.0, "unit": "µs", "what": "…"}
//!  | HTTP, Meshwright | 71 / 90 µs | ─▶ "dataplane/http-meshwright/p90": …
//! ```
//! A name is the section, the heading of the table if it has one, the row and the column; counts of this run, which stand
//! in brackets in a row, are no part of it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// In its unit.
    pub value: f64,
    /// `µs`, `MB`, `/s`; nothing for ratios and counts.
    pub unit: String,
    /// Heading, row and column as people read them.
    pub what: String,
    /// The day, `YYYY-MM-DD`.
    pub measured: String,
}

/// All figures by name.
pub type Figures = BTreeMap<String, Figure>;

/// The figures of one section's tables.
#[must_use]
pub fn of(section: &str, report: &str, measured: &str) -> Figures {
    let mut figures = Figures::new();
    let (mut heading, mut columns): (String, Vec<String>) = (String::new(), Vec::new());
    // The first line of a table names its columns.
    let mut inside = false;
    // Rows such as "… bytes per push" go on with the one above.
    let mut subject = String::new();
    for line in report.lines() {
        if let Some(bold) = line.strip_prefix("**").and_then(|line| line.split("**").next()) {
            bold.clone_into(&mut heading);
        }
        let Some(row) = line.strip_prefix('|') else {
            inside = false;
            continue;
        };
        let cells: Vec<_> = row.trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        if !inside {
            (inside, columns) = (true, cells);
            continue;
        }
        if cells.iter().all(|cell| cell.chars().all(|c| c == '-' || c == ':')) {
            continue;
        }
        let Some((name, cells)) = cells.split_first() else { continue };
        let row = match name.strip_prefix('…') {
            Some(more) => format!("{subject}: {}", more.trim()),
            None => {
                subject = name.split(" → ").next().unwrap_or_default().to_owned();
                name.clone()
            }
        };
        for (cell, column) in cells.iter().zip(columns.iter().skip(1)) {
            for (part, value, unit) in numbers(cell, column) {
                let name = [section, &heading, &without_brackets(&row), &part].map(slug);
                let name = name.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
                let what = [heading.as_str(), &row, &part].into_iter().filter(|part| !part.is_empty());
                let what = what.collect::<Vec<_>>().join("; ");
                figures.insert(name, Figure { value, unit, what, measured: measured.to_owned() });
            }
        }
    }
    figures
}

/// What a cell says: for each of its numbers the column's part, the value and the unit. A range ("1 to 2") says nothing
/// that has no number of its own.
fn numbers(cell: &str, column: &str) -> Vec<(String, f64, String)> {
    if cell.contains(" to ") {
        return Vec::new();
    }
    let parts: Vec<_> = cell.split(" / ").flat_map(|part| part.split(" + ")).collect();
    let words: Vec<_> = column.split(" / ").flat_map(|part| part.split(" + ")).collect();
    // "steady p50 / p90": the first word belongs to both.
    let last = parts.last().copied().unwrap_or_default();
    let (_, unit_of_all) = number(last).unwrap_or_default();
    let mut found = Vec::new();
    for (place, part) in parts.iter().enumerate() {
        let Some((value, unit)) = number(part) else { return Vec::new() };
        let name = match (words.len() == parts.len(), words.get(place)) {
            (true, Some(word)) => (*word).to_owned(),
            _ if parts.len() == 1 => column.to_owned(),
            _ => format!("{column} {}", place + 1),
        };
        found.push((name, value, if unit.is_empty() { unit_of_all.clone() } else { unit }));
    }
    found
}

/// A number and what follows it.
fn number(text: &str) -> Option<(f64, String)> {
    let text = text.trim().trim_start_matches('~');
    let end = text.find(|c: char| !(c.is_ascii_digit() || ".,-".contains(c))).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let value: f64 = digits.replace(',', "").parse().ok()?;
    value.is_finite().then(|| (value, unit.trim().to_owned()))
}

/// Without counts of this run, as "(19 sidecars)"; what else stands in brackets says which case it is.
fn without_brackets(text: &str) -> String {
    let Some((before, rest)) = text.split_once('(') else { return text.to_owned() };
    let Some((inside, after)) = rest.split_once(')') else { return text.to_owned() };
    let mut words = inside.split(' ');
    let count = words.next().is_some_and(|word| word.parse::<f64>().is_ok()) && words.next().is_some();
    let kept = if count { String::new() } else { format!("({inside})") };
    format!("{before}{kept}{}", without_brackets(after))
}

fn slug(text: &str) -> String {
    let text = text.to_lowercase();
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '.')).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// Replaces a section's figures in the file.
///
/// # Errors
/// When the file is there and cannot be read, or cannot be written.
pub fn write(path: &Path, section: &str, figures: Figures) -> anyhow::Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let mut all: Figures =
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
    all.retain(|name, _| !name.starts_with(&format!("{section}/")));
    all.extend(figures);
    let text = format!("{}\n", serde_json::to_string_pretty(&all)?);
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
    }

    #[test]
    fn every_number_of_a_table_has_a_name() {
        let report = "A machine.\n\n**2 services**\n\n| | ours | steady p50 / p90 | ratio |\n|---|---|---|---|\n\
                      | connect (5 of them) | 1,234.50 µs | 7 / 9 µs | – |\n| … bytes | 3 B | 1 to 2 µs | 0.50 |\n";
        let figures = of("fleets", report, "2026-11-25");
        let said: Vec<_> = figures
            .iter()
            .map(|(name, figure)| (name.as_str(), figure.value, figure.unit.as_str()))
            .collect();
        let expected = [
            ("fleets/2-services/connect-bytes/ours", 3.0, "B"),
            ("fleets/2-services/connect-bytes/ratio", 0.5, ""),
            ("fleets/2-services/connect/ours", 1234.5, "µs"),
            ("fleets/2-services/connect/p90", 9.0, "µs"),
            ("fleets/2-services/connect/steady-p50", 7.0, "µs"),
        ];
        assert_eq!(said, expected);
        assert_eq!(figures["fleets/2-services/connect/ours"].what, "2 services; connect (5 of them); ours");
    }

    /// What is committed for people and for programs is the same.
    #[test]
    fn the_committed_figures_are_those_of_the_committed_tables() {
        let text = std::fs::read_to_string(root().join("benchmarks.md")).unwrap();
        let written: Figures =
            serde_json::from_str(&std::fs::read_to_string(root().join("benchmarks.json")).unwrap()).unwrap();
        let mut of_tables = Figures::new();
        for section in ["fleets", "dataplane", "footprint", "webhook"] {
            let (_, rest) = text.split_once(&format!("<!-- {section}: written by `make bench` -->")).unwrap();
            let (report, _) = rest.split_once(&format!("<!-- {section}: end -->")).unwrap();
            let measured =
                |name: &str| written.get(name).map(|figure| figure.measured.clone()).unwrap_or_default();
            of_tables.extend(of(section, report, "").into_iter().map(|(name, figure)| {
                let measured = measured(&name);
                (name, Figure { measured, ..figure })
            }));
        }
        assert!(of_tables.len() > 100, "{} figures", of_tables.len());
        assert_eq!(written, of_tables);
        assert!(written.values().all(|figure| figure.measured.len() == 10), "each says when it was measured");
    }

    #[test]
    fn a_section_replaces_its_own_figures_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("benchmarks.json");
        let table = |value: &str| format!("| | x |\n|---|---|\n| a | {value} ms |\n");
        write(&path, "one", of("one", &table("1"), "d")).unwrap();
        write(&path, "two", of("two", &table("2"), "d")).unwrap();
        write(&path, "one", of("one", &table("3"), "e")).unwrap();
        let all: Figures = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let said: Vec<_> = all.iter().map(|(name, figure)| (name.as_str(), figure.value)).collect();
        assert_eq!(said, [("one/a/x", 3.0), ("two/a/x", 2.0)]);
    }
}
