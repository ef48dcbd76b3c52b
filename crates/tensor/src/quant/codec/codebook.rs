//! Types whose four bits name an entry of a codebook: IQ4_NL, IQ4_XS, MXFP4.

use super::legacy::pack_four_bits;
use super::search::{Integers, Levels, best_scale, best_scaled, inverse, scale_error, through_half};
use super::{Block, half_at, put_half, u16_at};

/// The values of IQ4_NL and IQ4_XS (ggml's `kvalues_iq4nl`).
pub const NONLINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of E2M1 (OCP Microscaling Formats 1.0, section 5.3.3).
pub const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// scale f16 · 16 bytes of 4 bits, laid out as in Q4_0.
pub fn decode_iq4_nl(block: &[u8; 18], out: &mut [f32; 32]) {
    look_up(half_at(block, 0), &NONLINEAR, &block[2..], out);
}

/// scale f16 · high bits of the scales u16 · their low bits in 4 bytes · 8 × 16 bytes of 4 bits.
pub fn decode_iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    let high = u16_at(block, 2);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let group_scale = (low | ((high >> (2 * group) & 3) as u8) << 4) as i8 - 32;
        let first = 8 + 16 * group;
        look_up(scale * f32::from(group_scale), &NONLINEAR, &block[first..first + 16], out);
    }
}

/// power of two u8 · 16 bytes of 4 bits.
pub fn decode_mxfp4(block: &[u8; 17], out: &mut [f32; 32]) {
    look_up(half_power(block[0]), &E2M1_DOUBLED, &block[1..], out);
}

/// Half of 2^(exponent − 127), exactly: the codebook holds doubled values.
pub fn half_power(exponent: u8) -> f32 {
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { u32::from(exponent - 1) << 23 })
}

/// Encodes; see [`decode_iq4_nl`].
#[inline(always)]
pub fn encode_iq4_nl(block: &Block<32>) -> [u8; 18] {
    let scale = through_half(best_scale(block.group(), Nonlinear, &STARTS));
    let mut out = [0; 18];
    put_half(&mut out, 0, scale);
    pack_four_bits(&nearest_entries(&block.values, scale, Nonlinear::entry), &mut out[2..]);
    out
}

/// Encodes; see [`decode_iq4_xs`].
#[inline(always)]
pub fn encode_iq4_xs(block: &Block<256>) -> [u8; 136] {
    let found = best_scaled::<8>(block.group(), Nonlinear, Integers(-32.0, 31.0), &STARTS);
    let mut out = [0; 136];
    put_half(&mut out, 0, found.scale);
    let mut high = 0u16;
    for (group, values) in block.values.as_chunks::<32>().0.iter().enumerate() {
        let factor = found.factors[group];
        let packed = (factor as i8 + 32) as u8;
        out[4 + group / 2] |= (packed & 15) << (group % 2 * 4);
        high |= u16::from(packed >> 4) << (2 * group);
        let first = 8 + 16 * group;
        let entries = nearest_entries(values, found.scale * factor, Nonlinear::entry);
        pack_four_bits(&entries, &mut out[first..first + 16]);
    }
    out[2..4].copy_from_slice(&high.to_le_bytes());
    out
}

/// Encodes; see [`decode_mxfp4`]. The power of two that loses least, of the three that can.
#[inline(always)]
pub fn encode_mxfp4(block: &Block<32>) -> [u8; 17] {
    let extreme = block.group().extreme().abs();
    // The power of two at or below the largest value, whose mantissa then is at most 6 = 12 / 2 when two lower.
    let exponent = (extreme.to_bits() >> 23) as i32 - 2;
    let power = |exponent: i32| half_power(exponent.clamp(0, 254) as u8);
    let error = |exponent: i32| scale_error(block.group(), Doubled, power(exponent));
    let (mut best, mut least) = (exponent, error(exponent));
    for other in [exponent - 1, exponent + 1] {
        let error = error(other);
        if error < least {
            (best, least) = (other, error);
        }
    }
    let mut out = [0; 17];
    out[0] = best.clamp(0, 254) as u8;
    pack_four_bits(&nearest_entries(&block.values, half_power(out[0]), Doubled::entry), &mut out[1..]);
    out
}

/// Where the search starts: how far beyond the ends of the codebook the value of largest magnitude is put.
const STARTS: [f32; 11] = [-24.0, -17.0, -11.0, -5.0, 0.0, 5.0, 11.0, 17.0, 24.0, 32.0, 42.0];

#[inline(always)]
fn nearest_entries(values: &[f32; 32], scale: f32, entry: impl Fn(f32) -> u8) -> [u8; 32] {
    let inverse = inverse(scale);
    values.map(|x| entry(x * inverse))
}

/// The levels of [`NONLINEAR`].
#[derive(Clone, Copy)]
struct Nonlinear;

/// For each half step from −128 to 127.5 the entry of [`NONLINEAR`] that is nearest to what lies between it and the
/// next: no point halfway between two entries lies inside a half step.
static NONLINEAR_ENTRIES: [u8; 512] = {
    let mut entries = [0; 512];
    let mut i = 0;
    while i < 512 {
        // Quarters from 0, so that the middle of the half step is a whole number.
        let middle = 2 * i as i32 + 1;
        let mut entry = 0;
        while entry < 15 && 2 * (NONLINEAR[entry] as i32 + NONLINEAR[entry + 1] as i32 + 256) < middle {
            entry += 1;
        }
        entries[i] = entry as u8;
        i += 1;
    }
    entries
};

impl Nonlinear {
    #[inline(always)]
    fn entry(value: f32) -> u8 {
        NONLINEAR_ENTRIES[(2.0 * value.clamp(-128.0, 127.5) + 256.0) as usize & 511]
    }
}

impl Levels for Nonlinear {
    #[inline(always)]
    fn nearest(self, value: f32) -> f32 {
        f32::from(NONLINEAR[usize::from(Nonlinear::entry(value))])
    }

    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (-127.0, 113.0)
    }
}

/// The levels of [`E2M1_DOUBLED`].
#[derive(Clone, Copy)]
struct Doubled;

impl Doubled {
    #[inline(always)]
    fn entry(value: f32) -> u8 {
        let magnitude = value.abs();
        let above = |limit: f32| u8::from(magnitude > limit);
        let entry = above(0.5) + above(1.5) + above(2.5) + above(3.5) + above(5.0) + above(7.0) + above(10.0);
        if value < 0.0 && entry > 0 { entry | 8 } else { entry }
    }
}

impl Levels for Doubled {
    #[inline(always)]
    fn nearest(self, value: f32) -> f32 {
        f32::from(E2M1_DOUBLED[usize::from(Doubled::entry(value))])
    }

    #[inline(always)]
    fn ends(self) -> (f32, f32) {
        (-12.0, 12.0)
    }
}

fn look_up(scale: f32, values: &[i8; 16], quants: &[u8], out: &mut [f32; 32]) {
    for (i, byte) in quants.iter().enumerate() {
        out[i] = scale * f32::from(values[usize::from(byte & 15)]);
        out[i + 16] = scale * f32::from(values[usize::from(byte >> 4)]);
    }
}
