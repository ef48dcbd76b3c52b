//! Drops data that was written as text: base64 and hexadecimal walls. It must not know what the data is.

use super::Verdict;
use crate::{Document, Reason};

/// A run without a break that is longer than any identifier; PEM and MIME wrap base64 at 64 and 76.
const RUN_BYTES_MIN: usize = 60;
/// The part of the text in such runs over which it counts as data, in percent.
const PERCENT_MAX: usize = 30;

/// Measures runs of base64's and hexadecimal's alphabet which hold digits as well as letters, and mix in other ways too
/// that words do not.
pub fn check(document: &Document) -> Verdict {
    let bytes = document.text.as_bytes();
    let (mut encoded, mut start) = (0, 0);
    for end in 0..=bytes.len() {
        if end < bytes.len()
            && (bytes[end].is_ascii_alphanumeric() || matches!(bytes[end], b'+' | b'/' | b'='))
        {
            continue;
        }
        if end - start >= RUN_BYTES_MIN && looks_encoded(&bytes[start..end]) {
            encoded += end - start;
        }
        start = end + 1;
    }
    if encoded * 100 > PERCENT_MAX * bytes.len() { Verdict::Drop(Reason::EncodedData) } else { Verdict::Keep }
}

/// Digits and letters in one run change places often in data: at least once in eight bytes.
fn looks_encoded(run: &[u8]) -> bool {
    let class = |byte: u8| match byte {
        b'0'..=b'9' => 0,
        b'a'..=b'z' => 1,
        b'A'..=b'Z' => 2,
        _ => 3,
    };
    let changes = run.windows(2).filter(|pair| class(pair[0]) != class(pair[1])).count();
    changes * 8 >= run.len() && run.iter().any(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn verdicts() {
        let base64 = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA7V3kQ5m8w1Zt2bX9aLrP\n".repeat(8);
        let hex = "3f2a9c00e1d4b7586af09e3c7d21b8450f6e9ad3c2b18740e5f6a7d8c9b0a1f2\n".repeat(8);
        let with_key = format!(
            "{}{}",
            "Some prose about certificates and how to read them. ".repeat(30),
            &base64[..130]
        );
        let path =
            "use std/collections/hash/map/entry/occupied/and/vacant/variants/of/the/entry/type\n".repeat(5);
        super::super::assert_verdicts(
            check,
            Reason::EncodedData,
            &[
                (Kind::Text, &base64, true),
                (Kind::Code, &hex, true),
                (Kind::Text, &with_key, false),
                (Kind::Code, &path, false),
                (Kind::Text, "人之初，性本善。性相近，习相远。苟不教，性乃迁。教之道，贵以专。", false),
            ],
        );
    }
}
