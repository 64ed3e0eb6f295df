//! Text that comes from outside: what sidecars say of themselves ends up in logs, events and reports.

/// At most so many characters of a text, on one line.
#[must_use]
pub fn told(text: &str, most: usize) -> String {
    let mut characters = text.chars().map(|one| if one.is_control() { ' ' } else { one });
    let mut short: String = characters.by_ref().take(most).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_short_and_on_one_line() {
        assert_eq!(told("no \u{1F980}", 9), "no \u{1F980}");
        assert_eq!(told("a\nb\u{1b}[2Jc", 5), "a b […");
        assert_eq!(told(&"x".repeat(70_000), 512).chars().count(), 513);
    }
}
