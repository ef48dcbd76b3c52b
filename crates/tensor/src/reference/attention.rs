//! Reference of causal grouped-query attention over packed documents. Keys are taken in blocks of `KEY_BLOCK`
//! counted from the document's first token and merged in ascending order by the running maximum and sum
//! (online softmax: Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).

use super::math::{exp, ln, tanh};
use super::{LANES, lane_dot, merge_lanes};
use crate::kernels::{AttentionBatch, AttentionKept, KEY_BLOCK};
use crate::{Attention, Heads};
use std::ops::Range;

/// Attention of every token over the tokens of its document that it sees.
/// `batch.qkv` (tokens, (heads + 2·kv_heads)·head_dim), `out` (tokens, heads·head_dim), `log_sums` (tokens,
/// heads). Tokens outside every document are left alone.
pub fn attention_forward(batch: AttentionBatch<'_>, out: &mut [f32], log_sums: &mut [f32]) {
    let heads = batch.heads;
    for document in batch.documents {
        for (position, token) in document.clone().enumerate() {
            for head in 0..heads.heads {
                let row = Row { qkv: batch.qkv, heads, attention: batch.attention, document, position, head };
                let out = &mut out[token * heads.out_width() + head * heads.head_dim..][..heads.head_dim];
                log_sums[token * heads.heads + head] = attend_row(row, out);
            }
        }
    }
}

/// Gradient of [`attention_forward`] with respect to `qkv`, overwriting `d_qkv` (zero for tokens outside
/// every document). The probabilities are recomputed from `kept.log_sums`. A value's and a key's gradient is
/// one chain over the query heads of its group and, within a head, ascending queries; a query's is one chain
/// over ascending keys.
pub fn attention_backward(
    batch: AttentionBatch<'_>,
    kept: AttentionKept<'_>,
    d_out: &[f32],
    d_qkv: &mut [f32],
) {
    d_qkv.fill(0.0);
    let heads = batch.heads;
    for document in batch.documents {
        for head in 0..heads.heads {
            for (position, token) in document.clone().enumerate() {
                let row = Row { qkv: batch.qkv, heads, attention: batch.attention, document, position, head };
                let offset = token * heads.out_width() + head * heads.head_dim;
                let range = offset..offset + heads.head_dim;
                let log_sum = kept.log_sums[token * heads.heads + head];
                row_backward(row, (&kept.out[range.clone()], log_sum), &d_out[range], d_qkv);
            }
        }
    }
}

fn row_backward(row: Row<'_>, (out, log_sum): (&[f32], f32), d_out: &[f32], d_qkv: &mut [f32]) {
    let head_dim = row.heads.head_dim;
    let delta = lane_dot((0..head_dim).map(|d| (d_out[d], out[d])));
    for key in row.seen() {
        let (score, slope) = row.score(key);
        let probability = exp(score - log_sum);
        let d_probability = chain(d_out, row.value(key));
        let d_score = probability * (d_probability - delta) * slope;
        let key_offset = row.key_offset(key);
        let value_offset = key_offset + row.heads.kv_heads * head_dim;
        for d in 0..head_dim {
            let d_value = &mut d_qkv[value_offset + d];
            *d_value = probability.mul_add(d_out[d], *d_value);
            let d_key = &mut d_qkv[key_offset + d];
            *d_key = d_score.mul_add(row.query()[d], *d_key);
            let d_query = &mut d_qkv[row.query_offset() + d];
            *d_query = d_score.mul_add(row.key(key)[d], *d_query);
        }
    }
}

/// One query head at one position of a document.
#[derive(Clone, Copy)]
struct Row<'a> {
    qkv: &'a [f32],
    heads: Heads,
    attention: Attention,
    document: &'a Range<usize>,
    position: usize,
    head: usize,
}

/// Writes the output of one row and returns its log-sum: maximum + ln(sum of exponentials).
fn attend_row(row: Row<'_>, out: &mut [f32]) -> f32 {
    let (mut maximum, mut sum) = (f32::MIN, 0.0f32);
    let seen = row.seen();
    out.fill(0.0);
    for first in (seen.start / KEY_BLOCK * KEY_BLOCK..seen.end).step_by(KEY_BLOCK) {
        let keys = first.max(seen.start)..(first + KEY_BLOCK).min(seen.end);
        let scores: Vec<f32> = keys.clone().map(|key| row.score(key).0).collect();
        let greatest = super::maximum(scores.iter().copied());
        let merged = if greatest > maximum { greatest } else { maximum };
        let correction = exp(maximum - merged);
        let mut lanes = [0.0; LANES];
        out.iter_mut().for_each(|out| *out *= correction);
        for (key, score) in keys.zip(scores) {
            let probability = exp(score - merged);
            lanes[(key - first) % LANES] += probability;
            for (out, &value) in out.iter_mut().zip(row.value(key)) {
                *out = probability.mul_add(value, *out);
            }
        }
        sum = sum.mul_add(correction, merge_lanes(lanes));
        maximum = merged;
    }
    out.iter_mut().for_each(|out| *out /= sum);
    maximum + ln(sum)
}

impl<'a> Row<'a> {
    /// The positions of the keys that it sees.
    fn seen(&self) -> Range<usize> {
        self.attention.seen(self.position, self.document.len())
    }

    /// The score, scale · (query · key) and its cap, the product as one chain over the ascending head dimension;
    /// and its derivative with respect to that product.
    fn score(&self, key: usize) -> (f32, f32) {
        let score = chain(self.query(), self.key(key)) * self.attention.factor();
        match self.attention.soft_cap {
            None => (score, self.attention.scale),
            Some(cap) => {
                let bent = tanh(score);
                (bent * cap, self.attention.scale * bent.mul_add(-bent, 1.0))
            }
        }
    }

    fn query(&self) -> &'a [f32] {
        &self.qkv[self.query_offset()..][..self.heads.head_dim]
    }

    fn key(&self, key: usize) -> &'a [f32] {
        &self.qkv[self.key_offset(key)..][..self.heads.head_dim]
    }

    fn value(&self, key: usize) -> &'a [f32] {
        &self.qkv[self.key_offset(key) + self.heads.kv_heads * self.heads.head_dim..][..self.heads.head_dim]
    }

    fn query_offset(&self) -> usize {
        let heads = self.heads;
        (self.document.start + self.position) * heads.fused_width() + self.head * heads.head_dim
    }

    fn key_offset(&self, key: usize) -> usize {
        let heads = self.heads;
        let kv_head = self.head / (heads.heads / heads.kv_heads);
        (self.document.start + key) * heads.fused_width() + (heads.heads + kv_head) * heads.head_dim
    }
}

/// a · b as one chain of fused multiply-adds.
fn chain(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (&a, &b)| a.mul_add(b, sum))
}
