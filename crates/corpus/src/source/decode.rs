//! Bytes to text: UTF-8, UTF-16 by its mark, GB18030 where it fits. It must not know files.

use crate::text::{is_chinese_punctuation, is_han};
use encoding_rs::{GB18030, UTF_16BE, UTF_16LE};

/// A NUL among so many first bytes marks a binary file, as git and grep have it.
const BINARY_LOOK_BYTES: usize = 8_000;
/// The part of the characters beyond ASCII that must be Han or Chinese punctuation, in percent, for bytes to count as
/// GB18030: nearly any bytes decode as something in it.
const HAN_PERCENT_MIN: usize = 90;
/// The part of them that must have both bytes in 0xA1–0xFE, where GB 2312 has the common characters, in percent.
/// Latin-1 text fails here, since its accented letters are mostly followed by ASCII.
const COMMON_PERCENT_MIN: usize = 80;
/// Fewer characters beyond ASCII say nothing about the encoding.
const CHARACTERS_MIN: usize = 8;

/// The text of a file, or None for binary files and unknown encodings. Byte-order marks are left to normalisation.
pub fn decode(bytes: Vec<u8>) -> Option<String> {
    match bytes.as_slice() {
        [0xFF, 0xFE, rest @ ..] => return decode_utf16(UTF_16LE, rest),
        [0xFE, 0xFF, rest @ ..] => return decode_utf16(UTF_16BE, rest),
        _ => {}
    }
    if bytes.iter().take(BINARY_LOOK_BYTES).any(|&byte| byte == 0) {
        return None;
    }
    String::from_utf8(bytes).or_else(|error| decode_gb18030(error.as_bytes()).ok_or(())).ok()
}

fn decode_utf16(encoding: &'static encoding_rs::Encoding, bytes: &[u8]) -> Option<String> {
    encoding.decode_without_bom_handling_and_without_replacement(bytes).map(std::borrow::Cow::into_owned)
}

fn decode_gb18030(bytes: &[u8]) -> Option<String> {
    let text = GB18030.decode_without_bom_handling_and_without_replacement(bytes)?;
    let (mut chinese, mut others) = (0, 0);
    for character in text.chars().filter(|character| !character.is_ascii()) {
        let is_chinese = is_han(character) || is_chinese_punctuation(character);
        chinese += usize::from(is_chinese);
        others += usize::from(!is_chinese);
    }
    let total = chinese + others;
    let plausible = total >= CHARACTERS_MIN
        && chinese * 100 >= HAN_PERCENT_MIN * total
        && count_common_pairs(bytes) * 100 >= COMMON_PERCENT_MIN * total;
    plausible.then(|| text.into_owned())
}

fn count_common_pairs(bytes: &[u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() {
        if bytes[at] < 0x80 {
            at += 1;
            continue;
        }
        let common = bytes[at] >= 0xA1 && bytes.get(at + 1).is_some_and(|&second| second >= 0xA1);
        count += usize::from(common);
        at += 2;
    }
    count
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn encodings() {
        let chinese = "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。Hello 世界！";
        let (gbk, _, _) = GB18030.encode(chinese);
        let utf16le: Vec<u8> =
            [0xFF, 0xFE].into_iter().chain(chinese.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        let utf16be: Vec<u8> =
            [0xFE, 0xFF].into_iter().chain(chinese.encode_utf16().flat_map(u16::to_be_bytes)).collect();
        let latin1: Vec<u8> = "Élève café à Noël où naît déjà le goût du thé glacé près du château"
            .chars()
            .map(|character| character as u8)
            .collect();
        let (shift_jis, _, _) =
            encoding_rs::SHIFT_JIS.encode("吾輩は猫である。名前はまだ無い。どこで生れたか");
        let (windows_1251, _, _) =
            encoding_rs::WINDOWS_1251.encode("Съешь же ещё этих мягких французских булок");
        let cases: [(&str, Vec<u8>, Option<&str>); 9] = [
            ("utf-8", chinese.as_bytes().to_vec(), Some(chinese)),
            ("gb18030", gbk.to_vec(), Some(chinese)),
            ("utf-16le", utf16le, Some(chinese)),
            ("utf-16be", utf16be, Some(chinese)),
            ("latin-1", latin1, None),
            ("shift-jis", shift_jis.to_vec(), None),
            ("windows-1251", windows_1251.to_vec(), None),
            ("binary", b"\x7fELF\x02\x01\x01\0\0\0".to_vec(), None),
            ("cut utf-8", chinese.as_bytes()[..20].to_vec(), None),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(decode(bytes).as_deref(), expected, "{name}");
        }
    }
}
