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
mod block;
mod gemv;
mod matrix;
mod pack;
mod packed;
mod panels;
pub mod reference;
mod split;
mod symmetric;
#[cfg(test)]
mod tests;
mod tile;

pub use matrix::{Into, MatMut, MatRef};
pub(crate) use pack::transpose;
pub use packed::{HalfMatrix, PackedMatrix, PackedRef, gemm_packed, pack_half, packed_bytes};
pub use panels::PanelType;
pub(crate) use panels::{Element, F16};
pub use symmetric::gemm_symmetric;

use crate::Exec;
use block::{B_LENGTH_MAX, Block, Blocks, GROUP_MAX};
use pack::{Part, Prefetch, SLOT, pack_a, pack_b};
use panels::{Panels, widen_bf16, widen_f16};
use split::{Grid, Work};
use std::ops::Range;
use tile::{AHEAD_STEPS, Ahead, Call, Kernel, Kernels, kernels};

/// Floats of scratch for each rectangle in work: a block of B and tiles of A, and more, so that it gets huge pages.
const SCRATCH_LENGTH: usize = (2 << 20) / size_of::<f32>();
const _: () = assert!(B_LENGTH_MAX + GROUP_MAX * SLOT <= SCRATCH_LENGTH);

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
    /// In panels of the kernel's width.
    Packed(Panels<'a>),
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
    if let Operand::Packed(panels) = b
        && c.rows <= gemv::ROWS_MAX
        && a.column_stride == 1
    {
        return gemv::multiply(exec, a, (panels, kernels.columns), c, into);
    }
    let work = Work {
        rows: c.rows,
        columns: c.columns,
        tile: (kernels.rows, kernels.columns),
        threads: exec.pool.threads(),
        packs_b: !matches!(b, Operand::Packed(Panels::F32(_))),
    };
    let grid = Grid::choose(&work);
    let job = Job { exec, kernels, a, b, c: c.data.as_mut_ptr(), c_stride: c.row_stride, into };
    exec.pool.run(grid.len(), &|task, _| {
        let (rows, columns) = grid.rectangle(task, &work);
        job.rectangle(rows, columns);
    });
}

