//! The backward kernel: all query heads of one key/value head of one document. Must not know how tasks are
//! shared among threads.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: slices are as `HeadGradient` says.

use super::forward::below;
use super::layout::{copy_rows, padded, transpose_rows};
use super::tile::{Left, Output, Right, TILE_ROWS, product};
use super::{AttentionBatch, AttentionKept, KEY_BLOCK};
use crate::kernels::math::{exp_not_positive, tanh};
use crate::kernels::reduce::lane_dot;
use crate::simd::Vector;
use crate::{Disjoint, Isa, Mask, dispatch};
use std::ops::Range;

/// Queries that are taken through a block together: a multiple of the tile's.
const CHUNK_ROWS: usize = 8 * TILE_ROWS;
/// Distance between the rows of probabilities: beyond the 64 keys there is room for what the last tile of
/// keys reads too many.
const SCORE_STRIDE: usize = KEY_BLOCK + 16;
/// Keys of a block rounded up to whole tiles.
const BLOCK_ROWS: usize = KEY_BLOCK.next_multiple_of(TILE_ROWS);

/// One key/value head of one document.
#[derive(Clone, Copy)]
pub(super) struct HeadGradient<'a> {
    pub isa: Isa,
    pub batch: AttentionBatch<'a>,
    pub kept: AttentionKept<'a>,
    pub d_out: &'a [f32],
    pub document: &'a Range<usize>,
    pub kv_head: usize,
    /// (tokens, fused width); only this head's parts of the document's rows are written.
    pub d_qkv: &'a Disjoint<'a, f32>,
}

/// Floats of work space that [`differentiate`] needs.
pub(super) fn work_len(task: &HeadGradient<'_>) -> usize {
    let head_dim = task.batch.heads.head_dim;
    let (width, room) = (padded(head_dim), room(task));
    let queries = task.group() * room * (3 * width + 2);
    let block = 2 * head_dim * KEY_BLOCK + (KEY_BLOCK + 2 * BLOCK_ROWS) * width;
    queries + block + 2 * CHUNK_ROWS * SCORE_STRIDE
}

/// Rows of one query head in the work space: the document's and those that the last tile reads too many.
fn room(task: &HeadGradient<'_>) -> usize {
    task.document.len() + TILE_ROWS
}

impl HeadGradient<'_> {
    fn group(&self) -> usize {
        self.batch.heads.heads / self.batch.heads.kv_heads
    }

    /// The queries that may see keys of the block at `first_key`.
    fn queries_of(&self, first_key: usize) -> Range<usize> {
        let tokens = self.document.len();
        match self.batch.attention.mask {
            Mask::Causal => first_key..tokens,
            Mask::Window(window) => first_key..tokens.min((first_key + KEY_BLOCK - 1).saturating_add(window)),
            Mask::Whole => 0..tokens,
        }
    }

    /// The keys of the block at `first_key` that a query sees, counted from the block's first.
    #[inline(always)]
    fn seen(&self, query: usize, first_key: usize) -> Range<usize> {
        let seen = self.batch.attention.seen(query, self.document.len());
        let within = |key: usize| key.saturating_sub(first_key).min(KEY_BLOCK);
        within(seen.start)..within(seen.end)
    }
}

