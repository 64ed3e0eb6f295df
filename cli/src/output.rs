//! How things are printed: formats, colour, errors with the next command.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

/// Format of what is printed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// `-o`, the same for every verb that lists something.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct FormatArgument {
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Prints text to standard output. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("standard output"),
    }
}

/// Prints a value in one of the formats for programs.
pub fn print_value<T: Serialize>(value: &T, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Yaml => print(&yaml(value)?),
        Format::Json | Format::Table => print(&format!("{}\n", serde_json::to_string_pretty(value)?)),
    }
}

/// A value as YAML that kubectl reads.
pub fn yaml<T: Serialize>(value: &T) -> anyhow::Result<String> {
    let mut text = gitops::yaml::write(value)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Whether standard output takes colour (<https://no-color.org>).
pub fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A failure with what to do next.
#[derive(Debug)]
pub struct Advised {
    message: String,
    next: String,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advised {}

/// An error that names the next command to type.
pub fn advise(message: impl Into<String>, next: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Advised { message: message.into(), next: next.into() })
}

/// An error for a person: what, why, and what next.
pub fn failure(error: &anyhow::Error) -> String {
    let next = error.chain().find_map(|cause| cause.downcast_ref::<Advised>()).map(|advised| &advised.next);
    match next {
        Some(next) => format!("error: {error:#}\n  next: {next}\n"),
        None => format!("error: {error:#}\n"),
    }
}
