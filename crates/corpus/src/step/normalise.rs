//! Brings text to one form: Unicode NFC, `\n` as the only line ending, no invisible or control characters.
//! It must not know what the text means. NFC and not NFKC: full-width punctuation is part of how Chinese is written.

use crate::Document;
use crate::text::is_han;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The normal form, or None where the text has it already.
pub fn transform(document: &Document) -> Option<String> {
    normalise(&document.text)
}

/// NFC (Unicode Standard Annex 15); CRLF, CR, NEL, U+2028 and U+2029 become `\n`; byte-order marks, other control
/// characters, zero-width characters and bidirectional overrides go (a joiner between two letters of a script that
/// needs it stays); blank lines at the start and white space at the end go.
pub fn normalise(text: &str) -> Option<String> {
    let cleaned = if text.bytes().any(needs_a_look) { clean(text) } else { None };
    let current = cleaned.as_deref().unwrap_or(text);
    // All characters below U+0300 are their own NFC; their lead bytes are below 0xCC.
    let composed: Option<String> = (current.bytes().any(|byte| byte >= 0xCC)
        && is_nfc_quick(current.chars()) != IsNormalized::Yes)
        .then(|| current.nfc().collect());
    let current = composed.as_deref().unwrap_or(current);
    let trimmed = trim(current);
    if trimmed.len() < current.len() {
        return Some(trimmed.to_string());
    }
    composed.or(cleaned)
}

/// Bytes that may belong to a character which [`clean`] changes: controls, and the lead bytes of U+0080–U+00BF,
/// U+061C, U+180E, U+2000–U+2FFF and U+F000–U+FFFF.
fn needs_a_look(byte: u8) -> bool {
    matches!(byte, 0..=8 | 11..=31 | 127 | 0xC2 | 0xD8 | 0xE1 | 0xE2 | 0xEF)
}

fn clean(text: &str) -> Option<String> {
    if !text.chars().any(|character| !matches!(fate(character), Fate::Keep)) {
        return None;
    }
    let mut cleaned = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match fate(character) {
            Fate::Keep => cleaned.push(character),
            Fate::LineEnd => {
                if character == '\r' && characters.peek() == Some(&'\n') {
                    characters.next();
                }
                cleaned.push('\n');
            }
            Fate::Joiner => {
                let before = cleaned.chars().next_back().is_some_and(may_join);
                if before && characters.peek().copied().is_some_and(may_join) {
                    cleaned.push(character);
                }
            }
            Fate::Remove => {}
        }
    }
    (cleaned.len() != text.len() || cleaned != text).then_some(cleaned)
}

enum Fate {
    Keep,
    LineEnd,
    Joiner,
    Remove,
}

fn fate(character: char) -> Fate {
    match character {
        '\t' | '\n' => Fate::Keep,
        '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => Fate::LineEnd,
        '\u{200C}' | '\u{200D}' => Fate::Joiner,
        '\0'..='\u{1F}' | '\u{7F}'..='\u{9F}' => Fate::Remove,
        '\u{AD}' | '\u{61C}' | '\u{180E}' | '\u{200B}' | '\u{200E}' | '\u{200F}' => Fate::Remove,
        '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206F}' => Fate::Remove,
        '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' => Fate::Remove,
        _ => Fate::Keep,
    }
}

/// Arabic, Indic scripts and emoji use joiners; Latin letters and Han never do.
fn may_join(character: char) -> bool {
    character > '\u{2FF}' && !is_han(character) && !character.is_whitespace()
}

/// Cuts blank lines at the start and white space at the end; the first line keeps its indent.
fn trim(text: &str) -> &str {
    let text = text.trim_end();
    let first = text.len() - text.trim_start().len();
    match text[..first].rfind('\n') {
        Some(line_end) => &text[line_end + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form() {
        let cases = [
            ("plain ascii\n\ttabbed", None),
            ("a\r\nb\rc\u{2028}d\u{85}e", Some("a\nb\nc\nd\ne")),
            ("\u{FEFF}with a mark", Some("with a mark")),
            ("e\u{301}te\u{301}", Some("été")),
            ("a\u{200B}b\u{AD}c\u{202E}d\0e\u{7}", Some("abcde")),
            ("全角，标点！ＡＢＣ（保留）", None),
            ("陶\u{200D}冶 x\u{200C}y", Some("陶冶 xy")),
            ("👩\u{200D}🚀 می\u{200C}خواهم", None),
            ("\n \n\n  indented\nlast  \n\n", Some("  indented\nlast")),
            ("\u{1100}\u{1161}", Some("가")),
            (" \n\t", Some("")),
            ("漢字か\u{3099}", Some("漢字が")),
        ];
        for (text, expected) in cases {
            assert_eq!(normalise(text).as_deref(), expected, "{text:?}");
            let once = normalise(text).unwrap_or_else(|| text.to_string());
            assert_eq!(normalise(&once), None, "{text:?} is not in its form after one round");
        }
    }

    #[test]
    fn every_character_that_changes_is_looked_at() {
        for character in (0..=0x10_FFFF).filter_map(char::from_u32) {
            let mut buffer = [0; 4];
            let looked_at = character.encode_utf8(&mut buffer).bytes().any(needs_a_look);
            assert!(matches!(fate(character), Fate::Keep) || looked_at, "{character:?}");
        }
    }
}
