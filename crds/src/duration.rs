//! Durations as Kubernetes users write them (`90s`, `1h30m`), a subset of Go's `time.ParseDuration`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration; write for example 90s, 15m or 24h")]
pub struct NotADuration {
    /// What was written.
    pub text: String,
}

/// Parses a duration made of whole numbers with the units `ms`, `s`, `m`, `h`.
///
/// # Errors
/// [`NotADuration`] for anything else, including an empty text, signs, fractions and overflow.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    let error = || NotADuration { text: text.chars().take(64).collect() };
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let number: u64 = rest[..digits].parse().map_err(|_| error())?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let part = match &rest[..unit_end] {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(error)?;
        rest = &rest[unit_end..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_users_write() {
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86400)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn refuses_everything_else() {
        for text in
            ["", "5", "-5s", "1.5h", "h", "5d", "99999999999999999999s", "18446744073709551615h", "5s "]
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
