//! How keys and values lie in blocks: the keys of a block transposed, so that scores are vectors over keys;
//! the values as rows, padded to a multiple of sixteen. Shared by training and by the engine's pages.

use super::KEY_BLOCK;
use crate::gemm::{MatRef, transpose};
use crate::{Heads, Isa};

/// Width of a row of values in a block: the head's width rounded up to sixteen.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// Floats of one block of one key/value head: keys (head_dim, 64), then values (64, padded head_dim).
pub(super) fn head_block_len(head_dim: usize) -> usize {
    KEY_BLOCK * (head_dim + padded(head_dim))
}

/// Where the blocks of one key/value head of one sequence are.
#[derive(Clone, Copy)]
pub(super) enum Blocks<'a> {
    /// One after another.
    Contiguous(&'a [f32]),
    /// In pages.
    Paged(PagedBlocks<'a>),
}

/// Blocks in pages: block b is number b mod `blocks_per_page` of page `pages[b / blocks_per_page]`.
#[derive(Clone, Copy)]
pub(super) struct PagedBlocks<'a> {
    pub data: &'a [f32],
    pub pages: &'a [u32],
    pub page_stride: usize,
    pub blocks_per_page: usize,
    /// Floats of a block with all heads, and of what lies before this head in it.
    pub block_len: usize,
    pub head_offset: usize,
}

impl<'a> Blocks<'a> {
    /// The keys (head_dim, 64) and the values (64, padded head_dim) of a block.
    pub(super) fn block(&self, index: usize, head_dim: usize) -> (&'a [f32], &'a [f32]) {
        let (data, offset) = match self {
            Blocks::Contiguous(data) => (*data, index * head_block_len(head_dim)),
            Blocks::Paged(paged) => {
                let page = paged.pages[index / paged.blocks_per_page] as usize;
                let within = (index % paged.blocks_per_page) * paged.block_len;
                (paged.data, page * paged.page_stride + within + paged.head_offset)
            }
        };
        data[offset..][..head_block_len(head_dim)].split_at(KEY_BLOCK * head_dim)
    }
}

/// Lays the keys and values of one head of `tokens` fused rows out in blocks, zero beyond the last.
pub(super) fn fill_blocks(isa: Isa, qkv: &[f32], (heads, kv_head): (Heads, usize), blocks: &mut [f32]) {
    let (width, head_dim) = (heads.fused_width(), heads.head_dim);
    let key_offset = (heads.heads + kv_head) * head_dim;
    let value_offset = key_offset + heads.kv_heads * head_dim;
    let rows = qkv.chunks(KEY_BLOCK * width);
    for (rows, block) in rows.zip(blocks.chunks_exact_mut(head_block_len(head_dim))) {
        let (keys, values) = block.split_at_mut(KEY_BLOCK * head_dim);
        transpose_rows(isa, &rows[key_offset..], (rows.len() / width, width), keys);
        copy_rows(&rows[value_offset..], width, rows.len() / width, (values, head_dim));
    }
}

/// Writes `count` ≤ 64 rows, `stride` apart in `from`, as the columns of `to` (head_dim, 64), zero beyond.
pub(super) fn transpose_rows(isa: Isa, from: &[f32], (count, stride): (usize, usize), to: &mut [f32]) {
    let from = MatRef::with_row_stride(from, count, to.len() / KEY_BLOCK, stride);
    transpose(isa, from, to, KEY_BLOCK);
}

/// Copies `count` rows, `stride` apart in `from`, to the rows of `to` (rows, padded head_dim), zero beyond.
pub(super) fn copy_rows(from: &[f32], stride: usize, count: usize, (to, head_dim): (&mut [f32], usize)) {
    for (index, row) in to.chunks_exact_mut(padded(head_dim)).enumerate() {
        let inside = if index < count { head_dim } else { 0 };
        if inside > 0 {
            row[..inside].copy_from_slice(&from[index * stride..][..inside]);
        }
        row[inside..].fill(0.0);
    }
}
