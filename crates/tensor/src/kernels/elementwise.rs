//! Elementwise arithmetic, biases, gathering and scattering of rows.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: public functions check all lengths.

use super::sweep::{Place, column_grain, flat_grain, run_rows, sweep};
use crate::simd::Vector;
use crate::{Disjoint, Exec, dispatch};

pub use gather_rows as embedding;
pub use scatter_add_rows as embedding_backward;

/// y = a + b.
pub fn add(exec: Exec<'_>, a: &[f32], b: &[f32], y: &mut [f32]) {
    binary(exec, (a, b), y, add_row);
}

/// y = a · b.
pub fn multiply(exec: Exec<'_>, a: &[f32], b: &[f32], y: &mut [f32]) {
    binary(exec, (a, b), y, multiply_row);
}

/// y += x.
pub fn add_into(exec: Exec<'_>, x: &[f32], y: &mut [f32]) {
    scaled_add(exec, 1.0, x, y);
}

/// y += factor · x, as one fused multiply-add.
pub fn scaled_add(exec: Exec<'_>, factor: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "as many addends as sums");
    exec.pool.run_slices(y, flat_grain(exec.pool, x.len()), &|first, y, _| {
        // SAFETY: an `Exec` has an available instruction set; the lengths agree.
        unsafe { scaled_add_row(exec.isa, factor, &x[first..first + y.len()], y) };
    });
}

/// y = 0.
pub fn clear(exec: Exec<'_>, y: &mut [f32]) {
    let grain = flat_grain(exec.pool, y.len());
    exec.pool.run_slices(y, grain, &|_, y, _| y.fill(0.0));
}

/// y = x.
pub fn copy(exec: Exec<'_>, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "as many from as to");
    let grain = flat_grain(exec.pool, y.len());
    exec.pool.run_slices(y, grain, &|start, y, _| y.copy_from_slice(&x[start..start + y.len()]));
}

/// y = factor · x.
pub fn scaled(exec: Exec<'_>, factor: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "as many factors as products");
    exec.pool.run_slices(y, flat_grain(exec.pool, x.len()), &|first, y, _| {
        y.copy_from_slice(&x[first..first + y.len()]);
        // SAFETY: an `Exec` has an available instruction set.
        unsafe { scale_row(exec.isa, factor, y) };
    });
}

/// y *= factor.
pub fn scale(exec: Exec<'_>, factor: f32, y: &mut [f32]) {
    let grain = flat_grain(exec.pool, y.len());
    exec.pool.run_slices(y, grain, &|_, y, _| {
        // SAFETY: an `Exec` has an available instruction set.
        unsafe { scale_row(exec.isa, factor, y) };
    });
}

/// Adds `bias` (width) to every row of `y` (rows, width).
pub fn add_bias(exec: Exec<'_>, y: &mut [f32], bias: &[f32]) {
    let width = bias.len();
    let rows = y.len() / width.max(1);
    assert_eq!(y.len(), rows * width, "whole rows");
    let y = Disjoint::new(y);
    run_rows(exec, rows, width, &|range| {
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set.
        unsafe {
            for row in y.range(range.start * width..range.end * width).chunks_exact_mut(width) {
                scaled_add_row(exec.isa, 1.0, bias, row);
            }
        }
    });
}

/// Adds the rows of `x` (rows, width) to `sums` (width), ascending: the gradient of a bias.
pub fn column_sums(exec: Exec<'_>, x: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    let rows = x.len() / width.max(1);
    assert_eq!(x.len(), rows * width, "whole rows");
    exec.pool.run_slices(sums, column_grain(exec.pool, rows, width), &|first, sums, _| {
        for row in x.chunks_exact(width) {
            // SAFETY: an `Exec` has an available instruction set; the lengths agree.
            unsafe { scaled_add_row(exec.isa, 1.0, &row[first..first + sums.len()], sums) };
        }
    });
}