dispatch! {
    /// Writes the gradients of the queries, keys and values of one task.
    pub(super) fn differentiate(task: &HeadGradient<'_>, work: &mut [f32]) = differentiate_generic;
}

#[inline(always)]
unsafe fn differentiate_generic<V: Vector>(task: &HeadGradient<'_>, work: &mut [f32]) {
    let mut state = State::new(task, work);
    unsafe {
        for head in 0..task.group() {
            state.load_head::<V>(head);
        }
        let tokens = task.document.len();
        let mut first_key = 0;
        while first_key < tokens {
            state.load_block(first_key);
            for head in 0..task.group() {
                let Range { start: mut first_query, end } = task.queries_of(first_key);
                while first_query < end {
                    let count = CHUNK_ROWS.min(end - first_query);
                    state.chunk::<V>(head, first_key, first_query, count);
                    first_query += count;
                }
            }
            state.store_block(first_key);
            first_key += KEY_BLOCK;
        }
        for head in 0..task.group() {
            state.store_head(head);
        }
    }
}

struct State<'a> {
    task: &'a HeadGradient<'a>,
    /// Padded width of a head, and rows of a head in the first five.
    width: usize,
    room: usize,
    /// (group, room, width).
    queries: &'a mut [f32],
    d_outs: &'a mut [f32],
    d_queries: &'a mut [f32],
    /// (group, room): log-sums, and the products of output and its gradient.
    log_sums: &'a mut [f32],
    deltas: &'a mut [f32],
    /// The block's keys and values transposed, (head_dim, 64).
    keys_across: &'a mut [f32],
    values_across: &'a mut [f32],
    /// The block's keys, (64, width).
    keys: &'a mut [f32],
    /// (64 rounded up to tiles, width).
    d_keys: &'a mut [f32],
    d_values: &'a mut [f32],
    /// (chunk, score stride).
    probabilities: &'a mut [f32],
    d_scores: &'a mut [f32],
}

