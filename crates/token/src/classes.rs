//! The class of a code point (letter, mark, number, Han, white space) in one or two table reads.
//! Knows the tables and UTF-8; must not know the pattern that is built from the classes.

use std::sync::LazyLock;

use crate::class_table::RANGES;

/// `\p{L}`
pub(crate) const LETTER: u8 = 1;
/// `\p{M}`
pub(crate) const MARK: u8 = 2;
/// `\p{N}`
pub(crate) const NUMBER: u8 = 4;
/// `\p{Han}`
pub(crate) const HAN: u8 = 8;
/// `\s`
pub(crate) const SPACE: u8 = 16;
/// `\r` or `\n`; always together with [`SPACE`].
pub(crate) const NEWLINE: u8 = 32;

const CODE_POINTS: usize = 0x11_0000;
const BLOCK: usize = 128;

/// Two-stage table: code point / 128 → block, block × 128 + code point % 128 → class bits.
pub(crate) struct Classes {
    ascii: [u8; 128],
    blocks: Vec<u16>,
    bits: Vec<u8>,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::build);

/// The tables, built on first use.
pub(crate) fn classes() -> &'static Classes {
    &CLASSES
}

impl Classes {
    /// The class bits and the length in bytes of the character that starts at `index`, or `(0, 0)` at the end.
    /// `text` is valid UTF-8 and `index` a character boundary.
    #[inline]
    pub(crate) fn at(&self, text: &[u8], index: usize) -> (u8, usize) {
        let Some(&lead) = text.get(index) else { return (0, 0) };
        if lead < 0x80 {
            return (self.ascii[usize::from(lead)], 1);
        }
        let tail = |offset: usize| u32::from(text.get(index + offset).map_or(0, |byte| byte & 0x3f));
        let lead = u32::from(lead);
        if lead < 0xe0 {
            (self.of((lead & 0x1f) << 6 | tail(1)), 2)
        } else if lead < 0xf0 {
            (self.of((lead & 0x0f) << 12 | tail(1) << 6 | tail(2)), 3)
        } else {
            (self.of((lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3)), 4)
        }
    }

    /// The class bits of a code point.
    #[inline]
    pub(crate) fn of(&self, code_point: u32) -> u8 {
        let block = self.blocks.get(code_point as usize / BLOCK).copied().unwrap_or(0);
        self.bits.get(block as usize * BLOCK + code_point as usize % BLOCK).copied().unwrap_or(0)
    }

    fn build() -> Classes {
        let mut flat = vec![0u8; CODE_POINTS];
        for &(first, last, bits) in &RANGES {
            flat[first as usize..=last as usize].fill(bits);
        }
        flat[usize::from(b'\r')] |= NEWLINE;
        flat[usize::from(b'\n')] |= NEWLINE;
        let mut seen = std::collections::HashMap::new();
        let mut ascii = [0; 128];
        ascii.copy_from_slice(&flat[..128]);
        let mut table = Classes { ascii, blocks: Vec::with_capacity(CODE_POINTS / BLOCK), bits: Vec::new() };
        for block in flat.chunks(BLOCK) {
            let next = (table.bits.len() / BLOCK) as u16;
            let index = *seen.entry(block).or_insert(next);
            if index == next {
                table.bits.extend_from_slice(block);
            }
            table.blocks.push(index);
        }
        table
    }
}
