//! Amounts as Kubernetes writes them (`resource.Quantity`): `100m`, `64Mi`, `1e9`.

/// Suffixes of amounts and what they stand for, in thousandths.
const SUFFIXES: [(&str, f64); 16] = [
    ("", 1e3),
    ("Ki", 1024e3),
    ("Mi", 1_048_576e3),
    ("Gi", 1_073_741_824e3),
    ("Ti", 1_099_511_627_776e3),
    ("Pi", 1.125_899_906_842_624e18),
    ("Ei", 1.152_921_504_606_847e21),
    ("n", 1e-6),
    ("u", 1e-3),
    ("m", 1.0),
    ("k", 1e6),
    ("M", 1e9),
    ("G", 1e12),
    ("T", 1e15),
    ("P", 1e18),
    ("E", 1e21),
];
/// Powers of ten beyond these are no amount of anything that a container can have.
const LARGEST_EXPONENT: i32 = 21;
/// Digits beyond these are no amount either.
const LONGEST: usize = 20;

/// An amount in thousandths of its unit; `None` for what is none, and for amounts below zero.
#[must_use]
pub fn milli(text: &str) -> Option<f64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let value: f64 = number.parse().ok().filter(|_| number.len() <= LONGEST)?;
    Some(value * factor(suffix)?)
}

/// A suffix, or a power of ten (`e3`, `E-3`). `E` alone is a suffix.
fn factor(suffix: &str) -> Option<f64> {
    if let Some((_, factor)) = SUFFIXES.iter().find(|(known, _)| *known == suffix) {
        return Some(*factor);
    }
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (-LARGEST_EXPONENT..=LARGEST_EXPONENT).contains(&power).then(|| 1e3 * 10f64.powi(power))
}

#[cfg(test)]
mod tests {
    use super::milli;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("1", 1000.0),
            ("100m", 100.0),
            ("0.5", 500.0),
            (".5", 500.0),
            ("+1", 1000.0),
            ("64Mi", 64.0 * 1_048_576e3),
            ("1G", 1e12),
            ("1E", 1e21),
            ("1e9", 1e12),
            ("1E9", 1e12),
            ("1.5e3", 1.5e6),
            ("1e+3", 1e6),
            ("5000e-3", 5000.0),
        ] {
            assert_eq!(milli(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "m",
            "-1",
            "1 Mi",
            "1MiB",
            "NaN",
            "inf",
            ".",
            "1.2.3",
            "١",
            "9999999999999999999999",
            "1e",
            "1e9e9",
            "1e999999999999",
            "1e400",
            "e9",
            "1e1.5",
            "++1",
            "1Ee3",
        ] {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