impl<'a> State<'a> {
    fn new(task: &'a HeadGradient<'a>, mut work: &'a mut [f32]) -> State<'a> {
        let head_dim = task.batch.heads.head_dim;
        let (width, room, group) = (padded(head_dim), room(task), task.group());
        let mut part = |len: usize| {
            let (part, rest) = std::mem::take(&mut work).split_at_mut(len);
            work = rest;
            part
        };
        let state = State {
            task,
            width,
            room,
            queries: part(group * room * width),
            d_outs: part(group * room * width),
            d_queries: part(group * room * width),
            log_sums: part(group * room),
            deltas: part(group * room),
            keys_across: part(head_dim * KEY_BLOCK),
            values_across: part(head_dim * KEY_BLOCK),
            keys: part(KEY_BLOCK * width),
            d_keys: part(BLOCK_ROWS * width),
            d_values: part(BLOCK_ROWS * width),
            probabilities: part(CHUNK_ROWS * SCORE_STRIDE),
            d_scores: part(CHUNK_ROWS * SCORE_STRIDE),
        };
        state.d_queries.fill(0.0);
        state.log_sums.fill(0.0);
        state.deltas.fill(0.0);
        state
    }

    /// Copies a query head's rows together and computes each row's output · gradient.
    #[inline(always)]
    unsafe fn load_head<V: Vector>(&mut self, head: usize) {
        let heads = self.task.batch.heads;
        let head_dim = heads.head_dim;
        let query_head = self.task.kv_head * self.task.group() + head;
        let (start, tokens) = (self.task.document.start, self.task.document.len());
        let rows = head * self.room * self.width..(head + 1) * self.room * self.width;
        let from = &self.task.batch.qkv[start * heads.fused_width() + query_head * head_dim..];
        copy_rows(from, heads.fused_width(), tokens, (&mut self.queries[rows.clone()], head_dim));
        let from = &self.task.d_out[start * heads.out_width() + query_head * head_dim..];
        copy_rows(from, heads.out_width(), tokens, (&mut self.d_outs[rows], head_dim));
        for token in 0..tokens {
            let offset = (start + token) * heads.out_width() + query_head * head_dim;
            let (out, d_out) = (&self.task.kept.out[offset..], &self.task.d_out[offset..]);
            let index = head * self.room + token;
            self.deltas[index] = unsafe { lane_dot::<V>(&d_out[..head_dim], &out[..head_dim]) };
            self.log_sums[index] = self.task.kept.log_sums[(start + token) * heads.heads + query_head];
        }
    }

    /// Lays out the keys and values of a block and clears their gradients.
    #[inline(always)]
    fn load_block(&mut self, first_key: usize) {
        let heads = self.task.batch.heads;
        let stride = heads.fused_width();
        let count = KEY_BLOCK.min(self.task.document.len() - first_key);
        let key_offset = (heads.heads + self.task.kv_head) * heads.head_dim;
        let row = (self.task.document.start + first_key) * stride;
        let keys = &self.task.batch.qkv[row + key_offset..];
        let values = &self.task.batch.qkv[row + key_offset + heads.kv_heads * heads.head_dim..];
        transpose_rows(self.task.isa, keys, (count, stride), self.keys_across);
        transpose_rows(self.task.isa, values, (count, stride), self.values_across);
        copy_rows(keys, stride, count, (self.keys, heads.head_dim));
        self.d_keys.fill(0.0);
        self.d_values.fill(0.0);
    }

    /// Queries `first_query..+count` of one head against the block of keys at `first_key`.
    #[inline(always)]
    unsafe fn chunk<V: Vector>(&mut self, head: usize, first_key: usize, first_query: usize, count: usize) {
        let rows = head * self.room + first_query;
        let mut tile = 0;
        while tile < count {
            // Keys of the block that the tile's last query sees.
            let last = first_query + (tile + TILE_ROWS).min(count) - 1;
            let seen = self.task.seen(last, first_key).end;
            unsafe {
                self.scores::<V>(rows + tile, tile, seen);
                for index in tile..tile + TILE_ROWS {
                    let seen = self.task.seen(first_query + index, first_key);
                    let visible = if index < count { seen } else { 0..0 };
                    self.score_gradients::<V>(rows + index, index, visible);
                }
                let at = self.d_scores.as_ptr().add(tile * SCORE_STRIDE);
                let left = Left { at, row_stride: SCORE_STRIDE, step_stride: 1 };
                let right = Right { at: self.keys.as_ptr(), stride: self.width, depth: seen };
                let at = self.d_queries.as_mut_ptr().add((rows + tile) * self.width);
                let output = Output { at, stride: self.width, columns: self.width };
                product::<V, TILE_ROWS, false>(left, right, output);
            }
            tile += TILE_ROWS;
        }
        let keys = KEY_BLOCK.min(self.task.document.len() - first_key);
        let mut key = 0;
        while key < keys {
            // Where rows see only what came before, queries before the tile's first key do not see it.
            let skipped = match self.task.batch.attention.mask {
                Mask::Whole => 0,
                _ => (first_key + key).saturating_sub(first_query),
            };
            if skipped < count {
                unsafe { self.key_gradients::<V>(key, rows + skipped, skipped, count - skipped) };
            }
            key += TILE_ROWS;
        }
    }

    /// Products of a tile's queries with the keys, and of its output gradients with the values.
    #[inline(always)]
    unsafe fn scores<V: Vector>(&mut self, row: usize, tile: usize, seen: usize) {
        let (width, depth) = (self.width, self.task.batch.heads.head_dim);
        let columns = seen.next_multiple_of(16);
        unsafe {
            let left = Left { at: self.queries.as_ptr().add(row * width), row_stride: width, step_stride: 1 };
            let right = Right { at: self.keys_across.as_ptr(), stride: KEY_BLOCK, depth };
            let at = self.probabilities.as_mut_ptr().add(tile * SCORE_STRIDE);
            product::<V, TILE_ROWS, true>(left, right, Output { at, stride: SCORE_STRIDE, columns });
            let left = Left { at: self.d_outs.as_ptr().add(row * width), row_stride: width, step_stride: 1 };
            let right = Right { at: self.values_across.as_ptr(), stride: KEY_BLOCK, depth };
            let at = self.d_scores.as_mut_ptr().add(tile * SCORE_STRIDE);
            product::<V, TILE_ROWS, true>(left, right, Output { at, stride: SCORE_STRIDE, columns });
        }
    }

    /// Turns one query's products into probabilities and gradients of scores, both 0 outside `visible`.
    #[inline(always)]
    unsafe fn score_gradients<V: Vector>(&mut self, row: usize, index: usize, visible: Range<usize>) {
        unsafe {
            let attention = self.task.batch.attention;
            let (factor, scale) = (V::splat(attention.factor()), V::splat(attention.scale));
            let log_sum = V::splat(self.log_sums[row]);
            let delta = V::splat(self.deltas[row]);
            let probabilities = self.probabilities.as_mut_ptr().add(index * SCORE_STRIDE);
            let d_scores = self.d_scores.as_mut_ptr().add(index * SCORE_STRIDE);
            let mut column = 0;
            while column < visible.end {
                let mut score = V::load(probabilities.add(column)).mul(factor);
                let mut slope = scale;
                if let Some(cap) = attention.soft_cap {
                    let bent = tanh(score);
                    slope = scale.mul(bent.fma(bent.neg(), V::splat(1.0)));
                    score = bent.mul(V::splat(cap));
                }
                let mut probability = exp_not_positive(score.sub(log_sum));
                let difference = V::load(d_scores.add(column)).sub(delta);
                let mut d_score = probability.mul(difference).mul(slope);
                if column + V::LANES > visible.end {
                    let inside = below::<V>(visible.end - column);
                    probability = V::select(inside, probability, V::zero());
                    d_score = V::select(inside, d_score, V::zero());
                }
                if column < visible.start {
                    let outside = below::<V>(visible.start - column);
                    probability = V::select(outside, V::zero(), probability);
                    d_score = V::select(outside, V::zero(), d_score);
                }
                probability.store(probabilities.add(column));
                d_score.store(d_scores.add(column));
                column += V::LANES;
            }
            while column < SCORE_STRIDE {
                V::zero().store(probabilities.add(column));
                V::zero().store(d_scores.add(column));
                column += V::LANES;
            }
        }
    }

    /// Adds `count` queries' part to the gradients of a tile of keys and values.
    #[inline(always)]
    unsafe fn key_gradients<V: Vector>(&mut self, key: usize, row: usize, index: usize, count: usize) {
        let width = self.width;
        let offset = index * SCORE_STRIDE + key;
        unsafe {
            let left = Left {
                at: self.probabilities.as_ptr().add(offset),
                row_stride: 1,
                step_stride: SCORE_STRIDE,
            };
            let right = Right { at: self.d_outs.as_ptr().add(row * width), stride: width, depth: count };
            let at = self.d_values.as_mut_ptr().add(key * width);
            product::<V, TILE_ROWS, false>(left, right, Output { at, stride: width, columns: width });
            let left =
                Left { at: self.d_scores.as_ptr().add(offset), row_stride: 1, step_stride: SCORE_STRIDE };
            let right = Right { at: self.queries.as_ptr().add(row * width), stride: width, depth: count };
            let at = self.d_keys.as_mut_ptr().add(key * width);
            product::<V, TILE_ROWS, false>(left, right, Output { at, stride: width, columns: width });
        }
    }

    #[inline(always)]
    unsafe fn store_block(&self, first_key: usize) {
        let heads = self.task.batch.heads;
        let key_column = (heads.heads + self.task.kv_head) * heads.head_dim;
        let value_column = key_column + heads.kv_heads * heads.head_dim;
        let count = KEY_BLOCK.min(self.task.document.len() - first_key);
        for index in 0..count {
            unsafe {
                self.store(&self.d_keys[index * self.width..], first_key + index, key_column);
                self.store(&self.d_values[index * self.width..], first_key + index, value_column);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_head(&self, head: usize) {
        let column = (self.task.kv_head * self.task.group() + head) * self.task.batch.heads.head_dim;
        for token in 0..self.task.document.len() {
            let row = (head * self.room + token) * self.width;
            unsafe { self.store(&self.d_queries[row..], token, column) };
        }
    }

    /// Writes one head's row of a token's gradient.
    #[inline(always)]
    unsafe fn store(&self, from: &[f32], token: usize, column: usize) {
        let heads = self.task.batch.heads;
        let offset = (self.task.document.start + token) * heads.fused_width() + column;
        let to = unsafe { self.task.d_qkv.range(offset..offset + heads.head_dim) };
        to.copy_from_slice(&from[..heads.head_dim]);
    }
}
