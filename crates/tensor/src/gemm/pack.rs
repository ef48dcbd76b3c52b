//! Copies of operands in the order in which the innermost kernel reads them.
#![allow(unsafe_code)]

use super::block::Step;
use super::matrix::MatRef;
use super::tile::{Ahead, CACHE_LINE, DEPTH_MAX, ROW_STRIDE, ROWS_MAX};
use crate::simd::Vector;
use crate::{Isa, dispatch};
use std::ops::Range;

/// Floats from one packed tile of A to the next: the largest tile and one register more, in whole cache lines.
pub(super) const SLOT: usize = ROWS_MAX * ROW_STRIDE + 16;

/// Which part of B, and how wide its panels are.
pub(super) struct Part {
    pub depth: Range<usize>,
    pub columns: Range<usize>,
    pub width: usize,
}

/// Packs B[`depth`, `columns`] into panels of `width` columns, each `[k][width]`, `panel_stride` floats apart; what a
/// last panel has beyond the last column is zero.
pub(super) fn pack_b(isa: Isa, b: MatRef<'_>, part: &Part, panel_stride: usize, to: &mut [f32]) {
    let Part { ref depth, ref columns, width } = *part;
    let panels = columns.len().div_ceil(width);
    let panel_length = depth.len() * width;
    assert!(panels == 0 || to.len() >= (panels - 1) * panel_stride + panel_length, "packed panels have room");
    if b.column_stride == 1 {
        let from = b.part(depth.clone(), columns.clone());
        // SAFETY: the Isa comes from an Exec; `to` holds a line of `width` for each row of each panel.
        unsafe { copy_rows(isa, from, to, width, panel_stride) };
        return;
    }
    for (panel, first) in columns.clone().step_by(width).enumerate() {
        let columns = first..columns.end.min(first + width);
        let to = &mut to[panel * panel_stride..][..panel_length];
        transpose(isa, b.t().part(columns, depth.clone()), to, width);
    }
}

/// Packs A for the tiles and the values of k of a step, `SLOT` floats apart: `[row][ROW_STRIDE]` where A is row-major,
/// else `[k][rows of the tile]`. A slot has sixteen floats more than that.
pub(super) fn pack_a(isa: Isa, a: MatRef<'_>, step: &Step, to: &mut [f32]) {
    let tiles = step.tiles();
    assert!(to.len() >= tiles.len() * SLOT && step.k.len() <= DEPTH_MAX, "tiles of A have room");
    assert!(tiles.iter().all(|tile| tile.len() <= ROWS_MAX), "a tile has no more rows than its slot");
    if a.column_stride == 1 {
        for (tile, to) in tiles.iter().zip(to.chunks_exact_mut(SLOT)) {
            // SAFETY: the Isa comes from an Exec; a slot has room for every row and one register more.
            unsafe { copy_lines(isa, a.part(tile.clone(), step.k.clone()), to) };
        }
    } else {
        let from = a.part(step.rows(), step.k.clone()).t();
        // SAFETY: the Isa comes from an Exec; the tiles follow each other within the part, each with a slot.
        unsafe { scatter_lines(isa, from, tiles, to) };
    }
}

