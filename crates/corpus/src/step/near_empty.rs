//! Drops documents with hardly anything in them. It must not know why they are short.

use super::Verdict;
use crate::{Document, Reason};

/// Bytes of letters and digits that a document must have: about seventeen Han characters or ten English words.
const WORD_BYTES_MIN: usize = 50;

/// Counts the bytes of letters and digits, so that a Han character, which says more, weighs three.
pub fn check(document: &Document) -> Verdict {
    let mut word_bytes = 0;
    for character in document.text.chars().filter(|character| character.is_alphanumeric()) {
        word_bytes += character.len_utf8();
        if word_bytes >= WORD_BYTES_MIN {
            return Verdict::Keep;
        }
    }
    Verdict::Drop(Reason::NearEmpty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn verdicts() {
        super::super::assert_verdicts(
            check,
            Reason::NearEmpty,
            &[
                (Kind::Text, "", true),
                (
                    Kind::Text,
                    "------ **** ------ ====== ====== ++++++ ////// ...... ,,,,,, ;;;;;; ::::::",
                    true,
                ),
                (Kind::Code, "mod a;\nmod b;\n", true),
                (
                    Kind::Text,
                    "Twelve words of plain English are enough for a document to be kept here.",
                    false,
                ),
                (
                    Kind::Text,
                    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？",
                    false,
                ),
                (Kind::Text, "学而时习之，不亦说乎？", true),
            ],
        );
    }
}
