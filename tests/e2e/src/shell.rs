//! Running programs and waiting for conditions.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs a command and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails; the error holds the command and what it said.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let result = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let stdout = String::from_utf8_lossy(&result.stdout).into_owned();
    if !result.status.success() {
        bail!(
            "{command:?} failed ({}): {}{}",
            result.status,
            stdout,
            String::from_utf8_lossy(&result.stderr)
        );
    }
    Ok(stdout)
}

/// Runs a command with its output on ours.
///
/// # Errors
/// When it cannot be started or fails.
pub fn stream(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

/// Asks `check` every quarter of a second until it answers `Ok(Some(..))`.
///
/// # Errors
/// When `limit` is over; the error says what was waited for and what the last answer was.
pub fn until<T>(
    what: impl Display,
    limit: Duration,
    mut check: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        let last = match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > limit {
            bail!("waited {}s in vain for {what}; the last answer was: {last}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}
