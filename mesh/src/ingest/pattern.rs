//! Regular expressions as Envoy reads them: RE2, matching the whole text.
//!
//! Envoy refuses a route that holds an expression RE2 cannot read, and with it everybody's rules on that route. So
//! only what Rust's `regex` and RE2 both understand, and understand alike, is let through; and `decide` uses the
//! same expression with the differences that remain (Unicode digits, words and spaces) written out.

use std::ops::Range;

use regex_syntax::ast::{self, Ast, parse::ParserBuilder};

/// Longest expression, in bytes.
const LONGEST: usize = 1024;
/// Most repetitions, nested ones multiplied (RE2's own limit).
const MOST_REPEATS: u32 = 1000;
/// Deepest nesting of groups.
const DEEPEST: u32 = 50;
/// Most memory of the compiled expression, in bytes; well below what RE2 gives up at.
const LARGEST: usize = 256 << 10;

/// An expression that Envoy accepts.
#[derive(Debug, Clone)]
pub struct Pattern(regex::Regex);

/// Why an expression is not let through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// No text.
    #[error("the expression is empty; leave the field out to match everything")]
    Empty,
    /// Longer than [`LONGEST`].
    #[error("the expression has {0} bytes; at most {LONGEST} are allowed")]
    TooLong(usize),
    /// Not a regular expression.
    #[error("this is no regular expression: {0}")]
    Syntax(String),
    /// Not RE2, or RE2 would read it differently.
    #[error("{what} ({text:?}) is not possible in RE2 expressions; write it differently")]
    NotRe2 {
        /// What it is.
        what: &'static str,
        /// Where it is written.
        text: String,
    },
    /// Would need too much memory.
    #[error("the expression is too large when compiled; use fewer or smaller repetitions")]
    TooLarge,
}

impl Pattern {
    /// Reads an expression.
    ///
    /// # Errors
    /// Why Envoy would refuse it, or why it might mean something else there.
    pub fn new(text: &str) -> Result<Self, BadPattern> {
        if text.is_empty() {
            return Err(BadPattern::Empty);
        }
        if text.len() > LONGEST {
            return Err(BadPattern::TooLong(text.len()));
        }
        let mut parser = ParserBuilder::new().nest_limit(DEEPEST).build();
        let ast = parser.parse(text).map_err(|error| BadPattern::Syntax(error.kind().to_string()))?;
        let mut check = Check { text, ascii: Vec::new() };
        check.walk(&ast, 1)?;
        let translated = check.translated();
        let built = regex::RegexBuilder::new(&format!(r"\A(?:{translated})\z")).size_limit(LARGEST).build();
        built.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => BadPattern::TooLarge,
            other => BadPattern::Syntax(other.to_string()),
        })
    }

    /// Whether the expression matches the whole text.
    #[must_use]
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

/// A walk over the expression that refuses what RE2 does not know and notes what it reads differently.
struct Check<'a> {
    text: &'a str,
    /// Places to be replaced for Rust, and by what.
    ascii: Vec<(Range<usize>, &'static str)>,
}