/// Row i of `y` (ids, width) = row `ids[i]` of `table` (entries, width): the embedding.
///
/// # Panics
/// When an id is outside the table.
pub fn gather_rows(exec: Exec<'_>, table: &[f32], ids: &[u32], y: &mut [f32]) {
    let width = y.len() / ids.len().max(1);
    assert_eq!(y.len(), ids.len() * width, "one row for each id");
    let y = Disjoint::new(y);
    run_rows(exec, ids.len(), width, &|range| {
        for index in range {
            let from = ids[index] as usize * width;
            // SAFETY: each row is written once.
            let to = unsafe { y.range(index * width..(index + 1) * width) };
            to.copy_from_slice(&table[from..from + width]);
        }
    });
}

/// Row `ids[i]` of `table` (entries, width) += row i of `x` (ids, width), in ascending i: the gradient of the
/// embedding. Threads share the columns.
///
/// # Panics
/// When an id is outside the table.
pub fn scatter_add_rows(exec: Exec<'_>, ids: &[u32], x: &[f32], table: &mut [f32]) {
    scatter_scaled_rows(exec, (ids, &|_| 1.0), x, table);
}

/// Row `ids[i]` of `table` += `factor(i)` · row i of `x`, rounded once, in ascending i.
pub(super) fn scatter_scaled_rows(
    exec: Exec<'_>,
    (ids, factor): (&[u32], &(dyn Fn(usize) -> f32 + Sync)),
    x: &[f32],
    table: &mut [f32],
) {
    let width = x.len() / ids.len().max(1);
    assert_eq!(x.len(), ids.len() * width, "one row for each id");
    let table = Disjoint::new(table);
    exec.pool.run_ranges(width, column_grain(exec.pool, ids.len(), width), &|columns, _| {
        for (index, &id) in ids.iter().enumerate() {
            let from = &x[index * width + columns.start..index * width + columns.end];
            let start = id as usize * width;
            // SAFETY: no other task has these columns; an `Exec` has an available instruction set.
            unsafe {
                let to = table.range(start + columns.start..start + columns.end);
                scaled_add_row(exec.isa, factor(index), from, to);
            }
        }
    });
}

/// Row i of `x` (rows, width) *= `factor(i)`.
pub(super) fn scale_rows(
    exec: Exec<'_>,
    width: usize,
    factor: &(dyn Fn(usize) -> f32 + Sync),
    x: &mut [f32],
) {
    let rows = x.len() / width;
    let x = Disjoint::new(x);
    run_rows(exec, rows, width, &|range| {
        for row in range {
            // SAFETY: each row is visited once; an `Exec` has an available instruction set.
            unsafe { scale_row(exec.isa, factor(row), x.range(row * width..(row + 1) * width)) };
        }
    });
}

type Binary = unsafe fn(crate::Isa, &[f32], &[f32], &mut [f32]);

fn binary(exec: Exec<'_>, (a, b): (&[f32], &[f32]), y: &mut [f32], row: Binary) {
    assert_eq!((a.len(), b.len()), (y.len(), y.len()), "as many operands as results");
    exec.pool.run_slices(y, flat_grain(exec.pool, a.len()), &|first, y, _| {
        let range = first..first + y.len();
        // SAFETY: an `Exec` has an available instruction set; the lengths agree.
        unsafe { row(exec.isa, &a[range.clone()], &b[range], y) };
    });
}

dispatch! { fn add_row(a: &[f32], b: &[f32], y: &mut [f32]) = add_row_generic; }
dispatch! { fn multiply_row(a: &[f32], b: &[f32], y: &mut [f32]) = multiply_row_generic; }
dispatch! { fn scaled_add_row(factor: f32, x: &[f32], y: &mut [f32]) = scaled_add_row_generic; }
dispatch! { fn scale_row(factor: f32, y: &mut [f32]) = scale_row_generic; }

#[inline(always)]
unsafe fn add_row_generic<V: Vector>(a: &[f32], b: &[f32], y: &mut [f32]) {
    let (a_at, b_at, y_at) = (a.as_ptr(), b.as_ptr(), y.as_mut_ptr());
    sweep!(V, y.len(), at => unsafe { at.store(at.load::<V>(a_at).add(at.load(b_at)), y_at) });
}

