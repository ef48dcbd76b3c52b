//! How a kernel walks over a row in registers, whole ones and then the rest, and how rows are shared among
//! threads. Must not know any kernel.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all, stated at `Vector`.

use crate::simd::Vector;
use crate::{Exec, Pool};

/// A place of one register in a row.
pub(super) trait Place: Copy {
    /// Reads the register there; lanes beyond the row are 0.
    unsafe fn load<V: Vector>(self, row: *const f32) -> V;
    /// Writes the lanes within the row.
    unsafe fn store<V: Vector>(self, value: V, row: *mut f32);
}

/// A whole register at an offset.
#[derive(Clone, Copy)]
pub(super) struct Whole(pub usize);

/// The first lanes of a register: offset and count.
#[derive(Clone, Copy)]
pub(super) struct Part(pub usize, pub usize);

impl Place for Whole {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, row: *const f32) -> V {
        unsafe { V::load(row.add(self.0)) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(self, value: V, row: *mut f32) {
        unsafe { value.store(row.add(self.0)) }
    }
}

impl Place for Part {
    #[inline(always)]
    unsafe fn load<V: Vector>(self, row: *const f32) -> V {
        unsafe { V::load_partial(row.add(self.0), self.1) }
    }
    #[inline(always)]
    unsafe fn store<V: Vector>(self, value: V, row: *mut f32) {
        unsafe { value.store_partial(row.add(self.0), self.1) }
    }
}

/// Runs the body for each register of a row of `$length`, `$place` being a [`Whole`] or, at the end, a
/// [`Part`].
macro_rules! sweep {
    ($vector:ty, $length:expr, $place:ident => $body:expr) => {{
        let length: usize = $length;
        let lanes = <$vector as $crate::simd::Vector>::LANES;
        let mut offset = 0;
        while offset + lanes <= length {
            let $place = $crate::kernels::sweep::Whole(offset);
            $body;
            offset += lanes;
        }
        if offset < length {
            let $place = $crate::kernels::sweep::Part(offset, length - offset);
            $body;
        }
    }};
}

/// As `sweep!`, but `$register` also counts which of the registers of sixteen virtual lanes it is.
macro_rules! sweep_lanes {
    ($vector:ty, $length:expr, ($place:ident, $register:ident) => $body:expr) => {{
        let length: usize = $length;
        let lanes = <$vector as $crate::simd::Vector>::LANES;
        let mut offset = 0;
        while offset + 16 <= length {
            let mut $register = 0;
            while $register < 16 / lanes {
                let $place = $crate::kernels::sweep::Whole(offset + $register * lanes);
                $body;
                $register += 1;
            }
            offset += 16;
        }
        let mut $register = 0;
        while offset < length {
            let count = if length - offset < lanes { length - offset } else { lanes };
            let $place = $crate::kernels::sweep::Part(offset, count);
            $body;
            offset += lanes;
            $register += 1;
        }
    }};
}

pub(super) use {sweep, sweep_lanes};

/// Fewer elements than this are not worth a second thread.
const TASK_ELEMENTS: usize = 1 << 14;
/// Tasks for each thread, so that one that was held up does not hold up all.
const TASKS_PER_THREAD: usize = 4;

/// How many of `units` (rows, say), each of so many elements, make one task.
pub(super) fn grain(pool: &Pool, units: usize, unit_elements: usize) -> usize {
    let even = units.div_ceil(pool.threads() * TASKS_PER_THREAD);
    even.max(TASK_ELEMENTS.div_ceil(unit_elements.max(1)))
}

/// [`grain`] of a flat buffer, a multiple of a cache line.
pub(super) fn flat_grain(pool: &Pool, elements: usize) -> usize {
    grain(pool, elements, 1).next_multiple_of(16)
}

/// How many of `columns` make one task of a walk down all rows: a multiple of a cache line.
pub(super) fn column_grain(pool: &Pool, rows: usize, columns: usize) -> usize {
    let least = TASK_ELEMENTS.div_ceil(rows.max(1));
    columns.div_ceil(pool.threads()).max(least).next_multiple_of(16)
}

/// Several outputs of one kernel, each split at the same places.
pub(super) fn run_rows(
    exec: Exec<'_>,
    rows: usize,
    width: usize,
    body: &(dyn Fn(std::ops::Range<usize>) + Sync),
) {
    exec.pool.run_ranges(rows, grain(exec.pool, rows, width), &|range, _| body(range));
}
