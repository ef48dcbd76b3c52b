//! Cutting text into the pre-tokens that no merge crosses: hand-written scanners equal to published patterns.
//! Knows character classes; must not know vocabularies or merges.

use crate::classes::{Classes, HAN, LETTER, MARK, NEWLINE, NUMBER, SPACE, classes};

/// The longest group of digits that a tokenizer may be asked for.
pub const DIGITS_MAX: usize = 9;

/// The pattern, for regex engines with look-ahead and class intersection (Oniguruma, fancy-regex). In order:
/// English contractions; a run of Han characters, kept apart from all else; a word of letters and marks with one
/// optional foreign character before it (a space, an underscore, a quote …); up to `digits` digits; punctuation
/// with an optional space before it and the newlines behind it; white space up to its last newline; white space but for
/// the character that belongs to the next word; other white space.
pub fn pattern(digits: usize) -> String {
    let number = number_pattern(digits);
    [
        r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])(?![\p{L}\p{M}])",
        r"\p{Han}+",
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+",
        &number,
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
    .join("|")
}

/// A scanner for one pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scanner {
    /// [`pattern`].
    Own { digits: usize },
    /// [`cl100k_pattern`] without marks: tiktoken's cl100k_base, Llama 3 (three digits), Qwen 2, 2.5 and 3 (one).
    Cl100k { digits: usize },
    /// [`cl100k_pattern`] with marks as letters: Qwen 3.5.
    Marks { digits: usize },
    /// [`GPT2`].
    Gpt2,
    /// Each digit cut out first, the rest by [`GPT2`]: SmolLM, StarCoder 2 and others.
    DigitsThenGpt2,
}

/// GPT-2's pattern, which `ByteLevel` with `use_regex` stands for.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The pattern of the cl100k family.
fn cl100k_pattern(digits: usize, letters: &str) -> String {
    let (number, others) = (number_pattern(digits), letters.trim_matches(['[', ']']));
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        &format!(r"[^\r\n\p{{L}}\p{{N}}]?{letters}+"),
        &number,
        &format!(r" ?[^\s{others}\p{{N}}]+[\r\n]*"),
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
    .join("|")
}

fn number_pattern(digits: usize) -> String {
    if digits == 1 { r"\p{N}".to_owned() } else { format!(r"\p{{N}}{{1,{digits}}}") }
}

impl Scanner {
    /// The scanner for a pattern, if there is one.
    pub(crate) fn for_pattern(text: &str) -> Option<Scanner> {
        let with_digits = (1..=DIGITS_MAX).flat_map(|digits| {
            [Scanner::Own { digits }, Scanner::Cl100k { digits }, Scanner::Marks { digits }]
        });
        with_digits.chain([Scanner::Gpt2]).find(|scanner| scanner.pattern() == text)
    }

    /// The pattern that it equals on texts without digits ([`Scanner::DigitsThenGpt2`]) or on all.
    pub(crate) fn pattern(self) -> String {
        match self {
            Scanner::Own { digits } => pattern(digits),
            Scanner::Cl100k { digits } => cl100k_pattern(digits, r"\p{L}"),
            Scanner::Marks { digits } => cl100k_pattern(digits, r"[\p{L}\p{M}]"),
            Scanner::Gpt2 | Scanner::DigitsThenGpt2 => GPT2.to_owned(),
        }
    }
}

/// The pre-tokens of a text, in order; together they are the text.
pub struct PreTokens<'text> {
    text: &'text [u8],
    position: usize,
    scanner: Scanner,
    classes: &'static Classes,
}

/// How one family of patterns differs from another.
trait Rules {
    /// Are Han characters kept apart from other letters?
    const HAN_APART: bool;
    /// The classes that words are made of.
    const WORD: u8;
    /// The classes that are no punctuation.
    const NO_PUNCTUATION: u8;
    /// Are contractions told by a look at what follows (else letters may follow, and `\u{17f}` is an s)?
    const LOOK_AHEAD: bool;

    /// Does a character belong to a word?
    #[inline]
    fn is_word(class: u8) -> bool {
        class & Self::WORD != 0 && (!Self::HAN_APART || class & HAN == 0)
    }
}

