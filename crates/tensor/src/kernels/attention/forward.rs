//! The forward kernel: rows of one group of query heads over the key/value blocks of their sequence. Must not
//! know whether the blocks are a document's or pages of a cache, nor how rows are shared among threads.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all: the slices cover what `HeadRows` says.

use super::KEY_BLOCK;
use super::few::{FewBlock, add_values_of_few, scores_of_few};
use super::layout::{Block, Blocks, padded, widen_keys, widen_values, widen_work_len};
use super::tile::{Left, Output, Right, TILE_ROWS, product};
use crate::kernels::math::{exp_not_positive, tanh};
use crate::simd::{Vector, Virtual16, prefetch_second_level};
use crate::{Attention, Disjoint, Heads, Isa, dispatch, reference};
use std::ops::Range;

/// Rows that are taken through the blocks together: a multiple of the tile's, enough that a block is worth widening.
pub(super) const CHUNK_ROWS: usize = 32 * TILE_ROWS;
/// Floats of a line of the caches.
const LINE: usize = 16;
/// Rows after the last that full tiles read and write.
const SLACK_ROWS: usize = TILE_ROWS - 1;

/// Consecutive tokens of one sequence, and the key/value head whose query heads are computed.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a> {
    pub isa: Isa,
    /// Fused rows.
    pub qkv: &'a [f32],
    pub heads: Heads,
    pub attention: Attention,
    /// How many tokens there are for a row that sees all.
    pub sequence_tokens: usize,
    pub kv_head: usize,
    /// The first token's row in `qkv`, `out` and `log_sums`.
    pub first_row: usize,
    pub tokens: usize,
    /// The first token's position in its sequence.
    pub first_position: usize,
    pub blocks: Blocks<'a>,
    /// (rows, heads·head_dim); only the rows and heads of this task are written.
    pub out: &'a Disjoint<'a, f32>,
    /// (rows, heads).
    pub log_sums: Option<&'a Disjoint<'a, f32>>,
}

/// Floats of work space that [`attend`] needs.
pub(super) fn work_len(head_dim: usize) -> usize {
    let rows = (CHUNK_ROWS + SLACK_ROWS) * (head_dim + padded(head_dim) + 2);
    let block = KEY_BLOCK * (head_dim + padded(head_dim)) + widen_work_len(head_dim);
    rows + TILE_ROWS * KEY_BLOCK + block
}

dispatch! {
    /// Computes the rows of one task.
    pub(super) fn attend(task: &HeadRows<'_>, work: &mut [f32]) = attend_generic;
}

#[inline(always)]
unsafe fn attend_generic<V: Vector>(task: &HeadRows<'_>, work: &mut [f32]) {
    let rows = task.tokens * (task.heads.heads / task.heads.kv_heads);
    let mut first = 0;
    while first < rows {
        let count = CHUNK_ROWS.min(rows - first);
        let mut chunk = Chunk::new(task, first, count, work);
        unsafe {
            chunk.run::<V>();
            chunk.finish();
        }
        first += count;
    }
}

/// Up to `CHUNK_ROWS` rows on their way through the blocks; row r is head r mod group of token r / group.
struct Chunk<'a> {
    task: &'a HeadRows<'a>,
    first: usize,
    count: usize,
    /// (rows and slack, head_dim).
    queries: &'a mut [f32],
    /// (tile, 64).
    scores: &'a mut [f32],
    /// (rows and slack, padded head_dim).
    sums: &'a mut [f32],
    /// The running maximum of each row.
    maxima: &'a mut [f32],
    /// The running sum of exponentials of each row.
    totals: &'a mut [f32],
    /// A block in f32: its keys (head_dim, 64), its values (64, padded head_dim), and work space.
    keys: &'a mut [f32],
    values: &'a mut [f32],
    widen_work: &'a mut [f32],
}

