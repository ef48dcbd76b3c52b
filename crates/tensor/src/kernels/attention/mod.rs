//! Grouped-query attention over packed documents, never holding a time×time matrix. Keys are taken in blocks of
//! [`KEY_BLOCK`] counted from the document's first token and merged in ascending order, so that a row's result
//! depends on nothing but its own query and the keys and values that it sees.

#![allow(unsafe_code)]

mod backward;
pub mod bench;
mod few;
mod forward;
mod layout;
mod paged;
mod split;
mod store;
#[cfg(test)]
mod tests;
mod tile;

pub use layout::{KvType, SCALE_BLOCK};
pub use paged::{PageLayout, PagedBatch, PagedRows, attention_paged};
pub use store::store_rows;

use crate::{Attention, Disjoint, Exec, Heads, Mask};
use backward::HeadGradient;
use forward::HeadRows;
use layout::{Blocks, fill_blocks, head_block_len};
use std::ops::Range;

/// Keys that are read at a time.
pub const KEY_BLOCK: usize = 64;
/// Tokens of one task: a long sequence is shared by several threads.
const ROWS_PER_TASK: usize = 512;

/// What attention reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBatch<'a> {
    /// Fused rows [query heads | key heads | value heads], (tokens, (heads + 2·kv_heads)·head_dim).
    pub qkv: &'a [f32],
    /// The rows of each document, ascending and apart.
    pub documents: &'a [Range<usize>],
    /// How a fused row is divided.
    pub heads: Heads,
    /// Which keys a row sees, and how scores are made.
    pub attention: Attention,
}

/// What the backward pass needs of the forward one.
#[derive(Clone, Copy, Debug)]
pub struct AttentionKept<'a> {
    /// The output, (tokens, heads·head_dim).
    pub out: &'a [f32],
    /// Logarithm of each row's and head's sum of exponentials, (tokens, heads).
    pub log_sums: &'a [f32],
}

/// What a product of query and key is usually multiplied with: 1 / sqrt(head_dim).
pub fn attention_scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// Attention of every token over the tokens of its document that it sees, with `out` (tokens, heads·head_dim) and
/// `log_sums` (tokens, heads). Tokens outside every document are left alone.
pub fn attention_forward(exec: Exec<'_>, batch: AttentionBatch<'_>, out: &mut [f32], log_sums: &mut [f32]) {
    let heads = batch.heads;
    check_shapes(batch, out.len());
    assert_eq!(log_sums.len() * heads.head_dim, out.len(), "one log-sum for each row and head");
    let (out, log_sums) = (Disjoint::new(out), Disjoint::new(log_sums));
    let parts = |document: &Range<usize>| document.len().div_ceil(ROWS_PER_TASK) * heads.kv_heads;
    let tasks = batch.documents.iter().map(parts).sum();
    exec.pool.run(tasks, &|task, _| {
        let (mut index, mut part) = (0, task);
        while part >= parts(&batch.documents[index]) {
            part -= parts(&batch.documents[index]);
            index += 1;
        }
        let document = &batch.documents[index];
        let (kv_head, first) = (part % heads.kv_heads, part / heads.kv_heads * ROWS_PER_TASK);
        let end = document.len().min(first + ROWS_PER_TASK);
        let keys = if batch.attention.mask == Mask::Whole { document.len() } else { end };
        let blocks_len = keys.div_ceil(KEY_BLOCK) * head_block_len(KvType::F32, heads.head_dim);
        let mut work = exec.pool.scratch().take(blocks_len + forward::work_len(heads.head_dim));
        let (blocks, work) = work.split_at_mut(blocks_len);
        let rows = document.start * heads.fused_width()..(document.start + keys) * heads.fused_width();
        fill_blocks(exec.isa, &batch.qkv[rows], (heads, kv_head), blocks);
        let task = HeadRows {
            isa: exec.isa,
            qkv: batch.qkv,
            heads,
            attention: batch.attention,
            sequence_tokens: document.len(),
            kv_head,
            first_row: document.start + first,
            tokens: end - first,
            first_position: first,
            blocks: Blocks::Contiguous(blocks),
            out: &out,
            log_sums: Some(&log_sums),
        };
        // SAFETY: an `Exec` has an available instruction set; no two tasks share a row and a head.
        unsafe { forward::attend(exec.isa, &task, work) };
    });
}

/// Gradient of [`attention_forward`] with respect to `qkv`, overwriting `d_qkv` (zero for tokens outside
/// every document). A value's and a key's gradient is one chain over the query heads of its group and, within
/// a head, ascending queries; a query's is one chain over ascending keys.
pub fn attention_backward(
    exec: Exec<'_>,
    batch: AttentionBatch<'_>,
    kept: AttentionKept<'_>,
    d_out: &[f32],
    d_qkv: &mut [f32],
) {
    let heads = batch.heads;
    check_shapes(batch, d_out.len());
    assert_eq!(d_qkv.len(), batch.qkv.len(), "the gradient has the shape of the fused rows");
    let mut covered = 0;
    for document in batch.documents {
        d_qkv[covered * heads.fused_width()..document.start * heads.fused_width()].fill(0.0);
        covered = document.end;
    }
    d_qkv[covered * heads.fused_width()..].fill(0.0);
    let d_qkv = Disjoint::new(d_qkv);
    exec.pool.run(batch.documents.len() * heads.kv_heads, &|task, _| {
        let document = &batch.documents[task / heads.kv_heads];
        let kv_head = task % heads.kv_heads;
        let task = HeadGradient { isa: exec.isa, batch, kept, d_out, document, kv_head, d_qkv: &d_qkv };
        let mut work = exec.pool.scratch().take(backward::work_len(&task));
        // SAFETY: an `Exec` has an available instruction set; no two tasks share a row and a head.
        unsafe { backward::differentiate(exec.isa, &task, &mut work) };
    });
}

fn check_shapes(batch: AttentionBatch<'_>, out_len: usize) {
    let heads = batch.heads;
    let rows = batch.qkv.len() / heads.fused_width();
    assert_eq!(batch.qkv.len(), rows * heads.fused_width(), "whole fused rows");
    assert_eq!(out_len, rows * heads.out_width(), "one output row for each fused row");
    let ascending = batch.documents.windows(2).all(|pair| pair[0].end <= pair[1].start);
    assert!(
        ascending && batch.documents.iter().all(|d| d.end <= rows),
        "documents ascend, apart, within the rows"
    );
}
