//! Causal attention of new rows over the pages of their sequence. Knows nothing of the batch around them.

use tensor::kernels::attention_scale;
use tensor::reference::math::exp;
use tensor::{Exec, Heads, KEY_BLOCK};

use crate::cache::Blocks;

/// Attention of fused rows `qkv` (rows, (heads + 2·kv_heads)·head_dim), the first of which stands at
/// `first_position`, over all keys up to their own, which the blocks already hold: `out` (rows, heads·head_dim).
pub(crate) fn attend_pages(
    exec: Exec<'_>,
    blocks: Blocks<'_>,
    (qkv, first_position): (&[f32], usize),
    heads: Heads,
    out: &mut [f32],
) {
    exec.pool().run_slices(out, heads.head_dim, &|index, out, _| {
        let (row, head) = (index / heads.out_width(), index % heads.out_width() / heads.head_dim);
        let query = &qkv[row * heads.fused_width() + head * heads.head_dim..][..heads.head_dim];
        let kv_head = head / (heads.heads / heads.kv_heads);
        attend_row(query, |block| blocks.of(kv_head, block), first_position + row, out);
    });
}

/// Attention of one query at `position`: blocks are merged in ascending order by the running maximum and sum (online
/// softmax: Milakov and Gimelshein 2018, arXiv:1805.02867), in the order of sums of `tensor::reference::attention`.
fn attend_row<'a>(
    query: &[f32],
    block: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    position: usize,
    out: &mut [f32],
) {
    let head_dim = query.len();
    let scale = attention_scale(head_dim);
    let (mut maximum, mut sum) = (f32::NEG_INFINITY, 0.0f32);
    out.fill(0.0);
    for first in (0..=position).step_by(KEY_BLOCK) {
        let (keys, values) = block(first / KEY_BLOCK);
        let count = KEY_BLOCK.min(position + 1 - first);
        let mut scores = [0.0f32; KEY_BLOCK];
        for (&element, keys) in query.iter().zip(keys.chunks_exact(KEY_BLOCK)) {
            scores.iter_mut().zip(keys).for_each(|(score, &key)| *score = element.mul_add(key, *score));
        }
        scores[..count].iter_mut().for_each(|score| *score *= scale);
        let merged = scores[..count].iter().fold(maximum, |highest, &score| highest.max(score));
        let correction = exp(maximum - merged);
        out.iter_mut().for_each(|out| *out *= correction);
        let mut lanes = [0.0f32; 16];
        for (key, (&score, value)) in scores[..count].iter().zip(values.chunks_exact(head_dim)).enumerate() {
            let probability = exp(score - merged);
            lanes[key % 16] += probability;
            out.iter_mut().zip(value).for_each(|(out, &value)| *out = probability.mul_add(value, *out));
        }
        sum = sum.mul_add(correction, merge(lanes));
        maximum = merged;
    }
    out.iter_mut().for_each(|out| *out /= sum);
}

/// The sum of sixteen lanes in the project's fixed tree.
fn merge(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}
