//! Attention over pages of keys and values: what an engine calls for a ragged batch of sequences, each with a
//! few new rows. Gives the bits of [`attention_forward`](super::attention_forward) on the whole sequence.
#![allow(unsafe_code)]

use super::forward::{HeadRows, attend, work_len};
use super::layout::{Blocks, PagedBlocks, head_block_len, padded};
use super::{KEY_BLOCK, ROWS_PER_TASK};
use crate::{Attention, Disjoint, Exec, Heads, Mask};

/// How the pages of one layer lie in a buffer.
///
/// A page is `blocks_per_page` blocks of [`KEY_BLOCK`] tokens, one after another; a block is for each
/// key/value head its keys (head_dim, 64), transposed, then its values (64, head_dim rounded up to sixteen).
/// A buffer of zeros is an empty cache.
#[derive(Clone, Copy, Debug)]
pub struct PageLayout {
    /// How a fused row is divided.
    pub heads: Heads,
    /// Blocks in a page.
    pub blocks_per_page: usize,
    /// Floats from the start of a page to that of the next; at least [`PageLayout::page_len`].
    pub page_stride: usize,
}

impl PageLayout {
    /// The layout with pages of `page_tokens` tokens, one right after another.
    ///
    /// # Panics
    /// When `page_tokens` is not a multiple of [`KEY_BLOCK`].
    pub fn new(heads: Heads, page_tokens: usize) -> PageLayout {
        let whole = page_tokens > 0 && page_tokens.is_multiple_of(KEY_BLOCK);
        assert!(whole, "a page of {page_tokens} tokens is not a multiple of {KEY_BLOCK}");
        let mut layout = PageLayout { heads, blocks_per_page: page_tokens / KEY_BLOCK, page_stride: 0 };
        layout.page_stride = layout.page_len();
        layout
    }

    /// Floats of one page.
    pub fn page_len(&self) -> usize {
        self.blocks_per_page * self.block_len()
    }

    fn block_len(&self) -> usize {
        self.heads.kv_heads * head_block_len(self.heads.head_dim)
    }
}

/// The new rows of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct PagedRows<'a> {
    /// The first row in the batch.
    pub row: usize,
    /// How many there are.
    pub rows: usize,
    /// Position of the first in its sequence.
    pub first_position: usize,
    /// The pages of the sequence, enough for its last new row.
    pub pages: &'a [u32],
}

/// Writes the keys and values of a sequence's new rows into its pages. `qkv` holds the fused rows of the
/// batch.
pub fn store_rows(layout: PageLayout, pages: &mut [f32], qkv: &[f32], sequence: PagedRows<'_>) {
    let heads = layout.heads;
    let head_dim = heads.head_dim;
    for index in 0..sequence.rows {
        let row = &qkv[(sequence.row + index) * heads.fused_width()..][..heads.fused_width()];
        let (keys, values) = row[heads.heads * head_dim..].split_at(heads.kv_heads * head_dim);
        let position = sequence.first_position + index;
        let (block, slot) = (position / KEY_BLOCK, position % KEY_BLOCK);
        let page = sequence.pages[block / layout.blocks_per_page] as usize;
        let start = page * layout.page_stride + (block % layout.blocks_per_page) * layout.block_len();
        let block = &mut pages[start..][..layout.block_len()];
        for (kv_head, block) in block.chunks_exact_mut(head_block_len(head_dim)).enumerate() {
            let (block_keys, block_values) = block.split_at_mut(KEY_BLOCK * head_dim);
            let range = kv_head * head_dim..(kv_head + 1) * head_dim;
            for (d, key) in keys[range.clone()].iter().enumerate() {
                block_keys[d * KEY_BLOCK + slot] = *key;
            }
            block_values[slot * padded(head_dim)..][..head_dim].copy_from_slice(&values[range]);
        }
    }
}

/// A ragged batch of rows over pages.
#[derive(Clone, Copy)]
pub struct PagedBatch<'a> {
    /// Fused rows of the batch, (rows, fused width).
    pub qkv: &'a [f32],
    /// How the pages lie.
    pub layout: PageLayout,
    /// Which keys a row sees, but never more than those up to itself, and how scores are made.
    pub attention: Attention,
    /// The layer's pages, with the new rows already stored.
    pub pages: &'a [f32],
    /// Number of sequences.
    pub sequences: usize,
    /// The rows of each sequence; no two share a row.
    pub sequence: &'a (dyn Fn(usize) -> PagedRows<'a> + Sync),
}

/// Attention of every new row over those tokens of its sequence up to itself that it sees: `out` (rows,
/// heads·head_dim).
///
/// # Panics
/// When rows should see tokens after them, which may not be known yet, or a row or a page lies outside its buffer.
pub fn attention_paged(exec: Exec<'_>, batch: PagedBatch<'_>, out: &mut [f32]) {
    let heads = batch.layout.heads;
    assert!(batch.attention.mask != Mask::Whole, "a cache holds only what came before");
    let out = Disjoint::new(out);
    let parts = |rows: usize| rows.div_ceil(ROWS_PER_TASK) * heads.kv_heads;
    let tasks = (0..batch.sequences).map(|index| parts((batch.sequence)(index).rows)).sum();
    exec.pool.run(tasks, &|task, _| {
        let (mut index, mut part) = (0, task);
        while part >= parts((batch.sequence)(index).rows) {
            part -= parts((batch.sequence)(index).rows);
            index += 1;
        }
        let rows = (batch.sequence)(index);
        let (kv_head, first) = (part % heads.kv_heads, part / heads.kv_heads * ROWS_PER_TASK);
        let blocks = PagedBlocks {
            data: batch.pages,
            pages: rows.pages,
            page_stride: batch.layout.page_stride,
            blocks_per_page: batch.layout.blocks_per_page,
            block_len: batch.layout.block_len(),
            head_offset: kv_head * head_block_len(heads.head_dim),
        };
        let task = HeadRows {
            qkv: batch.qkv,
            heads,
            attention: batch.attention,
            sequence_tokens: rows.first_position + rows.rows,
            kv_head,
            first_row: rows.row + first,
            tokens: ROWS_PER_TASK.min(rows.rows - first),
            first_position: rows.first_position + first,
            blocks: Blocks::Paged(blocks),
            out: &out,
            log_sums: None,
        };
        let mut work = exec.pool.scratch().take(work_len(heads.head_dim));
        // SAFETY: an `Exec` has an available instruction set; no two tasks share a row and a head.
        unsafe { attend(exec.isa, &task, &mut work) };
    });
}
