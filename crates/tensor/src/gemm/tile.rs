//! The innermost kernel of a matrix product: a tile of C kept in registers while k runs, and the table of its
//! instances. Knows packed operands only; must not know where they come from.
#![allow(unsafe_code)]

use crate::Isa;
use crate::simd::{Array, Vector, prefetch, prefetch_second_level};

/// The most values of k that one call covers. Measured on Zen 5: 256 to 512 differ little, more blocks of k cost reloads
/// of C and longer ones the first-level cache.
pub(super) const DEPTH_MAX: usize = 384;
/// Distance in floats between the rows of a packed row-major tile of A: a constant, so that one base register and
/// displacements reach all rows; not a power of two, so that the rows fall into different cache sets.
pub(super) const ROW_STRIDE: usize = DEPTH_MAX + 16;
/// The most rows that any instance's tile has.
pub(super) const ROWS_MAX: usize = 14;

/// One call: `c[row][column] = c[row][column] (or 0) + Σ_k a[row][k] · b[k][column]`, each output one chain of fused
/// multiply-adds over ascending k.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// Values of k, at most `DEPTH_MAX`.
    pub depth: usize,
    /// Packed tile of A in the instance's form.
    pub a: *const f32,
    /// Packed panel of B: `depth` × `2 · lanes`, zero beyond the last column.
    pub b: *const f32,
    /// The tile's first output.
    pub c: *mut f32,
    /// Distance between rows of C in floats.
    pub c_stride: usize,
    /// Columns to write: 1 ..= 2 · lanes.
    pub columns: usize,
    /// Whether the chains start at 0 rather than at C's value.
    pub from_zero: bool,
    /// The first output of the tile that comes next, a hint to the caches; any address.
    pub next_c: *const f32,
    /// What else the caches should fetch meanwhile.
    pub ahead: Ahead,
}

/// Cache lines to ask for while a call computes, one every [`AHEAD_STEPS`] values of k: between the multiplications
/// they cost nothing, while a loop of them would hold up what follows.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    /// The first line; any address.
    pub at: *const f32,
    /// Lines from it to the end of its row.
    pub left: usize,
    /// Lines of every further row.
    pub row_lines: usize,
    /// Floats from a row's last line to the next row's first.
    pub skip: usize,
    /// Lines in all.
    pub count: usize,
}

/// Values of k between two lines that are asked for: few enough for all that is needed, many enough not to slow down
/// processors that issue four instructions a cycle.
pub(super) const AHEAD_STEPS: usize = 4;

impl Ahead {
    /// Nothing new: one line at `at`, an address that is mapped, since looking for others takes time.
    pub fn nothing(at: *const f32) -> Ahead {
        Ahead { at, left: 0, row_lines: 0, skip: 0, count: 0 }
    }

    /// Asks for a line and goes on to the next one, but not beyond the last.
    #[inline(always)]
    fn step(&mut self) {
        prefetch_second_level(self.at);
        let row_ends = self.left == 1;
        let step = if row_ends { self.skip } else { CACHE_LINE };
        self.left = if row_ends { self.row_lines } else { self.left.wrapping_sub(1) };
        self.count = self.count.saturating_sub(1);
        self.at = self.at.wrapping_add(if self.count == 0 { 0 } else { step });
    }
}

/// A kernel for a fixed number of rows.
///
/// # Safety
/// The processor has the instance's features and every pointer covers what [`Call`] says.
pub(super) type Kernel = unsafe fn(&Call);

/// The instances for one instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// Columns of a panel: two registers.
    pub columns: usize,
    /// Rows of the largest tile.
    pub rows: usize,
    /// For A packed `[row][ROW_STRIDE]`, indexed by rows - 1.
    pub by_row: &'static [Kernel; ROWS_MAX],
    /// For A packed `[k][rows]`, `rows` being the tile's own, indexed by rows - 1.
    pub by_depth: &'static [Kernel; ROWS_MAX],
}

/// The table for `isa`.
pub(super) fn kernels(isa: Isa) -> Kernels {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => x86::AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => x86::AVX2,
        #[cfg(target_arch = "x86_64")]
        Isa::Emulated16 if Isa::Avx2.is_available() => x86::EMULATED16,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => aarch64::NEON,
        Isa::Emulated16 => EMULATED16,
        _ => PORTABLE,
    }
}

