//! Blocks ↔ f32 for every type of [`BlockType`]. Must not know products, files or models.
//!
//! Decoding gives the same bits as gguf-py's `gguf.quants.dequantize` (fixtures/make_quant_fixtures.py). Encoding
//! minimises the sum of squared errors, and gives the same bytes on every processor and number of threads.
#![allow(unsafe_code)]

mod codebook;
mod grids;
mod k;
mod legacy;
mod search;
mod ternary;

use super::BlockType;
use super::float::{f32_to_bf16, f32_to_f16, widen_bf16, widen_f16};
use crate::{Error, Isa, Pool};
use search::Group;

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

/// Rows to be encoded.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// (rows, columns), whole rows.
    pub values: &'a [f32],
    /// Elements of a row.
    pub columns: usize,
    /// How much the square of an error counts in each column, such as the mean square of the column's input; all alike
    /// where there is none. Only ratios matter.
    pub importance: Option<&'a [f32]>,
}

/// Whether there is an encoder: the types that name points of a grid have none.
pub fn can_quantize(kind: BlockType) -> bool {
    use BlockType::*;
    !matches!(kind, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S)
}

/// Encodes rows into blocks; a value beyond what the type holds becomes its nearest.
///
/// # Errors
/// A value is infinite or no number.
///
/// # Panics
/// The type has no encoder (see [`can_quantize`]), or the lengths do not belong together.
pub fn quantize(kind: BlockType, rows: Rows<'_>, out: &mut [u8]) -> Result<(), Error> {
    quantize_on(&Pool::new(1), kind, rows, out)
}

/// As [`quantize`], on the threads of a pool.
///
/// # Errors
/// As [`quantize`].
///
/// # Panics
/// As [`quantize`].
pub fn quantize_on(pool: &Pool, kind: BlockType, rows: Rows<'_>, out: &mut [u8]) -> Result<(), Error> {
    assert!(can_quantize(kind), "there is no encoder for {}", kind.name());
    let row_bytes = kind.row_bytes(rows.columns).filter(|&bytes| bytes > 0);
    let fits = row_bytes.is_some_and(|bytes| rows.values.len() / rows.columns * bytes == out.len());
    assert!(
        fits && rows.values.len().is_multiple_of(rows.columns),
        "{} values in rows of {} do not make {} bytes of {}",
        rows.values.len(),
        rows.columns,
        out.len(),
        kind.name()
    );
    if let Some(at) = rows.values.iter().position(|value| !value.is_finite()) {
        let value = rows.values[at];
        return Err(Error::NotFinite {
            value,
            row: at / rows.columns,
            column: at % rows.columns,
            kind: kind.name(),
        });
    }
    let weights = column_weights(rows);
    let row_bytes = row_bytes.expect("checked above");
    pool.run_slices(out, row_bytes, &|start, out, _| {
        let row = start / row_bytes;
        let values = &rows.values[row * rows.columns..(row + 1) * rows.columns];
        encode(Isa::detect(), kind, Group { values, weights: &weights }, out);
    });
    Ok(())
}

/// The importance of the columns with a mean of one.
fn column_weights(rows: Rows<'_>) -> Vec<f32> {
    let even = || vec![1.0; rows.columns];
    let Some(importance) = rows.importance else { return even() };
    assert_eq!(importance.len(), rows.columns, "one importance for each column");
    let mean = importance.iter().map(|&weight| f64::from(weight)).sum::<f64>() / rows.columns as f64;
    if !(mean.is_finite() && mean > 0.0) {
        return even();
    }
    // A column of no importance still deserves a sensible value.
    importance.iter().map(|&weight| (f64::from(weight) / mean).clamp(1e-6, 1e6) as f32).collect()
}

/// Encodes one row, with wider vectors where the processor has them. All give the same bytes: the arithmetic is the same.
fn encode(isa: Isa, kind: BlockType, row: Group<'_>, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx2 | Isa::Avx512) {
        #[target_feature(enable = "avx2,fma")]
        fn wide(kind: BlockType, row: Group<'_>, out: &mut [u8]) {
            encode_row(kind, row, out);
        }
        // SAFETY: both instruction sets include AVX2 and FMA, and the caller's processor has `isa`.
        return unsafe { wide(kind, row, out) };
    }
    let _ = isa;
    encode_row(kind, row, out);
}