dispatch! {
    /// Copies the rows of a row-major matrix `ROW_STRIDE` floats apart, in ascending order. May write up to a register's
    /// width beyond each row.
    fn copy_lines(from: MatRef<'_>, to: &mut [f32]) = copy_lines_generic;
}

#[inline(always)]
unsafe fn copy_lines_generic<V: Vector>(from: MatRef<'_>, to: &mut [f32]) {
    for row in 0..from.rows {
        // SAFETY: the part lies within its data; the caller left room behind the last row.
        unsafe {
            let source = from.data.as_ptr().add(row * from.row_stride);
            copy_line::<V>(source, to.as_mut_ptr().add(row * ROW_STRIDE), from.columns);
        }
    }
}

dispatch! {
    /// Cuts each row of a row-major matrix among tiles, whose columns follow each other from the first one's start: row
    /// after row, since rows whose distance is a power of two would push each other out of the caches before the
    /// next tile came for its share of a cache line.
    fn scatter_lines(from: MatRef<'_>, tiles: &[Range<usize>], to: &mut [f32]) = scatter_lines_generic;
}

#[inline(always)]
unsafe fn scatter_lines_generic<V: Vector>(from: MatRef<'_>, tiles: &[Range<usize>], to: &mut [f32]) {
    for row in 0..from.rows {
        let mut source = from.data.as_ptr().wrapping_add(row * from.row_stride);
        let mut slot = to.as_mut_ptr();
        for tile in tiles {
            let count = tile.len();
            // SAFETY: the tiles' columns lie within the row; a slot has room for a tile and one register more.
            unsafe { copy_line::<V>(source, slot.wrapping_add(row * count), count) };
            source = source.wrapping_add(count);
            slot = slot.wrapping_add(SLOT);
        }
    }
}

/// Copies `count` floats, and may write up to a register's width beyond them.
#[inline(always)]
unsafe fn copy_line<V: Vector>(source: *const f32, target: *mut f32, count: usize) {
    let mut i = 0;
    // SAFETY: the caller has the features, `count` floats to read and a register more to write.
    unsafe {
        while i + V::LANES <= count {
            V::load(source.add(i)).store(target.add(i));
            i += V::LANES;
        }
        if i < count {
            V::load_partial(source.add(i), count - i).store(target.add(i));
        }
    }
}

dispatch! {
    /// Cuts the rows of a row-major matrix into pieces of `width`, a multiple of the lanes, the last one zero-filled,
    /// and hands them to panels in turn. Row after row, since memory likes to be read in order.
    fn copy_rows(from: MatRef<'_>, to: &mut [f32], width: usize, panel_stride: usize) = copy_rows_generic;
}

#[inline(always)]
unsafe fn copy_rows_generic<V: Vector>(from: MatRef<'_>, to: &mut [f32], width: usize, panel_stride: usize) {
    for row in 0..from.rows {
        let source = from.data.as_ptr().wrapping_add(row * from.row_stride);
        let mut target = to.as_mut_ptr().wrapping_add(row * width);
        let mut first = 0;
        while first < from.columns {
            let mut i = 0;
            while i < width {
                let left = from.columns.saturating_sub(first + i);
                // SAFETY: the part lies within its data; `to` holds a line of `width` for each row of each panel.
                unsafe {
                    let at = source.wrapping_add(first + i);
                    let value = if left >= V::LANES { V::load(at) } else { V::load_partial(at, left) };
                    value.store(target.wrapping_add(i));
                }
                i += V::LANES;
            }
            first += width;
            target = target.wrapping_add(panel_stride);
        }
    }
}

/// The transpose of a row-major matrix: `to[column][row]`, lines of `width` floats, zero beyond the rows.
pub(crate) fn transpose(isa: Isa, from: MatRef<'_>, to: &mut [f32], width: usize) {
    let (mut row, columns) = (0, from.columns);
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx512 | Isa::Avx2) {
        assert!(to.len() >= columns * width && from.rows <= width);
        while row + 8 <= from.rows {
            let mut column = 0;
            while column + 8 <= columns {
                let source = &from.data[row * from.row_stride + column..];
                let target = &mut to[column * width + row..];
                // SAFETY: both have AVX2; eight rows of eight lie within the source, eight lines within the target.
                unsafe { transpose_8x8(source.as_ptr(), from.row_stride, target.as_mut_ptr(), width) };
                column += 8;
            }
            transpose_scalar(from, row..row + 8, column, to, width);
            row += 8;
        }
    }
    let _ = isa;
    transpose_scalar(from, row..from.rows, 0, to, width);
    if from.rows < width {
        to.chunks_exact_mut(width).take(columns).for_each(|line| line[from.rows..].fill(0.0));
    }
    row = from.rows;
    debug_assert!(row <= width);
}

fn transpose_scalar(from: MatRef<'_>, rows: Range<usize>, first: usize, to: &mut [f32], width: usize) {
    if rows.is_empty() {
        return;
    }
    for (column, line) in (first..from.columns).zip(to.chunks_exact_mut(width).skip(first)) {
        for row in rows.clone() {
            line[row] = from.data[row * from.row_stride + column];
        }
    }
}

/// Transposes a block of eight rows of eight.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_8x8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: the caller promises that eight rows of eight lie within each.
    unsafe {
        let row = |i: usize| from.add(i * from_stride);
        let (r0, r1) = (_mm256_loadu_ps(row(0)), _mm256_loadu_ps(row(1)));
        let (r2, r3) = (_mm256_loadu_ps(row(2)), _mm256_loadu_ps(row(3)));
        let (r4, r5) = (_mm256_loadu_ps(row(4)), _mm256_loadu_ps(row(5)));
        let (r6, r7) = (_mm256_loadu_ps(row(6)), _mm256_loadu_ps(row(7)));
        // Pairs of rows interleaved, then fours, then the halves exchanged.
        let (p0, p1) = (_mm256_unpacklo_ps(r0, r1), _mm256_unpackhi_ps(r0, r1));
        let (p2, p3) = (_mm256_unpacklo_ps(r2, r3), _mm256_unpackhi_ps(r2, r3));
        let (p4, p5) = (_mm256_unpacklo_ps(r4, r5), _mm256_unpackhi_ps(r4, r5));
        let (p6, p7) = (_mm256_unpacklo_ps(r6, r7), _mm256_unpackhi_ps(r6, r7));
        let (q0, q1) = (_mm256_shuffle_ps::<0x44>(p0, p2), _mm256_shuffle_ps::<0xEE>(p0, p2));
        let (q2, q3) = (_mm256_shuffle_ps::<0x44>(p1, p3), _mm256_shuffle_ps::<0xEE>(p1, p3));
        let (q4, q5) = (_mm256_shuffle_ps::<0x44>(p4, p6), _mm256_shuffle_ps::<0xEE>(p4, p6));
        let (q6, q7) = (_mm256_shuffle_ps::<0x44>(p5, p7), _mm256_shuffle_ps::<0xEE>(p5, p7));
        _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x20>(q0, q4));
        _mm256_storeu_ps(to.add(to_stride), _mm256_permute2f128_ps::<0x20>(q1, q5));
        _mm256_storeu_ps(to.add(2 * to_stride), _mm256_permute2f128_ps::<0x20>(q2, q6));
        _mm256_storeu_ps(to.add(3 * to_stride), _mm256_permute2f128_ps::<0x20>(q3, q7));
        _mm256_storeu_ps(to.add(4 * to_stride), _mm256_permute2f128_ps::<0x31>(q0, q4));
        _mm256_storeu_ps(to.add(5 * to_stride), _mm256_permute2f128_ps::<0x31>(q1, q5));
        _mm256_storeu_ps(to.add(6 * to_stride), _mm256_permute2f128_ps::<0x31>(q2, q6));
        _mm256_storeu_ps(to.add(7 * to_stride), _mm256_permute2f128_ps::<0x31>(q3, q7));
    }
}

