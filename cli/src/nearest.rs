//! The names that somebody may have meant.

/// How many are suggested.
const SUGGESTED: usize = 3;

/// The names nearest to what was written, the nearest first; those that have nothing to do with it are left out.
pub fn nearest<'a>(written: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut ranked: Vec<_> = names
        .map(|name| (distance(written, name), name))
        .filter(|(distance, name)| {
            let longest = written.chars().count().max(name.chars().count());
            *distance * 2 <= longest
                || (!written.is_empty() && (name.contains(written) || written.contains(name)))
        })
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().take(SUGGESTED).map(|(_, name)| name).collect()
}

/// Levenshtein's distance: insertions, deletions and replacements.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_name() {
        let names = ["bookstore", "bookbuyer", "bookthief", "kube-dns"];
        assert_eq!(nearest("bookstroe", names.into_iter())[0], "bookstore");
        assert_eq!(nearest("buyer", names.into_iter()), ["bookbuyer"]);
        assert_eq!(nearest("zzz", names.into_iter()), [""; 0]);
        assert_eq!(nearest("", names.into_iter()), [""; 0]);
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("a", "a")), (3, 3, 0));
    }
}
