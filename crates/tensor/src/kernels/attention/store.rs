//! Writing new keys and values into pages, in the type of the cache. Must not know how attention reads them.
#![allow(unsafe_code)]

use super::layout::{KvType, SCALE_BLOCK, head_block_len, padded, scales};
use super::paged::{PageLayout, PagedRows};
use super::{KEY_BLOCK, layout};
use crate::simd::{F16_MAX, Vector, f16_to_f32, f32_to_f16};
use crate::{Disjoint, Exec, dispatch};
use std::ops::Range;

/// From this many rows on it pays to turn keys over together.
const ROWS_AT_ONCE: usize = 8;

/// Writes the keys and values of the new rows of `sequences` sequences into their pages. `qkv` holds the fused rows of the
/// batch.
///
/// # Panics
/// A row or a page lies outside its buffer.
pub fn store_rows<'a>(
    exec: Exec<'_>,
    layout: PageLayout,
    pages: &mut [f32],
    qkv: &[f32],
    (sequences, sequence): (usize, &(dyn Fn(usize) -> PagedRows<'a> + Sync)),
) {
    let kv_heads = layout.heads.kv_heads;
    let blocks = |index: usize| blocks_of(&sequence(index)).len();
    let tasks: usize = (0..sequences).map(|index| blocks(index) * kv_heads).sum();
    let pages = Disjoint::new(pages);
    exec.pool.run(tasks, &|number, _| {
        let (mut index, mut part) = (0, number);
        while part >= blocks(index) * kv_heads {
            part -= blocks(index) * kv_heads;
            index += 1;
        }
        let sequence = sequence(index);
        let place = (blocks_of(&sequence).start + part / kv_heads, part % kv_heads);
        store_block(exec, layout, &pages, qkv, (&sequence, place));
    });
}

/// The blocks into which a sequence's new rows fall.
fn blocks_of(sequence: &PagedRows<'_>) -> Range<usize> {
    let first = sequence.first_position / KEY_BLOCK;
    if sequence.rows == 0 {
        return first..first;
    }
    first..(sequence.first_position + sequence.rows).div_ceil(KEY_BLOCK)
}

/// Writes what falls into one block of one key/value head.
fn store_block(
    exec: Exec<'_>,
    layout: PageLayout,
    pages: &Disjoint<'_, f32>,
    qkv: &[f32],
    (sequence, (block, kv_head)): (&PagedRows<'_>, (usize, usize)),
) {
    let heads = layout.heads;
    let head_len = head_block_len(layout.kv_type, heads.head_dim);
    let positions = sequence.first_position..sequence.first_position + sequence.rows;
    let page = sequence.pages[block / layout.blocks_per_page] as usize;
    let within = (block % layout.blocks_per_page) * layout.block_len() + kv_head * head_len;
    let start = page * layout.page_stride + within;
    // SAFETY: no two tasks share a block and a head.
    let words = unsafe { pages.range(start..start + head_len) };
    let inside = positions.start.max(block * KEY_BLOCK)..positions.end.min((block + 1) * KEY_BLOCK);
    let row = sequence.row + inside.start - positions.start;
    let rows = &qkv[row * heads.fused_width()..][..inside.len() * heads.fused_width()];
    let slots = inside.start % KEY_BLOCK..inside.start % KEY_BLOCK + inside.len();
    let key_offset = (heads.heads + kv_head) * heads.head_dim;
    let source = Source {
        rows,
        stride: heads.fused_width(),
        key_offset,
        value_offset: key_offset + heads.kv_heads * heads.head_dim,
        head_dim: heads.head_dim,
        slots,
    };
    source.store(exec, layout.kv_type, words);
}

/// The new rows of one head that fall into one block.
struct Source<'a> {
    rows: &'a [f32],
    stride: usize,
    key_offset: usize,
    value_offset: usize,
    head_dim: usize,
    /// Their tokens in the block.
    slots: Range<usize>,
}

impl Source<'_> {
    fn store(&self, exec: Exec<'_>, kv_type: KvType, words: &mut [f32]) {
        let (head_dim, width) = (self.head_dim, padded(self.head_dim));
        let keys = KEY_BLOCK * head_dim;
        match kv_type {
            KvType::F32 if self.slots.len() == KEY_BLOCK => {
                let (to_keys, to_values) = words.split_at_mut(keys);
                let shape = (KEY_BLOCK, self.stride);
                layout::transpose_rows(exec.isa, &self.rows[self.key_offset..], shape, to_keys);
                let from = &self.rows[self.value_offset..];
                layout::copy_rows(from, self.stride, KEY_BLOCK, (to_values, head_dim));
            }
            KvType::F32 => self.each(|slot, key, value| {
                key.iter().enumerate().for_each(|(d, key)| words[d * KEY_BLOCK + slot] = *key);
                words[keys + slot * width..][..head_dim].copy_from_slice(value);
            }),
            KvType::F16 if self.slots.len() >= ROWS_AT_ONCE => self.store_halves(exec, as_halves(words)),
            KvType::F16 => {
                let words = as_halves(words);
                let half = |x: f32| f32_to_f16(x.clamp(-F16_MAX, F16_MAX));
                self.each(|slot, key, value| {
                    key.iter().enumerate().for_each(|(d, key)| words[d * KEY_BLOCK + slot] = half(*key));
                    let to = &mut words[keys + slot * width..][..head_dim];
                    to.iter_mut().zip(value).for_each(|(to, value)| *to = half(*value));
                });
            }
            KvType::Q8 => {
                let (elements, scales) = (keys + KEY_BLOCK * width, scales(head_dim));
                let (bytes, all_scales) = words.split_at_mut(elements / 4);
                let (bytes, all_scales) = (as_bytes(bytes), as_halves(all_scales));
                self.each(|slot, key, value| {
                    for (block, (key, value)) in
                        key.chunks(SCALE_BLOCK).zip(value.chunks(SCALE_BLOCK)).enumerate()
                    {
                        let first = block * SCALE_BLOCK;
                        let scale = quantised(key, |d, byte| bytes[(first + d) * KEY_BLOCK + slot] = byte);
                        all_scales[block * KEY_BLOCK + slot] = scale;
                        let scale = quantised(value, |d, byte| bytes[keys + slot * width + first + d] = byte);
                        all_scales[KEY_BLOCK * scales + slot * scales + block] = scale;
                    }
                });
            }
        }
    }

    /// As the rows of [`Source::store`] one by one, but turned over together.
    fn store_halves(&self, exec: Exec<'_>, words: &mut [u16]) {
        let (head_dim, width, count) = (self.head_dim, padded(self.head_dim), self.slots.len());
        let mut turned = exec.pool.scratch().take(KEY_BLOCK * head_dim);
        let turned = &mut turned[..KEY_BLOCK * head_dim];
        layout::transpose_rows(exec.isa, &self.rows[self.key_offset..], (count, self.stride), turned);
        let (to_keys, to_values) = words.split_at_mut(KEY_BLOCK * head_dim);
        for (from, to) in turned.chunks_exact(KEY_BLOCK).zip(to_keys.chunks_exact_mut(KEY_BLOCK)) {
            // Whole registers: beyond the new rows there are zeros.
            let (whole, mut halves) = (count.next_multiple_of(16), [0; KEY_BLOCK]);
            // SAFETY: the Isa of an Exec is available.
            unsafe { narrow(exec.isa, &from[..whole], &mut halves[..whole]) };
            to[self.slots.clone()].copy_from_slice(&halves[..count]);
        }
        for (slot, row) in self.slots.clone().zip(self.rows.chunks_exact(self.stride)) {
            let to = &mut to_values[slot * width..][..head_dim];
            // SAFETY: as above.
            unsafe { narrow(exec.isa, &row[self.value_offset..][..head_dim], to) };
        }
    }

    /// Calls `body` with each token's place in the block, key and value.
    fn each(&self, mut body: impl FnMut(usize, &[f32], &[f32])) {
        for (slot, row) in self.slots.clone().zip(self.rows.chunks_exact(self.stride)) {
            body(slot, &row[self.key_offset..][..self.head_dim], &row[self.value_offset..][..self.head_dim]);
        }
    }
}

