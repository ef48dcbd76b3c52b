//! A fast hash for short byte strings, for tables that live in memory only: not stable across versions, not keyed.

use std::hash::{BuildHasherDefault, Hasher};

/// For `HashMap<&[u8], _, BuildWordHasher>` and integer keys.
pub(crate) type BuildWordHasher = BuildHasherDefault<WordHasher>;

// Two odd constants with evenly spread bits: the fractional parts of the golden ratio and of √3.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const ROOT: u64 = 0xbb67_ae85_84ca_a73b;

/// The hash of a word: its bytes in pairs of eight, each pair folded in by a 64×64→128-bit product.
#[inline]
pub(crate) fn hash_word(bytes: &[u8]) -> u64 {
    let mut state = GOLDEN ^ bytes.len() as u64;
    let mut rest = bytes;
    while rest.len() > 16 {
        state = fold(state ^ read_8(rest, 0), ROOT ^ read_8(rest, 8));
        rest = &rest[16..];
    }
    let (low, high) = match rest.len() {
        8.. => (read_8(rest, 0), read_8(rest, rest.len() - 8)),
        4..8 => (read_4(rest, 0), read_4(rest, rest.len() - 4)),
        1..4 => {
            let middle = u64::from(rest[rest.len() / 2]);
            (u64::from(rest[0]) | middle << 8 | u64::from(rest[rest.len() - 1]) << 16, 0)
        }
        0 => (0, 0),
    };
    fold(fold(state ^ low, ROOT ^ high), GOLDEN)
}

/// Hashes by [`hash_word`]; several writes are chained.
#[derive(Default)]
pub(crate) struct WordHasher(u64);

impl Hasher for WordHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0 = fold(self.0 ^ hash_word(bytes), ROOT);
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.0 = fold(self.0 ^ value ^ ROOT, GOLDEN);
    }

    #[inline]
    fn write_usize(&mut self, _length: usize) {
        // Slices announce their length here; `hash_word` mixes it in already.
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[inline]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

#[inline]
fn read_8(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

#[inline]
fn read_4(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes")))
}
