//! The only place in the tree that reads or writes YAML.
//!
//! Options, decided once: booleans and octal numbers as kubectl reads them (`no` is false, `0644` is 420); a key
//! given twice is an error; merge keys work; aliases are limited, so that a bomb costs nothing. A file is cut into
//! its documents before anything is read, so that one bad document does not hide the others and every error has
//! the line of the file.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_saphyr::budget::Budget;

/// Most documents in one file.
pub const MAX_DOCUMENTS: usize = 2_000;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `*.yaml`, `*.yml`.
    Yaml,
    /// `*.json`.
    Json,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    /// Line of the file, from 1.
    pub line: usize,
    /// The parser's words.
    pub message: String,
}

/// One document of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'a> {
    first: usize,
    text: &'a str,
    format: Format,
}

/// Cuts a file into its documents; those that hold nothing but comments are left out.
///
/// `---` and `...` at the start of a line end a document wherever they are, also inside block scalars (YAML 1.2,
/// section 9.1.2), so no parser is needed for this.
///
/// # Errors
/// [`YamlError`] when there are more than [`MAX_DOCUMENTS`].
pub fn documents(text: &str, format: Format) -> Result<Vec<Document<'_>>, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if format == Format::Json {
        let document = Document { first: 1, text, format };
        return Ok(if text.trim().is_empty() { Vec::new() } else { vec![document] });
    }
    let mut found = Vec::new();
    let (mut start, mut first, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let here = offset;
        offset += line.len();
        let (from, next) = match marker(line) {
            Some(Marker::Start) => (here, index + 1),
            Some(Marker::End) => (offset, index + 2),
            None => continue,
        };
        found.push(Document { first, text: &text[start..here], format });
        (start, first) = (from, next);
    }
    found.push(Document { first, text: &text[start..], format });
    found.retain(|document| !document.is_empty());
    match found.get(MAX_DOCUMENTS) {
        Some(extra) => Err(YamlError {
            line: extra.first,
            message: format!("more than {MAX_DOCUMENTS} documents in one file; split the file"),
        }),
        None => Ok(found),
    }
}

enum Marker {
    Start,
    End,
}

fn marker(line: &str) -> Option<Marker> {
    let ends = |rest: &str| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']);
    if line.strip_prefix("---").is_some_and(ends) {
        Some(Marker::Start)
    } else if line.strip_prefix("...").is_some_and(ends) {
        Some(Marker::End)
    } else {
        None
    }
}

impl Document<'_> {
    /// Line of the file where the document's content begins, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        let blank = self.text.lines().take_while(|line| !has_content(line)).count();
        self.first + blank
    }

    /// Reads the document as untyped data, for a look at what it is.
    ///
    /// # Errors
    /// [`YamlError`] when it isn't YAML, or breaks a limit.
    pub fn untyped(&self) -> Result<Value, YamlError> {
        self.read()
    }

    /// Reads the document as a type of ours. Unknown fields are not seen here.
    ///
    /// # Errors
    /// [`YamlError`] when it isn't YAML, breaks a limit or doesn't fit the type.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, YamlError> {
        match self.format {
            Format::Yaml => {
                serde_saphyr::from_str_with_options(self.text, options()).map_err(|e| self.yaml_error(&e))
            }
            Format::Json => serde_json::from_str(self.text)
                .map_err(|e| YamlError { line: e.line().max(1), message: without_place(&e.to_string()) }),
        }
    }

    /// The first line on which a key is written, or the document's first line.
    #[must_use]
    pub fn line_of_key(&self, key: &str) -> usize {
        self.text
            .lines()
            .position(|line| names(line, key))
            .map_or_else(|| self.line(), |index| self.first + index)
    }

    fn is_empty(&self) -> bool {
        !self.text.lines().any(has_content)
    }

    fn yaml_error(&self, error: &serde_saphyr::Error) -> YamlError {
        let error = error.without_snippet();
        let line = error.location().and_then(|at| usize::try_from(at.line()).ok()).filter(|line| *line > 0);
        let text = error.to_string();
        let message = if line.is_some() { without_place(&text) } else { text };
        YamlError { line: line.map_or_else(|| self.line(), |line| self.first + line - 1), message }
    }
}

/// An error's text without the parser's own line, which counts from the start of the document.
fn without_place(text: &str) -> String {
    text.rfind(" at line ").map_or(text, |cut| &text[..cut]).trim_end_matches(':').to_owned()
}

