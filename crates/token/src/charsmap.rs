//! SentencePiece's compiled tables of characters (`precompiled_charsmap`): what is replaced by what before a text is cut.
//! Knows the tables' format; must not know who uses them.
//!
//! The format (sentencepiece's `normalizer.cc`): four bytes with the size of a double-array trie, the trie in units of four
//! bytes (darts-clone), then the replacements, each ended by a zero byte.

/// The tables, checked when made.
#[derive(Clone, Debug)]
pub(crate) struct Charsmap {
    units: Vec<u32>,
    replacements: Vec<u8>,
}

impl Charsmap {
    /// The tables of these bytes; `None` if they are damaged.
    pub(crate) fn new(bytes: &[u8]) -> Option<Charsmap> {
        let (size, rest) = bytes.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*size) as usize;
        if !size.is_multiple_of(4) || size > rest.len() {
            return None;
        }
        let (units, replacements) = rest.split_at(size);
        let units = units.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        std::str::from_utf8(replacements).ok()?;
        Some(Charsmap { units, replacements: replacements.to_vec() })
    }

    /// `text` with the longest known beginning replaced, again and again.
    pub(crate) fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut position = 0;
        while position < text.len() {
            let rest = &text[position..];
            match self.longest(rest.as_bytes()) {
                Some((length, replacement)) if rest.is_char_boundary(length) => {
                    out.push_str(replacement);
                    position += length;
                }
                _ => {
                    let character = rest.chars().next().unwrap_or_default();
                    out.push(character);
                    position += character.len_utf8();
                }
            }
        }
        out
    }

    /// The longest entry that `bytes` begins with, and what replaces it.
    fn longest(&self, bytes: &[u8]) -> Option<(usize, &str)> {
        let mut found = None;
        let mut unit = *self.units.first()?;
        let mut at = offset(unit);
        for (index, &byte) in bytes.iter().enumerate() {
            at ^= byte as usize;
            let Some(&next) = self.units.get(at) else { break };
            unit = next;
            // A leaf has the highest bit set, which no byte has.
            if unit & 0x8000_00ff != u32::from(byte) {
                break;
            }
            at ^= offset(unit);
            if unit >> 8 & 1 == 1
                && let Some(leaf) = self.units.get(at)
            {
                found = Some((index + 1, (leaf & 0x7fff_ffff) as usize));
            }
        }
        let (length, start) = found?;
        let rest = self.replacements.get(start..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        Some((length, std::str::from_utf8(&rest[..end]).ok()?))
    }
}

/// Where the children of a unit are, relative to it.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}
