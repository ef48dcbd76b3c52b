//! Bits against the reference, over shapes, instruction sets and threads; whole, chunked and paged; finite
//! differences.
#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)] // A case is a list of documents.

use super::*;
use crate::kernels::testing::{assert_same_bits, check_gradient, each_exec, inner, random};
use crate::simd::{f16_to_f32, f32_to_f16};
use crate::{Isa, Pool, reference};

struct Case {
    heads: Heads,
    attention: Attention,
    documents: Vec<Range<usize>>,
    tokens: usize,
}

fn case(heads: usize, kv_heads: usize, head_dim: usize, documents: &[Range<usize>], tokens: usize) -> Case {
    let (heads, attention) = (Heads { heads, kv_heads, head_dim }, Attention::causal(head_dim));
    Case { heads, attention, documents: documents.to_vec(), tokens }
}

fn cases() -> Vec<Case> {
    vec![
        case(2, 1, 12, &[0..1, 1..70, 75..80], 83),
        case(4, 2, 16, &[0..130], 130),
        case(3, 3, 48, &[2..66, 66..67], 68),
        case(2, 2, 64, &[0..200], 200),
        case(5, 1, 80, &[0..65, 65..129], 129),
        case(1, 1, 96, &[0..7], 7),
        case(2, 1, 128, &[0..90], 90),
        case(2, 1, 7, &[0..90], 90),
        Case { attention: windowed(1), ..case(2, 1, 12, &[0..70], 70) },
        Case { attention: windowed(30), ..case(4, 2, 16, &[0..150, 150..201], 201) },
        Case { attention: windowed(64), ..case(2, 2, 20, &[3..200], 201) },
        Case { attention: windowed(1000), ..case(3, 1, 14, &[0..90], 90) },
        Case {
            attention: Attention { mask: Mask::Whole, ..windowed(1) },
            ..case(2, 1, 16, &[0..5, 5..150], 150)
        },
        Case { attention: capped(Mask::Causal), ..case(2, 1, 24, &[0..100], 100) },
        Case { attention: capped(Mask::Window(40)), ..case(4, 1, 8, &[1..120], 120) },
        Case { attention: Attention { mask: Mask::Whole, ..windowed(1) }, ..case(2, 2, 8, &[0..530], 530) },
    ]
}

fn windowed(tokens: usize) -> Attention {
    Attention { mask: Mask::Window(tokens), scale: 0.3, soft_cap: None }
}

fn capped(mask: Mask) -> Attention {
    Attention { mask, scale: 0.5, soft_cap: Some(2.5) }
}

#[test]
fn forward_and_backward_have_the_bits_of_the_reference() {
    for (seed, case) in cases().into_iter().enumerate() {
        let heads = case.heads;
        let qkv: Vec<f32> =
            random(seed as u64, case.tokens * heads.fused_width()).iter().map(|x| 3.0 * x).collect();
        let d_out = random(100 + seed as u64, case.tokens * heads.out_width());
        let batch =
            AttentionBatch { qkv: &qkv, documents: &case.documents, heads, attention: case.attention };
        let mut out = vec![7.0; d_out.len()];
        let mut log_sums = vec![7.0; case.tokens * heads.heads];
        let mut d_qkv = vec![7.0; qkv.len()];
        reference::attention::attention_forward(batch, &mut out, &mut log_sums);
        let kept = AttentionKept { out: &out, log_sums: &log_sums };
        reference::attention::attention_backward(batch, kept, &d_out, &mut d_qkv);
        each_exec(|exec| {
            let mut found = vec![7.0; out.len()];
            let mut found_sums = vec![7.0; log_sums.len()];
            attention_forward(exec, batch, &mut found, &mut found_sums);
            assert_same_bits("attention", exec, &found, &out);
            assert_same_bits("log-sums", exec, &found_sums, &log_sums);
            let mut found = vec![5.0; qkv.len()];
            attention_backward(exec, batch, kept, &d_out, &mut found);
            assert_same_bits("gradient of attention", exec, &found, &d_qkv);
        });
    }
}

/// What a cache of a type makes of a row of one key or value head.
fn stored(kv_type: KvType, row: &mut [f32]) {
    match kv_type {
        KvType::F32 => {}
        KvType::F16 => row.iter_mut().for_each(|x| *x = f16_to_f32(f32_to_f16(*x))),
        KvType::Q8 => {
            for block in row.chunks_mut(SCALE_BLOCK) {
                let largest = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                let scale = f16_to_f32(f32_to_f16(largest / 127.0));
                let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
                block.iter_mut().for_each(|x| {
                    *x = (*x * inverse).round_ties_even().clamp(-127.0, 127.0) * scale;
                });
            }
        }
    }
}

#[test]
fn pages_give_the_bits_of_whole_sequences() {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 20 };
    for attention in [Attention::causal(20), windowed(50), windowed(100), capped(Mask::Window(64))] {
        check_pages(heads, attention, KvType::F32);
    }
    for kv_type in [KvType::F16, KvType::Q8] {
        check_pages(heads, windowed(70), kv_type);
        check_pages(Heads { heads: 7, kv_heads: 1, head_dim: 72 }, Attention::causal(72), kv_type);
        check_pages(Heads { heads: 2, kv_heads: 2, head_dim: 96 }, Attention::causal(96), kv_type);
    }
}

