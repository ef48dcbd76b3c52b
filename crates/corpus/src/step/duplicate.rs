//! The key by which two texts count as the same. Unlike the other steps its verdict needs all documents before, so the
//! caller keeps the set of keys; this file must not.

use base::hash::hash_128;

/// A hash over the lines without the white space at their ends, empty lines and copyright notices: two crates' copies
/// of one licence, or one file with other line ends, are the same text.
pub fn key(text: &str) -> u128 {
    let mut essence = Vec::with_capacity(text.len());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !is_copyright_notice(line)) {
        essence.extend_from_slice(line.as_bytes());
        essence.push(b'\n');
    }
    hash_128(&essence)
}

fn is_copyright_notice(line: &str) -> bool {
    let line = line.trim_start_matches(|letter: char| !letter.is_alphanumeric() && letter != '©');
    let starts_with = |word: &str| {
        line.len() >= word.len() && line.as_bytes()[..word.len()].eq_ignore_ascii_case(word.as_bytes())
    };
    starts_with("copyright ") || line.starts_with('©') || line.starts_with("版权所有")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_and_not_the_same() {
        let cases = [
            ("a\nb", "a  \n\n\tb\n", true),
            (
                "MIT License\nCopyright (c) 2014 Ann\nPermission",
                "MIT License\n  Copyright 2020 Bo\nPermission",
                true,
            ),
            ("// © 2020 甲\nlet a = 1;", "let a = 1;", true),
            ("Copyrights are rights", "", false),
            ("a b", "a  b", false),
            ("子曰：学而", "子曰：学", false),
            ("ab\nc", "a\nbc", false),
        ];
        for (left, right, same) in cases {
            assert_eq!(key(left) == key(right), same, "{left:?} {right:?}");
        }
    }
}
