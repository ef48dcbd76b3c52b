//! Blocks ↔ f32 for every type of [`BlockType`]. Must not know products, files or models.
//!
//! Decoding gives the same bits as gguf-py's `gguf.quants.dequantize` (fixtures/make_quant_fixtures.py).

mod codebook;
mod grids;
mod k;
mod legacy;
mod ternary;

use super::BlockType;
use super::float::{widen_bf16, widen_f16};

/// Decodes a whole number of blocks into their elements.
///
/// # Panics
/// The lengths do not belong together.
pub fn dequantize(kind: BlockType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(
        Some(bytes.len()),
        kind.row_bytes(out.len()),
        "{} elements of {} do not take {} bytes",
        out.len(),
        kind.name(),
        bytes.len()
    );
    match kind {
        BlockType::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        BlockType::F16 => widen_f16(bytes, out),
        BlockType::BF16 => widen_bf16(bytes, out),
        BlockType::Q4_0 => each_block(bytes, out, legacy::decode_q4_0),
        BlockType::Q4_1 => each_block(bytes, out, legacy::decode_q4_1),
        BlockType::Q5_0 => each_block(bytes, out, legacy::decode_q5_0),
        BlockType::Q5_1 => each_block(bytes, out, legacy::decode_q5_1),
        BlockType::Q8_0 => each_block(bytes, out, legacy::decode_q8_0),
        BlockType::Q2_K => each_block(bytes, out, k::decode_q2_k),
        BlockType::Q3_K => each_block(bytes, out, k::decode_q3_k),
        BlockType::Q4_K => each_block(bytes, out, k::decode_q4_k),
        BlockType::Q5_K => each_block(bytes, out, k::decode_q5_k),
        BlockType::Q6_K => each_block(bytes, out, k::decode_q6_k),
        BlockType::IQ4_NL => each_block(bytes, out, codebook::decode_iq4_nl),
        BlockType::IQ4_XS => each_block(bytes, out, codebook::decode_iq4_xs),
        BlockType::MXFP4 => each_block(bytes, out, codebook::decode_mxfp4),
        BlockType::TQ1_0 => each_block(bytes, out, ternary::decode_tq1_0),
        BlockType::TQ2_0 => each_block(bytes, out, ternary::decode_tq2_0),
        BlockType::IQ1_S => each_block(bytes, out, grids::decode_iq1_s),
        BlockType::IQ1_M => each_block(bytes, out, grids::decode_iq1_m),
        BlockType::IQ2_XXS => each_block(bytes, out, grids::decode_iq2_xxs),
        BlockType::IQ2_XS => each_block(bytes, out, grids::decode_iq2_xs),
        BlockType::IQ2_S => each_block(bytes, out, grids::decode_iq2_s),
        BlockType::IQ3_XXS => each_block(bytes, out, grids::decode_iq3_xxs),
        BlockType::IQ3_S => each_block(bytes, out, grids::decode_iq3_s),
    }
}

fn each_block<const BYTES: usize, const LENGTH: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; LENGTH]),
) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0) {
        decode(block, out);
    }
}

/// The half at byte `at` of a block, as f32.
#[inline]
fn half_at(block: &[u8], at: usize) -> f32 {
    super::float::f16_to_f32(u16_at(block, at))
}

#[inline]
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

#[inline]
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use safetensors::SafeTensors;

    const DECODED: &[u8] = include_bytes!("../../../../fixtures/quant/decoded.safetensors");

    #[test]
    fn every_type_decodes_to_the_bits_of_gguf_py() {
        let fixture = SafeTensors::deserialize(DECODED).unwrap();
        for kind in BlockType::all() {
            let bytes = fixture.tensor(&format!("{}.bytes", kind.name())).unwrap();
            let expected = fixture.tensor(&format!("{}.values", kind.name())).unwrap();
            let mut values = vec![f32::NAN; bytes.data().len() / kind.block_bytes() * kind.block_len()];
            dequantize(kind, bytes.data(), &mut values);
            for (i, (value, expected)) in values.iter().zip(expected.data().as_chunks::<4>().0).enumerate() {
                let expected = f32::from_le_bytes(*expected);
                let name = kind.name();
                assert_eq!(value.to_bits(), expected.to_bits(), "{name} {i}: {value} for {expected}");
            }
            assert_eq!(values.len() * 4, expected.data().len(), "{}", kind.name());
        }
    }

    #[test]
    #[should_panic(expected = "64 elements of Q8_0 do not take 67 bytes")]
    fn a_part_of_a_block_is_refused() {
        dequantize(BlockType::Q8_0, &[0; 67], &mut [0.0; 64]);
    }
}
