//! The sources of our programs, as far as a test of the repository reads them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A literal of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it says; a text without its quotes.
    pub text: String,
    /// Whether it is a text and not a number.
    pub is_text: bool,
    /// Line, from 1.
    pub line: usize,
    /// The whole line.
    pub of_line: String,
}

/// The files of every program and library of the repository, each with the name of its crate: not those of tests, nor
/// those of the leaf `names`.
#[must_use]
pub fn programs(repository: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(repository).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().join("Cargo.toml").is_file() && name != "names" && name != "fuzz" {
            let mut files = Vec::new();
            walk(&entry.path().join("src"), &mut files);
            let tests: BTreeSet<PathBuf> = files.iter().flat_map(|file| test_modules(file)).collect();
            files.retain(|file| !file.ancestors().any(|part| tests.contains(&part.with_extension("rs"))));
            found.extend(files.into_iter().map(|file| (name.clone(), file)));
        }
    }
    found.sort();
    found
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Files of modules that a file declares for tests only.
fn test_modules(file: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let parent = file.parent().unwrap_or(Path::new(""));
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let below = match stem.as_ref() {
        "lib" | "main" | "mod" => parent.to_owned(),
        stem => parent.join(stem),
    };
    let (mut found, mut of_test, mut path) = (Vec::new(), false, None);
    for line in text.lines().map(str::trim) {
        if line == "#[cfg(test)]" {
            of_test = true;
        } else if let Some(other) = line.strip_prefix("#[path = \"") {
            path = other.strip_suffix("\"]").map(|other| parent.join(other));
        } else {
            let words: Vec<_> = line.trim_end_matches(';').split(' ').collect();
            if let (true, [.., "mod", name]) = (of_test && line.ends_with(';'), words.as_slice()) {
                found.push(path.take().unwrap_or_else(|| below.join(name).with_extension("rs")));
            }
            (of_test, path) = (false, None);
        }
    }
    found
}

/// The texts and numbers of a program, without those in comments and in its own module of tests.
#[must_use]
pub fn tokens(text: &str) -> Vec<Token> {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let (mut found, mut rest) = (Vec::new(), &text[..end]);
    let token = |word: &str, is_text: bool, rest: &str| {
        let at = end - rest.len();
        let line = text[..at].matches('\n').count();
        let of_line = text.lines().nth(line).unwrap_or_default().to_owned();
        Token { text: word.to_owned(), is_text, line: line + 1, of_line }
    };
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |at| at + 2),
            '"' => {
                let inner = quoted(&rest[1..]);
                found.push(token(&rest[1..=inner], true, rest));
                inner + 2
            }
            'r' if raw(rest).is_some() => {
                let (inner, length) = raw(rest).unwrap_or_default();
                found.push(token(inner, true, rest));
                length
            }
            '\'' => character(rest),
            '0'..='9' => {
                let inner = word(rest);
                found.push(token(&rest[..inner], false, rest));
                inner
            }
            letter if letter.is_alphabetic() || letter == '_' => word(rest),
            other => other.len_utf8(),
        };
        rest = &rest[length.min(rest.len())..];
    }
    found
}

/// Length of what a `"` opened.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    let end = rest.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.unwrap_or(rest.len().saturating_sub(1))
}

/// The text of a raw literal, and its whole length.
fn raw(rest: &str) -> Option<(&str, usize)> {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    let inner = rest[1 + hashes..].strip_prefix('"')?;
    let length = inner.find(&format!("\"{}", "#".repeat(hashes)))?;
    Some((&inner[..length], 3 + 2 * hashes + length))
}

/// Length of a character literal, or of the quote of a lifetime.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), _) => rest[2..].find('\'').map_or(1, |at| if at == 0 { 4 } else { at + 3 }),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Length of a word or number.
fn word(rest: &str) -> usize {
    rest.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(rest.len()).max(1)
}
