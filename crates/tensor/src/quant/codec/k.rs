//! The K types: 256 elements in groups of 16 or 32, whose scales are themselves quantised.
//!
//! Groups of 32 elements share bytes: `q >> shift` of one run of 32 bytes is one group.

use super::search::{Integers, Levels, Lined, best_lined, best_scaled, inverse};
use super::{Block, half_at, put_half};

/// 16 bytes (scale, and minimum above it) · 64 bytes of 2 bits · scale f16 · minimum f16.
pub fn decode_q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    let quants = &block[16..80];
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scales = block[group];
        let (scale, minimum) = (scale * f32::from(scales & 15), minimum * f32::from(scales >> 4));
        // 128 elements in 32 bytes: group pairs by shift.
        let first = group / 8 * 32 + group % 2 * 16;
        let shift = group % 8 / 2 * 2;
        for (out, byte) in out.iter_mut().zip(&quants[first..]) {
            *out = scale * f32::from(byte >> shift & 3) - minimum;
        }
    }
}

/// 32 bytes of third bits · 64 bytes of 2 bits · 12 bytes of sixteen 6-bit scales · scale f16.
pub fn decode_q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half_at(block, 108);
    let (high, quants) = (&block[..32], &block[32..96]);
    let scales = q3_k_scales(&block[96..108]);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = scale * f32::from(scales[group]);
        let within = group % 2 * 16;
        let first = group / 8 * 32 + within;
        let shift = group % 8 / 2 * 2;
        for (i, out) in out.iter_mut().enumerate() {
            let low = (quants[first + i] >> shift & 3) as i8;
            // A set bit adds nothing; a clear one takes four away.
            let missing = (high[within + i] >> (group / 2) & 1 ^ 1) as i8;
            *out = scale * f32::from(low - 4 * missing);
        }
    }
}

/// scale f16 · minimum f16 · 12 bytes of eight 6-bit scales and minima · 128 bytes of 4 bits.
pub fn decode_q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = k_scales(&block[4..16]);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = (scale * f32::from(scales[group]), minimum * f32::from(minima[group]));
        let shift = group % 2 * 4;
        for (out, byte) in out.iter_mut().zip(&block[16 + group / 2 * 32..]) {
            *out = scale * f32::from(byte >> shift & 15) - minimum;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the 128 bytes of 4 bits.
pub fn decode_q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = k_scales(&block[4..16]);
    let high = &block[16..48];
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = (scale * f32::from(scales[group]), minimum * f32::from(minima[group]));
        let shift = group % 2 * 4;
        let low = &block[48 + group / 2 * 32..];
        for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
            let q = low >> shift & 15 | (high >> group & 1) << 4;
            *out = scale * f32::from(q) - minimum;
        }
    }
}

/// 128 bytes of 4 bits · 64 bytes of 2 more · 16 signed scales · scale f16.
pub fn decode_q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = half_at(block, 208);
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = scale * f32::from(scales[group] as i8);
        // 128 elements: the low halves of 64 bytes, then their high halves; the upper bits in 32 bytes by shift.
        let (half, quarter, within) = (group / 8, group % 8 / 2, group % 2 * 16);
        let low = &low[half * 64 + quarter % 2 * 32 + within..];
        let high = &high[half * 32 + within..];
        for (out, (low, high)) in out.iter_mut().zip(low.iter().zip(high)) {
            let q = low >> (quarter / 2 * 4) & 15 | (high >> (2 * quarter) & 3) << 4;
            *out = scale * f32::from(q as i8 - 32);
        }
    }
}

/// Encodes; see [`decode_q2_k`].
#[inline(always)]
pub fn encode_q2_k(block: &Block<256>) -> [u8; 84] {
    let found: Lined<16> = best_lined(block.group(), 3.0, 15.0, &STARTS_2);
    let quants = line_levels(block, 3.0, &found);
    let mut out = [0; 84];
    for (out, (factor, floor)) in out.iter_mut().zip(found.factors.iter().zip(found.floors)) {
        *out = *factor as u8 | (floor as u8) << 4;
    }
    pack_two_bits(&quants, &mut out[16..80]);
    put_half(&mut out, 80, found.scale);
    put_half(&mut out, 82, found.minimum);
    out
}

/// Encodes; see [`decode_q3_k`].
#[inline(always)]
pub fn encode_q3_k(block: &Block<256>) -> [u8; 110] {
    let levels = Integers(-4.0, 3.0);
    let found = best_scaled::<16>(block.group(), levels, Integers(-32.0, 31.0), &STARTS_3);
    let quants = scale_levels(block, levels, (found.scale, &found.factors));
    let mut out = [0; 110];
    for (i, q) in quants.iter().enumerate() {
        out[i % 32] |= u8::from(*q >= 0) << (i / 32);
    }
    pack_two_bits(&quants.map(|q| (q + 4) as u8 & 3), &mut out[32..96]);
    for (i, factor) in found.factors.iter().enumerate() {
        let factor = (*factor as i8 + 32) as u8;
        out[96 + i % 8] |= (factor & 15) << (4 * (i / 8));
        out[104 + i % 4] |= (factor >> 4) << (2 * (i / 4));
    }
    put_half(&mut out, 108, found.scale);
    out
}

/// Encodes; see [`decode_q4_k`].
#[inline(always)]
pub fn encode_q4_k(block: &Block<256>) -> [u8; 144] {
    let found: Lined<8> = best_lined(block.group(), 15.0, 63.0, &STARTS_4);
    let quants = line_levels(block, 15.0, &found);
    let mut out = [0; 144];
    put_lined(&mut out, &found);
    pack_k_four_bits(&quants, &mut out[16..]);
    out
}

