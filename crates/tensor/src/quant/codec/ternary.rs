//! Types whose elements are −1, 0 or 1 times one scale for 256: TQ1_0 and TQ2_0.

use super::half_at;

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
                let digit = u16::from(byte.wrapping_mul(*power)) * 3 >> 8;
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
