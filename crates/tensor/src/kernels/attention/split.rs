//! One new token over a long context where there are too few key/value heads for the threads: scores and exponentials are
//! shared out by blocks of keys, the sums of values by columns. Each number is computed by the same operations in the same
//! order as without the division, so the bits are the same. Must not know pages.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all: the buffers cover what `Split` says.

use super::KEY_BLOCK;
use super::few::{FewBlock, add_values_of_few, scores_of_few};
use super::forward::{HeadRows, exponentials, scale_and_mask, scale_row};
use super::layout::{padded, scales};
use super::tile::{Left, Output, TILE_ROWS};
use crate::reference::math::exp;
use crate::simd::Vector;
use crate::{Disjoint, Exec, dispatch};
use std::ops::Range;

/// Blocks of one task.
const BLOCKS_PER_TASK: usize = 16;
/// The most columns of values of one task: a multiple of what shares a scale.
const COLUMNS_MAX: usize = 64;
/// Fewer blocks than this are not worth three rounds of tasks.
const BLOCKS_MIN: usize = 16;
/// Numbers for each block and head beside the scores: of each row.
const ROWS_ROOM: usize = 8;
const _: () = assert!(TILE_ROWS <= ROWS_ROOM);

/// Whether `tasks` heads of `task`'s kind would leave threads idle that splitting them employs.
pub(super) fn is_worth_it(threads: usize, tasks: usize, task: &HeadRows<'_>) -> bool {
    let uneven = tasks < 4 * threads && !tasks.is_multiple_of(threads);
    let group = task.heads.heads / task.heads.kv_heads;
    let fits = task.tokens == 1 && group <= TILE_ROWS && scales(task.heads.head_dim) <= SCALES_MAX;
    uneven && fits && blocks_of(task).len() >= BLOCKS_MIN
}

/// The blocks of which the one token sees something.
fn blocks_of(task: &HeadRows<'_>) -> Range<usize> {
    let seen = task.attention.seen(task.first_position, task.sequence_tokens);
    seen.start / KEY_BLOCK..seen.end.div_ceil(KEY_BLOCK)
}

/// What the tasks of one token share.
struct Split<'a> {
    heads: &'a (dyn Fn(usize) -> HeadRows<'a> + Sync),
    blocks: Range<usize>,
}

/// Numbers of a unit (a block of a head): its scores, (tile, 64).
const SCORES: usize = TILE_ROWS * KEY_BLOCK;
/// What a block makes of each row's state: the corrections that its greatest scores make necessary, and its sums.
const MERGES: usize = 2 * ROWS_ROOM;

/// Computes the one token of every key/value head; `heads(h)` is head h alone.
pub(super) fn attend_split<'a>(exec: Exec<'_>, heads: &'a (dyn Fn(usize) -> HeadRows<'a> + Sync)) {
    let task = heads(0);
    let kv_heads = task.heads.kv_heads;
    let split = Split { heads, blocks: blocks_of(&task) };
    let count = split.blocks.len();
    let units = kv_heads * count;
    let mut buffer = exec.pool.scratch().take(units * (SCORES + ROWS_ROOM + MERGES));
    let (scores, rest) = buffer.split_at_mut(units * SCORES);
    let (maxima, merges) = rest.split_at_mut(units * ROWS_ROOM);
    let pieces = count.div_ceil(BLOCKS_PER_TASK);
    let piece = |task: usize| {
        let first = task % pieces * BLOCKS_PER_TASK;
        (task / pieces, first..count.min(first + BLOCKS_PER_TASK))
    };
    {
        let (scores, maxima) = (Disjoint::new(scores), Disjoint::new(maxima));
        exec.pool.run(kv_heads * pieces, &|task, _| {
            // SAFETY: an `Exec` has an available instruction set; no two tasks share a unit.
            unsafe { score(exec.isa, &split, piece(task), (&scores, &maxima)) };
        });
    }
    {
        let (scores, merges) = (Disjoint::new(scores), Disjoint::new(merges));
        exec.pool.run(kv_heads * pieces, &|task, _| {
            // SAFETY: as above.
            unsafe { weigh(exec.isa, &split, piece(task), maxima, (&scores, &merges)) };
        });
    }
    let width = padded(task.heads.head_dim);
    let wide = kv_heads * width.div_ceil(COLUMNS_MAX) >= 4 * exec.pool.threads();
    let columns = if wide { COLUMNS_MAX } else { COLUMNS_MAX / 2 };
    let slices = width.div_ceil(columns);
    let (scores, merges) = (&*scores, &*merges);
    exec.pool.run(kv_heads * slices, &|task, _| {
        let first = task % slices * columns;
        let columns = first..width.min(first + columns);
        // SAFETY: as above; no two tasks share a head and a column.
        unsafe { sum(exec.isa, &split, (task / slices, columns), (scores, merges)) };
    });
}

