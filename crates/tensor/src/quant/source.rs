//! The blocks of a GGUF file taken apart into codes and scales, before they are laid out for products. The formats are
//! ggml's (`ggml-common.h`, `ggml-quants.c`). Must not know the packed layout.

use super::BlockType;

/// Elements of the longest block.
pub(super) const BLOCK_LEN_MAX: usize = 256;
/// Elements that share one scale of the activations: a "block" everywhere else in this module.
pub(super) const BLOCK: usize = 32;

/// One block of a file: a code for each element, below 2^bits, and what its scale is made of.
pub(super) struct Parts {
    /// The code of each element; those beyond the type's block length are arbitrary.
    pub codes: [u8; BLOCK_LEN_MAX],
    /// The scale fields of each 32 elements, one after the other, as [`super::layout::Layout::scale_fields`] lists them.
    pub scales: [[u8; 4]; BLOCK_LEN_MAX / BLOCK],
    /// The scale fields of the whole block where it has 256 elements.
    pub supers: [u8; 4],
}

impl Parts {
    /// Room for any block.
    pub fn new() -> Parts {
        Parts { codes: [0; BLOCK_LEN_MAX], scales: [[0; 4]; BLOCK_LEN_MAX / BLOCK], supers: [0; 4] }
    }

    /// Takes one block of `kind` apart.
    ///
    /// # Panics
    /// The type has no integer product (see [`super::is_supported`]), or `block` is no whole block.
    pub fn read(&mut self, kind: BlockType, block: &[u8]) {
        assert_eq!(block.len(), kind.block_bytes(), "a block of {}", kind.name());
        match kind {
            BlockType::Q4_0 | BlockType::IQ4_NL => {
                self.scales[0][..2].copy_from_slice(&block[..2]);
                nibbles(&block[2..], &mut self.codes[..32]);
            }
            BlockType::Q4_1 => {
                self.scale_and_minimum(block);
                nibbles(&block[4..], &mut self.codes[..32]);
            }
            BlockType::Q5_0 => {
                self.scales[0][..2].copy_from_slice(&block[..2]);
                nibbles(&block[6..], &mut self.codes[..32]);
                self.fifth_bits(&block[2..6]);
            }
            BlockType::Q5_1 => {
                self.scale_and_minimum(block);
                nibbles(&block[8..], &mut self.codes[..32]);
                self.fifth_bits(&block[4..8]);
            }
            BlockType::Q8_0 => {
                self.scales[0][..2].copy_from_slice(&block[..2]);
                self.codes.iter_mut().zip(&block[2..]).for_each(|(code, byte)| *code = byte ^ 0x80);
            }
            BlockType::MXFP4 => {
                self.scales[0][0] = block[0];
                nibbles(&block[1..], &mut self.codes[..32]);
            }
            BlockType::Q2_K => self.q2_k(block),
            BlockType::Q3_K => self.q3_k(block),
            BlockType::Q4_K => self.q4_k(block),
            BlockType::Q5_K => self.q5_k(block),
            BlockType::Q6_K => self.q6_k(block),
            BlockType::IQ4_XS => self.iq4_xs(block),
            _ => panic!("there is no integer product with weights of type {}", kind.name()),
        }
    }

    /// The scale as it is and the minimum negated: activations' sums are kept negated.
    fn scale_and_minimum(&mut self, block: &[u8]) {
        self.scales[0] = [block[0], block[1], block[2], block[3] ^ 0x80];
    }

    fn fifth_bits(&mut self, bits: &[u8]) {
        for (i, code) in self.codes[..32].iter_mut().enumerate() {
            *code |= (bits[i / 8] >> (i % 8) & 1) << 4;
        }
    }

    /// 16 bytes of scale and minimum nibbles, 64 bytes of 2-bit quants, d, dmin.
    fn q2_k(&mut self, block: &[u8]) {
        two_bits(&block[16..80], &mut self.codes);
        for (i, scales) in self.scales.iter_mut().enumerate() {
            scales[..2].copy_from_slice(&block[2 * i..][..2]);
        }
        self.supers.copy_from_slice(&block[80..84]);
    }

