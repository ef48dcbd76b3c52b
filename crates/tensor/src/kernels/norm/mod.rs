//! Root-mean-square and layer normalisation of rows, and of each head in fused rows.

#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: public functions check all lengths.

use super::sweep::{Place, column_grain, run_rows, sweep, sweep_lanes};
use crate::simd::{Vector, Virtual16};
use crate::{Disjoint, Exec, Heads, dispatch};

/// Where [`rms_norm_backward`] adds its gradients.
pub struct NormGradients<'a> {
    /// Of the input, (rows, width).
    pub dx: &'a mut [f32],
    /// Of the gain, (width).
    pub dgain: &'a mut [f32],
}

/// Parameters of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// (width).
    pub gain: &'a [f32],
    /// (width).
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

/// Where [`layer_norm_backward`] adds its gradients.
pub struct LayerNormGradients<'a> {
    /// Of the input, (rows, width).
    pub dx: &'a mut [f32],
    /// Of the gain, (width).
    pub dgain: &'a mut [f32],
    /// Of the bias, (width).
    pub dbias: &'a mut [f32],
}

/// Parameters of the norms of query and key heads.
#[derive(Clone, Copy, Debug)]
pub struct QkGains<'a> {
    /// Gain of the query heads, (head_dim).
    pub query: &'a [f32],
    /// Gain of the key heads, (head_dim).
    pub key: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// Where [`qk_norm_backward`] puts its gradients.
pub struct QkNormGradients<'a> {
    /// Of the input, overwritten, (tokens, fused width).
    pub dx: &'a mut [f32],
    /// Of the query gain, added to, (head_dim).
    pub dquery: &'a mut [f32],
    /// Of the key gain, added to, (head_dim).
    pub dkey: &'a mut [f32],
}

/// y = x / sqrt(mean(x²) + eps) · gain, for `x` and `y` of shape (rows, width) and `gain` of (width)
/// (Zhang and Sennrich 2019, arXiv:1910.07467).
pub fn rms_norm(exec: Exec<'_>, x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
    let width = gain.len();
    let rows = whole_rows(x.len(), width, y.len());
    let y = Disjoint::new(y);
    run_rows(exec, rows, 2 * width, &|range| {
        let range = range.start * width..range.end * width;
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe { rms_rows(exec.isa, &x[range.clone()], (gain, eps), y.range(range)) };
    });
}

/// sum = x + residual and y = rms_norm(sum) in one pass, with the same bits as the two. The inputs are (x,
/// residual), the norm is (gain, eps).
pub fn add_rms_norm(
    exec: Exec<'_>,
    (x, residual): (&[f32], &[f32]),
    (gain, eps): (&[f32], f32),
    sum: &mut [f32],
    y: &mut [f32],
) {
    let width = gain.len();
    let rows = whole_rows(x.len(), width, y.len());
    assert_eq!((residual.len(), sum.len()), (x.len(), x.len()), "rows of one shape");
    let (sum, y) = (Disjoint::new(sum), Disjoint::new(y));
    run_rows(exec, rows, 4 * width, &|range| {
        let range = range.start * width..range.end * width;
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe {
            let inputs = (&x[range.clone()], &residual[range.clone()]);
            let outputs = (sum.range(range.clone()), y.range(range));
            add_rms_rows(exec.isa, inputs, (gain, eps), outputs);
        }
    });
}

