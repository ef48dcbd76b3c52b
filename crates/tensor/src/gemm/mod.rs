//! Matrix products over slices: C = A · B or C += A · B in every transposition, on all threads of a pool.
//!
//! Every output is one chain of fused multiply-adds over ascending k that starts at 0 (or at what C holds) and is
//! continued from block to block, so a result has the same bits on every instruction set, with any number of threads,
//! in any tiling, whatever other rows are computed along with it. [`reference`] says it in three loops.
//!
//! The layout follows Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): B packed in
//! panels that stay in the second-level cache, A in tiles that stay in the first, the sums in registers.
#![allow(unsafe_code)]

pub mod bench;
mod matrix;
mod pack;
mod packed;
pub mod reference;
mod split;
#[cfg(test)]
mod tests;
mod tile;

pub use matrix::{Into, MatMut, MatRef};
pub use packed::{PackedMatrix, gemm_packed};

use crate::Exec;
use pack::{Part, Prefetch, pack_a, pack_b};
use split::{Grid, Work, share};
use std::ops::Range;
use tile::{Call, DEPTH_MAX, Kernels, ROW_STRIDE, ROWS_MAX, kernels};

/// Columns of B that are packed at once: with `DEPTH_MAX` rows half of a one-mebibyte second-level cache.
const COLUMNS_MAX: usize = 512;
/// Floats of scratch for each rectangle in work: a block of B and a tile of A, and more, so that it gets huge pages.
const SCRATCH_LENGTH: usize = (2 << 20) / size_of::<f32>();
const _: () = assert!(DEPTH_MAX * COLUMNS_MAX + ROWS_MAX * ROW_STRIDE + 16 <= SCRATCH_LENGTH);

/// C = A · B, or C += A · B. (M, K) · (K, N) → (M, N).
///
/// # Panics
/// The shapes do not fit each other.
pub fn gemm(exec: Exec<'_>, a: MatRef<'_>, b: MatRef<'_>, c: MatMut<'_>, into: Into) {
    assert!(
        a.columns == b.rows && a.rows == c.rows && b.columns == c.columns,
        "a product of {} × {} and {} × {} does not fit {} × {}",
        a.rows,
        a.columns,
        b.rows,
        b.columns,
        c.rows,
        c.columns
    );
    multiply(exec, a, Operand::Plain(b), c, into);
}

/// B as the caller has it.
#[derive(Clone, Copy)]
enum Operand<'a> {
    Plain(MatRef<'a>),
    /// All of K for each panel of the kernel's width, panel after panel.
    Packed(&'a [f32]),
}

/// What all rectangles of one product share.
struct Job<'a> {
    exec: Exec<'a>,
    kernels: Kernels,
    a: MatRef<'a>,
    b: Operand<'a>,
    c: *mut f32,
    c_stride: usize,
    into: Into,
}

// SAFETY: `c` is written through disjoint rectangles only, one owner each.
unsafe impl Sync for Job<'_> {}

fn multiply(exec: Exec<'_>, a: MatRef<'_>, b: Operand<'_>, c: MatMut<'_>, into: Into) {
    if c.rows == 0 || c.columns == 0 {
        return;
    }
    if a.columns == 0 {
        if into == Into::Overwrite {
            c.data.chunks_mut(c.row_stride).take(c.rows).for_each(|row| row[..c.columns].fill(0.0));
        }
        return;
    }
    let kernels = kernels(exec.isa);
    let work = Work {
        rows: c.rows,
        columns: c.columns,
        tile: (kernels.rows, kernels.columns),
        threads: exec.pool.threads(),
        packs_b: matches!(b, Operand::Plain(_)),
    };
    let grid = Grid::choose(&work);
    let job = Job { exec, kernels, a, b, c: c.data.as_mut_ptr(), c_stride: c.row_stride, into };
    exec.pool.run(grid.len(), &|task, _| {
        let (rows, columns) = grid.rectangle(task, &work);
        job.rectangle(rows, columns);
    });
}

