//! What a product with quantised weights is, in plain loops: the order of every rounding. The fast kernels give the same
//! bits.

use super::BlockType;
use super::float::f16_to_f32;
use super::format::{FP4_VALUES, IQ4_VALUES};
use super::layout::Layout;
use super::rows::CREST_SQUARED;
use super::source::{BLOCK, Parts};

/// 32 activations as integers: value ≈ `scale` · quant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ActivationBlock {
    /// Integers in ±127.
    pub quants: [i32; BLOCK],
    /// 0 for a block of zeros, NaN where a value is not finite.
    pub scale: f32,
}

/// Quantises 32 activations: the scale is the largest magnitude / 127, the integers are the values times
/// 127 / the largest magnitude, rounded to nearest even. Where the square of the largest is more than thirty times the mean square
/// of the integers, what is left (value − scale · integer, rounded once) is quantised in the same way as a second part.
pub fn quantize_block(values: &[f32; BLOCK]) -> (ActivationBlock, Option<ActivationBlock>) {
    let first = quantize_part(values);
    let squares: i32 = first.quants.iter().map(|quant| quant * quant).sum();
    if squares == 0 || 127 * 127 * 32 <= CREST_SQUARED * squares {
        return (first, None);
    }
    let rest: [f32; BLOCK] =
        std::array::from_fn(|i| (-first.quants[i] as f32).mul_add(first.scale, values[i]));
    (first, Some(quantize_part(&rest)))
}

fn quantize_part(values: &[f32; BLOCK]) -> ActivationBlock {
    if values.iter().any(|value| !value.is_finite()) {
        return ActivationBlock { quants: [0; BLOCK], scale: f32::NAN };
    }
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if largest < 2.0_f32.powi(-100) {
        return ActivationBlock { quants: [0; BLOCK], scale: 0.0 };
    }
    let inverse = 127.0 / largest;
    let quants = values.map(|value| (value * inverse).round_ties_even() as i32);
    ActivationBlock { quants, scale: largest / 127.0 }
}

/// 32 weights as integers: value = `scales[group]` · quant + `minima[group]`, the group being the half of the block
/// (both halves have the same scale in most types).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightBlock {
    /// Signed integers.
    pub quants: [i32; BLOCK],
    /// Exact products of the scales that the format holds.
    pub scales: [f32; 2],
    /// What is added; 0 where the type has none.
    pub minima: [f32; 2],
}

/// The blocks of 32 weights of one row of a GGUF file's blocks.
///
/// # Panics
/// The type is not supported, or `row` is no whole number of blocks.
pub fn weights(kind: BlockType, row: &[u8]) -> Vec<WeightBlock> {
    let mut parts = Parts::new();
    let mut out = Vec::new();
    for block in row.chunks(kind.block_bytes()) {
        parts.read(kind, block);
        for i in 0..kind.block_len() / BLOCK {
            out.push(weight_block(kind, &parts, i));
        }
    }
    out
}

fn weight_block(kind: BlockType, parts: &Parts, number: usize) -> WeightBlock {
    let quants = std::array::from_fn(|i| quant(kind, parts.codes[number * BLOCK + i]));
    let fields = parts.scales[number];
    let half = |bytes: &[u8]| f16_to_f32(u16::from_le_bytes([bytes[0], bytes[1]]));
    let (d, dmin) = (half(&parts.supers), half(&parts.supers[2..]));
    let (scales, minima) = match kind {
        BlockType::Q4_1 | BlockType::Q5_1 => ([half(&fields); 2], [-half(&fields[2..]); 2]),
        BlockType::MXFP4 => ([2.0_f64.powi(i32::from(fields[0].min(254)) - 128) as f32; 2], [0.0; 2]),
        BlockType::Q2_K => {
            let both = [fields[0], fields[1]];
            (both.map(|byte| d * f32::from(byte & 15)), both.map(|byte| -dmin * f32::from(byte >> 4)))
        }
        BlockType::Q3_K | BlockType::Q6_K => {
            ([fields[0], fields[1]].map(|byte| d * f32::from(byte as i8)), [0.0; 2])
        }
        BlockType::Q4_K | BlockType::Q5_K => {
            ([d * f32::from(fields[0]); 2], [-dmin * f32::from(fields[1]); 2])
        }
        BlockType::IQ4_XS => ([d * f32::from(fields[0] as i8); 2], [0.0; 2]),
        _ => ([half(&fields); 2], [0.0; 2]),
    };
    WeightBlock { quants, scales, minima }
}

fn quant(kind: BlockType, code: u8) -> i32 {
    let code_of = |table: &[u8; 16]| i32::from(table[usize::from(code)]);
    match kind {
        BlockType::Q4_0 => i32::from(code) - 8,
        BlockType::Q5_0 => i32::from(code) - 16,
        BlockType::Q8_0 => i32::from(code) - 128,
        BlockType::Q3_K => i32::from(code) - 4,
        BlockType::Q6_K => i32::from(code) - 32,
        BlockType::IQ4_NL | BlockType::IQ4_XS => code_of(&IQ4_VALUES) - 128,
        BlockType::MXFP4 => code_of(&FP4_VALUES) - 16,
        _ => i32::from(code),
    }
}

/// `start + x · w` for one row of activations and one row of weights of `kind`: for each block of 32, ascending, for
/// its first part and then its second, for each group of weights with one scale (16 or 32) the integer sum is exact and
/// `value = f32(Σ quants) · scale`, with minima `value = fma(minimum, f32(Σ activation quants), value)`; then
/// `sum = fma(value, activation scale, sum)`.
pub fn dot(kind: BlockType, x: &[f32], row: &[u8], start: f32) -> f32 {
    let grouped = matches!(kind, BlockType::Q2_K | BlockType::Q3_K | BlockType::Q6_K);
    let group_len = if grouped { BLOCK / 2 } else { BLOCK };
    let minima = Layout::of(kind).is_some() && has_minima(kind);
    let mut sum = start;
    for (values, weights) in x.as_chunks::<BLOCK>().0.iter().zip(weights(kind, row)) {
        let (first, second) = quantize_block(values);
        for part in [Some(first), second].into_iter().flatten() {
            for group in 0..BLOCK / group_len {
                let range = group * group_len..(group + 1) * group_len;
                let activations = &part.quants[range.clone()];
                let total: i32 = weights.quants[range].iter().zip(activations).map(|(w, a)| w * a).sum();
                let mut value = total as f32 * weights.scales[group];
                if minima {
                    value = weights.minima[group].mul_add(activations.iter().sum::<i32>() as f32, value);
                }
                sum = value.mul_add(part.scale, sum);
            }
        }
    }
    sum
}

fn has_minima(kind: BlockType) -> bool {
    matches!(kind, BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q2_K | BlockType::Q4_K | BlockType::Q5_K)
}
