//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864) in the half-split form of GPT-NeoX and Llama:
//! element i of a head is rotated together with element i + rotary_dim/2.

#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: public functions check all lengths.

use super::sweep::{Place, run_rows, sweep};
use crate::simd::Vector;
use crate::{Disjoint, Exec, Heads, dispatch};
use std::f64::consts::{LN_2, PI};
use std::sync::OnceLock;

/// Positions whose angles are computed together.
const TABLE_BLOCK: usize = 256;

/// Cosines and sines of every angle that the positions of a model need, computed when first asked for: a long
/// context costs nothing before it is used.
#[derive(Clone, Debug)]
pub struct RotaryTable {
    /// For each block of positions its cosines and sines, (positions, [half cosines | half sines]).
    blocks: Vec<OnceLock<Box<[f32]>>>,
    frequencies: Box<[f32]>,
    magnitude: f32,
    positions: usize,
}

impl RotaryTable {
    /// The angles position · theta^(−2i / rotary_dim) for `max_positions` positions. The first `rotary_dim`
    /// elements of each head are rotated, all of them where it equals `head_dim`. Frequencies and angles are
    /// rounded to f32 as transformers does.
    ///
    /// # Panics
    /// When `rotary_dim` is odd or greater than `head_dim`, or `theta` is not greater than 0.
    pub fn new(head_dim: usize, rotary_dim: usize, theta: f64, max_positions: usize) -> RotaryTable {
        assert!(rotary_dim <= head_dim, "rotated width {rotary_dim} exceeds the head's {head_dim}");
        let frequencies: Vec<f32> =
            rotary_frequencies(rotary_dim, theta).into_iter().map(|frequency| frequency as f32).collect();
        RotaryTable::from_frequencies(&frequencies, 1.0, max_positions)
    }

    /// The angles position · frequency, for frequencies (rotary_dim / 2) that were scaled by some rule; `magnitude` is
    /// what the rotated elements are multiplied with, 1 but for some rules.
    pub fn from_frequencies(frequencies: &[f32], magnitude: f32, max_positions: usize) -> RotaryTable {
        let blocks = (0..max_positions.div_ceil(TABLE_BLOCK)).map(|_| OnceLock::new()).collect();
        RotaryTable { blocks, frequencies: frequencies.into(), magnitude, positions: max_positions }
    }