#[inline(always)]
fn encode_row(kind: BlockType, row: Group<'_>, out: &mut [u8]) {
    match kind {
        BlockType::F32 => each_value(row, out, f32::to_le_bytes),
        BlockType::F16 => {
            each_value(row, out, |value| f32_to_f16(value.clamp(-65_504.0, 65_504.0)).to_le_bytes())
        }
        BlockType::BF16 => {
            let largest = half::bf16::MAX.to_f32();
            each_value(row, out, |value| f32_to_bf16(value.clamp(-largest, largest)).to_le_bytes());
        }
        BlockType::Q4_0 => encode_blocks(row, out, legacy::encode_q4_0),
        BlockType::Q4_1 => encode_blocks(row, out, legacy::encode_q4_1),
        BlockType::Q5_0 => encode_blocks(row, out, legacy::encode_q5_0),
        BlockType::Q5_1 => encode_blocks(row, out, legacy::encode_q5_1),
        BlockType::Q8_0 => encode_blocks(row, out, legacy::encode_q8_0),
        BlockType::Q2_K => encode_blocks(row, out, k::encode_q2_k),
        BlockType::Q3_K => encode_blocks(row, out, k::encode_q3_k),
        BlockType::Q4_K => encode_blocks(row, out, k::encode_q4_k),
        BlockType::Q5_K => encode_blocks(row, out, k::encode_q5_k),
        BlockType::Q6_K => encode_blocks(row, out, k::encode_q6_k),
        BlockType::IQ4_NL => encode_blocks(row, out, codebook::encode_iq4_nl),
        BlockType::IQ4_XS => encode_blocks(row, out, codebook::encode_iq4_xs),
        BlockType::MXFP4 => encode_blocks(row, out, codebook::encode_mxfp4),
        BlockType::TQ1_0 => encode_blocks(row, out, ternary::encode_tq1_0),
        BlockType::TQ2_0 => encode_blocks(row, out, ternary::encode_tq2_0),
        BlockType::IQ1_S
        | BlockType::IQ1_M
        | BlockType::IQ2_XXS
        | BlockType::IQ2_XS
        | BlockType::IQ2_S
        | BlockType::IQ3_XXS
        | BlockType::IQ3_S => unreachable!("refused by `quantize_on`"),
    }
}

#[inline(always)]
fn each_value<const BYTES: usize>(row: Group<'_>, out: &mut [u8], encode: impl Fn(f32) -> [u8; BYTES]) {
    for (value, out) in row.values.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        *out = encode(*value);
    }
}

#[inline(always)]
fn encode_blocks<const BYTES: usize, const LENGTH: usize>(
    row: Group<'_>,
    out: &mut [u8],
    encode: impl Fn(&Block<LENGTH>) -> [u8; BYTES],
) {
    let (values, weights) = (row.values.as_chunks::<LENGTH>().0, row.weights.as_chunks::<LENGTH>().0);
    for ((values, weights), out) in values.iter().zip(weights).zip(out.as_chunks_mut::<BYTES>().0) {
        let block = Block { values: values.map(|x| x.clamp(-VALUE_MAX, VALUE_MAX)), weights: *weights };
        *out = encode(&block);
    }
}

/// More than a block with a half-precision scale holds, and few enough that sums of squares are finite.
const VALUE_MAX: f32 = 1e9;

/// The values of a block and their weights.
struct Block<const LENGTH: usize> {
    values: [f32; LENGTH],
    weights: [f32; LENGTH],
}