/// Repeats a body for each row of a tile, its number a constant.
macro_rules! each_row {
    ($row:ident of $rows:ident => $body:expr) => {
        each_row!(@ $row, $rows, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $row:ident, $rows:ident, $body:expr, $($number:literal)*) => {
        $({ const $row: usize = $number; if $row < $rows { $body } })*
    };
}

/// The body of every instance.
#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const BY_ROW: bool>(call: &Call) {
    let Call { depth, a, mut b, c, c_stride, columns, from_zero, next_c, mut ahead } = *call;
    let (row_stride, depth_stride) = if BY_ROW { (ROW_STRIDE, 1) } else { (1, ROWS) };
    // Each output's whole chain lives here: two registers a row.
    // SAFETY: the caller is a function with the features.
    let mut sums = [[unsafe { V::zero() }; 2]; ROWS_MAX];
    let whole = columns == 2 * V::LANES;
    // SAFETY: the caller promises that the pointers cover the tile, the panel and C's rows.
    unsafe {
        if !from_zero {
            let (low, high) = split(columns, V::LANES);
            each_row!(ROW of ROWS => {
                let row = c.add(ROW * c_stride);
                if whole {
                    sums[ROW] = [V::load(row), V::load(row.add(V::LANES))];
                } else {
                    sums[ROW][0] = V::load_partial(row, low);
                    if high > 0 {
                        sums[ROW][1] = V::load_partial(row.add(V::LANES), high);
                    }
                }
                prefetch(next_c.wrapping_add(ROW * c_stride));
                prefetch(next_c.wrapping_add(ROW * c_stride + CACHE_LINE));
            });
        }
        let mut a = a;
        macro_rules! one_k {
            () => {
                let b_low = V::load(b);
                let b_high = V::load(b.add(V::LANES));
                each_row!(ROW of ROWS => {
                    let factor = V::splat(*a.add(ROW * row_stride));
                    sums[ROW][0] = factor.fma(b_low, sums[ROW][0]);
                    sums[ROW][1] = factor.fma(b_high, sums[ROW][1]);
                });
                a = a.add(depth_stride);
                b = b.add(2 * V::LANES);
            };
        }
        for _ in 0..depth / AHEAD_STEPS {
            ahead.step();
            one_k!();
            one_k!();
            one_k!();
            one_k!();
        }
        for _ in 0..depth % AHEAD_STEPS {
            one_k!();
        }
        if whole {
            each_row!(ROW of ROWS => {
                let row = c.add(ROW * c_stride);
                sums[ROW][0].store(row);
                sums[ROW][1].store(row.add(V::LANES));
            });
        } else {
            let (low, high) = split(columns, V::LANES);
            each_row!(ROW of ROWS => {
                let row = c.add(ROW * c_stride);
                sums[ROW][0].store_partial(row, low);
                if high > 0 {
                    sums[ROW][1].store_partial(row.add(V::LANES), high);
                }
            });
        }
    }
}

/// Floats of a cache line.
pub(super) const CACHE_LINE: usize = 16;
const _: () = assert!(AHEAD_STEPS == 4, "the kernel's loop is written out");

/// How many of `columns` fall into the first and into the second register.
#[inline(always)]
fn split(columns: usize, lanes: usize) -> (usize, usize) {
    if columns < lanes { (columns, 0) } else { (lanes, columns - lanes) }
}

/// The table of one instance: a function for each number of rows, compiled with the instance's features.
macro_rules! instances {
    ($table:ident, $vector:ty, rows $rows:literal $(, features $features:literal)?) => {
        pub(in crate::gemm) const $table: Kernels = {
            $(#[target_feature(enable = $features)])?
            unsafe fn by_row<const ROWS: usize>(call: &Call) {
                // SAFETY: this function has the features, its caller upholds the rest.
                unsafe { tile::<$vector, ROWS, true>(call) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn by_depth<const ROWS: usize>(call: &Call) {
                // SAFETY: this function has the features, its caller upholds the rest.
                unsafe { tile::<$vector, ROWS, false>(call) }
            }
            Kernels {
                columns: 2 * <$vector as Vector>::LANES,
                rows: $rows,
                by_row: &[
                    by_row::<{ least(1, $rows) }>,
                    by_row::<{ least(2, $rows) }>,
                    by_row::<{ least(3, $rows) }>,
                    by_row::<{ least(4, $rows) }>,
                    by_row::<{ least(5, $rows) }>,
                    by_row::<{ least(6, $rows) }>,
                    by_row::<{ least(7, $rows) }>,
                    by_row::<{ least(8, $rows) }>,
                    by_row::<{ least(9, $rows) }>,
                    by_row::<{ least(10, $rows) }>,
                    by_row::<{ least(11, $rows) }>,
                    by_row::<{ least(12, $rows) }>,
                    by_row::<{ least(13, $rows) }>,
                    by_row::<{ least(14, $rows) }>,
                ],
                by_depth: &[
                    by_depth::<{ least(1, $rows) }>,
                    by_depth::<{ least(2, $rows) }>,
                    by_depth::<{ least(3, $rows) }>,
                    by_depth::<{ least(4, $rows) }>,
                    by_depth::<{ least(5, $rows) }>,
                    by_depth::<{ least(6, $rows) }>,
                    by_depth::<{ least(7, $rows) }>,
                    by_depth::<{ least(8, $rows) }>,
                    by_depth::<{ least(9, $rows) }>,
                    by_depth::<{ least(10, $rows) }>,
                    by_depth::<{ least(11, $rows) }>,
                    by_depth::<{ least(12, $rows) }>,
                    by_depth::<{ least(13, $rows) }>,
                    by_depth::<{ least(14, $rows) }>,
                ],
            }
        };
    };
}

/// Entries beyond an instance's largest tile repeat the largest.
const fn least(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::simd::{Avx2, Avx512};

    instances!(AVX512, Avx512, rows 14, features "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c");
    instances!(AVX2, Avx2, rows 6, features "avx2,fma,f16c");
    instances!(EMULATED16, Array<16>, rows 4, features "avx2,fma,f16c");
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::*;
    use crate::simd::Neon;

    instances!(NEON, Neon, rows 14, features "neon");
}

instances!(EMULATED16, Array<16>, rows 3);
instances!(PORTABLE, Array<4>, rows 4);
