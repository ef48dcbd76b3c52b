//! The types with one scale (and perhaps one offset) for 32 elements: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Elements 0–15 lie in the low halves of the bytes, 16–31 in the high halves; the fifth bit of element i is bit i of
//! a 32-bit word.

use super::{half_at, u32_at};

/// scale f16 · 16 bytes of two q in 0..16; scale × (q − 8).
pub fn decode_q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (i, byte) in block[2..].iter().enumerate() {
        out[i] = scale * f32::from((byte & 15) as i8 - 8);
        out[i + 16] = scale * f32::from((byte >> 4) as i8 - 8);
    }
}

/// scale f16 · offset f16 · 16 bytes; scale × q + offset.
pub fn decode_q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (scale, offset) = (half_at(block, 0), half_at(block, 2));
    for (i, byte) in block[4..].iter().enumerate() {
        out[i] = scale * f32::from(byte & 15) + offset;
        out[i + 16] = scale * f32::from(byte >> 4) + offset;
    }
}

/// scale f16 · fifth bits u32 · 16 bytes; scale × (q − 16).
pub fn decode_q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    let quants = five_bits(u32_at(block, 2), &block[6..]);
    for (out, q) in out.iter_mut().zip(quants) {
        *out = scale * f32::from(q as i8 - 16);
    }
}

/// scale f16 · offset f16 · fifth bits u32 · 16 bytes; scale × q + offset.
pub fn decode_q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (scale, offset) = (half_at(block, 0), half_at(block, 2));
    let quants = five_bits(u32_at(block, 4), &block[8..]);
    for (out, q) in out.iter_mut().zip(quants) {
        *out = scale * f32::from(q) + offset;
    }
}

/// scale f16 · 32 signed bytes; scale × q.
pub fn decode_q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let scale = half_at(block, 0);
    for (out, byte) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*byte as i8) * scale;
    }
}

fn five_bits(high: u32, low: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| {
        let low = low[i % 16] >> (4 * (i / 16)) & 15;
        low | ((high >> i & 1) as u8) << 4
    })
}
