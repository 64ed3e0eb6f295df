//! What only the kubelet was told: a word in the paths of the probes and hooks that the injector rewrote. Port 15020 is
//! open to the whole cluster, and a hook of the application (`/shutdown`, say) must not be.

/// The word. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct HookKey(String);

/// As the injector writes it; shorter ones could be guessed.
const LENGTH: usize = 32;

impl HookKey {
    /// Reads it.
    ///
    /// # Errors
    /// With the rule when it is not 32 hexadecimal digits. The error does not hold it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fine = text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        fine.then(|| Self(text.to_owned())).ok_or_else(|| format!("must be {LENGTH} hexadecimal digits"))
    }

    /// Whether somebody knows it. Takes as long for every word of its length, so that nobody finds it letter by letter.
    #[must_use]
    pub fn is(&self, word: &str) -> bool {
        let differences = self.0.bytes().zip(word.bytes()).fold(0, |sum, (own, other)| sum | (own ^ other));
        self.0.len() == word.len() && std::hint::black_box(differences) == 0
    }
}

impl std::fmt::Debug for HookKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("HookKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_word_is_it() {
        let key = HookKey::parse("00112233445566778899aabbccddeeff").unwrap();
        assert!(key.is("00112233445566778899aabbccddeeff"));
        for other in ["", "0", "00112233445566778899aabbccddeefe", "00112233445566778899aabbccddeeff0"] {
            assert!(!key.is(other), "{other}");
        }
        assert_eq!(format!("{key:?}"), "HookKey(…)");
        for wrong in ["", "short", "00112233445566778899aabbccddeeg/"] {
            assert!(HookKey::parse(wrong).is_err(), "{wrong}");
        }
    }
}
