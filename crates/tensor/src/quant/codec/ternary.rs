//! Types whose elements are −1, 0 or 1 times one scale for 256: TQ1_0 and TQ2_0.

use super::search::{Integers, Levels, inverse, through_half};
use super::{Block, half_at, put_half};

const POWERS_OF_3: [u8; 5] = [1, 3, 9, 27, 81];

/// 48 bytes of five digits of base three · 4 bytes of four · scale f16.
///
/// A byte is the number's fraction of 243 in 256ths, rounded up: times a power of three, modulo 256, its next digit is
/// the whole part of three times what is left.
pub fn decode_tq1_0(block: &[u8; 54], out: &mut [f32; 256]) {
    let scale = half_at(block, 52);
    let mut next = 0;
    // 32 bytes with five digits each, 16 with five, 4 with four; all first digits, then all second ones …
    for (bytes, digits) in [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)] {
        for power in &POWERS_OF_3[..digits] {
            for (out, byte) in out[next..].iter_mut().zip(bytes) {
                let digit = (u16::from(byte.wrapping_mul(*power)) * 3) >> 8;
                *out = scale * f32::from(digit as i8 - 1);
            }
            next += bytes.len();
        }
    }
}

/// 64 bytes of 2 bits, groups of 32 by shift · scale f16.
pub fn decode_tq2_0(block: &[u8; 66], out: &mut [f32; 256]) {
    let scale = half_at(block, 64);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (out, byte) in out.iter_mut().zip(&block[group / 4 * 32..]) {
            *out = scale * f32::from((byte >> (group % 4 * 2) & 3) as i8 - 1);
        }
    }
}

/// Encodes; see [`decode_tq1_0`].
#[inline(always)]
pub fn encode_tq1_0(block: &Block<256>) -> [u8; 54] {
    let (scale, digits) = ternary(block);
    let mut out = [0; 54];
    let mut rest = &digits[..];
    for (range, count) in [(0..32, 5), (32..48, 5), (48..52, 4)] {
        let stride = range.len();
        for (i, byte) in out[range].iter_mut().enumerate() {
            let number = (0..5).fold(0u16, |number, digit| {
                3 * number + if digit < count { u16::from(rest[digit * stride + i]) } else { 0 }
            });
            *byte = (number * 256).div_ceil(243) as u8;
        }
        rest = &rest[count * stride..];
    }
    put_half(&mut out, 52, scale);
    out
}

/// Encodes; see [`decode_tq2_0`].
#[inline(always)]
pub fn encode_tq2_0(block: &Block<256>) -> [u8; 66] {
    let (scale, digits) = ternary(block);
    let mut out = [0; 66];
    for (i, digit) in digits.iter().enumerate() {
        out[i / 128 * 32 + i % 32] |= digit << (i % 128 / 32 * 2);
    }
    put_half(&mut out, 64, scale);
    out
}

/// The scale with the least squared error, and the digits plus one.
///
/// Those that become ±1 are the largest, so of all their numbers k the one with the largest (Σ w |x|)² / Σ w is best:
/// no search is left.
#[inline(always)]
fn ternary(block: &Block<256>) -> (f32, [u8; 256]) {
    let mut order: [(f32, f32); 256] = std::array::from_fn(|i| (block.values[i].abs(), block.weights[i]));
    order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let (mut sum, mut weight) = (0.0f32, 0.0f32);
    let (mut scale, mut best) = (0.0, 0.0);
    for (magnitude, w) in order {
        sum += w * magnitude;
        weight += w;
        if sum * sum > best * weight {
            (scale, best) = (sum / weight, sum * sum / weight);
        }
    }
    let scale = through_half(scale);
    let inverse = inverse(scale);
    (scale, block.values.map(|x| (Integers(-1.0, 1.0).nearest(x * inverse) + 1.0) as u8))
}
