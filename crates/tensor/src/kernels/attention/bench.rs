//! Attention over pages as a benchmark: new rows of one sequence at a depth, with random keys and values.

use super::{KvType, PageLayout, PagedBatch, PagedRows, attention_paged, store_rows};
use crate::{AlignedBuffer, Attention, Exec, Heads};
use std::time::{Duration, Instant};

/// Tokens of a page.
const PAGE_TOKENS: usize = 128;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// How a fused row is divided.
    pub heads: Heads,
    /// Tokens that are in the cache before.
    pub depth: usize,
    /// New rows: 1 is a step of decoding.
    pub rows: usize,
    /// How keys and values are stored.
    pub kv_type: KvType,
}

/// How fast it went.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSpeed {
    /// The median of as many calls as fit into the time.
    pub seconds: f64,
    /// Two operations for each element of the two products whose key is seen.
    pub gflop_per_s: f64,
    /// Bytes of keys and values, each read once.
    pub gb_per_s: f64,
}

/// Measures for about `time`.
pub fn measure(exec: Exec<'_>, shape: AttentionShape, time: Duration) -> AttentionSpeed {
    let AttentionShape { heads, depth, rows, kv_type } = shape;
    let layout = PageLayout::new(heads, PAGE_TOKENS).with_type(kv_type);
    let total = depth + rows;
    let pages: Vec<u32> = (0..total.div_ceil(PAGE_TOKENS) as u32).collect();
    let mut data = AlignedBuffer::zeroed(pages.len() * layout.page_len());
    let mut qkv = AlignedBuffer::zeroed(rows.max(PAGE_TOKENS) * heads.fused_width());
    for first in (0..total).step_by(PAGE_TOKENS) {
        fill(&mut qkv, first);
        let count = PAGE_TOKENS.min(total - first);
        let tokens = PagedRows { row: 0, rows: count, first_position: first, pages: &pages };
        store_rows(exec, layout, &mut data, &qkv, (1, &|_| tokens));
    }
    let mut out = vec![0.0; rows * heads.out_width()];
    let sequence = |_| PagedRows { row: 0, rows, first_position: depth, pages: &pages };
    let attention = Attention::causal(heads.head_dim);
    let qkv = &qkv[..rows * heads.fused_width()];
    let mut once = || {
        let begun = Instant::now();
        let batch = PagedBatch { qkv, layout, attention, pages: &data, sequences: 1, sequence: &sequence };
        attention_paged(exec, batch, &mut out);
        begun.elapsed().as_secs_f64()
    };
    once();
    let begun = Instant::now();
    let mut times = vec![once()];
    while begun.elapsed() < time {
        times.push(once());
    }
    times.sort_by(f64::total_cmp);
    let seconds = times[times.len() / 2];
    let pairs = rows * depth + rows * (rows + 1) / 2;
    let flop = 4.0 * (pairs * heads.heads * heads.head_dim) as f64;
    let bytes = (layout.page_len() * size_of::<f32>()) as f64 / PAGE_TOKENS as f64 * total as f64;
    AttentionSpeed { seconds, gflop_per_s: flop / seconds / 1e9, gb_per_s: bytes / seconds / 1e9 }
}

/// Numbers in (−1, 1) that differ from page to page.
fn fill(values: &mut [f32], seed: usize) {
    for (index, value) in values.iter_mut().enumerate() {
        let mixed = ((index + seed * 31) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        *value = (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0;
    }
}
