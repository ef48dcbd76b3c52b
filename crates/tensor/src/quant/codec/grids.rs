//! Types whose indices name points of a grid, four or eight elements at a time: IQ1, IQ2 and IQ3.

mod tables;

use super::{half_at, u16_at, u32_at};
use tables::{IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};

/// What the coordinates 0, 1 and 2 of the IQ2 grids stand for.
const IQ2_LEVELS: [u8; 4] = [8, 25, 43, 0];
const IQ3_XXS_LEVELS: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
const IQ3_S_LEVELS: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];
/// By how much a group of IQ1 is shifted, up or down.
const IQ1_SHIFT: f32 = 0.125;

/// scale f16 · 8 × (four indices u8, a word of four 7-bit signs and a 4-bit scale).
pub fn decode_iq2_xxs(block: &[u8; 66], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let indices = &block[2 + 8 * group..];
        let word = u32_at(indices, 4);
        let scale = scale * (0.5 + (word >> 28) as f32) * 0.25;
        for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            iq2_point(scale, IQ2_XXS[usize::from(indices[i])], even_signs(word >> (7 * i)), out);
        }
    }
}

/// scale f16 · 32 words of a 9-bit index and 7-bit signs · 8 bytes of 4-bit scales, each for 16 elements.
pub fn decode_iq2_xs(block: &[u8; 74], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(block, 2 + 2 * i);
        let scale = scale * (0.5 + f32::from(nibble(&block[66..], i / 2))) * 0.25;
        iq2_point(scale, IQ2_XS[usize::from(word & 511)], even_signs(u32::from(word >> 9)), out);
    }
}

/// scale f16 · 32 low bytes of indices · 32 bytes of signs · 8 bytes of two high bits · 8 bytes of 4-bit scales.
pub fn decode_iq2_s(block: &[u8; 82], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = usize::from(block[66 + i / 4] >> (i % 4 * 2) & 3);
        let index = usize::from(block[2 + i]) | high << 8;
        let scale = scale * (0.5 + f32::from(nibble(&block[74..], i / 2))) * 0.25;
        iq2_point(scale, IQ2_S[index], block[34 + i], out);
    }
}

/// scale f16 · 64 indices u8 of four elements · 8 words of four 7-bit signs and a 4-bit scale.
pub fn decode_iq3_xxs(block: &[u8; 98], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = u32_at(block, 66 + 4 * group);
        let scale = scale * (0.5 + (word >> 28) as f32) * 0.5;
        for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let point = IQ3_XXS[usize::from(block[2 + 8 * group + i])];
            let signs = even_signs(word >> (7 * (i / 2))) >> (i % 2 * 4);
            iq3_point((scale, &IQ3_XXS_LEVELS), point, signs, out);
        }
    }
}

/// scale f16 · 64 low bytes of indices · 8 bytes of ninth bits · 32 bytes of signs · 4 bytes of 4-bit scales.
pub fn decode_iq3_s(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let high = usize::from(block[66 + i / 8] >> (i % 8) & 1);
        let point = IQ3_S[usize::from(block[2 + i]) | high << 8];
        let scale = scale * f32::from(1 + 2 * nibble(&block[106..], i / 8));
        iq3_point((scale, &IQ3_S_LEVELS), point, block[74 + i / 2] >> (i % 2 * 4), out);
    }
}

/// scale f16 · 32 low bytes of indices · 8 words of four times three high bits, a 3-bit scale and the shift's sign.
pub fn decode_iq1_s(block: &[u8; 50], out: &mut [f32; 256]) {
    let scale = half_at(block, 0);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(block, 34 + i / 4 * 2);
        let index = usize::from(block[2 + i]) | usize::from(word >> (i % 4 * 3) & 7) << 8;
        let scale = scale * f32::from(2 * (word >> 12 & 7) + 1);
        iq1_point(scale, index, word & 0x8000 != 0, out);
    }
}

/// 32 low bytes of indices · 16 bytes of three high bits and the shift's sign for eight elements · 4 words of four
/// 3-bit scales, each for 16 elements, whose top four bits together are the scale f16.
pub fn decode_iq1_m(block: &[u8; 56], out: &mut [f32; 256]) {
    let words: [u16; 4] = std::array::from_fn(|i| u16_at(block, 48 + 2 * i));
    let bits = words.iter().rev().fold(0, |bits, word| bits << 4 | word >> 12);
    let scale = super::super::float::f16_to_f32(bits);
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = nibble(&block[32..], i);
        let index = usize::from(block[i]) | usize::from(high & 7) << 8;
        let scale = scale * f32::from(2 * (words[i / 8] >> (i / 2 % 4 * 3) & 7) + 1);
        iq1_point(scale, index, high & 8 != 0, out);
    }
}

/// Element `index` of 4-bit numbers, low half first.
fn nibble(bytes: &[u8], index: usize) -> u8 {
    bytes[index / 2] >> (index % 2 * 4) & 15
}

/// Seven signs and an eighth that makes the number of negative ones even.
fn even_signs(bits: u32) -> u8 {
    let seven = (bits & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

fn signed(value: f32, signs: u8, place: usize) -> f32 {
    if signs >> place & 1 == 0 { value } else { -value }
}

/// Two bits a coordinate.
fn iq2_point(scale: f32, point: u16, signs: u8, out: &mut [f32; 8]) {
    for (i, out) in out.iter_mut().enumerate() {
        let level = IQ2_LEVELS[usize::from(point >> (2 * i) & 3)];
        *out = signed(scale * f32::from(level), signs, i);
    }
}

/// Four bits a coordinate.
fn iq3_point((scale, levels): (f32, &[u8; 8]), point: u16, signs: u8, out: &mut [f32; 4]) {
    for (i, out) in out.iter_mut().enumerate() {
        let level = levels[usize::from(point >> (4 * i) & 7)];
        *out = signed(scale * f32::from(level), signs, i);
    }
}

/// Two bits a coordinate, which is −1, 0 or 1, shifted.
fn iq1_point(scale: f32, index: usize, down: bool, out: &mut [f32; 8]) {
    let shift = if down { -IQ1_SHIFT } else { IQ1_SHIFT };
    for (i, out) in out.iter_mut().enumerate() {
        let coordinate = (IQ1_S[index] >> (2 * i) & 3) as i8 - 1;
        *out = scale * (f32::from(coordinate) + shift);
    }
}
