//! How keys and values lie in blocks: the keys of a block transposed, so that scores are vectors over keys;
//! the values as rows, padded to a multiple of sixteen. Shared by training and by the engine's pages.
#![allow(unsafe_code)]

use super::KEY_BLOCK;
use crate::gemm::{MatRef, transpose};
use crate::simd::Vector;
use crate::{Heads, Isa};
use std::ops::Range;
use std::str::FromStr;

/// How a cache stores keys and values. Attention over them is attention over the f32 numbers that they stand for, bit
/// for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum KvType {
    /// Four bytes each: the bits of training.
    #[default]
    F32,
    /// IEEE half precision, the nearest, at most ±65,504.
    F16,
    /// Signed bytes, and for each token, head and [`SCALE_BLOCK`] dimensions a scale in f16: 8.5 bits each.
    Q8,
}

impl KvType {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8 => "q8",
        }
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(name: &str) -> Result<KvType, String> {
        let all = [KvType::F32, KvType::F16, KvType::Q8];
        let found = all.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("unknown type of keys and values {name:?}: use f32, f16 or q8"))
    }
}

/// Dimensions of a head that share a scale where elements are bytes.
pub const SCALE_BLOCK: usize = 32;

/// Width of a row of values in a block: the head's width rounded up to sixteen.
pub(super) fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// Scales of one token and head.
pub(super) fn scales(head_dim: usize) -> usize {
    head_dim.div_ceil(SCALE_BLOCK)
}

/// Floats (words of four bytes) of one block of one key/value head: keys (head_dim, 64), then values (64, padded
/// head_dim); of bytes also the keys' scales (scales, 64), then the values' (64, scales).
pub(super) fn head_block_len(kv_type: KvType, head_dim: usize) -> usize {
    let elements = KEY_BLOCK * (head_dim + padded(head_dim));
    match kv_type {
        KvType::F32 => elements,
        KvType::F16 => elements / 2,
        KvType::Q8 => elements / 4 + KEY_BLOCK * scales(head_dim),
    }
}

/// One block of one head.
#[derive(Clone, Copy)]
pub(super) enum Block<'a> {
    F32 { keys: &'a [f32], values: &'a [f32] },
    F16 { keys: &'a [u16], values: &'a [u16] },
    Q8(BytesBlock<'a>),
}

/// One block of one head in bytes with scales in f16.
#[derive(Clone, Copy)]
pub(super) struct BytesBlock<'a> {
    pub keys: &'a [i8],
    pub values: &'a [i8],
    pub key_scales: &'a [u16],
    pub value_scales: &'a [u16],
}

impl<'a> Block<'a> {
    /// The block that `words` hold.
    pub fn of(kv_type: KvType, head_dim: usize, words: &'a [f32]) -> Block<'a> {
        assert_eq!(words.len(), head_block_len(kv_type, head_dim), "a whole block");
        let (keys, elements) = (KEY_BLOCK * head_dim, KEY_BLOCK * (head_dim + padded(head_dim)));
        // SAFETY: every pattern of bits is a number of each type, and the lengths in bytes are the same.
        unsafe {
            match kv_type {
                KvType::F32 => {
                    let (keys, values) = words.split_at(keys);
                    Block::F32 { keys, values }
                }
                KvType::F16 => {
                    let halves = std::slice::from_raw_parts(words.as_ptr().cast::<u16>(), elements);
                    let (keys, values) = halves.split_at(keys);
                    Block::F16 { keys, values }
                }
                KvType::Q8 => {
                    let bytes = std::slice::from_raw_parts(words.as_ptr().cast::<i8>(), elements);
                    let (keys, values) = bytes.split_at(keys);
                    let count = 2 * KEY_BLOCK * scales(head_dim);
                    let all = words.as_ptr().cast::<u16>().add(elements / 2);
                    let (key_scales, value_scales) =
                        std::slice::from_raw_parts(all, count).split_at(count / 2);
                    Block::Q8(BytesBlock { keys, values, key_scales, value_scales })
                }
            }
        }
    }
}

/// Where the blocks of one key/value head of one sequence are.
#[derive(Clone, Copy)]
pub(super) enum Blocks<'a> {
    /// One after another, f32.
    Contiguous(&'a [f32]),
    /// In pages.
    Paged(PagedBlocks<'a>),
}

/// Blocks in pages: block b is number b mod `blocks_per_page` of page `pages[b / blocks_per_page]`.
#[derive(Clone, Copy)]
pub(super) struct PagedBlocks<'a> {
    pub kv_type: KvType,
    pub data: &'a [f32],
    pub pages: &'a [u32],
    pub page_stride: usize,
    pub blocks_per_page: usize,
    /// Floats of a block with all heads, and of what lies before this head in it.
    pub block_len: usize,
    pub head_offset: usize,
}

impl<'a> Blocks<'a> {
    /// A block.
    pub(super) fn block(&self, index: usize, head_dim: usize) -> Block<'a> {
        let (kv_type, words) = self.words(index, head_dim);
        Block::of(kv_type, head_dim, words)
    }