#[inline(always)]
unsafe fn multiply_row_generic<V: Vector>(a: &[f32], b: &[f32], y: &mut [f32]) {
    let (a_at, b_at, y_at) = (a.as_ptr(), b.as_ptr(), y.as_mut_ptr());
    sweep!(V, y.len(), at => unsafe { at.store(at.load::<V>(a_at).mul(at.load(b_at)), y_at) });
}

/// With a factor of 1 the product is exact, so this is plain addition too.
#[inline(always)]
unsafe fn scaled_add_row_generic<V: Vector>(factor: f32, x: &[f32], y: &mut [f32]) {
    let (x_at, y_at) = (x.as_ptr(), y.as_mut_ptr());
    sweep!(V, y.len(), at => unsafe {
        let sum = V::splat(factor).fma(at.load(x_at), at.load(y_at));
        at.store(sum, y_at);
    });
}

#[inline(always)]
unsafe fn scale_row_generic<V: Vector>(factor: f32, y: &mut [f32]) {
    let y_at = y.as_mut_ptr();
    sweep!(V, y.len(), at => unsafe { at.store(at.load::<V>(y_at).mul(V::splat(factor)), y_at) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same_bits, each_exec, random};
    use crate::reference::elementwise as reference;

    #[test]
    fn flat_kernels_have_the_bits_of_the_reference() {
        for len in [0, 1, 17, 1000, 70_001] {
            let (a, b) = (random(1, len), random(2, len));
            let mut expected =
                [vec![0.0; len], vec![0.0; len], a.clone(), a.clone(), a.clone(), a.clone(), a.clone()];
            reference::add(&a, &b, &mut expected[0]);
            reference::multiply(&a, &b, &mut expected[1]);
            reference::add_into(&b, &mut expected[2]);
            reference::scaled_add(0.3, &b, &mut expected[3]);
            reference::scale(0.7, &mut expected[4]);
            expected[5] = expected[4].clone();
            expected[6] = b.clone();
            each_exec(|exec| {
                let mut found = expected.each_ref().map(|row| vec![9.0; row.len()]);
                found[2..5].fill(a.clone());
                add(exec, &a, &b, &mut found[0]);
                multiply(exec, &a, &b, &mut found[1]);
                add_into(exec, &b, &mut found[2]);
                scaled_add(exec, 0.3, &b, &mut found[3]);
                scale(exec, 0.7, &mut found[4]);
                scaled(exec, 0.7, &a, &mut found[5]);
                copy(exec, &b, &mut found[6]);
                let names = ["add", "multiply", "add_into", "scaled_add", "scale", "scaled", "copy"];
                for (name, (found, expected)) in names.iter().zip(found.iter().zip(&expected)) {
                    assert_same_bits(name, exec, found, expected);
                }
            });
        }
    }

    #[test]
    fn row_kernels_have_the_bits_of_the_reference() {
        for (rows, width) in [(1, 1), (3, 7), (300, 100), (1000, 65)] {
            let (x, bias, table) = (random(1, rows * width), random(2, width), random(3, 11 * width));
            let ids: Vec<u32> = (0..rows as u32).map(|row| row * row % 11).collect();
            let (mut biased, mut sums, mut gathered) = (x.clone(), bias.clone(), vec![0.0; x.len()]);
            let mut scattered = table.clone();
            reference::add_bias(&mut biased, &bias);
            reference::column_sums(&x, &mut sums);
            reference::gather_rows(&table, &ids, &mut gathered);
            reference::scatter_add_rows(&ids, &x, &mut scattered);
            each_exec(|exec| {
                let mut found = x.clone();
                add_bias(exec, &mut found, &bias);
                assert_same_bits("add_bias", exec, &found, &biased);
                let mut found = bias.clone();
                column_sums(exec, &x, &mut found);
                assert_same_bits("column_sums", exec, &found, &sums);
                let mut found = vec![9.0; x.len()];
                embedding(exec, &table, &ids, &mut found);
                assert_same_bits("embedding", exec, &found, &gathered);
                let mut found = table.clone();
                embedding_backward(exec, &ids, &x, &mut found);
                assert_same_bits("gradient of the embedding", exec, &found, &scattered);
            });
        }
    }
}