dispatch! {
    /// The nearest halves, at most ±[`F16_MAX`]; both slices are of one length.
    fn narrow(from: &[f32], to: &mut [u16]) = narrow_generic;
}

#[inline(always)]
unsafe fn narrow_generic<V: Vector>(from: &[f32], to: &mut [u16]) {
    let (count, mut i) = (from.len().min(to.len()), 0);
    // SAFETY: the caller has the features; all lanes lie within both slices.
    unsafe {
        while i + V::LANES <= count {
            // A number that is none stays one: the second operand of both.
            let value = V::splat(-F16_MAX).max(V::load(from.as_ptr().add(i)));
            V::splat(F16_MAX).min(value).store_f16(to.as_mut_ptr().add(i));
            i += V::LANES;
        }
    }
    for (to, from) in to[i..count].iter_mut().zip(&from[i..count]) {
        *to = f32_to_f16(from.clamp(-F16_MAX, F16_MAX));
    }
}

/// Hands out the bytes of up to [`SCALE_BLOCK`] numbers, the largest ±127, and returns the bits of their scale.
fn quantised(values: &[f32], mut put: impl FnMut(usize, i8)) -> u16 {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let bits = f32_to_f16((largest / 127.0).min(F16_MAX));
    let scale = f16_to_f32(bits);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (d, value) in values.iter().enumerate() {
        put(d, (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8);
    }
    bits
}

fn as_halves(words: &mut [f32]) -> &mut [u16] {
    // SAFETY: two halves to a word, and every pattern of bits is a number.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
}

fn as_bytes(words: &mut [f32]) -> &mut [i8] {
    // SAFETY: four bytes to a word, and every pattern of bits is a number.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 4 * words.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn halves_are_the_nearest_within_their_range() {
        let special = [0.0, -0.0, 1e-8, 65504.0, 65520.0, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let from: Vec<f32> =
            (0..77).map(|i| if i % 3 == 0 { special[i / 3 % 9] } else { i as f32 * 0.37 }).collect();
        for isa in Isa::available() {
            let mut to = vec![0; from.len()];
            // SAFETY: the instruction set is available.
            unsafe { narrow(isa, &from, &mut to) };
            for (from, to) in from.iter().zip(to) {
                let expected = from.clamp(-F16_MAX, F16_MAX);
                assert!(
                    to == f32_to_f16(expected) || from.is_nan() && f16_to_f32(to).is_nan(),
                    "{isa:?}: {from}"
                );
            }
        }
    }
}