/// Whether a line has the key, also inside `{…}`: as a whole word, perhaps quoted, with a colon behind it.
fn names(line: &str, key: &str) -> bool {
    let is_whole = |(at, _): (usize, &str)| {
        let before = line[..at].chars().next_back();
        let after = line[at + key.len()..].trim_start_matches(['"', '\'']).trim_start();
        before.is_none_or(|c| " \t{,\"'".contains(c)) && after.starts_with(':')
    };
    !key.is_empty() && has_content(line) && line.match_indices(key).any(is_whole)
}

fn has_content(line: &str) -> bool {
    let line = line.strip_prefix("---").unwrap_or(line).trim();
    !(line.is_empty() || line.starts_with('#') || line.starts_with('%'))
}

fn options() -> serde_saphyr::Options {
    let mut budget = Budget::default();
    budget.max_documents = 1;
    budget.max_depth = 64;
    budget.max_aliases = 1_000;
    budget.max_anchors = 1_000;
    let mut options = serde_saphyr::Options::default();
    options.budget = Some(budget);
    options.alias_limits.max_total_replayed_events = 20_000;
    options.legacy_octal_numbers = true;
    options.strict_booleans = false;
    options.with_snippet = false;
    options
}

/// Writes a value as YAML that kubectl reads back unchanged (`no` and the like are quoted).
///
/// # Errors
/// [`YamlError`] when the value has no YAML form.
pub fn write<T: Serialize>(value: &T) -> Result<String, YamlError> {
    serde_saphyr::to_string(value).map_err(|e| YamlError { line: 0, message: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Vec<(usize, Value)> {
        let documents = documents(text, Format::Yaml).unwrap();
        documents.iter().map(|document| (document.line(), document.untyped().unwrap())).collect()
    }

    #[test]
    fn cuts_a_file_into_documents_with_their_lines() {
        let text = "# head\n---\n\na: 1\n--- # two\n# only a comment\n---\nb: |\n  x\n  ---\n...\n%YAML 1.2\n---\nc: 3\n";
        let found = read(text);
        let expected = vec![(4, json!({"a": 1})), (8, json!({"b": "x\n---\n"})), (14, json!({"c": 3}))];
        assert_eq!(found, expected);
        assert_eq!(read(""), vec![]);
        assert_eq!(read("---\n---\n# x\n"), vec![]);
        assert_eq!(read("\u{feff}a: 1"), vec![(1, json!({"a": 1}))]);
        assert_eq!(read("a: 1\r\n---\r\nb: 2\r\n"), vec![(1, json!({"a": 1})), (3, json!({"b": 2}))]);
    }

    #[test]
    fn reads_scalars_as_kubectl_does() {
        assert_eq!(read("a: no\nb: 0644\nc: 'no'")[0].1, json!({"a": false, "b": 420, "c": "no"}));
    }

    #[test]
    fn errors_have_the_line_of_the_file() {
        let error_of = |text: &str| {
            let documents = documents(text, Format::Yaml).unwrap();
            documents.iter().find_map(|document| document.untyped().err()).unwrap()
        };
        let error = error_of("a: 1\n---\nb: 1\nb: 2\n");
        assert_eq!(error.line, 4, "{error}");
        assert!(!error.message.contains("line"), "{error}");
        assert_eq!(error_of("a: 1\n---\n\nb: 2\nc: }\n").line, 5);
    }

    #[test]
    fn json_errors_have_a_line() {
        let documents = documents("{\n\"a\": x\n}", Format::Json).unwrap();
        let error = documents[0].untyped().unwrap_err();
        assert_eq!((error.line, error.message.as_str()), (2, "expected value"));
    }

    #[test]
    fn a_key_is_found_where_it_is_written() {
        let text = "a: 1\n---\n# b: 2\nmetadata: {xb: 1, \"b\": 2}\nc: b\n- d : 1\n";
        let documents = documents(text, Format::Yaml).unwrap();
        let line = |key: &str| documents[1].line_of_key(key);
        assert_eq!((line("b"), line("c"), line("d"), line("nowhere"), line("")), (4, 5, 6, 4, 4));
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..10 {
            let before = format!("*a{},", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(documents(&text, Format::Yaml).unwrap()[0].untyped().is_err());
        let deep = "[".repeat(5000);
        assert!(documents(&deep, Format::Yaml).unwrap()[0].untyped().is_err());
    }

    #[test]
    fn writes_what_it_reads_back() {
        let value = json!({"a": "no", "b": "0644", "c": ["1", true, null], "d": "x\ny\n"});
        let text = write(&value).unwrap();
        assert_eq!(read(&text)[0].1, value);
    }
}