impl Job<'_> {
    /// Computes one rectangle of C.
    fn rectangle(&self, rows: Range<usize>, columns: Range<usize>) {
        let depth = self.a.columns;
        let blocks = depth.div_ceil(DEPTH_MAX);
        let mut scratch = self.exec.pool.scratch().take(SCRATCH_LENGTH);
        let (b_block, a_tile) = scratch.split_at_mut(DEPTH_MAX * COLUMNS_MAX);
        let width = self.kernels.columns;
        for first in columns.clone().step_by(COLUMNS_MAX) {
            let columns = first..columns.end.min(first + COLUMNS_MAX);
            for index in 0..blocks {
                let k = share(depth, 1, index, blocks);
                let next_k = if index + 1 < blocks { share(depth, 1, index + 1, blocks) } else { 0..0 };
                let (b, panel_stride) = match self.b {
                    Operand::Plain(b) => {
                        let part = Part { depth: k.clone(), columns: columns.clone(), width };
                        pack_b(self.exec.isa, b, &part, k.len() * width, b_block);
                        (&*b_block, k.len() * width)
                    }
                    Operand::Packed(panels) => {
                        (&panels[first / width * depth * width + k.start * width..], depth * width)
                    }
                };
                let (rows, columns) = (rows.clone(), columns.clone());
                self.block(Block { rows, columns, k, next_k, b, panel_stride }, a_tile);
            }
        }
    }

    /// Adds the products of one block of k to a rectangle, tile after tile.
    fn block(&self, block: Block<'_>, a_tile: &mut [f32]) {
        let Block { rows, columns, k, next_k, b, panel_stride } = block;
        let table = if self.a.column_stride == 1 { self.kernels.by_row } else { self.kernels.by_depth };
        let from_zero = k.start == 0 && self.into == Into::Overwrite;
        let width = self.kernels.columns;
        let tiles = rows.len().div_ceil(self.kernels.rows);
        // Tiles of even sizes: a last one of few rows would wait for its own sums.
        let tile_rows = |tile: usize| {
            let part = share(rows.len(), 1, tile, tiles);
            rows.start + part.start..rows.start + part.end
        };
        let panels = columns.len().div_ceil(width);
        let mut next_b = match self.b {
            Operand::Plain(b) => Prefetch::new(b, next_k.clone(), columns.clone()),
            Operand::Packed(_) => Prefetch::none(),
        };
        let b_lines = next_b.total().div_ceil(tiles * panels);
        for tile in 0..tiles {
            let tile_at = tile_rows(tile);
            pack_a(self.exec.isa, self.a, tile_at.clone(), k.clone(), a_tile);
            let mut next_a = if tile + 1 < tiles {
                Prefetch::new(self.a, tile_rows(tile + 1), k.clone())
            } else {
                Prefetch::new(self.a, tile_rows(0), next_k.clone())
            };
            let a_lines = next_a.total().div_ceil(panels);
            let kernel = table[tile_at.len() - 1];
            for (panel, first) in columns.clone().step_by(width).enumerate() {
                next_a.advance(a_lines);
                next_b.advance(b_lines);
                let b = &b[panel * panel_stride..][..k.len() * width];
                let (next_row, next_column) = if first + width < columns.end {
                    (tile_at.start, first + width)
                } else {
                    (tile_at.end, columns.start)
                };
                // SAFETY: the Isa of an Exec is available; the tile and the panel are packed for `k.len()` values, and
                // the outputs lie within this rectangle of C, which nobody else touches.
                unsafe {
                    kernel(&Call {
                        depth: k.len(),
                        a: a_tile.as_ptr(),
                        b: b.as_ptr(),
                        c: self.c.add(tile_at.start * self.c_stride + first),
                        c_stride: self.c_stride,
                        columns: width.min(columns.end - first),
                        from_zero,
                        next_c: self.c.wrapping_add(next_row * self.c_stride + next_column),
                    });
                }
            }
        }
    }
}

/// A rectangle of C, a block of k and the one after it, and B packed for the block: panels `panel_stride` floats apart.
struct Block<'a> {
    rows: Range<usize>,
    columns: Range<usize>,
    k: Range<usize>,
    next_k: Range<usize>,
    b: &'a [f32],
    panel_stride: usize,
}