#[test]
fn a_long_context_split_among_threads_has_the_same_bits() {
    for (kv_type, mask, (heads, kv_heads, head_dim)) in [
        (KvType::F32, Mask::Causal, (3, 1, 24)),
        (KvType::F16, Mask::Window(1030), (4, 4, 80)),
        (KvType::Q8, Mask::Causal, (5, 1, 104)),
    ] {
        let heads = Heads { heads, kv_heads, head_dim };
        let attention = Attention { mask, ..Attention::causal(head_dim) };
        let mut qkv = random(5, 1101 * heads.fused_width());
        let layout = PageLayout::new(heads, 64).with_type(kv_type);
        let numbers: Vec<u32> = (0..18).rev().collect();
        let tokens = |row, rows, first_position| PagedRows { row, rows, first_position, pages: &numbers };
        let mut pages = vec![0.0; 18 * layout.page_len()];
        let one = Pool::new(1);
        let whole = (1, &(|_: usize| tokens(0, 1101, 0)) as &(dyn Fn(usize) -> _ + Sync));
        store_rows(Exec::new(&one, Isa::Portable).unwrap(), layout, &mut pages, &qkv, whole);
        let last = qkv[1100 * heads.fused_width()..].to_vec();
        for row in qkv.chunks_mut(heads.fused_width()) {
            row[heads.out_width()..].chunks_mut(head_dim).for_each(|head| stored(kv_type, head));
        }
        let mut whole = vec![0.0; 1101 * heads.out_width()];
        let mut log_sums = vec![0.0; 1101 * heads.heads];
        let batch = AttentionBatch { qkv: &qkv, documents: &[0..1101], heads, attention };
        let pool = Pool::new(2);
        attention_forward(Exec::new(&pool, Isa::detect()).unwrap(), batch, &mut whole, &mut log_sums);
        each_exec(|exec| {
            let mut out = vec![0.0; heads.out_width()];
            let sequence = |_| tokens(0, 1, 1100);
            let batch = PagedBatch {
                qkv: &last,
                layout,
                attention,
                pages: &pages,
                sequences: 1,
                sequence: &sequence,
            };
            attention_paged(exec, batch, &mut out);
            assert_same_bits("one token", exec, &out, &whole[1100 * heads.out_width()..]);
        });
    }
}

fn check_pages(heads: Heads, attention: Attention, kv_type: KvType) {
    let lengths = [150, 70];
    let qkv = random(3, 220 * heads.fused_width());
    let documents = [0..150, 150..220];
    let mut whole = vec![0.0; 220 * heads.out_width()];
    let mut log_sums = vec![0.0; 220 * heads.heads];
    let mut as_stored = qkv.clone();
    for row in as_stored.chunks_mut(heads.fused_width()) {
        row[heads.out_width()..].chunks_mut(heads.head_dim).for_each(|head| stored(kv_type, head));
    }
    let batch = AttentionBatch { qkv: &as_stored, documents: &documents, heads, attention };
    reference::attention::attention_forward(batch, &mut whole, &mut log_sums);
    let tables: [&[u32]; 2] = [&[4, 1], &[2]];
    each_exec(|exec| {
        for chunk in [1, 13, 64, 200] {
            let layout = PageLayout::new(heads, 128).with_type(kv_type);
            let mut pages = vec![0.0; 5 * layout.page_len()];
            let mut done = [0, 0];
            while done != lengths {
                let rows: Vec<usize> = (0..2).map(|index| chunk.min(lengths[index] - done[index])).collect();
                let mut fused = Vec::new();
                let mut sequences = Vec::new();
                for index in 0..2 {
                    let first = documents[index].start + done[index];
                    let row = fused.len() / heads.fused_width();
                    let source = first * heads.fused_width()..(first + rows[index]) * heads.fused_width();
                    fused.extend_from_slice(&qkv[source]);
                    let (rows, first_position, pages) = (rows[index], done[index], tables[index]);
                    sequences.push(PagedRows { row, rows, first_position, pages });
                }
                store_rows(exec, layout, &mut pages, &fused, (sequences.len(), &|index| sequences[index]));
                let mut out = vec![0.0; fused.len() / heads.fused_width() * heads.out_width()];
                let sequence = |index: usize| sequences[index];
                let batch = PagedBatch {
                    qkv: &fused,
                    layout,
                    attention,
                    pages: &pages,
                    sequences: 2,
                    sequence: &sequence,
                };
                attention_paged(exec, batch, &mut out);
                for index in 0..2 {
                    let width = heads.out_width();
                    let found = &out[sequences[index].row * width..][..rows[index] * width];
                    let first = (documents[index].start + done[index]) * width;
                    assert_same_bits("pages", exec, found, &whole[first..first + found.len()]);
                    done[index] += rows[index];
                }
            }
        }
    });
}

#[test]
fn gradient_agrees_with_finite_differences() {
    let whole = Attention { mask: Mask::Whole, ..windowed(1) };
    for attention in [Attention::causal(6), windowed(2), whole, capped(Mask::Causal)] {
        check_differences(attention);
    }
}

fn check_differences(attention: Attention) {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 6 };
    let documents = [0..5, 5..8];
    let qkv = random(11, 8 * heads.fused_width());
    let d_out = random(12, 8 * heads.out_width());
    let forward = |qkv: &[f32]| {
        let mut out = vec![0.0; 8 * heads.out_width()];
        let mut log_sums = vec![0.0; 8 * heads.heads];
        let batch = AttentionBatch { qkv, documents: &documents, heads, attention };
        reference::attention::attention_forward(batch, &mut out, &mut log_sums);
        (out, log_sums)
    };
    let (out, log_sums) = forward(&qkv);
    let mut d_qkv = vec![0.0; qkv.len()];
    let batch = AttentionBatch { qkv: &qkv, documents: &documents, heads, attention };
    let kept = AttentionKept { out: &out, log_sums: &log_sums };
    reference::attention::attention_backward(batch, kept, &d_out, &mut d_qkv);
    check_gradient("attention", &qkv, &d_qkv, |qkv| inner(&forward(qkv).0, &d_out));
}
