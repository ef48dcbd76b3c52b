//! Small questions about characters and lines that several steps ask. It must not know documents or reasons.

/// Whether a character is Han: the unified ideographs with their extensions, compatibility forms, 〇 and 々.
/// Blocks from the Unicode Character Database, Blocks.txt.
pub fn is_han(character: char) -> bool {
    matches!(character,
        '\u{4E00}'..='\u{9FFF}' | '\u{3400}'..='\u{4DBF}' | '\u{3005}' | '\u{3007}' | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}')
}

/// Whether a character is punctuation of Chinese text: CJK symbols, full-width forms, the dashes and quotes.
pub fn is_chinese_punctuation(character: char) -> bool {
    matches!(character,
        '\u{3000}'..='\u{303F}' | '\u{FF00}'..='\u{FF65}' | '\u{2014}' | '\u{2018}'..='\u{201D}' | '\u{2026}' | '\u{B7}')
}

/// How many characters are not white space, and how many of them are Han.
pub fn count_characters(text: &str) -> (u64, u64) {
    if text.is_ascii() {
        return (text.bytes().filter(|byte| !byte.is_ascii_whitespace()).count() as u64, 0);
    }
    let mut counts = (0, 0);
    for character in text.chars() {
        counts.0 += u64::from(!character.is_whitespace());
        counts.1 += u64::from(is_han(character));
    }
    counts
}

/// A quick hash of short byte strings for tables that live no longer than one document (FNV-1a's idea, eight bytes at
/// a time, finished by SplitMix64's mixer). Not for anything that is stored.
pub fn quick_hash(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks_exact gives eight bytes"));
        hash = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
    for &byte in chunks.remainder() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    base::seed::mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_told_apart() {
        assert!("汉字陶冶龘〇々㐀𠀀".chars().all(is_han));
        assert!(!"aé，。カ한1".chars().any(is_han));
        assert!("，。！？：；（）《》「」…—“”".chars().all(is_chinese_punctuation));
        assert_eq!(count_characters("陶冶 is ok。"), (7, 2));
        assert_eq!(count_characters(" a b\n"), (2, 0));
    }
}
