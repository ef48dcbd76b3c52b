//! Drops text that an earlier program decoded wrongly. It must not know encodings.

use super::Verdict;
use crate::{Document, Reason};

/// A few may be meant, as in the tests of a decoder.
const COUNT_ALLOWED: usize = 3;
/// Beyond that, one in two hundred characters is damage that a reader stumbles over.
const CHARACTERS_PER_REPLACEMENT_MIN: usize = 200;

/// Counts U+FFFD and 锟斤拷, which is what its UTF-8 bytes become when read as GBK.
pub fn check(document: &Document) -> Verdict {
    if document.text.is_ascii() {
        return Verdict::Keep;
    }
    let count = document.text.matches('\u{FFFD}').count() + document.text.matches("锟斤拷").count();
    if count <= COUNT_ALLOWED {
        return Verdict::Keep;
    }
    let characters = document.text.chars().count();
    if count * CHARACTERS_PER_REPLACEMENT_MIN > characters {
        Verdict::Drop(Reason::ReplacementCharacters)
    } else {
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn verdicts() {
        let damaged = "caf\u{FFFD} au lait ".repeat(10);
        let test_of_a_decoder =
            format!("assert_eq!(decode(b\"\\xff\"), \"\u{FFFD}\");\n{}", "let a = 1;\n".repeat(300));
        let mojibake = "锟斤拷锟斤拷锟斤拷 你好 锟斤拷锟斤拷".to_string();
        super::super::assert_verdicts(
            check,
            Reason::ReplacementCharacters,
            &[
                (Kind::Text, &damaged, true),
                (Kind::Code, &test_of_a_decoder, false),
                (Kind::Text, &mojibake, true),
                (Kind::Text, "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。", false),
            ],
        );
    }
}
