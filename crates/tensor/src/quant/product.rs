//! Products of quantised activations and packed weights: how the work is cut up. Must not know any format.
#![allow(unsafe_code)]

use super::instances::{Instance, Kernels};
use super::layout::PANEL;
use super::matrix::QuantMatrix;
use super::rows::{QuantRows, RowTile, TILE_ROWS};
use super::source::BLOCK;
use super::tile::{Call, Panels, Tile};
use crate::gemm::{Into, MatMut};
use crate::{Exec, cache};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Up to this many rows the kernels read packed weights; above it panels are unpacked into the caches first.
const DIRECT_ROWS: usize = TILE_ROWS;
/// Panels that are unpacked and multiplied together: 32 outputs.
const PAIR: usize = 2;
/// Outputs of a pair.
const WIDTH: usize = PAIR * PANEL;
/// Rows that pass over an unpacked pair of panels; their sums lie in the second-level cache.
const CHUNK_ROWS: usize = 86 * TILE_ROWS;
/// The most stretches into which the tasks of a product are divided.
const STRETCHES_MAX: usize = 64;
/// Bytes of packed weights in a task of a few rows: enough to make the task's start cheap.
const TASK_BYTES: usize = 96 << 10;

/// C = X · Wᵀ, or C += X · Wᵀ: (rows, inputs) · (outputs, inputs)ᵀ → (rows, outputs). The outputs of several matrices of
/// the same inputs lie side by side in C, in the order of `weights`; they may differ in type. Every output is one chain
/// over ascending k, as [`super::reference::multiply`] states it: it depends neither on the other rows nor on threads or
/// instruction sets.
///
/// # Panics
/// The shapes do not fit each other.
pub fn multiply(exec: Exec<'_>, x: &mut QuantRows, weights: &[QuantMatrix<'_>], c: MatMut<'_>, into: Into) {
    multiply_with(exec, Instance::of(exec.isa), x, weights, (c, into));
}

pub(super) fn multiply_with(
    exec: Exec<'_>,
    instance: Instance,
    x: &mut QuantRows,
    weights: &[QuantMatrix<'_>],
    output: (MatMut<'_>, Into),
) {
    let (c, into) = output;
    let outputs: usize = weights.iter().map(|matrix| matrix.rows).sum();
    let fits = weights.iter().all(|matrix| matrix.columns == x.columns());
    assert!(
        fits && x.rows() == c.rows && outputs == c.columns,
        "a product of {} × {} with {outputs} outputs does not fit {} × {}",
        x.rows(),
        x.columns(),
        c.rows,
        c.columns
    );
    if c.rows == 0 || outputs == 0 {
        return;
    }
    if x.rows() > DIRECT_ROWS && weights.iter().any(|matrix| instance.kernels(matrix.kind).words) {
        x.widen(exec);
    }
    let job = Job { exec, instance, x, c: c.data.as_mut_ptr(), c_stride: c.row_stride, into };
    let tasks: usize = weights.iter().map(|matrix| job.tasks(matrix)).sum();
    // A thread has a stretch of its own, so that it goes on where it was, with what it has asked the caches for; then it helps
    // with the others'.
    let stretches = exec.pool.threads().min(tasks).clamp(1, STRETCHES_MAX);
    let start = |stretch: usize| stretch * tasks / stretches;
    let taken = [const { AtomicUsize::new(0) }; STRETCHES_MAX];
    exec.pool.run(tasks, &|_, thread| {
        // As many calls as tasks: each finds one.
        let mut task = (0..stretches)
            .map(|i| (thread + i) % stretches)
            .find_map(|stretch| {
                let task = start(stretch) + taken[stretch].fetch_add(1, Ordering::Relaxed);
                (task < start(stretch + 1)).then_some(task)
            })
            .expect("no more calls than tasks");
        let mut column = 0;
        for matrix in weights {
            match task.checked_sub(job.tasks(matrix)) {
                Some(rest) => (task, column) = (rest, column + matrix.rows),
                None => return job.part(matrix, task, column),
            }
        }
        unreachable!("every task belongs to a matrix")
    });
}

/// What all tasks of one call share.
struct Job<'a> {
    exec: Exec<'a>,
    instance: Instance,
    x: &'a QuantRows,
    c: *mut f32,
    c_stride: usize,
    into: Into,
}

// SAFETY: `c` is written through disjoint columns only, one owner each.
unsafe impl Sync for Job<'_> {}

impl Job<'_> {
    /// Panels of a task: a few for many rows, so that threads finish together, a stretch of memory for few rows.
    fn grain(&self, matrix: &QuantMatrix<'_>) -> usize {
        if self.x.rows() > DIRECT_ROWS {
            return PAIR;
        }
        (TASK_BYTES / matrix.sections.bytes.max(1)).next_multiple_of(4).max(4)
    }

    fn tasks(&self, matrix: &QuantMatrix<'_>) -> usize {
        matrix.rows.div_ceil(PANEL).div_ceil(self.grain(matrix))
    }

    /// Task number `task` of a matrix whose outputs begin at column `column` of C.
    fn part(&self, matrix: &QuantMatrix<'_>, task: usize, column: usize) {
        let grain = self.grain(matrix);
        let panels = task * grain..((task + 1) * grain).min(matrix.rows.div_ceil(PANEL));
        let part = Part { job: self, matrix, kernels: self.instance.kernels(matrix.kind), column };
        if self.x.rows() > DIRECT_ROWS { part.unpacked(panels) } else { part.direct(panels) }
    }
}