    /// Pairs of elements that are rotated in each head.
    pub fn half(&self) -> usize {
        self.frequencies.len()
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// The cosines and sines of one position, (half) each.
    ///
    /// # Panics
    /// When the table has not so many positions.
    pub fn row(&self, position: u32) -> (&[f32], &[f32]) {
        let position = position as usize;
        assert!(position < self.positions, "position {position} of a table of {}", self.positions);
        let index = position / TABLE_BLOCK;
        let block = self.blocks[index].get_or_init(|| self.block(index));
        let row = 2 * self.half() * (position % TABLE_BLOCK);
        block[row..row + 2 * self.half()].split_at(self.half())
    }

    fn block(&self, index: usize) -> Box<[f32]> {
        let first = index * TABLE_BLOCK;
        let mut block = Vec::with_capacity(2 * self.half() * TABLE_BLOCK);
        for position in first..self.positions.min(first + TABLE_BLOCK) {
            let angles =
                self.frequencies.iter().map(|frequency| sin_cos_f64(f64::from(position as f32 * frequency)));
            let row = block.len();
            block.extend(angles.clone().map(|(_, cos)| cos as f32 * self.magnitude));
            block.extend(angles.map(|(sin, _)| sin as f32 * self.magnitude));
            debug_assert_eq!(block.len(), row + 2 * self.half());
        }
        block.into()
    }
}

/// The plain frequencies theta^(−2i / rotary_dim), (rotary_dim / 2).
///
/// # Panics
/// When `rotary_dim` is odd, or `theta` is not greater than 0.
pub fn rotary_frequencies(rotary_dim: usize, theta: f64) -> Vec<f64> {
    assert!(rotary_dim.is_multiple_of(2), "half-split rotation needs an even width, not {rotary_dim}");
    assert!(theta > 0.0, "the base of the rotary frequencies is {theta}, but must be greater than 0");
    let log_theta = ln_f64(theta);
    (0..rotary_dim / 2).map(|index| exp_f64(-log_theta * (2 * index) as f64 / rotary_dim as f64)).collect()
}

/// Rotates the query and key heads of the fused rows `x` (tokens, (heads + 2·kv_heads)·head_dim) in place by
/// the angles of each row's position.
pub fn rotary(exec: Exec<'_>, x: &mut [f32], positions: &[u32], table: &RotaryTable, heads: Heads) {
    rotate(exec, x, positions, (table, 1.0), heads);
}

/// The gradient of [`rotary`]'s input from that of its output, in place: the inverse rotation.
pub fn rotary_backward(exec: Exec<'_>, dx: &mut [f32], positions: &[u32], table: &RotaryTable, heads: Heads) {
    rotate(exec, dx, positions, (table, -1.0), heads);
}

/// Rotates by the angles (`sign` 1) or against them (−1).
fn rotate(
    exec: Exec<'_>,
    x: &mut [f32],
    positions: &[u32],
    (table, sign): (&RotaryTable, f32),
    heads: Heads,
) {
    let width = heads.fused_width();
    assert_eq!(x.len(), positions.len() * width, "one fused row for each position");
    assert!(2 * table.half() <= heads.head_dim, "the rotated width lies within a head");
    let x = Disjoint::new(x);
    run_rows(exec, positions.len(), width, &|range| {
        for row in range {
            let angles = table.row(positions[row]);
            // SAFETY: each row is visited once; an `Exec` has an available instruction set.
            unsafe {
                let row = x.range(row * width..(row + 1) * width);
                let rotated = (heads.heads + heads.kv_heads) * heads.head_dim;
                rotate_heads(exec.isa, &mut row[..rotated], heads.head_dim, angles, sign);
            }
        }
    });
}

dispatch! {
    fn rotate_heads(row: &mut [f32], head_dim: usize, angles: (&[f32], &[f32]), sign: f32) =
        rotate_heads_generic;
}

#[inline(always)]
unsafe fn rotate_heads_generic<V: Vector>(
    row: &mut [f32],
    head_dim: usize,
    (cos, sin): (&[f32], &[f32]),
    sign: f32,
) {
    let half = cos.len();
    let (cos, sin) = (cos.as_ptr(), sin.as_ptr());
    for head in 0..row.len() / head_dim {
        unsafe {
            let first = row.as_mut_ptr().add(head * head_dim);
            let second = first.add(half);
            sweep!(V, half, at => {
                let (cos, sin) = (at.load::<V>(cos), V::splat(sign).mul(at.load(sin)));
                let (a, b) = (at.load::<V>(first), at.load::<V>(second));
                at.store(a.fma(cos, b.mul(sin).neg()), first);
                at.store(b.fma(cos, a.mul(sin)), second);
            });
        }
    }
}

/// Sine and cosine of an angle below 2^22, by reduction to |r| ≤ π/4 in two parts and Taylor series: only
/// additions and products, so the same bits on every platform.
fn sin_cos_f64(angle: f64) -> (f64, f64) {
    // The first 29 bits of π/2: exact times a quadrant below 2^24.
    const HALF_PI_HIGH: f64 = 1.570_796_310_901_641_8;
    const HALF_PI_LOW: f64 = 1.589_325_477_352_819_7e-8;
    let quadrant = (angle * (2.0 / PI)).round();
    let r = (angle - quadrant * HALF_PI_HIGH) - quadrant * HALF_PI_LOW;
    let square = r * r;
    let (mut sin, mut cos) = (1.0, 1.0);
    for step in (1..=9).rev() {
        let even = f64::from(2 * step);
        sin = 1.0 - sin * square / (even * (even + 1.0));
        cos = 1.0 - cos * square / (even * (even - 1.0));
    }
    let sin = sin * r;
    match (quadrant as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// e^x for |x| < 700 by halving the range to |r| ≤ ln(2)/2 and the Taylor series.
pub fn exp_f64(x: f64) -> f64 {
    let exponent = (x / LN_2).round();
    let r = x - exponent * LN_2;
    let series = (1..=18).rev().fold(1.0, |sum, step| 1.0 + sum * r / f64::from(step));
    series * f64::from_bits(((exponent as i64 + 1023) as u64) << 52)
}

/// ln x for a normal x > 0: exponent · ln 2 + 2·atanh((m − 1) / (m + 1)) with the mantissa m in [1, 2).
pub fn ln_f64(x: f64) -> f64 {
    let exponent = (x.to_bits() >> 52) as i64 - 1023;
    let mantissa = f64::from_bits((x.to_bits() & ((1 << 52) - 1)) | (1023 << 52));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let series = (0..=20).rev().fold(0.0, |sum, step| sum * s * s + 1.0 / f64::from(2 * step + 1));
    exponent as f64 * LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same_bits, each_exec, random};
    use crate::reference::rotary as reference;

    #[test]
    fn rotation_has_the_bits_of_the_reference_and_an_inverse() {
        for (head_dim, rotary_dim, rows) in [(12, 12, 3), (64, 64, 70), (80, 32, 9), (6, 6, 1)] {
            let heads = Heads { heads: 3, kv_heads: 2, head_dim };
            let table = RotaryTable::new(head_dim, rotary_dim, 10_000.0, 100);
            let positions: Vec<u32> = (0..rows).map(|row| row * 31 % 100).collect();
            let x = random(1, rows as usize * heads.fused_width());
            let mut expected = x.clone();
            reference::rotary(&mut expected, &positions, &table, heads);
            each_exec(|exec| {
                let mut found = x.clone();
                rotary(exec, &mut found, &positions, &table, heads);
                assert_same_bits("rotary", exec, &found, &expected);
                rotary_backward(exec, &mut found, &positions, &table, heads);
                let mut back = expected.clone();
                reference::rotary_backward(&mut back, &positions, &table, heads);
                assert_same_bits("inverse rotation", exec, &found, &back);
                assert!(found.iter().zip(&x).all(|(found, x)| (found - x).abs() < 1e-6), "an inverse");
            });
        }
    }

    #[test]
    fn own_functions_agree_with_the_system() {
        for step in 0..200_000 {
            let x = f64::from(step) * 0.37;
            let (sin, cos) = sin_cos_f64(x);
            assert!((sin - x.sin()).abs() < 1e-11 && (cos - x.cos()).abs() < 1e-11, "angle {x}");
            let small = x / 1500.0;
            assert!((exp_f64(-small) / (-small).exp() - 1.0).abs() < 1e-14, "exp {small}");
            assert!((ln_f64(small + 0.01) - (small + 0.01).ln()).abs() < 1e-14, "ln {small}");
        }
    }

    #[test]
    fn position_zero_is_the_identity_and_frequencies_fall() {
        let table = RotaryTable::new(8, 8, 10_000.0, 3);
        assert_eq!(table.row(0), (&[1.0; 4][..], &[0.0; 4][..]));
        assert_eq!((table.half(), table.positions()), (4, 3));
        let expected = [1.0_f32, 0.1, 0.01, 0.001].map(f32::sin);
        for (sin, expected) in table.row(1).1.iter().zip(expected) {
            assert!((sin - expected).abs() < 1e-7);
        }
    }
}