impl Job<'_> {
    /// Computes one rectangle of C, a block after the other.
    fn rectangle(&self, rows: Range<usize>, columns: Range<usize>) {
        let mut scratch = self.exec.pool.scratch().take(SCRATCH_LENGTH);
        let (b_block, a_tiles) = scratch.split_at_mut(B_LENGTH_MAX);
        let by_row = self.a.column_stride == 1;
        let tile = (self.kernels.rows, self.kernels.columns);
        let mut blocks = Blocks::new((rows, columns), self.a.columns, tile, by_row).peekable();
        while let Some(block) = blocks.next() {
            self.block(&block, blocks.peek(), b_block, a_tiles);
        }
    }

    /// Adds the products of one block of k to a rectangle, a group of tiles after the other; a group's part of C stays in
    /// the caches while its pieces of k pass. What is packed next, the kernel asks the caches for meanwhile.
    fn block(&self, block: &Block, next: Option<&Block>, b_block: &mut [f32], a_tiles: &mut [f32]) {
        let (depth, width) = (self.a.columns, self.kernels.columns);
        let (b, panel_stride) = match self.b {
            Operand::Plain(b) => {
                let part = Part { depth: block.k.clone(), columns: block.columns.clone(), width };
                pack_b(self.exec.isa, b, &part, block.k.len() * width, b_block);
                (&*b_block, block.k.len() * width)
            }
            Operand::Packed(Panels::F32(panels)) => (
                &panels[block.columns.start / width * depth * width + block.k.start * width..],
                depth * width,
            ),
            Operand::Packed(halves) => {
                self.widen(halves, block, b_block);
                (&*b_block, block.k.len() * width)
            }
        };
        let mut next_b = match (self.b, next) {
            (Operand::Plain(b), Some(next)) => Prefetch::new(b.part(next.k.clone(), next.columns.clone())),
            _ => Prefetch::none(),
        };
        // Twice the even share: the calls that ask for A's lines leave B's to the others.
        let b_lines = (2 * next_b.total()).div_ceil(block.calls(width));
        for index in 0..block.steps() {
            let step = block.step(index);
            pack_a(self.exec.isa, self.a, &step, a_tiles);
            let next = match index + 1 {
                next if next < block.steps() => Some(block.step(next)),
                _ => next.map(|next| next.step(0)),
            };
            let mut next_a =
                next.map_or(Prefetch::none(), |next| Prefetch::new(self.a.part(next.rows(), next.k.clone())));
            let b = &b[(step.k.start - block.k.start) * width..];
            for (rows, a) in step.tiles().iter().zip(a_tiles.chunks_exact(SLOT)) {
                for (panel, first) in block.columns.clone().step_by(width).enumerate() {
                    let b = &b[panel * panel_stride..][..step.k.len() * width];
                    let ahead = next_a.take(step.k.len() / AHEAD_STEPS).or_else(|| next_b.take(b_lines));
                    let packed = Packed { a, b, ahead: ahead.unwrap_or(Ahead::nothing(a.as_ptr())) };
                    self.tile(block, (rows.clone(), first), step.k.clone(), packed);
                }
            }
        }
    }

    /// Writes the block of panels of halves as f32, as `pack_b` would.
    fn widen(&self, halves: Panels<'_>, block: &Block, to: &mut [f32]) {
        let (depth, width) = (self.a.columns, self.kernels.columns);
        let length = block.k.len() * width;
        let panels = block.columns.clone().step_by(width).map(|first| first / width);
        for (panel, to) in panels.zip(to.chunks_exact_mut(length)) {
            let first = (panel * depth + block.k.start) * width;
            // SAFETY: the Isa of an Exec is available.
            unsafe {
                match halves {
                    Panels::F32(from) => to.copy_from_slice(&from[first..][..length]),
                    Panels::F16(from) => widen_f16(self.exec.isa, &from[first..][..length], to),
                    Panels::Bf16(from) => widen_bf16(self.exec.isa, &from[first..][..length], to),
                }
            }
        }
    }

    /// Runs the kernel for one tile: `at` its rows and first column, with A and B packed for `k`.
    fn tile(&self, block: &Block, at: (Range<usize>, usize), k: Range<usize>, packed: Packed<'_>) {
        let (rows, first) = at;
        let width = self.kernels.columns;
        let (next_row, next_column) = match first + width {
            next if next < block.columns.end => (rows.start, next),
            _ => (rows.end, block.columns.start),
        };
        let call = Call {
            depth: k.len(),
            a: packed.a.as_ptr(),
            b: packed.b.as_ptr(),
            c: self.output(rows.start, first),
            c_stride: self.c_stride,
            columns: width.min(block.columns.end - first),
            from_zero: k.start == 0 && self.into == Into::Overwrite,
            next_c: self.output(next_row, next_column),
            ahead: packed.ahead,
        };
        // SAFETY: the Isa of an Exec is available; the tile and the panel are packed for `k.len()` values, and the outputs
        // lie within this rectangle of C, which nobody else touches.
        unsafe { self.kernel(rows.len())(&call) };
    }

    /// The kernel for a tile of `rows` rows.
    fn kernel(&self, rows: usize) -> Kernel {
        let table = if self.a.column_stride == 1 { self.kernels.by_row } else { self.kernels.by_depth };
        table[rows - 1]
    }

    /// The address of an output.
    fn output(&self, row: usize, column: usize) -> *mut f32 {
        self.c.wrapping_add(row * self.c_stride + column)
    }
}

/// A tile of A and a panel of B for one call, and what to fetch meanwhile.
struct Packed<'a> {
    a: &'a [f32],
    b: &'a [f32],
    ahead: Ahead,
}
