//! Reductions over a flat buffer. A sum runs in blocks of [`SUM_BLOCK`] elements, each in sixteen lanes, the
//! block sums added in ascending order as f64.

#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all: the kernels read within their slices.

use super::sweep::{Place, sweep, sweep_lanes};
use crate::simd::{Vector, Virtual16};
use crate::{Exec, Isa, dispatch};

/// Elements of one block of a long sum.
pub const SUM_BLOCK: usize = 4096;

/// Σ x.
pub fn sum(exec: Exec<'_>, x: &[f32]) -> f64 {
    let blocks = by_block(exec, x, block_sum);
    blocks.0[..blocks.1].iter().map(|&block| f64::from(block)).sum()
}

/// Σ x / length; not a number for an empty buffer.
pub fn mean(exec: Exec<'_>, x: &[f32]) -> f64 {
    sum(exec, x) / x.len() as f64
}

/// Σ x².
pub fn sum_squares(exec: Exec<'_>, x: &[f32]) -> f64 {
    let blocks = by_block(exec, x, block_sum_squares);
    blocks.0[..blocks.1].iter().map(|&block| f64::from(block)).sum()
}

/// max |x|, 0 for an empty buffer. Elements that are not numbers are passed over.
pub fn max_abs(exec: Exec<'_>, x: &[f32]) -> f32 {
    let blocks = by_block(exec, x, block_max_abs);
    blocks.0[..blocks.1].iter().fold(0.0, |greatest, &block| if block > greatest { block } else { greatest })
}

/// Whether no element is infinite or not a number.
pub fn all_finite(exec: Exec<'_>, x: &[f32]) -> bool {
    let blocks = by_block(exec, x, block_defects);
    blocks.0[..blocks.1].iter().all(|&defects| defects == 0.0)
}

/// `sums[i]` = row i of `a` · row i of `b`.
pub(super) fn row_dots(exec: Exec<'_>, a: &[f32], b: &[f32], sums: &mut [f32]) {
    let width = a.len() / sums.len().max(1);
    assert_eq!((a.len(), b.len()), (sums.len() * width, a.len()), "whole rows");
    for (index, sum) in sums.iter_mut().enumerate() {
        let row = index * width..(index + 1) * width;
        // SAFETY: an `Exec` has an available instruction set.
        *sum = unsafe { dot(exec.isa, &a[row.clone()], &b[row]) };
    }
}

/// The result of `kernel` for each block, and how many blocks there are.
fn by_block<'a>(
    exec: Exec<'a>,
    x: &[f32],
    kernel: unsafe fn(Isa, &[f32]) -> f32,
) -> (crate::Loan<'a>, usize) {
    let count = x.len().div_ceil(SUM_BLOCK);
    let mut blocks = exec.pool.scratch().take(count);
    let grain = count.div_ceil(4 * exec.pool.threads()).max(4);
    exec.pool.run_slices(&mut blocks[..count], grain, &|first, results, _| {
        for (index, result) in results.iter_mut().enumerate() {
            let start = (first + index) * SUM_BLOCK;
            // SAFETY: an `Exec` has an available instruction set.
            *result = unsafe { kernel(exec.isa, &x[start..x.len().min(start + SUM_BLOCK)]) };
        }
    });
    (blocks, count)
}

dispatch! { fn dot(a: &[f32], b: &[f32]) -> f32 = lane_dot; }
dispatch! { fn block_sum(x: &[f32]) -> f32 = block_sum_generic; }
dispatch! { fn block_sum_squares(x: &[f32]) -> f32 = block_sum_squares_generic; }
dispatch! { fn block_max_abs(x: &[f32]) -> f32 = block_max_abs_generic; }
dispatch! {
    /// 0 when every element is finite.
    fn block_defects(x: &[f32]) -> f32 = block_defects_generic;
}

#[inline(always)]
unsafe fn block_sum_generic<V: Vector>(x: &[f32]) -> f32 {
    unsafe {
        let mut lanes = Virtual16::<V>::splat(0.0);
        sweep_lanes!(V, x.len(), (at, register) => {
            lanes.set_register(register, lanes.register(register).add(at.load(x.as_ptr())));
        });
        lanes.reduce_add()
    }
}

#[inline(always)]
unsafe fn block_sum_squares_generic<V: Vector>(x: &[f32]) -> f32 {
    unsafe {
        let mut lanes = Virtual16::<V>::splat(0.0);
        sweep_lanes!(V, x.len(), (at, register) => {
            let value = at.load::<V>(x.as_ptr());
            lanes.set_register(register, value.fma(value, lanes.register(register)));
        });
        lanes.reduce_add()
    }
}

#[inline(always)]
unsafe fn block_max_abs_generic<V: Vector>(x: &[f32]) -> f32 {
    unsafe {
        let mut lanes = Virtual16::<V>::splat(0.0);
        sweep_lanes!(V, x.len(), (at, register) => {
            lanes.set_register(register, at.load::<V>(x.as_ptr()).abs().max(lanes.register(register)));
        });
        lanes.reduce_max()
    }
}

/// x · 0 is 0 for finite x alone, and a sum keeps what is not a number.
#[inline(always)]
unsafe fn block_defects_generic<V: Vector>(x: &[f32]) -> f32 {
    unsafe {
        let mut sum = V::zero();
        sweep!(V, x.len(), at => sum = at.load::<V>(x.as_ptr()).fma(V::zero(), sum));
        let mut lanes = [0.0; 16];
        sum.store(lanes.as_mut_ptr());
        lanes.iter().sum()
    }
}

/// a · b in sixteen lanes.
#[inline(always)]
pub(super) unsafe fn lane_dot<V: Vector>(a: &[f32], b: &[f32]) -> f32 {
    unsafe {
        let mut lanes = Virtual16::<V>::splat(0.0);
        let mut index = 0;
        while index < a.len() {
            let count = (a.len() - index).min(16);
            let (a, b) = (a.as_ptr().add(index), b.as_ptr().add(index));
            if count == 16 {
                lanes = Virtual16::load(a).fma(Virtual16::load(b), lanes);
            } else {
                let (a, b) = (Virtual16::load_partial(a, count, 0.0), Virtual16::load_partial(b, count, 0.0));
                lanes = a.fma(b, lanes);
            }
            index += 16;
        }
        lanes.reduce_add()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{each_exec, random};
    use crate::reference::reduce as reference;

    #[test]
    fn reductions_have_the_bits_of_the_reference() {
        for len in [0, 1, 15, 4096, 4097, 100_003] {
            let x = random(len as u64, len);
            each_exec(|exec| {
                assert_eq!(sum(exec, &x).to_bits(), reference::sum(&x).to_bits());
                assert_eq!(sum_squares(exec, &x).to_bits(), reference::sum_squares(&x).to_bits());
                assert_eq!(max_abs(exec, &x).to_bits(), reference::max_abs(&x).to_bits());
                assert!(all_finite(exec, &x));
            });
        }
    }

    #[test]
    fn one_element_that_is_not_finite_is_found() {
        for (index, value) in [(0, f32::NAN), (4099, f32::INFINITY), (8999, f32::NEG_INFINITY)] {
            let mut x = random(1, 9000);
            x[index] = value;
            each_exec(|exec| assert!(!all_finite(exec, &x) && !reference::all_finite(&x)));
        }
    }
}
