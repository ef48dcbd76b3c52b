//! Copies of operands in the order in which the innermost kernel reads them.
#![allow(unsafe_code)]

use super::matrix::MatRef;
use super::tile::ROW_STRIDE;
use crate::Isa;
use std::ops::Range;

/// Packs B[`depth`, `columns`] into panels of `width` columns, each `[k][width]`, `panel_stride` floats apart; what a
/// last panel has beyond the last column is zero.
pub(super) fn pack_b(isa: Isa, b: MatRef<'_>, part: &Part, panel_stride: usize, to: &mut [f32]) {
    let width = part.width;
    for (panel, first) in part.columns.clone().step_by(width).enumerate() {
        let columns = width.min(part.columns.end - first);
        let to = &mut to[panel * panel_stride..][..part.depth.len() * width];
        if b.column_stride == 1 {
            copy_rows(b, part.depth.clone(), first..first + columns, to, width);
        } else {
            transpose(isa, b.t(), first..first + columns, part.depth.clone(), to, width);
        }
    }
}

/// Which part of B, and how wide its panels are.
pub(super) struct Part {
    pub depth: Range<usize>,
    pub columns: Range<usize>,
    pub width: usize,
}

/// Packs A[`rows`, `depth`] for one tile: `[row][ROW_STRIDE]` where A is row-major, else `[k][rows]`.
pub(super) fn pack_a(a: MatRef<'_>, rows: Range<usize>, depth: Range<usize>, to: &mut [f32]) {
    let count = rows.len();
    if a.column_stride == 1 {
        for (i, row) in rows.enumerate() {
            let from = &a.data[row * a.row_stride + depth.start..][..depth.len()];
            to[i * ROW_STRIDE..][..depth.len()].copy_from_slice(from);
        }
    } else {
        let to = &mut to[..count * depth.len()];
        for (k, to) in depth.zip(to.chunks_exact_mut(count)) {
            let from = &a.data[k * a.column_stride + rows.start..][..count];
            to.copy_from_slice(from);
        }
    }
}

/// Rows of a row-major matrix side by side, each `columns` long and zero-filled to `width`.
fn copy_rows(from: MatRef<'_>, rows: Range<usize>, columns: Range<usize>, to: &mut [f32], width: usize) {
    for (row, to) in rows.zip(to.chunks_exact_mut(width)) {
        let from = &from.data[row * from.row_stride + columns.start..][..columns.len()];
        to[..columns.len()].copy_from_slice(from);
        to[columns.len()..].fill(0.0);
    }
}

/// The transpose of a part of a row-major matrix: `to[c][r]`, `width` ≥ rows floats a line, zero beyond the rows.
fn transpose(
    isa: Isa,
    from: MatRef<'_>,
    rows: Range<usize>,
    columns: Range<usize>,
    to: &mut [f32],
    width: usize,
) {
    let _ = isa;
    for (c, to) in columns.zip(to.chunks_exact_mut(width)) {
        for (i, value) in to.iter_mut().enumerate() {
            *value = if i < rows.len() { from.data[(rows.start + i) * from.row_stride + c] } else { 0.0 };
        }
    }
}
