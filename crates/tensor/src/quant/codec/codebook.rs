//! Types whose four bits name an entry of a codebook: IQ4_NL, IQ4_XS, MXFP4.

use super::{half_at, u16_at};

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

fn look_up(scale: f32, values: &[i8; 16], quants: &[u8], out: &mut [f32; 32]) {
    for (i, byte) in quants.iter().enumerate() {
        out[i] = scale * f32::from(values[usize::from(byte & 15)]);
        out[i + 16] = scale * f32::from(values[usize::from(byte >> 4)]);
    }
}