impl<'a> Chunk<'a> {
    #[inline(always)]
    fn new(task: &'a HeadRows<'a>, first: usize, count: usize, mut work: &'a mut [f32]) -> Chunk<'a> {
        let head_dim = task.heads.head_dim;
        let mut part = |len: usize| {
            let (part, rest) = std::mem::take(&mut work).split_at_mut(len);
            work = rest;
            part
        };
        let chunk = Chunk {
            task,
            first,
            count,
            queries: part((count + SLACK_ROWS) * head_dim),
            scores: part(TILE_ROWS * KEY_BLOCK),
            sums: part((count + SLACK_ROWS) * padded(head_dim)),
            maxima: part(count),
            totals: part(count),
            keys: part(KEY_BLOCK * head_dim),
            values: part(KEY_BLOCK * padded(head_dim)),
            widen_work: part(widen_work_len(head_dim)),
        };
        chunk.sums.fill(0.0);
        // Not −∞, so that a block of which a row sees nothing changes nothing: e^(−∞ − this) is 0.
        chunk.maxima.fill(f32::MIN);
        chunk.totals.fill(0.0);
        for row in 0..count {
            let (token, head) = chunk.place(row);
            let from = token * task.heads.fused_width() + head * head_dim;
            chunk.queries[row * head_dim..][..head_dim].copy_from_slice(&task.qkv[from..][..head_dim]);
        }
        chunk.queries[count * head_dim..].fill(0.0);
        chunk
    }

    /// The token (a row of `qkv`) and the query head of a row.
    #[inline(always)]
    fn place(&self, row: usize) -> (usize, usize) {
        let group = self.task.heads.heads / self.task.heads.kv_heads;
        let index = self.first + row;
        (self.task.first_row + index / group, self.task.kv_head * group + index % group)
    }

    /// Position of a row in its sequence.
    #[inline(always)]
    fn position(&self, row: usize) -> usize {
        let group = self.task.heads.heads / self.task.heads.kv_heads;
        self.task.first_position + (self.first + row) / group
    }

    /// The keys of a block that a row sees, counted from the block's first.
    #[inline(always)]
    fn seen(&self, row: usize, first_key: usize) -> Range<usize> {
        let seen = self.task.attention.seen(self.position(row), self.task.sequence_tokens);
        let within = |key: usize| key.saturating_sub(first_key).min(KEY_BLOCK);
        within(seen.start)..within(seen.end)
    }

    /// What the caches are asked for while a block is worked on: the block after it, so many floats of it for each tile of
    /// rows that all of it has been asked for at the end; nothing after the last.
    #[inline(always)]
    fn ahead(&self, index: usize, last: usize) -> (&'a [f32], usize) {
        if index >= last {
            return (&[], LINE);
        }
        let (_, words) = self.task.blocks.words(index + 1, self.task.heads.head_dim);
        (words, words.len().div_ceil(self.count.div_ceil(TILE_ROWS)).next_multiple_of(LINE))
    }

    #[inline(always)]
    unsafe fn run<V: Vector>(&mut self) {
        let (attention, tokens) = (self.task.attention, self.task.sequence_tokens);
        let first = attention.seen(self.position(0), tokens).start;
        let last = attention.seen(self.position(self.count - 1), tokens).end - 1;
        for index in first / KEY_BLOCK..=last / KEY_BLOCK {
            let block = self.task.blocks.block(index, self.task.heads.head_dim);
            let first_key = index * KEY_BLOCK;
            let ahead = self.ahead(index, last / KEY_BLOCK);
            unsafe {
                if self.count <= TILE_ROWS {
                    // The last block fetches itself again.
                    let following = (index + 1).min(last / KEY_BLOCK);
                    let next = self.task.blocks.block(following, self.task.heads.head_dim);
                    self.few::<V>(block, next, first_key);
                } else if let Block::F32 { keys, values } = block {
                    self.tiles::<V>(keys.as_ptr(), values.as_ptr(), first_key, ahead);
                } else {
                    let head_dim = self.task.heads.head_dim;
                    widen_keys::<V>(block, self.keys);
                    let columns = 0..padded(head_dim);
                    widen_values::<V>(block, (head_dim, columns), self.values, self.widen_work);
                    self.tiles::<V>(self.keys.as_ptr(), self.values.as_ptr(), first_key, ahead);
                }
            }
        }
    }

    /// Takes all rows through a block: its keys (head_dim, 64) and values (64, padded head_dim). Tiles are full; rows
    /// beyond the last are computed and forgotten.
    #[inline(always)]
    unsafe fn tiles<V: Vector>(
        &mut self,
        keys: *const f32,
        values: *const f32,
        first_key: usize,
        (ahead, share): (&[f32], usize),
    ) {
        let head_dim = self.task.heads.head_dim;
        let width = padded(head_dim);
        let mut row = 0;
        while row < self.count {
            let rows = TILE_ROWS.min(self.count - row);
            let asked = row / TILE_ROWS * share;
            for line in (asked..(asked + share).min(ahead.len())).step_by(LINE) {
                prefetch_second_level(ahead[line..].as_ptr());
            }
            // No row of the tile sees a key before those of its first row, nor after those of its last.
            let from = self.seen(row, first_key).start;
            let seen = self.seen(row + rows - 1, first_key).end;
            if from < seen {
                let columns = seen.next_multiple_of(16);
                unsafe {
                    let at = self.queries.as_ptr().add(row * head_dim);
                    let left = Left { at, row_stride: head_dim, step_stride: 1 };
                    let right = Right { at: keys, stride: KEY_BLOCK, depth: head_dim };
                    let scores = Output { at: self.scores.as_mut_ptr(), stride: KEY_BLOCK, columns };
                    product::<V, TILE_ROWS, true>(left, right, scores);
                    self.softmax::<V>((row, rows), columns, first_key);
                    let left = Left { at: self.scores.as_ptr(), row_stride: KEY_BLOCK, step_stride: 1 };
                    let right = Right { at: values, stride: width, depth: seen };
                    let at = self.sums.as_mut_ptr().add(row * width);
                    product::<V, TILE_ROWS, false>(left, right, Output { at, stride: width, columns: width });
                }
            }
            row += rows;
        }
    }

    /// Takes one tile of rows through a block while the caches fetch the next.
    #[inline(always)]
    unsafe fn few<V: Vector>(&mut self, block: Block<'_>, next: Block<'_>, first_key: usize) {
        let (isa, head_dim, rows) = (self.task.isa, self.task.heads.head_dim, self.count);
        let width = padded(head_dim);
        let seen = self.seen(rows - 1, first_key).end;
        if self.seen(0, first_key).start >= seen {
            return;
        }
        let block = FewBlock { block, next, head_dim, seen, columns: (0, width) };
        let queries = Left { at: self.queries.as_ptr(), row_stride: head_dim, step_stride: 1 };
        let scores = Output { at: self.scores.as_mut_ptr(), stride: KEY_BLOCK, columns: KEY_BLOCK };
        let sums = Output { at: self.sums.as_mut_ptr(), stride: width, columns: width };
        let weights = Left { at: self.scores.as_ptr(), row_stride: KEY_BLOCK, step_stride: 1 };
        unsafe {
            scores_of_few(isa, rows, queries, block, scores, self.widen_work);
            self.softmax::<V>((0, rows), seen.next_multiple_of(16), first_key);
            add_values_of_few(isa, rows, weights, block, sums, self.widen_work);
        }
    }

    /// Turns a tile's scores into exponentials (0 for keys that a row does not see) and merges each row's
    /// maximum, total and sums. Each step is done for all rows before the next, so that their latencies
    /// overlap.
    #[inline(always)]
    unsafe fn softmax<V: Vector>(&mut self, (row, rows): (usize, usize), columns: usize, first_key: usize) {
        let scores = self.scores.as_mut_ptr();
        let mut corrections = [0.0; 16];
        unsafe {
            for (index, correction) in corrections.iter_mut().enumerate().take(rows) {
                let visible = self.seen(row + index, first_key);
                let scores = scores.add(index * KEY_BLOCK);
                let greatest = scale_and_mask::<V>(scores, columns, visible, self.task.attention);
                let maximum = self.maxima[row + index];
                let merged = if greatest > maximum { greatest } else { maximum };
                self.maxima[row + index] = merged;
                *correction = maximum - merged;
            }
            let mut index = 0;
            while index < rows {
                let at = corrections.as_mut_ptr().add(index);
                exp_not_positive(V::load(at)).store(at);
                index += V::LANES;
            }
            for (index, correction) in corrections.iter().enumerate().take(rows) {
                let maximum = self.maxima[row + index];
                let total = exponentials::<V>(scores.add(index * KEY_BLOCK), columns, maximum);
                self.totals[row + index] = self.totals[row + index].mul_add(*correction, total);
            }
            // Once the maxima have settled there is nothing to correct.
            if corrections[..rows].iter().any(|correction| *correction != 1.0) {
                let width = padded(self.task.heads.head_dim);
                for (index, correction) in corrections.iter().enumerate().take(rows) {
                    let sums = self.sums.as_mut_ptr().add((row + index) * width);
                    scale_row::<V>(sums, width, *correction);
                }
            }
        }
    }

    /// Divides by the totals and writes output and log-sums.
    #[inline(always)]
    unsafe fn finish(&mut self) {
        let (heads, head_dim) = (self.task.heads, self.task.heads.head_dim);
        for row in 0..self.count {
            let (token, head) = self.place(row);
            let offset = token * heads.out_width() + head * head_dim;
            let out = unsafe { self.task.out.range(offset..offset + head_dim) };
            for (out, sum) in out.iter_mut().zip(&self.sums[row * padded(head_dim)..]) {
                *out = sum / self.totals[row];
            }
            if let Some(log_sums) = self.task.log_sums {
                let index = token * heads.heads + head;
                let log_sum = unsafe { log_sums.range(index..index + 1) };
                log_sum[0] = self.maxima[row] + reference::math::ln(self.totals[row]);
            }
        }
    }
}

/// Replaces scores by exp(score − maximum) and returns their sum.
#[inline(always)]
pub(super) unsafe fn exponentials<V: Vector>(scores: *mut f32, columns: usize, maximum: f32) -> f32 {
    unsafe {
        let shift = V::splat(maximum);
        let mut lanes = Virtual16::<V>::splat(0.0);
        let mut column = 0;
        while column < columns {
            let mut register = 0;
            while register < 16 / V::LANES {
                let at = scores.add(column + register * V::LANES);
                let exponential = exp_not_positive(V::load(at).sub(shift));
                exponential.store(at);
                lanes.set_register(register, lanes.register(register).add(exponential));
                register += 1;
            }
            column += 16;
        }
        lanes.reduce_add()
    }
}

/// Multiplies a row, whose width is a multiple of sixteen.
#[inline(always)]
pub(super) unsafe fn scale_row<V: Vector>(row: *mut f32, width: usize, factor: f32) {
    let mut column = 0;
    while column < width {
        unsafe {
            let at = row.add(column);
            V::load(at).mul(V::splat(factor)).store(at);
        }
        column += V::LANES;
    }
}

/// Scales the scores and caps them, puts −∞ outside `visible`, and returns the greatest.
#[inline(always)]
pub(super) unsafe fn scale_and_mask<V: Vector>(
    scores: *mut f32,
    columns: usize,
    visible: Range<usize>,
    attention: Attention,
) -> f32 {
    unsafe {
        let factor = V::splat(attention.factor());
        let mut greatest = Virtual16::<V>::splat(f32::NEG_INFINITY);
        let mut column = 0;
        while column < columns {
            let mut register = 0;
            while register < 16 / V::LANES {
                let offset = column + register * V::LANES;
                let at = scores.add(offset);
                let mut score = V::load(at).mul(factor);
                if let Some(cap) = attention.soft_cap {
                    score = tanh(score).mul(V::splat(cap));
                }
                if offset + V::LANES > visible.end {
                    let inside = below::<V>(visible.end.saturating_sub(offset));
                    score = V::select(inside, score, V::splat(f32::NEG_INFINITY));
                }
                if offset < visible.start {
                    let outside = below::<V>(visible.start - offset);
                    score = V::select(outside, V::splat(f32::NEG_INFINITY), score);
                }
                score.store(at);
                greatest.set_register(register, score.max(greatest.register(register)));
                register += 1;
            }
            column += 16;
        }
        greatest.reduce_max()
    }
}

/// The lanes whose index is below `count`.
#[inline(always)]
pub(super) unsafe fn below<V: Vector>(count: usize) -> V::Mask {
    static INDICES: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    unsafe { V::load(INDICES.as_ptr()).less(V::splat(count as f32)) }
}
