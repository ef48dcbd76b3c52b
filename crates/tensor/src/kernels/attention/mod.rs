//! Causal grouped-query attention over packed documents, never holding a time×time matrix. Keys are taken in
//! blocks of [`KEY_BLOCK`] counted from the document's first token and merged in ascending order, so that a row's
//! result depends on nothing but its own query and the keys and values up to its position.

use crate::{Exec, Heads, reference};
use std::ops::Range;

/// Keys that are read at a time.
pub const KEY_BLOCK: usize = 64;

/// What attention reads.
#[derive(Clone, Copy, Debug)]
pub struct AttentionBatch<'a> {
    /// Fused rows [query heads | key heads | value heads], (tokens, (heads + 2·kv_heads)·head_dim).
    pub qkv: &'a [f32],
    /// The rows of each document, ascending and apart.
    pub documents: &'a [Range<usize>],
    /// How a fused row is divided.
    pub heads: Heads,
}

/// What the backward pass needs of the forward one.
#[derive(Clone, Copy, Debug)]
pub struct AttentionKept<'a> {
    /// The output, (tokens, heads·head_dim).
    pub out: &'a [f32],
    /// Logarithm of each row's and head's sum of exponentials, (tokens, heads).
    pub log_sums: &'a [f32],
}

/// What a product of query and key is multiplied with: 1 / sqrt(head_dim).
pub fn attention_scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// Attention of every token over the tokens of its document up to itself, with `out` (tokens, heads·head_dim) and
/// `log_sums` (tokens, heads). Tokens outside every document are left alone.
pub fn attention_forward(exec: Exec<'_>, batch: AttentionBatch<'_>, out: &mut [f32], log_sums: &mut [f32]) {
    let _ = exec;
    reference::attention::attention_forward(batch, out, log_sums);
}

/// Gradient of [`attention_forward`] with respect to `qkv`, overwriting `d_qkv` (zero for tokens outside every
/// document). A value's and a key's gradient is one chain over the query heads of its group and, within a head,
/// ascending queries; a query's is one chain over ascending keys.
pub fn attention_backward(
    exec: Exec<'_>,
    batch: AttentionBatch<'_>,
    kept: AttentionKept<'_>,
    d_out: &[f32],
    d_qkv: &mut [f32],
) {
    let _ = exec;
    reference::attention::attention_backward(batch, kept, d_out, d_qkv);
}
