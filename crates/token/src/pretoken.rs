//! Cutting text into the pre-tokens that no merge crosses: a hand-written scanner equal to a published pattern.
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
    let number = if digits == 1 { r"\p{N}".to_owned() } else { format!(r"\p{{N}}{{1,{digits}}}") };
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

/// The digit-group size of a pattern that [`pattern`] wrote; `None` for any other pattern.
pub(crate) fn digits_of(text: &str) -> Option<usize> {
    (1..=DIGITS_MAX).find(|&digits| pattern(digits) == text)
}

/// The pre-tokens of a text, in order; together they are the text.
pub struct PreTokens<'text> {
    text: &'text [u8],
    position: usize,
    digits: usize,
    classes: &'static Classes,
}

impl<'text> PreTokens<'text> {
    /// Cuts `text` with digit groups of at most `digits` (1 to [`DIGITS_MAX`]).
    pub fn new(text: &'text str, digits: usize) -> PreTokens<'text> {
        PreTokens { text: text.as_bytes(), position: 0, digits, classes: classes() }
    }

    /// Where the pre-token that starts at `start` ends.
    #[inline]
    fn end(&self, start: usize) -> usize {
        let (class, length) = self.classes.at(self.text, start);
        let after = start + length;
        if class & HAN != 0 {
            return self.run(after, |class| class & HAN != 0);
        }
        if class & LETTER != 0 {
            return self.run(after, is_word);
        }
        if class & NUMBER != 0 {
            return self.number(after);
        }
        if self.text[start] == b'\''
            && let Some(end) = self.contraction(after)
        {
            return end;
        }
        let (next, next_length) = self.classes.at(self.text, after);
        if class & NEWLINE == 0 && next_length > 0 && is_word(next) {
            return self.run(after + next_length, is_word);
        }
        if class & MARK != 0 {
            // A mark that no word character follows is a word of its own.
            return after;
        }
        if class & SPACE == 0 {
            return self.punctuation(after);
        }
        if self.text[start] == b' ' && next_length > 0 && next & (SPACE | LETTER | NUMBER) == 0 {
            return self.punctuation(after + next_length);
        }
        self.space(start)
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

    fn number(&self, mut position: usize) -> usize {
        for _ in 1..self.digits {
            let (class, length) = self.classes.at(self.text, position);
            if class & NUMBER == 0 {
                break;
            }
            position += length;
        }
        position
    }

    fn contraction(&self, position: usize) -> Option<usize> {
        let lower = |index: usize| self.text.get(index).map_or(0, u8::to_ascii_lowercase);
        let end = match (lower(position), lower(position + 1)) {
            (b'l', b'l') | (b'v', b'e') | (b'r', b'e') => position + 2,
            (b's' | b'd' | b'm' | b't', _) => position + 1,
            _ => return None,
        };
        let (class, _) = self.classes.at(self.text, end);
        (class & (LETTER | MARK) == 0).then_some(end)
    }

    fn punctuation(&self, position: usize) -> usize {
        let end = self.run(position, |class| class & (SPACE | LETTER | NUMBER) == 0);
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
        self.position = self.end(start);
        Some(&self.text[start..self.position])
    }
}

/// `[\p{L}\p{M}&&[^\p{Han}]]`
#[inline]
fn is_word(class: u8) -> bool {
    class & (LETTER | MARK) != 0 && class & HAN == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, digits: usize) {
        let regex = onig::Regex::new(&pattern(digits)).unwrap();
        let expected: Vec<&str> = regex.find_iter(text).map(|(start, end)| &text[start..end]).collect();
        let ours: Vec<&str> =
            PreTokens::new(text, digits).map(|word| std::str::from_utf8(word).unwrap()).collect();
        assert_eq!(ours, expected, "digits {digits}, text {text:?}");
        assert_eq!(ours.concat(), text);
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
