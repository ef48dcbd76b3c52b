//! The types with one scale (and perhaps one offset) for 32 elements: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! Elements 0–15 lie in the low halves of the bytes, 16–31 in the high halves; the fifth bit of element i is bit i of
//! a 32-bit word.

use super::search::{Integers, Levels, best_line, best_scale, inverse, through_half};
use super::{Block, half_at, put_half, u32_at};

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

/// Encodes; see [`decode_q4_0`].
#[inline(always)]
pub fn encode_q4_0(block: &Block<32>) -> [u8; 18] {
    let (scale, quants) = symmetric(block, Integers(-8.0, 7.0), &STARTS_4);
    let mut out = [0; 18];
    put_half(&mut out, 0, scale);
    pack_four_bits(&quants.map(|q| (q + 8) as u8), &mut out[2..]);
    out
}

/// Encodes; see [`decode_q4_1`].
#[inline(always)]
pub fn encode_q4_1(block: &Block<32>) -> [u8; 20] {
    let (scale, offset, quants) = affine(block, 15.0);
    let mut out = [0; 20];
    put_half(&mut out, 0, scale);
    put_half(&mut out, 2, offset);
    pack_four_bits(&quants, &mut out[4..]);
    out
}

/// Encodes; see [`decode_q5_0`].
#[inline(always)]
pub fn encode_q5_0(block: &Block<32>) -> [u8; 22] {
    let (scale, quants) = symmetric(block, Integers(-16.0, 15.0), &STARTS_5);
    let mut out = [0; 22];
    put_half(&mut out, 0, scale);
    pack_five_bits(&quants.map(|q| (q + 16) as u8), &mut out[2..]);
    out
}

/// Encodes; see [`decode_q5_1`].
#[inline(always)]
pub fn encode_q5_1(block: &Block<32>) -> [u8; 24] {
    let (scale, offset, quants) = affine(block, 31.0);
    let mut out = [0; 24];
    put_half(&mut out, 0, scale);
    put_half(&mut out, 2, offset);
    pack_five_bits(&quants, &mut out[4..]);
    out
}

/// Encodes; see [`decode_q8_0`]. −128 is left out: some programs negate weights.
#[inline(always)]
pub fn encode_q8_0(block: &Block<32>) -> [u8; 34] {
    let (scale, quants) = symmetric(block, Integers(-127.0, 127.0), &STARTS_8);
    let mut out = [0; 34];
    put_half(&mut out, 0, scale);
    for (out, q) in out[2..].iter_mut().zip(quants) {
        *out = q as u8;
    }
    out
}

/// Where the search starts: how far beyond the ends of the levels the value of largest magnitude is put.
const STARTS_4: [f32; 9] = [-0.7, -0.35, 0.0, 0.3, 0.6, 0.9, 1.2, 1.6, 2.0];
const STARTS_5: [f32; 9] = [-0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.2, 1.6, 2.0];
const STARTS_8: [f32; 5] = [-0.4, -0.2, 0.0, 0.2, 0.4];
const STARTS_LINE: [f32; 16] =
    [-0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.9, 2.2, 2.6];

/// The best scale as a half holds it, and the levels nearest to it.
#[inline(always)]
fn symmetric(block: &Block<32>, levels: Integers, starts: &[f32]) -> (f32, [i8; 32]) {
    let scale = through_half(best_scale(block.group(), levels, starts));
    let inverse = inverse(scale);
    (scale, block.values.map(|x| levels.nearest(x * inverse) as i8))
}

/// The best scale and offset as halves hold them, and the levels nearest to them.
#[inline(always)]
fn affine(block: &Block<32>, highest: f32) -> (f32, f32, [u8; 32]) {
    let (scale, offset) = best_line(block.group(), highest, f32::INFINITY, &STARTS_LINE);
    let (scale, offset) = (through_half(scale), through_half(offset));
    let inverse = inverse(scale);
    (scale, offset, block.values.map(|x| Integers(0.0, highest).nearest((x - offset) * inverse) as u8))
}

#[inline(always)]
pub fn pack_four_bits(quants: &[u8; 32], out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = quants[i] | quants[i + 16] << 4;
    }
}

#[inline(always)]
fn pack_five_bits(quants: &[u8; 32], out: &mut [u8]) {
    let high = quants.iter().rev().fold(0u32, |bits, q| bits << 1 | u32::from(q >> 4));
    out[..4].copy_from_slice(&high.to_le_bytes());
    pack_four_bits(&quants.map(|q| q & 15), &mut out[4..]);
}

fn five_bits(high: u32, low: &[u8]) -> [u8; 32] {
    std::array::from_fn(|i| {
        let low = low[i % 16] >> (4 * (i / 16)) & 15;
        low | ((high >> i & 1) as u8) << 4
    })
}