impl Split<'_> {
    /// The part of a buffer with `length` numbers a unit that belongs to a head's block.
    fn unit(&self, head: usize, block: usize, length: usize) -> Range<usize> {
        let unit = head * self.blocks.len() + block;
        unit * length..(unit + 1) * length
    }

    /// A block, the one after it, and how much of it is seen.
    fn few<'b>(&self, task: &HeadRows<'b>, block: usize) -> FewBlock<'b> {
        let head_dim = task.heads.head_dim;
        let seen = task.attention.seen(task.first_position, task.sequence_tokens);
        let index = self.blocks.start + block;
        let next = (index + 1).min(self.blocks.end - 1);
        FewBlock {
            block: task.blocks.block(index, head_dim),
            next: task.blocks.block(next, head_dim),
            head_dim,
            seen: (seen.end - index * KEY_BLOCK).min(KEY_BLOCK),
            columns: (0, padded(head_dim)),
        }
    }
}

dispatch! {
    /// The scores of a piece's blocks, and the greatest of each.
    fn score(
        split: &Split<'_>,
        piece: (usize, Range<usize>),
        to: (&Disjoint<'_, f32>, &Disjoint<'_, f32>),
    ) = score_generic;
}

#[inline(always)]
unsafe fn score_generic<V: Vector>(
    split: &Split<'_>,
    (head, blocks): (usize, Range<usize>),
    (all_scores, maxima): (&Disjoint<'_, f32>, &Disjoint<'_, f32>),
) {
    let task = (split.heads)(head);
    let (heads, head_dim) = (task.heads, task.heads.head_dim);
    let group = heads.heads / heads.kv_heads;
    let query = task.first_row * heads.fused_width() + head * group * head_dim;
    // A fused row goes on with keys and values, so that there is a row after the last query.
    let queries = Left { at: task.qkv[query..].as_ptr(), row_stride: head_dim, step_stride: 1 };
    let seen = task.attention.seen(task.first_position, task.sequence_tokens);
    let mut work = [0.0; KEY_BLOCK * SCALES_MAX];
    for block in blocks {
        unsafe {
            let few = split.few(&task, block);
            let scores = all_scores.range(split.unit(head, block, SCORES));
            let maxima = maxima.range(split.unit(head, block, ROWS_ROOM));
            let output = Output { at: scores.as_mut_ptr(), stride: KEY_BLOCK, columns: KEY_BLOCK };
            let first_key = (split.blocks.start + block) * KEY_BLOCK;
            let visible = seen.start.saturating_sub(first_key)..few.seen;
            scores_of_few(task.isa, group, queries, few, output, &mut work);
            for (row, scores) in scores.chunks_exact_mut(KEY_BLOCK).enumerate().take(group) {
                let columns = few.seen.next_multiple_of(16);
                maxima[row] =
                    scale_and_mask::<V>(scores.as_mut_ptr(), columns, visible.clone(), task.attention);
            }
        }
    }
}

