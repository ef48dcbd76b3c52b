//! Keys and values of a cache as right factors for few rows: read once, straight from the pages, widened in registers
//! while the caches fetch the next block. Must not know how scores become weights.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason: pointers cover a block, as `Block` has it.

use super::KEY_BLOCK;
use super::layout::{Block, SCALE_BLOCK, padded, scales};
use super::tile::{Factor, Left, Output, product_of_few};
use crate::dispatch;
use crate::gemm::{Element, F16};
use crate::simd::{Vector, prefetch_second_level};

/// A block, the block that is read next, and which tokens of it count.
#[derive(Clone, Copy)]
pub(super) struct FewBlock<'a> {
    pub block: Block<'a>,
    pub next: Block<'a>,
    pub head_dim: usize,
    /// Tokens from the block's first to the last that is seen.
    pub seen: usize,
    /// Which columns of the values: the first, a multiple of [`SCALE_BLOCK`], and how many, a multiple of sixteen.
    pub columns: (usize, usize),
}

dispatch! {
    /// Scores of `rows` queries (rows and one more, head_dim) with a block's keys: (rows and one more, 64). `work` has room
    /// for the scales.
    pub(super) fn scores_of_few(
        rows: usize, queries: Left, block: FewBlock<'_>, scores: Output, work: &mut [f32]) = scores_generic;
}

dispatch! {
    /// Adds the values, weighted by exponentials (rows and one more, 64), to sums (rows and one more, columns).
    pub(super) fn add_values_of_few(
        rows: usize, weights: Left, block: FewBlock<'_>, sums: Output, work: &mut [f32]) = values_generic;
}

#[inline(always)]
unsafe fn scores_generic<V: Vector>(
    rows: usize,
    queries: Left,
    FewBlock { block, next, head_dim, .. }: FewBlock<'_>,
    scores: Output,
    work: &mut [f32],
) {
    unsafe {
        match (block, next) {
            (Block::F32 { keys, .. }, Block::F32 { keys: next, .. }) => {
                let right =
                    Elements { at: keys.as_ptr(), ahead: next.as_ptr(), stride: KEY_BLOCK, depth: head_dim };
                product_of_few::<V, _, true>(rows, queries, right, scores);
            }
            (Block::F16 { keys, .. }, Block::F16 { keys: next, .. }) => {
                let (at, ahead) = (keys.as_ptr().cast::<F16>(), next.as_ptr().cast());
                let right = Elements { at, ahead, stride: KEY_BLOCK, depth: head_dim };
                product_of_few::<V, _, true>(rows, queries, right, scores);
            }
            (Block::Q8(block), Block::Q8(next)) => {
                widen_scales::<V>(block.key_scales, work);
                let (at, ahead) = (block.keys.as_ptr(), next.keys.as_ptr());
                let right = ByteKeys { at, ahead, scales: work.as_ptr(), step: 0, depth: head_dim };
                product_of_few::<V, _, true>(rows, queries, right, scores);
            }
            _ => unreachable!("the blocks of a cache are of one type"),
        }
    }
}

#[inline(always)]
unsafe fn values_generic<V: Vector>(
    rows: usize,
    weights: Left,
    FewBlock { block, next, head_dim, seen, columns: (first, _) }: FewBlock<'_>,
    sums: Output,
    work: &mut [f32],
) {
    let (stride, scales_stride) = (padded(head_dim), scales(head_dim));
    unsafe {
        match (block, next) {
            (Block::F32 { values, .. }, Block::F32 { values: next, .. }) => {
                let (at, ahead) = (values.as_ptr().add(first), next.as_ptr().add(first));
                product_of_few::<V, _, false>(
                    rows,
                    weights,
                    Elements { at, ahead, stride, depth: seen },
                    sums,
                );
            }
            (Block::F16 { values, .. }, Block::F16 { values: next, .. }) => {
                let (at, ahead) = (values.as_ptr().add(first).cast::<F16>(), next.as_ptr().add(first).cast());
                product_of_few::<V, _, false>(
                    rows,
                    weights,
                    Elements { at, ahead, stride, depth: seen },
                    sums,
                );
            }
            (Block::Q8(block), Block::Q8(next)) => {
                widen_scales::<V>(block.value_scales, work);
                let (at, ahead) = (block.values.as_ptr().add(first), next.values.as_ptr().add(first));
                let scales = work.as_ptr().add(first / SCALE_BLOCK);
                let right = ByteValues { at, ahead, stride, scales, scales_stride, depth: seen };
                product_of_few::<V, _, false>(rows, weights, right, sums);
            }
            _ => unreachable!("the blocks of a cache are of one type"),
        }
    }
}

#[inline(always)]
unsafe fn widen_scales<V: Vector>(from: &[u16], to: &mut [f32]) {
    assert!(to.len() >= from.len() && from.len().is_multiple_of(KEY_BLOCK));
    let mut index = 0;
    while index < from.len() {
        unsafe { V::load_f16(from.as_ptr().add(index)).store(to.as_mut_ptr().add(index)) };
        index += V::LANES;
    }
}

/// Numbers as they are.
#[derive(Clone, Copy)]
struct Elements<E> {
    at: *const E,
    ahead: *const E,
    stride: usize,
    depth: usize,
}

impl<E: Element> Factor for Elements<E> {
    #[inline(always)]
    fn depth(&self) -> usize {
        self.depth
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(&self, column: usize) -> V {
        unsafe { E::load::<V>(self.at.add(column)) }
    }
    #[inline(always)]
    unsafe fn fetch<V: Vector, const REGISTER: usize>(&self, column: usize) {
        if (REGISTER * V::LANES * size_of::<E>()).is_multiple_of(64) {
            prefetch_second_level(self.ahead.wrapping_add(column).cast());
        }
    }
    #[inline(always)]
    unsafe fn advance(&mut self) {
        self.at = self.at.wrapping_add(self.stride);
        self.ahead = self.ahead.wrapping_add(self.stride);
    }
}

/// Keys in bytes, (head_dim, 64), with scales (scales, 64) in f32.
#[derive(Clone, Copy)]
struct ByteKeys {
    at: *const i8,
    ahead: *const i8,
    scales: *const f32,
    step: usize,
    depth: usize,
}

impl Factor for ByteKeys {
    #[inline(always)]
    fn depth(&self) -> usize {
        self.depth
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(&self, column: usize) -> V {
        unsafe { V::load_i8(self.at.add(column)).mul(V::load(self.scales.add(column))) }
    }
    #[inline(always)]
    unsafe fn fetch<V: Vector, const REGISTER: usize>(&self, column: usize) {
        if (REGISTER * V::LANES).is_multiple_of(64) {
            prefetch_second_level(self.ahead.wrapping_add(column).cast());
        }
    }
    #[inline(always)]
    unsafe fn advance(&mut self) {
        self.at = self.at.wrapping_add(KEY_BLOCK);
        self.ahead = self.ahead.wrapping_add(KEY_BLOCK);
        self.step += 1;
        if self.step.is_multiple_of(SCALE_BLOCK) {
            self.scales = self.scales.wrapping_add(KEY_BLOCK);
        }
    }
}

/// Values in bytes, (64, padded head_dim), with scales (64, scales) in f32.
#[derive(Clone, Copy)]
struct ByteValues {
    at: *const i8,
    ahead: *const i8,
    stride: usize,
    scales: *const f32,
    scales_stride: usize,
    depth: usize,
}

impl Factor for ByteValues {
    #[inline(always)]
    fn depth(&self) -> usize {
        self.depth
    }
    #[inline(always)]
    unsafe fn load<V: Vector>(&self, column: usize) -> V {
        unsafe { V::load_i8(self.at.add(column)).mul(V::splat(*self.scales.add(column / SCALE_BLOCK))) }
    }
    #[inline(always)]
    unsafe fn fetch<V: Vector, const REGISTER: usize>(&self, column: usize) {
        if (REGISTER * V::LANES).is_multiple_of(64) {
            prefetch_second_level(self.ahead.wrapping_add(column).cast());
        }
    }
    #[inline(always)]
    unsafe fn advance(&mut self) {
        self.at = self.at.wrapping_add(self.stride);
        self.ahead = self.ahead.wrapping_add(self.stride);
        self.scales = self.scales.wrapping_add(self.scales_stride);
    }
}