/// Adds the gradients of [`rms_norm`], whose `norm` is (gain, eps), to `gradients`. The gain's is a chain
/// over ascending rows that continues from what the buffer holds.
pub fn rms_norm_backward(
    exec: Exec<'_>,
    x: &[f32],
    (gain, eps): (&[f32], f32),
    dy: &[f32],
    gradients: NormGradients<'_>,
) {
    let width = gain.len();
    let rows = whole_rows(x.len(), width, gradients.dx.len());
    assert_eq!((dy.len(), gradients.dgain.len()), (x.len(), width), "gradients have their values' shapes");
    let mut inverses = exec.pool.scratch().take(rows);
    let (dx, inverse_parts) = (Disjoint::new(gradients.dx), Disjoint::new(&mut inverses[..rows]));
    run_rows(exec, rows, 4 * width, &|range| {
        let flat = range.start * width..range.end * width;
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe {
            let outputs = (dx.range(flat.clone()), inverse_parts.range(range));
            rms_rows_backward(exec.isa, &x[flat.clone()], (gain, eps), &dy[flat], outputs);
        }
    });
    let inverses = &inverses[..rows];
    exec.pool.run_slices(gradients.dgain, column_grain(exec.pool, rows, width), &|first, dgain, _| {
        let rows = Strided { first, stride: width, rows };
        // SAFETY: an `Exec` has an available instruction set; the lengths agree.
        unsafe { gain_columns(exec.isa, (x, dy), inverses, rows, dgain) };
    });
}

/// y = (x − mean(x)) / sqrt(variance(x) + eps) · gain + bias, for `x` and `y` of shape (rows, width)
/// (Ba et al. 2016, arXiv:1607.06450).
pub fn layer_norm(exec: Exec<'_>, x: &[f32], norm: LayerNorm<'_>, y: &mut [f32]) {
    let width = norm.gain.len();
    assert_eq!(norm.bias.len(), width, "gain and bias of one width");
    let rows = whole_rows(x.len(), width, y.len());
    let y = Disjoint::new(y);
    run_rows(exec, rows, 2 * width, &|range| {
        let range = range.start * width..range.end * width;
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe { layer_rows(exec.isa, &x[range.clone()], norm, y.range(range)) };
    });
}

/// Adds the gradients of [`layer_norm`] to `gradients`.
pub fn layer_norm_backward(
    exec: Exec<'_>,
    x: &[f32],
    norm: LayerNorm<'_>,
    dy: &[f32],
    gradients: LayerNormGradients<'_>,
) {
    let width = norm.gain.len();
    let rows = whole_rows(x.len(), width, gradients.dx.len());
    let shapes = (dy.len(), gradients.dgain.len(), gradients.dbias.len());
    assert_eq!(shapes, (x.len(), width, width), "gradients have their values' shapes");
    let mut moments = exec.pool.scratch().take(2 * rows);
    let (dx, parts) = (Disjoint::new(gradients.dx), Disjoint::new(&mut moments[..2 * rows]));
    run_rows(exec, rows, 4 * width, &|range| {
        let flat = range.start * width..range.end * width;
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe {
            let outputs = (dx.range(flat.clone()), parts.range(2 * range.start..2 * range.end));
            layer_rows_backward(exec.isa, &x[flat.clone()], norm, &dy[flat], outputs);
        }
    });
    let moments = &moments[..2 * rows];
    let dbias = Disjoint::new(gradients.dbias);
    exec.pool.run_slices(gradients.dgain, column_grain(exec.pool, rows, width), &|first, dgain, _| {
        // SAFETY: the ranges do not overlap; an `Exec` has an available instruction set; the lengths agree.
        unsafe {
            let dbias = dbias.range(first..first + dgain.len());
            layer_columns(exec.isa, (x, dy), moments, (first, width), (dgain, dbias));
        }
    });
}

/// [`rms_norm`] of each query head and key head of the fused rows `x`; value heads are copied.
/// `x` and `y` have shape (tokens, (heads + 2·kv_heads)·head_dim).
pub fn qk_norm(exec: Exec<'_>, x: &[f32], gains: QkGains<'_>, heads: Heads, y: &mut [f32]) {
    let width = heads.fused_width();
    let rows = whole_rows(x.len(), width, y.len());
    check_gains(gains, heads);
    let y = Disjoint::new(y);
    run_rows(exec, rows, 2 * width, &|range| {
        for row in range {
            let x = &x[row * width..(row + 1) * width];
            // SAFETY: each row is visited once; an `Exec` has an available instruction set; the lengths
            // agree.
            unsafe {
                let y = y.range(row * width..(row + 1) * width);
                let (query, key) = (heads.out_width(), heads.out_width() + heads.kv_heads * heads.head_dim);
                rms_rows(exec.isa, &x[..query], (gains.query, gains.eps), &mut y[..query]);
                rms_rows(exec.isa, &x[query..key], (gains.key, gains.eps), &mut y[query..key]);
                y[key..].copy_from_slice(&x[key..]);
            }
        }
    });
}