/// One matrix in a job.
struct Part<'a> {
    job: &'a Job<'a>,
    matrix: &'a QuantMatrix<'a>,
    kernels: Kernels,
    /// The matrix's first column in C.
    column: usize,
}

impl Part<'_> {
    /// Packed weights straight into registers, all of k in one go.
    fn direct(&self, panels: Range<usize>) {
        let x = self.job.x.tile(0);
        let entries = 0..x.starts[self.job.x.blocks()] as usize;
        let mut row = 0;
        while row < x.rows {
            let tile = largest(self.kernels.direct, x.rows - row);
            for panel in panels.clone().step_by(tile.panels) {
                let weights = self.packed(panel..(panel + tile.panels).min(panels.end));
                self.direct_tile(&tile, call(&x, false, row, entries.clone(), weights), (row, panel));
            }
            row += tile.rows;
        }
    }

    /// Runs a kernel for the outputs from `at` (row, panel) on; where they go beyond the matrix, by way of a buffer.
    fn direct_tile(&self, tile: &Tile, call: Call, at: (usize, usize)) {
        let (row, panel) = at;
        let (width, columns) = (tile.panels * PANEL, self.columns(panel, tile.panels));
        let (c, accumulate) = (self.output(row, panel), self.job.into == Into::Accumulate);
        let (to, to_stride) = (c, self.job.c_stride);
        if columns == width {
            let from = if accumulate { c.cast_const() } else { std::ptr::null() };
            // SAFETY: the instance is available; the operands are whole, and nobody else touches these outputs.
            return unsafe { (tile.function)(&Call { from, from_stride: to_stride, to, to_stride, ..call }) };
        }
        let mut buffer = [0.0; DIRECT_ROWS * 4 * PANEL];
        // SAFETY: as above; the buffer holds the largest direct tile, and C has `columns` columns from here.
        unsafe {
            if accumulate {
                copy((c, to_stride), (buffer.as_mut_ptr(), width), (tile.rows, columns));
            }
            let (from, to) = (buffer.as_ptr(), buffer.as_mut_ptr());
            (tile.function)(&Call { from, from_stride: width, to, to_stride: width, ..call });
            copy((buffer.as_ptr(), width), (c, to_stride), (tile.rows, columns));
        }
    }

    /// Unpacks a pair of panels, some blocks of k at a time, and passes all rows over them.
    fn unpacked(&self, panels: Range<usize>) {
        let [quant_bytes, scale_bytes] = self.kernels.plain_bytes;
        let block_bytes = quant_bytes + scale_bytes;
        let depth_blocks = depth_blocks(unpacked_bytes(), block_bytes);
        let weights_len = PAIR * depth_blocks * block_bytes / size_of::<f32>();
        let mut scratch = self.job.exec.pool.scratch().take(weights_len + CHUNK_ROWS * WIDTH);
        let (weights, sums) = scratch.split_at_mut(weights_len);
        let (columns, blocks) = (self.columns(panels.start, panels.len()), self.job.x.blocks());
        let whole = columns == WIDTH;
        let packed = self.packed(panels.clone());
        for first_row in (0..self.job.x.rows()).step_by(CHUNK_ROWS) {
            let rows = CHUNK_ROWS.min(self.job.x.rows() - first_row);
            let c = self.output(first_row, panels.start);
            if self.job.into == Into::Accumulate {
                // SAFETY: the outputs are this task's alone, and the buffer holds as many rows.
                unsafe { copy((c, self.job.c_stride), (sums.as_mut_ptr(), WIDTH), (rows, columns)) };
            }
            for first in (0..blocks).step_by(depth_blocks) {
                let depth = depth_blocks.min(blocks - first);
                // SAFETY: the panels have these blocks, and the buffer has room for `PAIR` panels of `depth_blocks`.
                unsafe {
                    let to = weights.as_mut_ptr().cast();
                    (self.kernels.unpack)(&packed, first, depth, panels.len(), to);
                }
                let weights = Panels {
                    base: weights.as_ptr().cast(),
                    stride: depth * block_bytes,
                    sections: [0, depth * quant_bytes, 0],
                    count: PAIR,
                    blocks: depth,
                    next: 0,
                    first_block: first,
                };
                let from_zero = first == 0 && self.job.into == Into::Overwrite;
                let sums = (sums.as_mut_ptr(), WIDTH);
                let from = (if from_zero { std::ptr::null_mut() } else { sums.0 }, WIDTH);
                let to = if whole && first + depth == blocks { (c, self.job.c_stride) } else { sums };
                self.rows_over(weights, first..first + depth, first_row..first_row + rows, (from, to));
            }
            if !whole {
                // SAFETY: as above.
                unsafe { copy((sums.as_ptr(), WIDTH), (c, self.job.c_stride), (rows, columns)) };
            }
        }
    }

    /// The products of the rows with unpacked panels of some blocks, added to what is at `from` (zeros where that is null),
    /// go to `to`: addresses of (rows, `WIDTH`) and their distances between rows.
    fn rows_over(
        &self,
        weights: Panels,
        blocks: Range<usize>,
        rows: Range<usize>,
        (from, to): ((*mut f32, usize), (*mut f32, usize)),
    ) {
        for number in rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS) {
            let x = self.job.x.tile(number);
            let Kernels { asks_ahead, words, .. } = self.kernels;
            self.job.x.ask_for_tile(number + 1, blocks.start, (!asks_ahead, words));
            let entries = x.starts[blocks.start] as usize..x.starts[blocks.end] as usize;
            let mut row = 0;
            while row < x.rows {
                let tile = largest(self.kernels.plain, x.rows - row);
                let call = call(&x, self.kernels.words, row, entries.clone(), weights);
                for panel in (0..PAIR).step_by(tile.panels) {
                    let at = x.first_row + row - rows.start;
                    let place = |(base, stride): (*mut f32, usize)| {
                        if base.is_null() { base } else { base.wrapping_add(at * stride + panel * PANEL) }
                    };
                    let base = weights.base.wrapping_add(panel * weights.stride);
                    let panels = Panels { base, ..weights };
                    let call = Call { panels, from: place(from), from_stride: from.1, to: place(to), ..call };
                    // SAFETY: the instance is available, the operands are whole, and both places cover the tile.
                    unsafe { (tile.function)(&Call { to_stride: to.1, ..call }) };
                }
                row += tile.rows;
            }
        }
    }

    /// The matrix's own panels.
    fn packed(&self, panels: Range<usize>) -> Panels {
        let sections = &self.matrix.sections;
        Panels {
            base: self.matrix.bytes[panels.start * sections.bytes..].as_ptr(),
            stride: sections.bytes,
            sections: [sections.high, sections.scales, sections.supers],
            count: panels.len(),
            blocks: self.job.x.blocks(),
            next: panels.len() * sections.bytes,
            first_block: 0,
        }
    }

    /// Columns of C that `panels` panels from number `panel` on have.
    fn columns(&self, panel: usize, panels: usize) -> usize {
        (panels * PANEL).min(self.matrix.rows - panel * PANEL)
    }

    /// The address of the first output of a panel.
    fn output(&self, row: usize, panel: usize) -> *mut f32 {
        self.job.c.wrapping_add(row * self.job.c_stride + self.column + panel * PANEL)
    }
}

