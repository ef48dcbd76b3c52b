//! Chinese numerals for whole numbers below ten thousand.
//!
//! It must not know the tasks that use them.

const DIGITS: [char; 10] = ['零', '一', '二', '三', '四', '五', '六', '七', '八', '九'];

/// `number` in Chinese numerals, as it is spoken: 零, 十二, 一百零五, 一百一十, 二千零三十.
///
/// # Panics
/// If `number` is 10,000 or more.
#[must_use]
pub fn to_chinese(number: u64) -> String {
    assert!(number < 10_000, "{number} has no numeral here: only numbers below 10,000 do");
    if number < 10 {
        return DIGITS[number as usize].to_string();
    }
    let mut text = String::new();
    let mut gap = false;
    for (unit, name) in [(1_000, "千"), (100, "百"), (10, "十"), (1, "")] {
        let digit = number / unit % 10;
        if digit == 0 {
            gap = !text.is_empty();
            continue;
        }
        if gap {
            text.push('零');
            gap = false;
        }
        // A leading ten is spoken without its one: 十二, yet 一百一十二.
        if !(unit == 10 && digit == 1 && text.is_empty()) {
            text.push(DIGITS[digit as usize]);
        }
        text.push_str(name);
    }
    text
}

/// Whether numerals are written with this character, the sign of those below zero included.
pub(super) fn is_numeral(character: char) -> bool {
    DIGITS.contains(&character) || "十百千负".contains(character)
}

#[cfg(test)]
mod tests {
    use super::to_chinese;

    /// Reads a numeral back by the rules of speech, independently of how it was written.
    fn read(text: &str) -> u64 {
        let (mut total, mut digit) = (0, 0);
        for character in text.chars() {
            match "零一二三四五六七八九".chars().position(|known| known == character) {
                Some(value) => digit = value as u64,
                None => {
                    let unit = match character {
                        '十' => 10,
                        '百' => 100,
                        '千' => 1_000,
                        other => panic!("{other} is no numeral"),
                    };
                    total += unit * if digit == 0 { 1 } else { digit };
                    digit = 0;
                }
            }
        }
        total + digit
    }

    #[test]
    fn known_numerals() {
        for (number, text) in [
            (0, "零"),
            (7, "七"),
            (10, "十"),
            (12, "十二"),
            (20, "二十"),
            (99, "九十九"),
            (100, "一百"),
            (101, "一百零一"),
            (110, "一百一十"),
            (112, "一百一十二"),
            (123, "一百二十三"),
            (1_000, "一千"),
            (1_001, "一千零一"),
            (1_010, "一千零一十"),
            (1_100, "一千一百"),
            (2_030, "二千零三十"),
            (9_999, "九千九百九十九"),
        ] {
            assert_eq!(to_chinese(number), text);
        }
    }

    #[test]
    fn every_numeral_reads_back() {
        for number in 0..10_000 {
            assert_eq!(read(&to_chinese(number)), number, "{}", to_chinese(number));
        }
    }
}