impl<const LENGTH: usize> Block<LENGTH> {
    #[inline(always)]
    fn group(&self) -> Group<'_> {
        Group { values: &self.values, weights: &self.weights }
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

#[inline(always)]
fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&f32_to_f16(value).to_le_bytes());
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

    const ENCODED: &[u8] = include_bytes!("../../../../fixtures/quant/encoded.safetensors");
    const ENCODED_ERRORS: &str = include_str!("../../../../fixtures/quant/encoded.json");

    fn encode_all(kind: BlockType, values: &[f32], columns: usize, importance: Option<&[f32]>) -> Vec<u8> {
        let mut bytes = vec![0; kind.row_bytes(values.len()).unwrap()];
        quantize(kind, Rows { values, columns, importance }, &mut bytes).unwrap();
        bytes
    }

    fn decode_all(kind: BlockType, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![f32::NAN; bytes.len() / kind.block_bytes() * kind.block_len()];
        dequantize(kind, bytes, &mut values);
        values
    }

    /// Root of the weighted mean square of the differences.
    fn distance(a: &[f32], b: &[f32], weights: impl Iterator<Item = f32>) -> f64 {
        let squares = a.iter().zip(b).zip(weights);
        let sum: f64 = squares.map(|((a, b), w)| f64::from(w) * f64::from(a - b).powi(2)).sum();
        (sum / a.len() as f64).sqrt()
    }

    #[test]
    fn no_type_loses_more_than_ggml() {
        let fixture = SafeTensors::deserialize(ENCODED).unwrap();
        let errors: serde_json::Value = serde_json::from_str(ENCODED_ERRORS).unwrap();
        for kind in BlockType::all().filter(|&kind| can_quantize(kind) && kind != BlockType::F32) {
            for matrix in ["normal", "laplace", "trained"] {
                let tensor = fixture.tensor(matrix).unwrap();
                let mut values = vec![0.0; tensor.data().len() / 2];
                widen_f16(tensor.data(), &mut values);
                let bytes = encode_all(kind, &values, tensor.shape()[1], None);
                let error = distance(&values, &decode_all(kind, &bytes), std::iter::repeat(1.0));
                let theirs = errors[kind.name()][matrix].as_f64().unwrap();
                println!("{} {matrix}: {error:.4e}, ggml {theirs:.4e}, {:.3}", kind.name(), error / theirs);
                assert!(error <= theirs * (1.0 + 1e-9), "{} {matrix}: {error} above {theirs}", kind.name());
            }
        }
    }

    #[test]
    fn important_columns_lose_less() {
        let columns = 512;
        let values: Vec<f32> = (0..2 * columns).map(|i| (i as f32 * 12.9898).sin() * 0.1).collect();
        let importance: Vec<f32> = (0..columns).map(|i| if i % 8 == 0 { 300.0 } else { 3.0 }).collect();
        for kind in BlockType::all().filter(|&kind| can_quantize(kind) && kind.block_len() > 1) {
            let weights = || importance.iter().copied().cycle();
            let of = |importance| decode_all(kind, &encode_all(kind, &values, columns, importance));
            let (plain, weighted) = (of(None), of(Some(&importance[..])));
            let [plain, weighted] = [plain, weighted].map(|decoded| distance(&values, &decoded, weights()));
            // A power of two, 127 levels or one of three leave little to choose.
            use BlockType::{MXFP4, Q8_0, TQ1_0, TQ2_0};
            let tolerance = if matches!(kind, MXFP4 | Q8_0 | TQ1_0 | TQ2_0) { 1.0 } else { 0.99 };
            assert!(weighted <= plain * tolerance, "{}: {weighted} beside {plain}", kind.name());
        }
    }

    #[test]
    fn extreme_values_become_the_nearest_that_there_are() {
        for kind in BlockType::all().filter(|&kind| can_quantize(kind)) {
            for (name, fill) in [
                ("zeros", [0.0, -0.0]),
                ("tiny", [1e-42, -1e-20]),
                ("huge", [f32::MAX, f32::MIN]),
                ("constant", [0.25, 0.25]),
                ("negative constant", [-0.25, -0.25]),
                ("one outlier", [0.0, 0.0]),
            ] {
                let mut values: Vec<f32> = fill.into_iter().cycle().take(256).collect();
                if name == "one outlier" {
                    values[77] = -3.0;
                }
                let decoded = decode_all(kind, &encode_all(kind, &values, 256, None));
                assert!(decoded.iter().all(|value| value.is_finite()), "{} {name}", kind.name());
                for (value, decoded) in values.iter().zip(&decoded) {
                    // IQ4_NL and IQ4_XS have no level zero; an offset cancels a level to the precision of a half.
                    let beside = if name == "one outlier" { 0.03 } else { 1e-7 };
                    let allowed = 0.01 * value.abs() + beside;
                    assert!(
                        name == "huge" || (value - decoded).abs() <= allowed,
                        "{} {name}: {decoded} for {value}",
                        kind.name()
                    );
                }
            }
        }
    }

    #[test]
    fn threads_and_instruction_sets_change_no_byte() {
        let values: Vec<f32> = (0..5 * 512).map(|i| (i as f32 * 78.233).sin().powi(3)).collect();
        for kind in BlockType::all().filter(|&kind| can_quantize(kind)) {
            let expected = encode_all(kind, &values, 512, None);
            let mut bytes = vec![0; expected.len()];
            let rows = Rows { values: &values, columns: 512, importance: None };
            quantize_on(&Pool::new(3), kind, rows, &mut bytes).unwrap();
            assert_eq!(bytes, expected, "{}", kind.name());
            let mut first = vec![0; expected.len() / 5];
            let row = Group { values: &values[..512], weights: &[1.0; 512] };
            for isa in Isa::available() {
                encode(isa, kind, row, &mut first);
                assert_eq!(first, expected[..first.len()], "{} {isa}", kind.name());
            }
        }
    }

    #[test]
    fn what_is_no_number_is_refused_with_its_place() {
        let mut values = vec![1.0; 128];
        values[100] = f32::NAN;
        let rows = Rows { values: &values, columns: 64, importance: None };
        let error = quantize(BlockType::Q8_0, rows, &mut [0; 136]).unwrap_err().to_string();
        assert!(error.starts_with("row 1, column 36 holds NaN, which Q8_0 cannot"), "{error}");
    }
}
