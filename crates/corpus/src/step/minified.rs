//! Drops code that was squeezed into a few long lines. It must not know languages.

use super::Verdict;
use crate::{Document, Kind, Reason};

/// Mean characters a line over which code is taken for minified; the bound of StarCoder's curation (Li et al.,
/// "StarCoder: may the source be with you!", 2023, section 3.1).
const MEAN_LINE_CHARACTERS_MAX: usize = 100;
/// That paper drops a file for one line of over 1,000 characters; here such lines must be a part of the file, so that
/// one long literal does not cost a good source file.
const LONG_LINE_CHARACTERS: usize = 1_000;
/// The part of the file, in percent.
const LONG_LINES_PERCENT_MAX: usize = 20;

/// Judges code alone: a paragraph of prose is one long line and nothing is wrong with it.
pub fn check(document: &Document) -> Verdict {
    if document.kind != Kind::Code {
        return Verdict::Keep;
    }
    let (mut characters, mut lines, mut in_long_lines) = (0, 0, 0);
    for line in document.text.lines() {
        let length = if line.is_ascii() { line.len() } else { line.chars().count() };
        characters += length;
        lines += 1;
        in_long_lines += if length > LONG_LINE_CHARACTERS { length } else { 0 };
    }
    let mean_is_long = characters > MEAN_LINE_CHARACTERS_MAX * lines;
    if mean_is_long || in_long_lines * 100 > LONG_LINES_PERCENT_MAX * characters {
        return Verdict::Drop(Reason::Minified);
    }
    Verdict::Keep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let squeezed = "function a(b){return b+1};".repeat(100);
        let one_long = format!(
            "{}const TABLE: &str = \"{}\";\n",
            "let value = compute();\n".repeat(400),
            "x".repeat(1500)
        );
        let chinese = "# 这一行注释有二十来个汉字，不算长，按字节计才长。\nx = 1\n".repeat(10);
        let paragraph = "A paragraph of prose may be one line that goes on and on. ".repeat(50);
        super::super::assert_verdicts(
            check,
            Reason::Minified,
            &[
                (Kind::Code, &squeezed, true),
                (Kind::Code, &one_long, false),
                (Kind::Code, &chinese, false),
                (Kind::Text, &paragraph, false),
                (Kind::Code, "", false),
            ],
        );
    }
}