    /// What holds a block.
    pub(super) fn words(&self, index: usize, head_dim: usize) -> (KvType, &'a [f32]) {
        let (kv_type, data, offset) = match self {
            Blocks::Contiguous(data) => (KvType::F32, *data, index * head_block_len(KvType::F32, head_dim)),
            Blocks::Paged(paged) => {
                let page = paged.pages[index / paged.blocks_per_page] as usize;
                let within = (index % paged.blocks_per_page) * paged.block_len;
                (paged.kv_type, paged.data, page * paged.page_stride + within + paged.head_offset)
            }
        };
        (kv_type, &data[offset..][..head_block_len(kv_type, head_dim)])
    }
}

/// Floats of work space that [`widen_keys`] or [`widen_values`] need beside their output.
pub(super) fn widen_work_len(head_dim: usize) -> usize {
    KEY_BLOCK * scales(head_dim)
}

/// Writes a block's keys as f32, (head_dim, 64).
#[inline(always)]
pub(super) unsafe fn widen_keys<V: Vector>(block: Block<'_>, to: &mut [f32]) {
    let head_dim = to.len() / KEY_BLOCK;
    // SAFETY: a block has as many keys as there is room for, in whole registers, and scales for all.
    unsafe {
        match block {
            Block::F32 { keys, .. } => to.copy_from_slice(keys),
            Block::F16 { keys, .. } => {
                let mut index = 0;
                while index < to.len() {
                    V::load_f16(keys.as_ptr().add(index)).store(to.as_mut_ptr().add(index));
                    index += V::LANES;
                }
            }
            Block::Q8(block) => {
                for first in (0..head_dim).step_by(SCALE_BLOCK) {
                    let end = head_dim.min(first + SCALE_BLOCK);
                    let mut column = 0;
                    while column < KEY_BLOCK {
                        let scales = block.key_scales.as_ptr().add(first / SCALE_BLOCK * KEY_BLOCK + column);
                        let scale = V::load_f16(scales);
                        for d in first..end {
                            let at = d * KEY_BLOCK + column;
                            V::load_i8(block.keys.as_ptr().add(at)).mul(scale).store(to.as_mut_ptr().add(at));
                        }
                        column += V::LANES;
                    }
                }
            }
        }
    }
}

/// Writes the columns `columns` (multiples of sixteen, the first of [`SCALE_BLOCK`]) of a block's values as f32, (64,
/// number of columns).
#[inline(always)]
pub(super) unsafe fn widen_values<V: Vector>(
    block: Block<'_>,
    (head_dim, columns): (usize, Range<usize>),
    to: &mut [f32],
    work: &mut [f32],
) {
    let (width, scales) = (padded(head_dim), scales(head_dim));
    assert!(
        to.len() >= KEY_BLOCK * columns.len() && columns.end <= width && work.len() >= KEY_BLOCK * scales
    );
    // SAFETY: the columns lie within the block's rows, and there is room for them and for all scales.
    unsafe {
        if let Block::Q8(block) = block {
            let mut index = 0;
            while index < KEY_BLOCK * scales {
                V::load_f16(block.value_scales.as_ptr().add(index)).store(work.as_mut_ptr().add(index));
                index += V::LANES;
            }
        }
        for token in 0..KEY_BLOCK {
            let line = to.as_mut_ptr().add(token * columns.len());
            let mut column = columns.start;
            while column < columns.end {
                let (at, to) = (token * width + column, line.add(column - columns.start));
                match block {
                    Block::F32 { values, .. } => V::load(values.as_ptr().add(at)).store(to),
                    Block::F16 { values, .. } => V::load_f16(values.as_ptr().add(at)).store(to),
                    Block::Q8(block) => {
                        let scale = V::splat(work[token * scales + column / SCALE_BLOCK]);
                        V::load_i8(block.values.as_ptr().add(at)).mul(scale).store(to);
                    }
                }
                column += V::LANES;
            }
        }
    }
}

/// Lays the keys and values of one head of `tokens` fused rows out in blocks of f32, zero beyond the last.
pub(super) fn fill_blocks(isa: Isa, qkv: &[f32], (heads, kv_head): (Heads, usize), blocks: &mut [f32]) {
    let (width, head_dim) = (heads.fused_width(), heads.head_dim);
    let key_offset = (heads.heads + kv_head) * head_dim;
    let value_offset = key_offset + heads.kv_heads * head_dim;
    let rows = qkv.chunks(KEY_BLOCK * width);
    for (rows, block) in rows.zip(blocks.chunks_exact_mut(head_block_len(KvType::F32, head_dim))) {
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