struct Own;
struct Cl100k;
struct MarksAsLetters;

impl Rules for Own {
    const HAN_APART: bool = true;
    const WORD: u8 = LETTER | MARK;
    const NO_PUNCTUATION: u8 = SPACE | LETTER | NUMBER;
    const LOOK_AHEAD: bool = true;
}

impl Rules for Cl100k {
    const HAN_APART: bool = false;
    const WORD: u8 = LETTER;
    const NO_PUNCTUATION: u8 = SPACE | LETTER | NUMBER;
    const LOOK_AHEAD: bool = false;
}

impl Rules for MarksAsLetters {
    const HAN_APART: bool = false;
    const WORD: u8 = LETTER | MARK;
    const NO_PUNCTUATION: u8 = SPACE | LETTER | MARK | NUMBER;
    const LOOK_AHEAD: bool = false;
}

impl<'text> PreTokens<'text> {
    /// Cuts `text` by [`pattern`] with digit groups of at most `digits` (1 to [`DIGITS_MAX`]).
    pub fn new(text: &'text str, digits: usize) -> PreTokens<'text> {
        PreTokens::by(text, Scanner::Own { digits })
    }

    /// Cuts `text` with a scanner.
    #[inline]
    pub(crate) fn by(text: &'text str, scanner: Scanner) -> PreTokens<'text> {
        PreTokens { text: text.as_bytes(), position: 0, scanner, classes: classes() }
    }

    /// Where the pre-token that starts at `start` ends.
    #[inline]
    fn end<R: Rules>(&self, start: usize, digits: usize) -> usize {
        let (class, length) = self.classes.at(self.text, start);
        let after = start + length;
        if R::HAN_APART && class & HAN != 0 {
            return self.run(after, |class| class & HAN != 0);
        }
        if class & LETTER != 0 {
            return self.run(after, R::is_word);
        }
        if class & NUMBER != 0 {
            return self.number(after, digits);
        }
        if self.text[start] == b'\''
            && let Some(end) = self.contraction::<R>(after)
        {
            return end;
        }
        let (next, next_length) = self.classes.at(self.text, after);
        if class & NEWLINE == 0 && next_length > 0 && R::is_word(next) {
            return self.run(after + next_length, R::is_word);
        }
        if class & R::WORD != 0 {
            // A mark that no word character follows is a word of its own.
            return after;
        }
        if class & SPACE == 0 {
            return self.punctuation::<R>(after);
        }
        if self.text[start] == b' ' && next_length > 0 && next & R::NO_PUNCTUATION == 0 {
            return self.punctuation::<R>(after + next_length);
        }
        self.space(start)
    }

    /// [`PreTokens::end`] by [`GPT2`]; with `CUT_DIGITS` a digit stands alone and ends the text before it.
    #[inline]
    fn end_gpt2<const CUT_DIGITS: bool>(&self, start: usize) -> usize {
        let (mut class, mut length) = self.classes.at(self.text, start);
        if CUT_DIGITS && class & NUMBER != 0 {
            return start + length;
        }
        if self.text[start] == b'\''
            && let Some(end) = self.gpt2_contraction(start + 1)
        {
            return end;
        }
        let mut after = start + length;
        if self.text[start] == b' ' {
            let (next, next_length) = self.classes.at(self.text, after);
            if next_length > 0 && next & SPACE == 0 && !(CUT_DIGITS && next & NUMBER != 0) {
                (class, length) = (next, next_length);
                after += length;
            }
        }
        for kind in [LETTER, NUMBER] {
            if class & kind != 0 {
                return self.run(after, |class| class & kind != 0);
            }
        }
        if class & SPACE == 0 {
            return self.run(after, |class| class & (SPACE | LETTER | NUMBER) == 0);
        }
        let mut last_start = start;
        loop {
            let (class, length) = self.classes.at(self.text, after);
            if length == 0 || class & SPACE == 0 {
                let is_end = length == 0 || CUT_DIGITS && class & NUMBER != 0;
                return if is_end || last_start == start { after } else { last_start };
            }
            last_start = after;
            after += length;
        }
    }

    fn gpt2_contraction(&self, position: usize) -> Option<usize> {
        let rest = &self.text[position..];
        match rest {
            [b's' | b't' | b'm' | b'd', ..] => Some(position + 1),
            [b'r', b'e', ..] | [b'v', b'e', ..] | [b'l', b'l', ..] => Some(position + 2),
            _ => None,
        }
    }

    #[inline]
    fn run(&self, mut position: usize, belongs: impl Fn(u8) -> bool) -> usize {
        loop {
            let (class, length) = self.classes.at(self.text, position);
            if length == 0 || !belongs(class) {
                return position;
            }
            position += length;
        }
    }

    fn number(&self, mut position: usize, digits: usize) -> usize {
        for _ in 1..digits {
            let (class, length) = self.classes.at(self.text, position);
            if class & NUMBER == 0 {
                break;
            }
            position += length;
        }
        position
    }

    fn contraction<R: Rules>(&self, position: usize) -> Option<usize> {
        let lower = |index: usize| self.text.get(index).map_or(0, u8::to_ascii_lowercase);
        let end = match (lower(position), lower(position + 1)) {
            (b'l', b'l') | (b'v', b'e') | (b'r', b'e') => position + 2,
            (b's' | b'd' | b'm' | b't', _) => position + 1,
            // U+017F, the long s, of which S is the capital.
            (0xc5, 0xbf) if !R::LOOK_AHEAD => position + 2,
            _ => return None,
        };
        if !R::LOOK_AHEAD {
            return Some(end);
        }
        let (class, _) = self.classes.at(self.text, end);
        (class & (LETTER | MARK) == 0).then_some(end)
    }

    fn punctuation<R: Rules>(&self, position: usize) -> usize {
        let end = self.run(position, |class| class & R::NO_PUNCTUATION == 0);
        self.run(end, |class| class & NEWLINE != 0)
    }

    fn space(&self, start: usize) -> usize {
        let (mut position, mut last_start, mut newline_end) = (start, start, start);
        loop {
            let (class, length) = self.classes.at(self.text, position);
            if length == 0 || class & SPACE == 0 {
                break;
            }
            last_start = position;
            position += length;
            if class & NEWLINE != 0 {
                newline_end = position;
            }
        }
        if newline_end > start {
            newline_end
        } else if position == self.text.len() || last_start == start {
            position
        } else {
            last_start
        }
    }
}

impl<'text> Iterator for PreTokens<'text> {
    /// The bytes of one pre-token: valid UTF-8, never empty.
    type Item = &'text [u8];

    #[inline]
    fn next(&mut self) -> Option<&'text [u8]> {
        let start = self.position;
        if start >= self.text.len() {
            return None;
        }
        self.position = match self.scanner {
            Scanner::Own { digits } => self.end::<Own>(start, digits),
            Scanner::Cl100k { digits } => self.end::<Cl100k>(start, digits),
            Scanner::Marks { digits } => self.end::<MarksAsLetters>(start, digits),
            Scanner::Gpt2 => self.end_gpt2::<false>(start),
            Scanner::DigitsThenGpt2 => self.end_gpt2::<true>(start),
        };
        Some(&self.text[start..self.position])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, digits: usize) {
        for scanner in [
            Scanner::Own { digits },
            Scanner::Cl100k { digits },
            Scanner::Marks { digits },
            Scanner::Gpt2,
            Scanner::DigitsThenGpt2,
        ] {
            let regex = onig::Regex::new(&scanner.pattern()).unwrap();
            let mut pieces = vec![text];
            if scanner == Scanner::DigitsThenGpt2 {
                pieces = text.split_inclusive(char::is_numeric).collect();
                pieces = pieces
                    .iter()
                    .flat_map(|piece| {
                        let digit = piece.chars().next_back().filter(|last| last.is_numeric());
                        let (before, digit) = piece.split_at(piece.len() - digit.map_or(0, char::len_utf8));
                        [before, digit]
                    })
                    .collect();
            }
            let expected: Vec<&str> = pieces
                .iter()
                .flat_map(|piece| {
                    regex.find_iter(piece).map(|(start, end)| &piece[start..end]).collect::<Vec<_>>()
                })
                .collect();
            let ours: Vec<&str> =
                PreTokens::by(text, scanner).map(|word| std::str::from_utf8(word).unwrap()).collect();
            assert_eq!(ours, expected, "{scanner:?}, text {text:?}");
            assert_eq!(ours.concat(), text);
        }
    }

    #[test]
    fn patterns_are_told_apart() {
        let qwen2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        assert_eq!(Scanner::for_pattern(qwen2), Some(Scanner::Cl100k { digits: 1 }));
        let llama3 = qwen2.replace(r"|\p{N}|", r"|\p{N}{1,3}|");
        assert_eq!(Scanner::for_pattern(&llama3), Some(Scanner::Cl100k { digits: 3 }));
        assert_eq!(Scanner::for_pattern(&pattern(2)), Some(Scanner::Own { digits: 2 }));
        assert_eq!(Scanner::for_pattern(GPT2), Some(Scanner::Gpt2));
        assert_eq!(Scanner::for_pattern(r"\w+"), None);
        // The digits that Hugging Face's `Digits` cuts out are Rust's, the scanner takes those of the tables: they differ
        // in a few that Unicode 17 added, of which the tables know nothing.
        let mut unknown = 0;
        for point in (0..=0x10_ffffu32).filter_map(char::from_u32) {
            let class = classes().of(u32::from(point));
            let is_new = class == 0 && point.is_numeric();
            unknown += u32::from(is_new);
            assert!(is_new || (class & NUMBER != 0) == point.is_numeric(), "{point:?}");
        }
        assert!(unknown < 30, "{unknown}");
    }

    #[test]
    fn equals_the_regex_on_chosen_texts() {
        let texts = [
            "",
            "It's we'll they'VE 'static 'tis x's's 's 'll5 'r 'rE\u{301}",
            "中文和English混排，２０２６年3月14日。〇一二々〡⺀!⺀⺀ a⺀",
            "  fn main() {\r\n\t\tlet x = 12345;\n\n    }\n   ",
            "e\u{301}\u{301} \u{301} !\u{301}a \u{301}1 \n\u{301}a",
            "\u{a0}x\u{3000}中\u{2028}\u{2029}y \u{85} \u{b}\u{c}z\u{200b}\u{feff}",
            "مرحبا بالعالم 👩‍👩‍👧‍👦🏳️‍🌈!!! ½²Ⅷ 한국어 カタカナ の",
            "\r\r\n\n \r \n x\r",
            "\0\u{1}\u{7f}\u{10ffff}\u{e000}",
        ];
        for text in texts {
            for digits in [1, 2, 3] {
                check(text, digits);
            }
        }
    }

    #[test]
    fn tables_equal_the_regex_engine_on_every_code_point() {
        let classes_of = [
            (r"\p{L}", LETTER),
            (r"\p{M}", MARK),
            (r"\p{N}", NUMBER),
            (r"\p{Han}", HAN),
            (r"\s", SPACE),
            (r"[\r\n]", NEWLINE),
        ];
        for (class, bit) in classes_of {
            let regex = onig::Regex::new(class).unwrap();
            for point in (0..=0x10_ffffu32).filter_map(char::from_u32) {
                let mut buffer = [0; 4];
                let found = regex.is_match(point.encode_utf8(&mut buffer));
                assert_eq!(classes().of(u32::from(point)) & bit != 0, found, "{class} {point:?}");
            }
        }
    }

    /// Characters of every class and every kind of border, drawn often enough to stand side by side.
    fn any_text() -> impl Strategy<Value = String> {
        let alphabet: Vec<char> =
            "aZsSlLvVerREdt'' \t\r\n\n\u{a0}\u{3000}\u{2028}\u{85}中国々〇⺀のカ한éß\u{301}\u{5b0}5٣½Ⅷ\
            !.,，。<|>_-(){}\"👍\u{200d}\u{fe0f}\0ſK"
                .chars()
                .collect();
        let chosen = (0..alphabet.len()).prop_map(move |index| alphabet[index]);
        let character = prop_oneof![9 => chosen, 1 => any::<char>()];
        proptest::collection::vec(character, 0..40).prop_map(|characters| characters.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]
        #[test]
        fn equals_the_regex_on_random_texts(text in any_text(), digits in 1usize..=4) {
            check(&text, digits);
        }
    }
}