    /// 32 bytes of third bits, 64 bytes of 2-bit quants, 12 bytes of 6-bit scales, d.
    fn q3_k(&mut self, block: &[u8]) {
        two_bits(&block[32..96], &mut self.codes);
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code |= (block[i % 32] >> (i / 32) & 1) << 2;
        }
        let packed = &block[96..108];
        for group in 0..16 {
            let low = packed[group % 8] >> (4 * (group / 8)) & 15;
            let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
            self.scales[group / 2][group % 2] = (low | high << 4).wrapping_sub(32);
        }
        self.supers[..2].copy_from_slice(&block[108..110]);
    }

    /// d, dmin, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles.
    fn q4_k(&mut self, block: &[u8]) {
        self.supers.copy_from_slice(&block[..4]);
        self.six_bit_pairs(&block[4..16]);
        for (pair, bytes) in block[16..].chunks_exact(32).enumerate() {
            wide_nibbles(bytes, &mut self.codes[64 * pair..][..64]);
        }
    }

    /// As Q4_K, with 32 bytes of fifth bits before the nibbles.
    fn q5_k(&mut self, block: &[u8]) {
        self.supers.copy_from_slice(&block[..4]);
        self.six_bit_pairs(&block[4..16]);
        for (pair, bytes) in block[48..].chunks_exact(32).enumerate() {
            wide_nibbles(bytes, &mut self.codes[64 * pair..][..64]);
        }
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code |= (block[16 + i % 32] >> (i / 32) & 1) << 4;
        }
    }

    /// 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, d.
    fn q6_k(&mut self, block: &[u8]) {
        for half in 0..2 {
            let (low, high) = (&block[64 * half..][..64], &block[128 + 32 * half..][..32]);
            let codes = &mut self.codes[128 * half..][..128];
            for i in 0..32 {
                codes[i] = low[i] & 15 | (high[i] & 3) << 4;
                codes[i + 32] = low[i + 32] & 15 | (high[i] >> 2 & 3) << 4;
                codes[i + 64] = low[i] >> 4 | (high[i] >> 4 & 3) << 4;
                codes[i + 96] = low[i + 32] >> 4 | (high[i] >> 6) << 4;
            }
        }
        for (i, scales) in self.scales.iter_mut().enumerate() {
            scales[..2].copy_from_slice(&block[192 + 2 * i..][..2]);
        }
        self.supers[..2].copy_from_slice(&block[208..210]);
    }

    /// d, 16 bits with the scales' high pairs, 4 bytes with their low nibbles, 128 bytes of nibbles.
    fn iq4_xs(&mut self, block: &[u8]) {
        self.supers[..2].copy_from_slice(&block[..2]);
        let high = u16::from_le_bytes([block[2], block[3]]);
        for (i, scales) in self.scales.iter_mut().enumerate() {
            let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
            scales[0] = (low | ((high >> (2 * i) & 3) as u8) << 4).wrapping_sub(32);
        }
        for (bytes, codes) in block[8..].chunks_exact(16).zip(self.codes.chunks_exact_mut(32)) {
            nibbles(bytes, codes);
        }
    }

    /// Eight 6-bit scales and eight 6-bit minima in 12 bytes.
    fn six_bit_pairs(&mut self, packed: &[u8]) {
        for i in 0..4 {
            self.scales[i][..2].copy_from_slice(&[packed[i] & 63, packed[i + 4] & 63]);
            self.scales[i + 4][..2].copy_from_slice(&[
                packed[i + 8] & 15 | (packed[i] >> 6) << 4,
                packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4,
            ]);
        }
    }
}

/// 16 bytes: elements 0 to 15 in the low nibbles, 16 to 31 in the high ones.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    for i in 0..16 {
        codes[i] = bytes[i] & 15;
        codes[i + 16] = bytes[i] >> 4;
    }
}

/// 32 bytes: elements 0 to 31 in the low nibbles, 32 to 63 in the high ones.
fn wide_nibbles(bytes: &[u8], codes: &mut [u8]) {
    for i in 0..32 {
        codes[i] = bytes[i] & 15;
        codes[i + 32] = bytes[i] >> 4;
    }
}

/// Two halves of 32 bytes, each with four times 32 elements in ascending pairs of bits.
fn two_bits(bytes: &[u8], codes: &mut [u8; BLOCK_LEN_MAX]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code = bytes[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4)) & 3;
    }
}
