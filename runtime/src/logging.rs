//! Logging: one line per event for people on a terminal, one JSON object per event everywhere else.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Environment variable with the filter, as in `info,controller=debug` (tracing-subscriber's `EnvFilter`).
pub const FILTER_VARIABLE: &str = "MESHWRIGHT_LOG";

/// Starts logging to standard error. A filter that does not parse is reported and replaced by `info`, because a
/// typing mistake must not keep a daemon from starting. Calling it again changes nothing.
pub fn init() {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| "info".to_owned());
    let (filter, mistake) = match EnvFilter::try_new(&wanted) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).try_init()
    };
    if let (Ok(()), Some(error)) = (started, mistake) {
        tracing::warn!(%error, variable = FILTER_VARIABLE, "the log filter does not parse; using info");
    }
}

/// An error and its sources in one line, for logs and conditions.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Libraries often repeat their source in their own message; said once is enough.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
