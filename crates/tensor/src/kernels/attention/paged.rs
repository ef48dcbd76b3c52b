//! Attention over pages of keys and values: what an engine calls for a ragged batch of sequences, each with a
//! few new rows. Gives the bits of [`attention_forward`](super::attention_forward) on the whole sequence.
#![allow(unsafe_code)]

use super::forward::{CHUNK_ROWS, HeadRows, attend, work_len};
use super::layout::{Blocks, KvType, PagedBlocks, head_block_len};
use super::{KEY_BLOCK, split};
use crate::{Attention, Disjoint, Exec, Heads, Mask};

/// How the pages of one layer lie in a buffer.
///
/// A page is `blocks_per_page` blocks of [`KEY_BLOCK`] tokens, one after another; a block is for each
/// key/value head its keys (head_dim, 64), transposed, then its values (64, head_dim rounded up to sixteen), then
/// their scales where the type has any. Lengths are in floats, words of four bytes, whatever the type.
/// A buffer of zeros is an empty cache.
#[derive(Clone, Copy, Debug)]
pub struct PageLayout {
    /// How a fused row is divided.
    pub heads: Heads,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Blocks in a page.
    pub blocks_per_page: usize,
    /// Floats from the start of a page to that of the next; at least [`PageLayout::page_len`].
    pub page_stride: usize,
}

impl PageLayout {
    /// The layout with pages of `page_tokens` tokens, one right after another, keys and values in f32.
    ///
    /// # Panics
    /// When `page_tokens` is not a multiple of [`KEY_BLOCK`].
    pub fn new(heads: Heads, page_tokens: usize) -> PageLayout {
        let whole = page_tokens > 0 && page_tokens.is_multiple_of(KEY_BLOCK);
        assert!(whole, "a page of {page_tokens} tokens is not a multiple of {KEY_BLOCK}");
        let blocks_per_page = page_tokens / KEY_BLOCK;
        PageLayout { heads, kv_type: KvType::F32, blocks_per_page, page_stride: 0 }.with_type(KvType::F32)
    }

    /// The same with keys and values of another type, its pages one right after another.
    pub fn with_type(mut self, kv_type: KvType) -> PageLayout {
        self.kv_type = kv_type;
        self.page_stride = self.page_len();
        self
    }

    /// Floats of one page.
    pub fn page_len(&self) -> usize {
        self.blocks_per_page * self.block_len()
    }

    /// Floats of a block with all heads.
    pub(super) fn block_len(&self) -> usize {
        self.heads.kv_heads * head_block_len(self.kv_type, self.heads.head_dim)
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
    let tokens_per_task = (CHUNK_ROWS * heads.kv_heads / heads.heads).max(1);
    let parts = |rows: usize| rows.div_ceil(tokens_per_task) * heads.kv_heads;
    let tasks: usize = (0..batch.sequences).map(|index| parts((batch.sequence)(index).rows)).sum();
    let task = |index: usize, kv_head: usize, first: usize| {
        let rows = (batch.sequence)(index);
        let blocks = PagedBlocks {
            kv_type: batch.layout.kv_type,
            data: batch.pages,
            pages: rows.pages,
            page_stride: batch.layout.page_stride,
            blocks_per_page: batch.layout.blocks_per_page,
            block_len: batch.layout.block_len(),
            head_offset: kv_head * head_block_len(batch.layout.kv_type, heads.head_dim),
        };
        HeadRows {
            isa: exec.isa,
            qkv: batch.qkv,
            heads,
            attention: batch.attention,
            sequence_tokens: rows.first_position + rows.rows,
            kv_head,
            first_row: rows.row + first,
            tokens: tokens_per_task.min(rows.rows - first),
            first_position: rows.first_position + first,
            blocks: Blocks::Paged(blocks),
            out: &out,
            log_sums: None,
        }
    };
    let threads = exec.pool.threads();
    if (0..batch.sequences).all(|index| split::is_worth_it(threads, tasks, &task(index, 0, 0))) {
        (0..batch.sequences).for_each(|index| split::attend_split(exec, &|kv_head| task(index, kv_head, 0)));
        return;
    }
    exec.pool.run(tasks, &|number, _| {
        let (mut index, mut part) = (0, number);
        while part >= parts((batch.sequence)(index).rows) {
            part -= parts((batch.sequence)(index).rows);
            index += 1;
        }
        let task = task(index, part % heads.kv_heads, part / heads.kv_heads * tokens_per_task);
        let mut work = exec.pool.scratch().take(work_len(heads.head_dim));
        // SAFETY: an `Exec` has an available instruction set; no two tasks share a row and a head.
        unsafe { attend(exec.isa, &task, &mut work) };
    });
}
