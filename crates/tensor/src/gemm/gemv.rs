//! Products of few rows with packed weights, at the speed at which memory gives the weights: each is read once, in
//! several streams side by side, and widened in registers. The same chains as every other product.
#![allow(unsafe_code)]

use super::matrix::{Into, MatMut, MatRef};
use super::panels::{Bf16, Element, F16, Panels};
use super::split::share;
use crate::simd::Vector;
use crate::{Exec, dispatch};
use std::ops::Range;

/// The most rows that are multiplied this way.
pub(super) const ROWS_MAX: usize = 4;
/// Tasks for each thread: a few, so that a disturbed thread holds nobody up for long.
const TASKS_PER_THREAD: usize = 4;
/// Runs of neighbouring panels that one task reads side by side: some memory controllers give one stream less.
const STREAMS: usize = 4;

/// C = A · B or C += A · B with at most [`ROWS_MAX`] rows; A row-major.
pub(super) fn multiply(
    exec: Exec<'_>,
    a: MatRef<'_>,
    (panels, width): (Panels<'_>, usize),
    c: MatMut<'_>,
    into: Into,
) {
    let depth = a.columns;
    let count = c.columns.div_ceil(width);
    assert!(a.rows <= ROWS_MAX && a.column_stride == 1 && c.rows == a.rows, "a few whole rows");
    assert!(panels.len() == count * depth * width, "all of K for each panel");
    let tasks = (TASKS_PER_THREAD * exec.pool.threads()).min(count.div_ceil(STREAMS));
    let product =
        Product { a, panels, c: c.data.as_mut_ptr(), c_stride: c.row_stride, columns: c.columns, into };
    exec.pool.run(tasks, &|task, _| {
        // SAFETY: the Isa of an Exec is available; the panels of two tasks are apart, and so are their columns of C.
        unsafe { rows(exec.isa, &product, share(count, 1, task, tasks)) };
    });
}

/// What all tasks of a product share.
struct Product<'a> {
    /// (rows, K).
    a: MatRef<'a>,
    panels: Panels<'a>,
    c: *mut f32,
    c_stride: usize,
    columns: usize,
    into: Into,
}

// SAFETY: `c` is written through disjoint columns only, one owner each.
unsafe impl Sync for Product<'_> {}

dispatch! {
    /// Multiplies the rows with a run of panels.
    fn rows(product: &Product<'_>, panels: Range<usize>) = rows_generic;
}

#[inline(always)]
unsafe fn rows_generic<V: Vector>(product: &Product<'_>, panels: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match product.panels {
            Panels::F32(data) => by_rows::<V, f32>(product, data.as_ptr(), panels),
            Panels::F16(data) => by_rows::<V, F16>(product, data.as_ptr().cast(), panels),
            Panels::Bf16(data) => by_rows::<V, Bf16>(product, data.as_ptr().cast(), panels),
        }
    }
}

#[inline(always)]
unsafe fn by_rows<V: Vector, E: Element>(product: &Product<'_>, data: *const E, panels: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match product.a.rows {
            1 => run::<V, E, 1>(product, data, panels),
            2 => run::<V, E, 2>(product, data, panels),
            3 => run::<V, E, 3>(product, data, panels),
            _ => run::<V, E, 4>(product, data, panels),
        }
    }
}

/// Cuts the panels into streams of equal length, which advance together; what is left over, one after another.
#[inline(always)]
unsafe fn run<V: Vector, E: Element, const ROWS: usize>(
    product: &Product<'_>,
    data: *const E,
    panels: Range<usize>,
) {
    let streams = const { streams_for(V::LANES, V::PLAIN, ROWS) };
    let length = panels.len() / streams;
    // SAFETY: the caller's promise; the panels lie within the run.
    unsafe {
        for index in 0..length {
            let first = panels.start + index;
            if const { streams_for(V::LANES, V::PLAIN, ROWS) == 4 } {
                together::<V, E, ROWS, 4>(product, data, (first, length));
            } else if const { streams_for(V::LANES, V::PLAIN, ROWS) == 2 } {
                together::<V, E, ROWS, 2>(product, data, (first, length));
            } else {
                together::<V, E, ROWS, 1>(product, data, (first, length));
            }
        }
        for panel in panels.start + streams * length..panels.end {
            together::<V, E, ROWS, 1>(product, data, (panel, 0));
        }
    }
}

/// Streams for which there are registers: two for each row and stream, and some for what is read.
const fn streams_for(lanes: usize, plain: bool, rows: usize) -> usize {
    match (lanes, rows) {
        _ if plain => 1,
        (16, 1..=3) => STREAMS,
        (16, _) | (_, 1..=2) => 2,
        _ => 1,
    }
}

/// Writes the body out for each number below a constant bound, since an array whose index the compiler does not know early
/// goes to memory.
macro_rules! each {
    ($number:ident of $bound:ident => $body:expr) => {
        each!(@ $number, $bound, $body, 0 1 2 3)
    };
    (@ $number:ident, $bound:ident, $body:expr, $($value:literal)*) => {{
        $({ const $number: usize = $value; if $number < $bound { $body } })*
    }};
}

/// `COUNT` panels at once: `first` and those that follow at distances of `apart`.
#[inline(always)]
unsafe fn together<V: Vector, E: Element, const ROWS: usize, const COUNT: usize>(
    product: &Product<'_>,
    data: *const E,
    (first, apart): (usize, usize),
) {
    let width = 2 * V::LANES;
    let (a, depth, row_stride) = (product.a.data.as_ptr(), product.a.columns, product.a.row_stride);
    // SAFETY: the panels lie within the data, the rows within A and C; columns beyond C's last are left out.
    unsafe {
        let mut sums = [[[V::zero(); 2]; STREAMS]; ROWS_MAX];
        if product.into == Into::Accumulate {
            each!(ROW of ROWS => each!(INDEX of COUNT => {
                let (at, low, high) = product.place::<V>(ROW, first + INDEX * apart);
                sums[ROW][INDEX] = [V::load_partial(at, low), V::load_partial(at.wrapping_add(V::LANES), high)];
            }));
        }
        let from = data.add(first * depth * width);
        for k in 0..depth {
            let line = from.add(k * width);
            let mut factors = [V::zero(); ROWS_MAX];
            each!(ROW of ROWS => factors[ROW] = V::splat(*a.add(ROW * row_stride + k)));
            each!(INDEX of COUNT => {
                let at = line.add(INDEX * apart * depth * width);
                let (low, high) = (E::load::<V>(at), E::load::<V>(at.add(V::LANES)));
                each!(ROW of ROWS => {
                    sums[ROW][INDEX][0] = factors[ROW].fma(low, sums[ROW][INDEX][0]);
                    sums[ROW][INDEX][1] = factors[ROW].fma(high, sums[ROW][INDEX][1]);
                });
            });
        }
        each!(ROW of ROWS => each!(INDEX of COUNT => {
            let (at, low, high) = product.place::<V>(ROW, first + INDEX * apart);
            sums[ROW][INDEX][0].store_partial(at, low);
            sums[ROW][INDEX][1].store_partial(at.wrapping_add(V::LANES), high);
        }));
    }
}

impl Product<'_> {
    /// Where the outputs of a row and a panel are, and how many of them fall into its first and second register.
    #[inline(always)]
    fn place<V: Vector>(&self, row: usize, panel: usize) -> (*mut f32, usize, usize) {
        let column = panel * 2 * V::LANES;
        let left = self.columns - column;
        let low = left.min(V::LANES);
        (self.c.wrapping_add(row * self.c_stride + column), low, (left - low).min(V::LANES))
    }
}