dispatch! {
    /// The exponentials of a piece's blocks by the greatest score so far, their sums, and the corrections.
    fn weigh(
        split: &Split<'_>,
        piece: (usize, Range<usize>),
        maxima: &[f32],
        to: (&Disjoint<'_, f32>, &Disjoint<'_, f32>),
    ) = weigh_generic;
}

#[inline(always)]
unsafe fn weigh_generic<V: Vector>(
    split: &Split<'_>,
    (head, blocks): (usize, Range<usize>),
    maxima: &[f32],
    (scores, merges): (&Disjoint<'_, f32>, &Disjoint<'_, f32>),
) {
    let task = (split.heads)(head);
    let group = task.heads.heads / task.heads.kv_heads;
    let mut running = [f32::MIN; ROWS_ROOM];
    for block in 0..blocks.end {
        let before = running;
        let of_block = &maxima[split.unit(head, block, ROWS_ROOM)];
        for (maximum, greatest) in running.iter_mut().zip(of_block).take(group) {
            *maximum = if *greatest > *maximum { *greatest } else { *maximum };
        }
        if !blocks.contains(&block) {
            continue;
        }
        let columns = split.few(&task, block).seen.next_multiple_of(16);
        unsafe {
            let merges = merges.range(split.unit(head, block, MERGES));
            let (corrections, totals) = merges.split_at_mut(ROWS_ROOM);
            let scores = scores.range(split.unit(head, block, SCORES));
            for (row, scores) in scores.chunks_exact_mut(KEY_BLOCK).enumerate().take(group) {
                corrections[row] = exp(before[row] - running[row]);
                totals[row] = exponentials::<V>(scores.as_mut_ptr(), columns, running[row]);
            }
        }
    }
}

/// Scales of a token in the widest head.
const SCALES_MAX: usize = 8;

dispatch! {
    /// The sums of a head's values in some columns, divided and written out.
    fn sum(split: &Split<'_>, part: (usize, Range<usize>), from: (&[f32], &[f32])) = sum_generic;
}

#[inline(always)]
unsafe fn sum_generic<V: Vector>(
    split: &Split<'_>,
    (head, columns): (usize, Range<usize>),
    (scores, merges): (&[f32], &[f32]),
) {
    let task = (split.heads)(head);
    let (heads, head_dim) = (task.heads, task.heads.head_dim);
    let group = heads.heads / heads.kv_heads;
    let width = columns.len();
    let mut sums = [0.0; TILE_ROWS * COLUMNS_MAX];
    let mut totals = [0.0_f32; ROWS_ROOM];
    let mut work = [0.0; KEY_BLOCK * SCALES_MAX];
    for block in 0..split.blocks.len() {
        unsafe {
            let merges = &merges[split.unit(head, block, MERGES)];
            let (corrections, of_block) = merges.split_at(ROWS_ROOM);
            for row in 0..group {
                totals[row] = totals[row].mul_add(corrections[row], of_block[row]);
                if corrections[row] != 1.0 {
                    scale_row::<V>(sums[row * width..].as_mut_ptr(), width, corrections[row]);
                }
            }
            let weights = Left {
                at: scores[split.unit(head, block, SCORES)].as_ptr(),
                row_stride: KEY_BLOCK,
                step_stride: 1,
            };
            let output = Output { at: sums.as_mut_ptr(), stride: width, columns: width };
            let few = FewBlock { columns: (columns.start, width), ..split.few(&task, block) };
            add_values_of_few(task.isa, group, weights, few, output, &mut work);
        }
    }
    let inside = columns.start..columns.end.min(head_dim);
    for row in 0..group {
        let offset = task.first_row * heads.out_width() + (head * group + row) * head_dim;
        let out = unsafe { task.out.range(offset + inside.start..offset + inside.end) };
        for (out, sum) in out.iter_mut().zip(&sums[row * width..]) {
            *out = sum / totals[row];
        }
    }
}
