//! Which of two controllers knows better: each says which word of the operator it obeys, and of two the higher counts.

/// So many times in a row an older word is not believed. Then it is: the mesh has been restored from a backup.
pub const STUBBORN: u32 = 10;

/// How often in a row an older word was heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    older: u32,
}

impl Heard {
    /// Whether a controller that obeys the word `serial` is believed by one that obeys `held`.
    pub fn believes(&mut self, held: i64, serial: i64) -> bool {
        if serial < held && self.older < STUBBORN {
            self.older += 1;
            return false;
        }
        self.older = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_word_is_believed_when_nobody_says_anything_else() {
        let mut heard = Heard::default();
        assert!(heard.believes(3, 3) && heard.believes(3, 4));
        let until = |heard: &mut Heard| (0..).take_while(|_| !heard.believes(4, 3)).count();
        assert_eq!(until(&mut heard), 10);
        assert_eq!(until(&mut heard), 10, "and not again at once");
        for _ in 0..9 {
            assert!(!heard.believes(4, 3));
        }
        assert!(heard.believes(4, 4), "a replica that knows better");
        assert_eq!(until(&mut heard), 10);
    }
}