impl Check<'_> {
    fn refuse(&self, what: &'static str, span: &ast::Span) -> BadPattern {
        let text = self.text.get(span.start.offset..span.end.offset).unwrap_or_default();
        BadPattern::NotRe2 { what, text: text.chars().take(32).collect() }
    }

    /// `repeats` is how often the part may be repeated by what is around it.
    fn walk(&mut self, ast: &Ast, repeats: u32) -> Result<(), BadPattern> {
        match ast {
            Ast::Empty(_) | Ast::Dot(_) => Ok(()),
            Ast::Flags(flags) => self.flags(&flags.flags),
            Ast::Literal(literal) => self.literal(literal),
            Ast::Assertion(assertion) => self.assertion(assertion),
            Ast::ClassUnicode(class) => self.unicode(class),
            Ast::ClassPerl(class) => {
                self.perl(class);
                Ok(())
            }
            Ast::ClassBracketed(class) => self.set(&class.kind),
            Ast::Repetition(repetition) => self.repetition(repetition, repeats),
            Ast::Group(group) => {
                match &group.kind {
                    ast::GroupKind::CaptureIndex(_) => {}
                    ast::GroupKind::CaptureName { .. } => {
                        return Err(self.refuse("a named group", &group.span));
                    }
                    ast::GroupKind::NonCapturing(flags) => self.flags(flags)?,
                }
                self.walk(&group.ast, repeats)
            }
            Ast::Alternation(all) => all.asts.iter().try_for_each(|one| self.walk(one, repeats)),
            Ast::Concat(all) => all.asts.iter().try_for_each(|one| self.walk(one, repeats)),
        }
    }

    fn repetition(&mut self, repetition: &ast::Repetition, repeats: u32) -> Result<(), BadPattern> {
        if matches!(*repetition.ast, Ast::Repetition(_)) {
            return Err(self.refuse("a repetition of a repetition", &repetition.span));
        }
        let written = self.text.get(repetition.op.span.start.offset..).unwrap_or_default();
        let most = match &repetition.op.kind {
            ast::RepetitionKind::Range(_) if written.starts_with("{,") => {
                return Err(self.refuse("a repetition without a lower bound", &repetition.op.span));
            }
            ast::RepetitionKind::Range(
                ast::RepetitionRange::Exactly(n) | ast::RepetitionRange::AtLeast(n),
            ) => *n,
            ast::RepetitionKind::Range(ast::RepetitionRange::Bounded(_, n)) => *n,
            ast::RepetitionKind::ZeroOrOne
            | ast::RepetitionKind::ZeroOrMore
            | ast::RepetitionKind::OneOrMore => 1,
        };
        let repeats = repeats.saturating_mul(most.max(1));
        if repeats > MOST_REPEATS {
            return Err(self.refuse("more than 1000 repetitions", &repetition.op.span));
        }
        self.walk(&repetition.ast, repeats)
    }

    fn flags(&self, flags: &ast::Flags) -> Result<(), BadPattern> {
        let foreign = flags.items.iter().find(|item| match &item.kind {
            ast::FlagsItemKind::Negation => false,
            ast::FlagsItemKind::Flag(flag) => !matches!(
                flag,
                ast::Flag::CaseInsensitive
                    | ast::Flag::MultiLine
                    | ast::Flag::DotMatchesNewLine
                    | ast::Flag::SwapGreed
            ),
        });
        foreign.map_or(Ok(()), |item| Err(self.refuse("this flag", &item.span)))
    }

    fn literal(&self, literal: &ast::Literal) -> Result<(), BadPattern> {
        match &literal.kind {
            ast::LiteralKind::Verbatim
            | ast::LiteralKind::Meta
            | ast::LiteralKind::Superfluous
            | ast::LiteralKind::HexFixed(ast::HexLiteralKind::X)
            | ast::LiteralKind::HexBrace(ast::HexLiteralKind::X) => Ok(()),
            ast::LiteralKind::Special(special) if *special != ast::SpecialLiteralKind::Space => Ok(()),
            _ => Err(self.refuse("this escape", &literal.span)),
        }
    }

    fn assertion(&mut self, assertion: &ast::Assertion) -> Result<(), BadPattern> {
        let span = assertion.span.start.offset..assertion.span.end.offset;
        match assertion.kind {
            ast::AssertionKind::StartLine
            | ast::AssertionKind::EndLine
            | ast::AssertionKind::StartText
            | ast::AssertionKind::EndText => Ok(()),
            ast::AssertionKind::WordBoundary => {
                self.ascii.push((span, r"(?-u:\b)"));
                Ok(())
            }
            _ => Err(self.refuse("this assertion", &assertion.span)),
        }
    }

    /// RE2 knows general categories and scripts by their short names only.
    fn unicode(&self, class: &ast::ClassUnicode) -> Result<(), BadPattern> {
        const CATEGORIES: [&str; 30] = [
            "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd",
            "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "C",
        ];
        let known = match &class.kind {
            ast::ClassUnicodeKind::OneLetter(letter) => CATEGORIES.contains(&letter.to_string().as_str()),
            ast::ClassUnicodeKind::Named(name) => CATEGORIES.contains(&name.as_str()),
            ast::ClassUnicodeKind::NamedValue { .. } => false,
        };
        if known { Ok(()) } else { Err(self.refuse("this class of characters", &class.span)) }
    }

    /// `\d`, `\s` and `\w` are ASCII in RE2, whose `\s` lacks the vertical tab. A set within a set means their union
    /// in Rust, so the same text serves inside and outside of one.
    fn perl(&mut self, class: &ast::ClassPerl) {
        let written = match (&class.kind, class.negated) {
            (ast::ClassPerlKind::Digit, false) => "[0-9]",
            (ast::ClassPerlKind::Digit, true) => "[^0-9]",
            (ast::ClassPerlKind::Space, false) => r"[\t\n\f\r ]",
            (ast::ClassPerlKind::Space, true) => r"[^\t\n\f\r ]",
            (ast::ClassPerlKind::Word, false) => "[0-9A-Za-z_]",
            (ast::ClassPerlKind::Word, true) => "[^0-9A-Za-z_]",
        };
        self.ascii.push((class.span.start.offset..class.span.end.offset, written));
    }

    fn set(&mut self, set: &ast::ClassSet) -> Result<(), BadPattern> {
        match set {
            ast::ClassSet::BinaryOp(op) => Err(self.refuse("an operation on sets", &op.span)),
            ast::ClassSet::Item(item) => self.set_item(item),
        }
    }

    fn set_item(&mut self, item: &ast::ClassSetItem) -> Result<(), BadPattern> {
        match item {
            ast::ClassSetItem::Empty(_) | ast::ClassSetItem::Ascii(_) => Ok(()),
            ast::ClassSetItem::Literal(literal) => self.literal(literal),
            ast::ClassSetItem::Range(range) => {
                self.literal(&range.start).and_then(|()| self.literal(&range.end))
            }
            ast::ClassSetItem::Unicode(class) => self.unicode(class),
            ast::ClassSetItem::Perl(class) => {
                self.perl(class);
                Ok(())
            }
            ast::ClassSetItem::Bracketed(set) => Err(self.refuse(r"an unescaped [ in a set", &set.span)),
            ast::ClassSetItem::Union(all) => all.items.iter().try_for_each(|one| self.set_item(one)),
        }
    }

    /// The expression with the places replaced that Rust would read differently.
    fn translated(&self) -> String {
        let mut out = String::with_capacity(self.text.len());
        let mut done = 0;
        for (span, written) in &self.ascii {
            out.push_str(self.text.get(done..span.start).unwrap_or_default());
            out.push_str(written);
            done = span.end;
        }
        out.push_str(self.text.get(done..).unwrap_or_default());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_whole_text_as_re2_does() {
        let table = [
            ("/books", "/books", true),
            ("/books", "/books/1", false),
            ("/books", "x/books", false),
            ("/a|/b", "/b", true),
            ("/a|/b", "/bc", false),
            (r"/\d+", "/42", true),
            (r"/\d+", "/\u{0664}", false),
            (r"[\w-]+", "a-b_c", true),
            (r"[^\d/]+", "ab", true),
            (r"[^\d/]+", "a1", false),
            (r".*\bapi\b.*", "/v1/api/x", true),
            ("(?i)/BOOKS", "/books", true),
            ("/books$", "/books", true),
            (".", "\n", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(Pattern::new(pattern).unwrap().is_match(text), expected, "{pattern} on {text:?}");
        }
    }

    #[test]
    fn refuses_what_re2_would_refuse_or_read_differently() {
        let long = "a".repeat(LONGEST + 1);
        let deep = format!("{}a{}", "(".repeat(200), ")".repeat(200));
        let bad = [
            "",
            "(",
            "[",
            "a{2",
            "*",
            "(?P<n>a)",
            "(?<n>a)",
            "(?=a)",
            r"\1",
            r"\Z",
            r"\u0041",
            "a**",
            "a{1001}",
            "(a{100}){100}",
            "[a&&b]",
            "[[a]b]",
            r"\p{Greek}",
            r"\p{sc=Greek}",
            "(?x) a",
            "a{,3}",
            r"\b{start}",
            r"\<a",
            "(?R)a",
            long.as_str(),
            deep.as_str(),
            r"(\pL{500}\pN{500}){1}",
            r"\B",
        ];
        for pattern in bad {
            assert!(Pattern::new(pattern).is_err(), "{pattern:.40}");
        }
    }
}