/// Backward of [`qk_norm`]: overwrites `gradients.dx`, and continues the gains' gradients, which are chains
/// over ascending tokens and, within a token, ascending heads.
pub fn qk_norm_backward(
    exec: Exec<'_>,
    x: &[f32],
    (gains, heads): (QkGains<'_>, Heads),
    dy: &[f32],
    gradients: QkNormGradients<'_>,
) {
    let (width, normed) = (heads.fused_width(), heads.heads + heads.kv_heads);
    let rows = whole_rows(x.len(), width, gradients.dx.len());
    check_gains(gains, heads);
    let shapes = (dy.len(), gradients.dquery.len(), gradients.dkey.len());
    assert_eq!(shapes, (x.len(), heads.head_dim, heads.head_dim), "gradients have their values' shapes");
    let mut inverses = exec.pool.scratch().take(rows * normed);
    let (dx, parts) = (Disjoint::new(gradients.dx), Disjoint::new(&mut inverses[..rows * normed]));
    run_rows(exec, rows, 3 * width, &|range| {
        for row in range {
            let flat = row * width..(row + 1) * width;
            // SAFETY: each row is visited once; an `Exec` has an available instruction set; the lengths
            // agree.
            unsafe {
                let inverses = parts.range(row * normed..(row + 1) * normed);
                let dx = dx.range(flat.clone());
                qk_row_backward(exec, (&x[flat.clone()], &dy[flat]), (gains, heads), dx, inverses);
            }
        }
    });
    gain_gradients(exec, (x, dy), heads, &inverses, (gradients.dquery, gradients.dkey));
}

/// One fused row's part of [`qk_norm_backward`]; writes the heads' 1 / rms to `inverses`.
///
/// # Safety
/// The lengths agree.
unsafe fn qk_row_backward(
    exec: Exec<'_>,
    (x, dy): (&[f32], &[f32]),
    (gains, heads): (QkGains<'_>, Heads),
    dx: &mut [f32],
    inverses: &mut [f32],
) {
    let (query, key) = (heads.out_width(), heads.out_width() + heads.kv_heads * heads.head_dim);
    dx[..key].fill(0.0);
    dx[key..].copy_from_slice(&dy[key..]);
    let (query_inverses, key_inverses) = inverses.split_at_mut(heads.heads);
    let (query_dx, key_dx) = dx[..key].split_at_mut(query);
    let (query_gain, key_gain) = ((gains.query, gains.eps), (gains.key, gains.eps));
    // SAFETY: an `Exec` has an available instruction set; the lengths agree.
    unsafe {
        rms_rows_backward(exec.isa, &x[..query], query_gain, &dy[..query], (query_dx, query_inverses));
        rms_rows_backward(exec.isa, &x[query..key], key_gain, &dy[query..key], (key_dx, key_inverses));
    }
}

/// The gains' chains: one task for each sixteen columns of the query gain and of the key gain.
fn gain_gradients(
    exec: Exec<'_>,
    (x, dy): (&[f32], &[f32]),
    heads: Heads,
    inverses: &[f32],
    (dquery, dkey): (&mut [f32], &mut [f32]),
) {
    const COLUMNS: usize = 16;
    let head_dim = heads.head_dim;
    let tokens = x.len() / heads.fused_width().max(1);
    let column_tasks = head_dim.div_ceil(COLUMNS);
    let (dquery, dkey) = (Disjoint::new(dquery), Disjoint::new(dkey));
    exec.pool.run(2 * column_tasks, &|task, _| {
        let is_query = task < column_tasks;
        let column = task % column_tasks * COLUMNS;
        let range = column..head_dim.min(column + COLUMNS);
        // SAFETY: each task has its own columns; an `Exec` has an available instruction set; the lengths
        // agree.
        unsafe {
            let dgain = if is_query { dquery.range(range) } else { dkey.range(range) };
            let (first, count) = if is_query { (0, heads.heads) } else { (heads.heads, heads.kv_heads) };
            for token in 0..tokens {
                let offset = token * heads.fused_width() + first * head_dim;
                let inverses = &inverses[token * (heads.heads + heads.kv_heads) + first..][..count];
                let rows = Strided { first: offset + column, stride: head_dim, rows: count };
                gain_columns(exec.isa, (x, dy), inverses, rows, dgain);
            }
        }
    });
}

fn check_gains(gains: QkGains<'_>, heads: Heads) {
    assert_eq!(
        (gains.query.len(), gains.key.len()),
        (heads.head_dim, heads.head_dim),
        "gains as wide as a head"
    );
}

/// The number of rows, when both buffers hold as many whole ones.
fn whole_rows(x: usize, width: usize, y: usize) -> usize {
    let rows = x / width.max(1);
    assert_eq!((x, y), (rows * width, rows * width), "whole rows of width {width}");
    rows
}

/// Rows of some columns inside a wider buffer.
#[derive(Clone, Copy)]
struct Strided {
    /// Offset of the first row's first column.
    first: usize,
    /// From one row to the next.
    stride: usize,
    rows: usize,
}

/// Gain and eps.
type Rms<'a> = (&'a [f32], f32);
type Pair<'a> = (&'a [f32], &'a [f32]);
type PairMut<'a> = (&'a mut [f32], &'a mut [f32]);

dispatch! { fn rms_rows(x: &[f32], norm: Rms<'_>, y: &mut [f32]) = rms_rows_generic; }
dispatch! { fn add_rms_rows(inputs: Pair<'_>, norm: Rms<'_>, outputs: PairMut<'_>) = add_rms_rows_generic; }
dispatch! {
    /// Outputs: the input's gradient (added to), and each row's 1 / rms.
    fn rms_rows_backward(x: &[f32], norm: Rms<'_>, dy: &[f32], outputs: PairMut<'_>) =
        rms_rows_backward_generic;
}
dispatch! {
    /// dgain += Σ over ascending rows of dy · (x · inverse).
    fn gain_columns(inputs: Pair<'_>, inverses: &[f32], rows: Strided, dgain: &mut [f32]) =
        gain_columns_generic;
}
dispatch! { fn layer_rows(x: &[f32], norm: LayerNorm<'_>, y: &mut [f32]) = layer_rows_generic; }
dispatch! {
    /// Outputs: the input's gradient (added to), and each row's mean and 1 / deviation.
    fn layer_rows_backward(x: &[f32], norm: LayerNorm<'_>, dy: &[f32], outputs: PairMut<'_>) =
        layer_rows_backward_generic;
}
dispatch! {
    /// Columns are (first, width of a row); outputs the gradients of gain and bias.
    fn layer_columns(inputs: Pair<'_>, moments: &[f32], columns: (usize, usize), outputs: PairMut<'_>) =
        layer_columns_generic;
}

/// 1 / sqrt(mean(x²) + eps).
#[inline(always)]
unsafe fn inverse_rms<V: Vector>(x: *const f32, width: usize, eps: f32) -> f32 {
    unsafe {
        let mut lanes = Virtual16::<V>::splat(0.0);
        sweep_lanes!(V, width, (at, register) => {
            let value = at.load::<V>(x);
            lanes.set_register(register, value.fma(value, lanes.register(register)));
        });
        1.0 / (lanes.reduce_add() / width as f32 + eps).sqrt()
    }
}

#[inline(always)]
unsafe fn rms_rows_generic<V: Vector>(x: &[f32], (gain, eps): Rms<'_>, y: &mut [f32]) {
    let width = gain.len();
    for row in 0..x.len() / width {
        unsafe {
            let (x, y, gain) = (x.as_ptr().add(row * width), y.as_mut_ptr().add(row * width), gain.as_ptr());
            let inverse = V::splat(inverse_rms::<V>(x, width, eps));
            sweep!(V, width, at => at.store(at.load::<V>(x).mul(inverse).mul(at.load(gain)), y));
        }
    }
}

#[inline(always)]
unsafe fn add_rms_rows_generic<V: Vector>(
    (x, residual): Pair<'_>,
    (gain, eps): Rms<'_>,
    (sum, y): PairMut<'_>,
) {
    let width = gain.len();
    for row in 0..x.len() / width {
        unsafe {
            let offset = row * width;
            let (x, residual) = (x.as_ptr().add(offset), residual.as_ptr().add(offset));
            let (sum, y) = (sum.as_mut_ptr().add(offset), y.as_mut_ptr().add(offset));
            sweep!(V, width, at => at.store(at.load::<V>(x).add(at.load(residual)), sum));
            let inverse = V::splat(inverse_rms::<V>(sum, width, eps));
            let gain = gain.as_ptr();
            sweep!(V, width, at => at.store(at.load::<V>(sum).mul(inverse).mul(at.load(gain)), y));
        }
    }
}

#[inline(always)]
unsafe fn rms_rows_backward_generic<V: Vector>(
    x: &[f32],
    (gain, eps): Rms<'_>,
    dy: &[f32],
    (dx, inverses): PairMut<'_>,
) {
    let width = gain.len();
    for (row, kept) in inverses.iter_mut().enumerate() {
        unsafe {
            let (x, dy) = (x.as_ptr().add(row * width), dy.as_ptr().add(row * width));
            let (dx, gain) = (dx.as_mut_ptr().add(row * width), gain.as_ptr());
            *kept = inverse_rms::<V>(x, width, eps);
            let inverse = V::splat(*kept);
            let mut lanes = Virtual16::<V>::splat(0.0);
            sweep_lanes!(V, width, (at, register) => {
                let upstream = at.load::<V>(dy).mul(at.load(gain));
                let normalised = at.load::<V>(x).mul(inverse);
                lanes.set_register(register, upstream.fma(normalised, lanes.register(register)));
            });
            let negated_mean = V::splat(-(lanes.reduce_add() / width as f32));
            sweep!(V, width, at => {
                let normalised = at.load::<V>(x).mul(inverse);
                let upstream = at.load::<V>(dy).mul(at.load(gain));
                at.store(inverse.fma(normalised.fma(negated_mean, upstream), at.load(dx)), dx);
            });
        }
    }
}

#[inline(always)]
unsafe fn gain_columns_generic<V: Vector>(
    (x, dy): Pair<'_>,
    inverses: &[f32],
    rows: Strided,
    dgain: &mut [f32],
) {
    let (columns, dgain) = (dgain.len(), dgain.as_mut_ptr());
    for (row, &inverse) in inverses.iter().enumerate().take(rows.rows) {
        unsafe {
            let offset = rows.first + row * rows.stride;
            let (x, dy) = (x.as_ptr().add(offset), dy.as_ptr().add(offset));
            let inverse = V::splat(inverse);
            sweep!(V, columns, at => {
                let normalised = at.load::<V>(x).mul(inverse);
                at.store(at.load::<V>(dy).fma(normalised, at.load(dgain)), dgain);
            });
        }
    }
}

/// The mean, and 1 / sqrt(variance + eps) with the variance about that mean.
#[inline(always)]
unsafe fn moments<V: Vector>(x: *const f32, width: usize, eps: f32) -> (f32, f32) {
    unsafe {
        let mut sums = Virtual16::<V>::splat(0.0);
        sweep_lanes!(V, width, (at, register) => {
            sums.set_register(register, sums.register(register).add(at.load(x)));
        });
        let mean = sums.reduce_add() / width as f32;
        // Beyond the row a difference must be 0, so the last registers are filled up with the mean.
        let whole = width / 16 * 16;
        let (mut squares, shift) = (Virtual16::<V>::splat(0.0), V::splat(mean));
        sweep_lanes!(V, whole, (at, register) => {
            let difference = at.load::<V>(x).sub(shift);
            squares.set_register(register, difference.fma(difference, squares.register(register)));
        });
        if whole < width {
            let rest = Virtual16::<V>::load_partial(x.add(whole), width - whole, mean);
            let difference = rest.sub(Virtual16::splat(mean));
            squares = difference.fma(difference, squares);
        }
        (mean, 1.0 / (squares.reduce_add() / width as f32 + eps).sqrt())
    }
}

#[inline(always)]
unsafe fn layer_rows_generic<V: Vector>(x: &[f32], norm: LayerNorm<'_>, y: &mut [f32]) {
    let width = norm.gain.len();
    for row in 0..x.len() / width {
        unsafe {
            let (x, y) = (x.as_ptr().add(row * width), y.as_mut_ptr().add(row * width));
            let (gain, bias) = (norm.gain.as_ptr(), norm.bias.as_ptr());
            let (mean, inverse) = moments::<V>(x, width, norm.eps);
            sweep!(V, width, at => {
                let normalised = at.load::<V>(x).sub(V::splat(mean)).mul(V::splat(inverse));
                at.store(normalised.fma(at.load(gain), at.load(bias)), y);
            });
        }
    }
}

#[inline(always)]
unsafe fn layer_rows_backward_generic<V: Vector>(
    x: &[f32],
    norm: LayerNorm<'_>,
    dy: &[f32],
    (dx, kept): PairMut<'_>,
) {
    let width = norm.gain.len();
    for (row, kept) in kept.chunks_exact_mut(2).enumerate() {
        unsafe {
            let (x, dy) = (x.as_ptr().add(row * width), dy.as_ptr().add(row * width));
            let (dx, gain) = (dx.as_mut_ptr().add(row * width), norm.gain.as_ptr());
            let (mean, inverse) = moments::<V>(x, width, norm.eps);
            kept.copy_from_slice(&[mean, inverse]);
            let (mean, inverse) = (V::splat(mean), V::splat(inverse));
            let (mut sums, mut products) = (Virtual16::<V>::splat(0.0), Virtual16::<V>::splat(0.0));
            sweep_lanes!(V, width, (at, register) => {
                // Beyond the row the gradient is 0, so nothing is added there.
                let upstream = at.load::<V>(dy).mul(at.load(gain));
                let normalised = at.load::<V>(x).sub(mean).mul(inverse);
                sums.set_register(register, sums.register(register).add(upstream));
                products.set_register(register, upstream.fma(normalised, products.register(register)));
            });
            let upstream_mean = V::splat(sums.reduce_add() / width as f32);
            let negated_mean = V::splat(-(products.reduce_add() / width as f32));
            sweep!(V, width, at => {
                let normalised = at.load::<V>(x).sub(mean).mul(inverse);
                let centred = at.load::<V>(dy).mul(at.load(gain)).sub(upstream_mean);
                at.store(inverse.fma(normalised.fma(negated_mean, centred), at.load(dx)), dx);
            });
        }
    }
}

#[inline(always)]
unsafe fn layer_columns_generic<V: Vector>(
    (x, dy): Pair<'_>,
    moments: &[f32],
    (first, width): (usize, usize),
    (dgain, dbias): PairMut<'_>,
) {
    let (columns, dgain, dbias) = (dgain.len(), dgain.as_mut_ptr(), dbias.as_mut_ptr());
    for (row, moments) in moments.chunks_exact(2).enumerate() {
        unsafe {
            let offset = first + row * width;
            let (x, dy) = (x.as_ptr().add(offset), dy.as_ptr().add(offset));
            let (mean, inverse) = (V::splat(moments[0]), V::splat(moments[1]));
            sweep!(V, columns, at => {
                let normalised = at.load::<V>(x).sub(mean).mul(inverse);
                let dy = at.load::<V>(dy);
                at.store(dy.fma(normalised, at.load(dgain)), dgain);
                at.store(at.load::<V>(dbias).add(dy), dbias);
            });
        }
    }
}

#[cfg(test)]
mod tests;