/// A part of a matrix that the caches should fetch, a few lines at a time, while something else is computed.
pub(super) struct Prefetch {
    from: *const f32,
    stride: usize,
    rows: usize,
    /// Cache lines of each row.
    row_lines: usize,
    /// The next line to fetch.
    row: usize,
    line: usize,
}

impl Prefetch {
    /// The lines of a matrix, as they lie in memory; nothing is asked for yet.
    pub fn new(part: MatRef<'_>) -> Prefetch {
        let part = if part.column_stride == 1 { part } else { part.t() };
        if part.rows == 0 || part.columns == 0 {
            return Prefetch::none();
        }
        // What a part shares of its first cache line, the part before it has just touched.
        let offset = part.data.as_ptr().addr() / size_of::<f32>() % CACHE_LINE;
        let shared = if offset == 0 { 0 } else { CACHE_LINE - offset };
        if shared >= part.columns {
            return Prefetch::none();
        }
        Prefetch {
            from: part.data.as_ptr().wrapping_add(shared),
            stride: part.row_stride,
            rows: part.rows,
            row_lines: (part.columns - shared).div_ceil(CACHE_LINE),
            row: 0,
            line: 0,
        }
    }

    /// Nothing.
    pub fn none() -> Prefetch {
        Prefetch { from: std::ptr::null(), stride: 0, rows: 0, row_lines: 0, row: 0, line: 0 }
    }

    /// Cache lines in all.
    pub fn total(&self) -> usize {
        self.rows * self.row_lines
    }

    /// The next lines, at most `count`; none when all have been taken.
    pub fn take(&mut self, count: usize) -> Option<Ahead> {
        if self.row >= self.rows {
            return None;
        }
        let ahead = Ahead {
            at: self.from.wrapping_add(self.row * self.stride + self.line * CACHE_LINE),
            left: self.row_lines - self.line,
            row_lines: self.row_lines,
            skip: self.stride.wrapping_sub((self.row_lines - 1) * CACHE_LINE),
            count: count.min((self.rows - self.row) * self.row_lines - self.line),
        };
        self.line += ahead.count;
        while self.line >= self.row_lines {
            self.line -= self.row_lines;
            self.row += 1;
        }
        Some(ahead)
    }
}