/// Encodes; see [`decode_q5_k`].
#[inline(always)]
pub fn encode_q5_k(block: &Block<256>) -> [u8; 176] {
    let found: Lined<8> = best_lined(block.group(), 31.0, 63.0, &STARTS_5);
    let quants = line_levels(block, 31.0, &found);
    let mut out = [0; 176];
    put_lined(&mut out, &found);
    for (i, q) in quants.iter().enumerate() {
        out[16 + i % 32] |= (q >> 4) << (i / 32);
    }
    pack_k_four_bits(&quants, &mut out[48..]);
    out
}

/// Encodes; see [`decode_q6_k`].
#[inline(always)]
pub fn encode_q6_k(block: &Block<256>) -> [u8; 210] {
    let levels = Integers(-32.0, 31.0);
    let found = best_scaled::<16>(block.group(), levels, Integers(-128.0, 127.0), &STARTS_6);
    let quants = scale_levels(block, levels, (found.scale, &found.factors)).map(|q| (q + 32) as u8);
    let mut out = [0; 210];
    for (i, q) in quants.iter().enumerate() {
        let (half, quarter, within) = (i / 128, i % 128 / 32, i % 32);
        out[half * 64 + quarter % 2 * 32 + within] |= (q & 15) << (quarter / 2 * 4);
        out[128 + half * 32 + within] |= (q >> 4) << (2 * quarter);
    }
    for (out, factor) in out[192..208].iter_mut().zip(found.factors) {
        *out = factor as i8 as u8;
    }
    put_half(&mut out, 208, found.scale);
    out
}

/// Where the searches start: how far beyond the ends of the levels the extreme value is put.
const STARTS_2: [f32; 12] = [-0.5, -0.35, -0.2, -0.05, 0.1, 0.25, 0.4, 0.55, 0.7, 0.9, 1.1, 1.4];
const STARTS_3: [f32; 9] = [-0.8, -0.5, -0.25, 0.0, 0.25, 0.5, 0.8, 1.1, 1.5];
const STARTS_4: [f32; 14] = [-0.6, -0.35, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.35, 1.6, 1.9, 2.3, 2.8];
const STARTS_5: [f32; 12] = [-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.8, 2.2, 2.7];
const STARTS_6: [f32; 7] = [-0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.3];

/// The levels nearest to a block's values under its groups' scales and minima.
#[inline(always)]
fn line_levels<const GROUPS: usize>(block: &Block<256>, highest: f32, found: &Lined<GROUPS>) -> [u8; 256] {
    let mut quants = [0; 256];
    let length = 256 / GROUPS;
    for group in 0..GROUPS {
        let inverse = inverse(found.scale * found.factors[group]);
        let offset = -(found.minimum * found.floors[group]);
        let range = group * length..(group + 1) * length;
        for (q, x) in quants[range.clone()].iter_mut().zip(&block.values[range]) {
            *q = Integers(0.0, highest).nearest((x - offset) * inverse) as u8;
        }
    }
    quants
}

/// The levels nearest to a block's values under its groups' scales.
#[inline(always)]
fn scale_levels(block: &Block<256>, levels: Integers, (scale, factors): (f32, &[f32; 16])) -> [i8; 256] {
    let mut quants = [0; 256];
    for (group, factor) in factors.iter().enumerate() {
        let inverse = inverse(scale * factor);
        let range = group * 16..(group + 1) * 16;
        for (q, x) in quants[range.clone()].iter_mut().zip(&block.values[range]) {
            *q = levels.nearest(x * inverse) as i8;
        }
    }
    quants
}

/// 256 quants of two bits, groups of 32 by shift within 32 bytes.
#[inline(always)]
fn pack_two_bits(quants: &[u8; 256], out: &mut [u8]) {
    for (i, q) in quants.iter().enumerate() {
        out[i / 128 * 32 + i % 32] |= q << (i % 128 / 32 * 2);
    }
}

/// The low four bits of 256 quants, two groups of 32 in 32 bytes.
#[inline(always)]
fn pack_k_four_bits(quants: &[u8; 256], out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate() {
        let first = i / 32 * 64 + i % 32;
        *out = quants[first] & 15 | quants[first + 32] << 4;
    }
}

/// The first sixteen bytes of Q4_K and Q5_K; the inverse of [`k_scales`].
#[inline(always)]
fn put_lined(out: &mut [u8], found: &Lined<8>) {
    put_half(out, 0, found.scale);
    put_half(out, 2, found.minimum);
    for i in 0..4 {
        let [scale, minimum] = [found.factors[i] as u8, found.floors[i] as u8];
        let [scale_high, minimum_high] = [found.factors[i + 4] as u8, found.floors[i + 4] as u8];
        out[4 + i] = scale | scale_high >> 4 << 6;
        out[8 + i] = minimum | minimum_high >> 4 << 6;
        out[12 + i] = scale_high & 15 | minimum_high << 4;
    }
}

/// The eight 6-bit scales and minima of Q4_K and Q5_K: the first four of each in the low bits of bytes 0–3 and 4–7,
/// the others in bytes 8–11 with their top two bits above the first ones'.
pub fn k_scales(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        minima[i] = packed[i + 4] & 63;
        scales[i + 4] = packed[i + 8] & 15 | (packed[i] >> 6) << 4;
        minima[i + 4] = packed[i + 8] >> 4 | (packed[i + 4] >> 6) << 4;
    }
    (scales, minima)
}

/// The sixteen scales of Q3_K less 32: four low bits in bytes 0–7, two high bits in bytes 8–11.
pub fn q3_k_scales(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = packed[i % 8] >> (4 * (i / 8)) & 15;
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        (low | high << 4) as i8 - 32
    })
}
