//! Small matrix products whose outputs stay in registers while the sum runs: each output is one chain of fused
//! multiply-adds in ascending order. Must not know what the matrices mean.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all: the callers' pointers cover what they say.

use crate::simd::Vector;

/// Rows of a full tile.
pub(super) const TILE_ROWS: usize = 6;

/// The left factor, read one value at a time: element (row, step) is at `row·row_stride + step·step_stride`.
#[derive(Clone, Copy)]
pub(super) struct Left {
    pub at: *const f32,
    pub row_stride: usize,
    pub step_stride: usize,
}

/// The right factor, (depth, columns), and how many steps the sum has.
#[derive(Clone, Copy)]
pub(super) struct Right {
    pub at: *const f32,
    pub stride: usize,
    pub depth: usize,
}

/// The outputs, (rows, columns).
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub at: *mut f32,
    pub stride: usize,
    /// A multiple of sixteen.
    pub columns: usize,
}

/// `ROWS` rows of output = left · right, the chains starting from 0 or, where not `FROM_ZERO`, from what the
/// output holds.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const ROWS: usize, const FROM_ZERO: bool>(
    left: Left,
    right: Right,
    output: Output,
) {
    let mut column = 0;
    unsafe {
        if V::LANES == 8 {
            while column + 2 * V::LANES <= output.columns {
                panel::<V, ROWS, 2, FROM_ZERO>(left, right, output, column);
                column += 2 * V::LANES;
            }
        } else {
            while column + 4 * V::LANES <= output.columns {
                panel::<V, ROWS, 4, FROM_ZERO>(left, right, output, column);
                column += 4 * V::LANES;
            }
        }
        while column < output.columns {
            panel::<V, ROWS, 1, FROM_ZERO>(left, right, output, column);
            column += V::LANES;
        }
    }
}

#[inline(always)]
unsafe fn panel<V: Vector, const ROWS: usize, const REGISTERS: usize, const FROM_ZERO: bool>(
    left: Left,
    right: Right,
    output: Output,
    column: usize,
) {
    unsafe {
        let mut sums = [[V::zero(); REGISTERS]; ROWS];
        if !FROM_ZERO {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (register, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(output.at.add(row * output.stride + column + register * V::LANES));
                }
            }
        }
        let mut step_left = left.at;
        let mut step_right = right.at.add(column);
        for _ in 0..right.depth {
            let mut factors = [V::zero(); REGISTERS];
            for (register, factor) in factors.iter_mut().enumerate() {
                *factor = V::load(step_right.add(register * V::LANES));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = V::splat(*step_left.add(row * left.row_stride));
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    *sum = value.fma(factor, *sum);
                }
            }
            step_left = step_left.add(left.step_stride);
            step_right = step_right.add(right.stride);
        }
        for (row, sums) in sums.iter().enumerate() {
            for (register, sum) in sums.iter().enumerate() {
                sum.store(output.at.add(row * output.stride + column + register * V::LANES));
            }
        }
    }
}
