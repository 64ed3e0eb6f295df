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

/// Parses a duration as OSM's kinds hold it: Go's `time.ParseDuration` (fractions; `ns`, `us`, `µs`, `ms`, `s`, `m`,
/// `h`) without a sign.
///
/// # Errors
/// [`NotADuration`] for anything else, including an empty text and overflow.
pub fn parse_go(text: &str) -> Result<Duration, NotADuration> {
    let error = || NotADuration { text: text.chars().take(64).collect() };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u128 = 0;
    if rest.is_empty() || rest.len() > 64 {
        return Err(error());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        rest = tail;
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(error()),
        };
        total = decimal(number, nanos).and_then(|part| total.checked_add(part)).ok_or_else(error)?;
    }
    u64::try_from(total).map(Duration::from_nanos).map_err(|_| error())
}

/// `number` (digits with at most one point) times `unit`, what is finer than 1 being cut off.
fn decimal(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars() {
        scale /= 10;
        total = total.checked_add(scale.checked_mul(u128::from(digit.to_digit(10)?))?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        let millis = |text| parse_go(text).map(|duration| duration.as_micros());
        assert_eq!(millis("1.5s"), Ok(1_500_000));
        assert_eq!(millis("1h0m0.25s"), Ok(3_600_250_000));
        assert_eq!(millis("25ms"), Ok(25_000));
        assert_eq!(millis("2.5µs"), Ok(2));
        assert_eq!(millis("0"), Ok(0));
        assert_eq!(millis(".5s"), Ok(500_000));
        for text in ["", "5", "-5s", "h", "1.2.3s", ".s", "5d", "5s ", "9999999999999h", &"9".repeat(70)] {
            assert!(parse_go(text).is_err(), "{text:?}");
        }
    }

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