/// The kernel with the most rows that are there.
fn largest(tiles: &[Tile], rows: usize) -> Tile {
    *tiles.iter().find(|tile| tile.rows <= rows).expect("the last kernel has one row")
}

/// The operands of a call, without outputs.
fn call(x: &RowTile<'_>, words: bool, row: usize, entries: Range<usize>, panels: Panels) -> Call {
    let first = (entries.start * x.rows + row) * BLOCK;
    Call {
        panels,
        entries: entries.len(),
        index: x.index[entries.start..].as_ptr(),
        stride: x.rows,
        quants: if words { x.words[first..].as_ptr().cast() } else { x.quants[first..].as_ptr() },
        scales: x.scales[entries.start * x.rows + row..].as_ptr(),
        sums: x.sums[3 * entries.start * x.rows + row..].as_ptr(),
        next_slots: x.scales.len(),
        from: std::ptr::null(),
        from_stride: 0,
        to: std::ptr::null_mut(),
        to_stride: 0,
    }
}

/// Bytes that the blocks of k that are unpacked at once may take: they leave a sixth of the first-level cache to the
/// activations, which pass by.
fn unpacked_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| cache::first_level_bytes() / 6 * 5)
}

/// Blocks of k, a multiple of eight, of which a pair of panels takes that much.
fn depth_blocks(bytes: usize, block_bytes: usize) -> usize {
    (bytes / (PAIR * block_bytes) / 8 * 8).max(8)
}

/// Copies (rows, columns) between two places, each an address and a distance between rows.
///
/// # Safety
/// Both cover that much and do not overlap.
unsafe fn copy(from: (*const f32, usize), to: (*mut f32, usize), shape: (usize, usize)) {
    for row in 0..shape.0 {
        // SAFETY: the caller promises it.
        unsafe { std::ptr::copy_nonoverlapping(from.0.add(row * from.1), to.0.add(row * to.1), shape.1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{BlockType, is_supported};

    #[test]
    fn every_cache_takes_some_blocks_of_every_type() {
        for kind in BlockType::all().filter(|kind| is_supported(*kind)) {
            for instance in Instance::available() {
                let block_bytes = instance.kernels(kind).plain_bytes.iter().sum();
                for cache in (16..=256).step_by(16) {
                    let blocks = depth_blocks((cache << 10) / 6 * 5, block_bytes);
                    assert!(blocks >= 8 && blocks.is_multiple_of(8), "{instance:?} {kind:?} {cache} KiB");
                }
            }
        }
    }
}
