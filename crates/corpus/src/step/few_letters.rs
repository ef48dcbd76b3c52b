//! Drops tables of numbers and drawings in signs. It must not know languages beyond what Unicode calls a letter.

use super::Verdict;
use crate::text::is_han;
use crate::{Document, Reason};

/// The part of what is not white space that must be letters of words, in percent. StarCoder's curation (Li et al.,
/// 2023, section 3.1) asks 25 % alphanumeric of code; here digits do not count, nor letters in a number such as 0xFF.
const CODE_PERCENT_MIN: usize = 25;
/// Gopher's quality rules (Rae et al., "Scaling Language Models", 2021, appendix A.1.1) ask 80 % of words with a
/// letter; by characters, half is the milder form of it.
const PROSE_PERCENT_MIN: usize = 50;

/// Letters include Han and all other scripts. A token that starts with a digit is a number, whatever follows.
pub fn check(document: &Document) -> Verdict {
    let (letters, others) = count(&document.text);
    let percent_min = if document.kind.is_prose() { PROSE_PERCENT_MIN } else { CODE_PERCENT_MIN };
    if letters * 100 < percent_min * (letters + others) {
        Verdict::Drop(Reason::FewLetters)
    } else {
        Verdict::Keep
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Outside,
    InWord,
    InNumber,
}

/// The common case of Chinese text is told without Unicode's tables.
fn is_letter(character: char) -> bool {
    is_han(character) || character.is_alphabetic()
}

/// Letters in words by their bytes, since a Han character says as much as several Latin ones, and the number of all
/// other characters but white space.
fn count(text: &str) -> (usize, usize) {
    let (mut letters, mut others) = (0, 0);
    let mut place = Place::Outside;
    for character in text.chars() {
        if character.is_ascii_alphabetic() || (!character.is_ascii() && is_letter(character)) {
            if place == Place::Outside || !character.is_ascii() {
                place = Place::InWord;
            }
            letters += if place == Place::InWord { character.len_utf8() } else { 0 };
            others += usize::from(place == Place::InNumber);
        } else if character.is_ascii_digit() {
            place = if place == Place::Outside { Place::InNumber } else { place };
            others += 1;
        } else if character == '_' {
            others += 1;
        } else {
            place = Place::Outside;
            others += usize::from(!character.is_whitespace());
        }
    }
    (letters, others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn verdicts() {
        let table = "0x1F, 0xFFEE, 0xabcdef, 0x00, 12, 3.5e7,\n".repeat(20);
        let ruler = "+-----+------+\n| 12  | 3.75 |\n".repeat(10);
        super::super::assert_verdicts(
            check,
            Reason::FewLetters,
            &[
                (Kind::Code, &table, true),
                (Kind::Text, &ruler, true),
                (Kind::Code, "fn add(a: u32, b: u32) -> u32 {\n    a + b\n}\n", false),
                (Kind::Text, "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？", false),
                (Kind::Text, "2024年3月15日，气温12℃，湿度45%。", false),
                (Kind::Text, "Съешь же ещё этих мягких французских булок", false),
                (Kind::Text, "日本語の文章もそのまま残します。", false),
            ],
        );
    }

    #[test]
    fn letters_in_numbers_do_not_count() {
        assert_eq!(count("0xFF a1 汉3b"), (5, 6));
    }
}
