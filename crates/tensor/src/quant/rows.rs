//! Activations as signed bytes with a scale for each 32 of a row, quantised once for all the products that read them.
//! Must not know weights.
#![allow(unsafe_code)]

use super::instances::Instance;
use super::source::BLOCK;
use crate::Exec;
use crate::pool::Disjoint;
use crate::simd::quads::Quads;
use crate::simd::{Vector, Virtual16, prefetch};

/// Rows that are stored together, each block of them beside the same block of the others: those of the largest kernels. One
/// row's second part costs all of them.
pub(super) const TILE_ROWS: usize = 6;
/// The largest quant.
pub(super) const QUANT_MAX: f32 = 127.0;
/// A block whose largest value is below this (2⁻¹⁰⁰) counts as zero, so that no reciprocal overflows.
pub(super) const LEAST: f32 = f32::from_bits((127 - 100) << 23);
/// A block is split in two parts where 127² · 32 > `CREST_SQUARED` · Σ quants²: its largest value is more than 5 times its
/// root mean square (at most √32 = 5.66 for 32 values), so that one scale would leave the others hardly any bits.
/// Measured on SmolLM2-135M (mean KL divergence from f32 activations over 400 tokens, and second parts by twelve rows at a time): never
/// 0.0030 and none, 5.5 times 0.0013 and 6 %, 5.3 times 0.0010 and 12 %, 5 times 0.0007 and 24 %, 4 times 0.0003 and 58 %.
pub(super) const CREST_SQUARED: i32 = 25;

/// 127² · 32: what the squares of a block would sum to if all its values were its largest.
pub(super) const SQUARES_OF_LARGEST: i32 = 127 * 127 * 32;

/// Rows of activations, quantised. Where the largest of 32 values dwarfs the others, the block has a second part, the
/// quantised remainder of the first, so that the others keep their precision; see [`super::reference::Rows`].
///
/// The buffers grow to the largest size asked for and are kept.
#[derive(Default)]
pub struct QuantRows {
    rows: usize,
    blocks: usize,
    /// Tile after tile, `[entry][row][32]`; an entry is the first or second part of a block.
    quants: Vec<i8>,
    /// The same in 16 bits, where a product asked for them.
    words: Vec<i16>,
    widened: bool,
    /// `[entry][row]`.
    scales: Vec<f32>,
    /// `[entry][3][row]`: −Σ quants of all, of the first half and of the second.
    sums: Vec<i32>,
    /// The block of each entry.
    index: Vec<u32>,
    /// For each tile and block its first entry, and at the end of each tile the number of its entries.
    starts: Vec<u32>,
}

/// A tile of a [`QuantRows`].
pub(super) struct RowTile<'a> {
    /// Number of the first row.
    pub first_row: usize,
    /// Rows, at most `TILE_ROWS`.
    pub rows: usize,
    /// As in [`QuantRows`].
    pub quants: &'a [i8],
    /// Empty before [`QuantRows::widen`].
    pub words: &'a [i16],
    pub scales: &'a [f32],
    pub sums: &'a [i32],
    pub index: &'a [u32],
    pub starts: &'a [u32],
}

impl QuantRows {
    /// No rows yet.
    pub fn new() -> QuantRows {
        QuantRows::default()
    }

    /// Replaces the contents with `rows` rows of `columns` values each, one after the other in `x`. Values that are not
    /// finite make every product of their row NaN.
    ///
    /// # Panics
    /// `columns` is no multiple of 32, or `x` is no `rows` × `columns`.
    pub fn quantize(&mut self, exec: Exec<'_>, x: &[f32], rows: usize, columns: usize) {
        self.quantize_with(exec, Instance::of(exec.isa), x, (rows, columns));
    }

    pub(super) fn quantize_with(
        &mut self,
        exec: Exec<'_>,
        instance: Instance,
        x: &[f32],
        shape: (usize, usize),
    ) {
        let (rows, columns) = shape;
        assert!(columns.is_multiple_of(BLOCK), "{columns} columns are no whole number of blocks of {BLOCK}");
        assert_eq!(x.len(), rows * columns, "activations of {rows} × {columns}");
        self.resize(rows, columns / BLOCK);
        let blocks = self.blocks;
        let tiles = rows.div_ceil(TILE_ROWS);
        let quants = Disjoint::new(&mut self.quants);
        let scales = Disjoint::new(&mut self.scales);
        let sums = Disjoint::new(&mut self.sums);
        let index = Disjoint::new(&mut self.index);
        let starts = Disjoint::new(&mut self.starts);
        let function = instance.quantize();
        exec.pool.run(tiles, &|tile, _| {
            let first = tile * TILE_ROWS;
            let tile_rows = TILE_ROWS.min(rows - first);
            let slots = 2 * blocks * first..2 * blocks * (first + tile_rows);
            // SAFETY: the tiles' parts do not overlap.
            let job = unsafe {
                TileJob {
                    x: &x[first * columns..][..tile_rows * columns],
                    rows: tile_rows,
                    blocks,
                    quants: quants.range(slots.start * BLOCK..slots.end * BLOCK),
                    scales: scales.range(slots.clone()),
                    sums: sums.range(3 * slots.start..3 * slots.end),
                    index: index.range(2 * blocks * tile..2 * blocks * (tile + 1)),
                    starts: starts.range((blocks + 1) * tile..(blocks + 1) * (tile + 1)),
                }
            };
            // SAFETY: the instance is available on the processor.
            unsafe { function(job) };
        });
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of each row.
    pub fn columns(&self) -> usize {
        self.blocks * BLOCK
    }

    /// The share of blocks that have a second part, counted by tiles of rows: what it costs.
    pub fn split_share(&self) -> f64 {
        let tiles = self.rows.div_ceil(TILE_ROWS);
        let entries: u64 =
            (0..tiles).map(|tile| u64::from(self.starts[(self.blocks + 1) * (tile + 1) - 1])).sum();
        entries as f64 / (tiles * self.blocks).max(1) as f64 - 1.0
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn tile(&self, tile: usize) -> RowTile<'_> {
        let first_row = tile * TILE_ROWS;
        let rows = TILE_ROWS.min(self.rows - first_row);
        let slots = 2 * self.blocks * first_row..2 * self.blocks * (first_row + rows);
        RowTile {
            first_row,
            rows,
            quants: &self.quants[slots.start * BLOCK..slots.end * BLOCK],
            words: if self.widened { &self.words[slots.start * BLOCK..slots.end * BLOCK] } else { &[] },
            scales: &self.scales[slots.clone()],
            sums: &self.sums[3 * slots.start..3 * slots.end],
            index: &self.index[2 * self.blocks * tile..2 * self.blocks * (tile + 1)],
            starts: &self.starts[(self.blocks + 1) * tile..(self.blocks + 1) * (tile + 1)],
        }
    }

    /// Asks the caches for what is read first when the tile is passed over from block `block` on: which entries it has, and
    /// with `all` what a kernel reads of them. Every tile's part lies apart, so the processor does not foresee it.
    pub(super) fn ask_for_tile(&self, tile: usize, block: usize, (all, words): (bool, bool)) {
        let rows = TILE_ROWS.min(self.rows.saturating_sub(tile * TILE_ROWS));
        if rows == 0 {
            return;
        }
        ask(&self.starts, (self.blocks + 1) * tile + block, 1);
        ask(&self.index, 2 * self.blocks * tile + block, 1);
        if !all {
            return;
        }
        // The entry unless blocks before have second parts: near enough.
        let slot = 2 * self.blocks * tile * TILE_ROWS + block * rows;
        ask(&self.scales, slot, 2);
        ask(&self.sums, 3 * slot, 4);
        if words { ask(&self.words, slot * BLOCK, 8) } else { ask(&self.quants, slot * BLOCK, 8) }
    }

    /// Makes the quants in 16 bits too, unless they are there.
    pub(super) fn widen(&mut self, exec: Exec<'_>) {
        if self.widened {
            return;
        }
        let (rows, blocks) = (self.rows, self.blocks);
        grow(&mut self.words, 2 * rows * blocks * BLOCK);
        let words = Disjoint::new(&mut self.words);
        let (quants, starts) = (&self.quants, &self.starts);
        exec.pool.run(rows.div_ceil(TILE_ROWS), &|tile, _| {
            let first = 2 * blocks * tile * TILE_ROWS * BLOCK;
            let entries = starts[(blocks + 1) * (tile + 1) - 1] as usize;
            let len = entries * TILE_ROWS.min(rows - tile * TILE_ROWS) * BLOCK;
            // SAFETY: the tiles' parts do not overlap.
            let words = unsafe { words.range(first..first + len) };
            for (word, quant) in words.iter_mut().zip(&quants[first..first + len]) {
                *word = i16::from(*quant);
            }
        });
        self.widened = true;
    }

    fn resize(&mut self, rows: usize, blocks: usize) {
        (self.rows, self.blocks, self.widened) = (rows, blocks, false);
        let (slots, tiles) = (2 * rows * blocks, rows.div_ceil(TILE_ROWS));
        grow(&mut self.quants, slots * BLOCK);
        grow(&mut self.scales, slots);
        grow(&mut self.sums, 3 * slots);
        grow(&mut self.index, 2 * blocks * tiles);
        grow(&mut self.starts, (blocks + 1) * tiles);
    }
}

/// Asks the caches for some lines from an element on.
#[inline(always)]
fn ask<T>(from: &[T], element: usize, lines: usize) {
    for line in 0..lines {
        prefetch(from.as_ptr().wrapping_add(element).cast::<f32>().wrapping_add(16 * line));
    }
}

/// Makes a buffer at least so long. Fresh zeroed memory, so that what is never used is never touched.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        *buffer = vec![T::default(); length];
    }
}

/// What it takes to quantise one tile of rows.
pub(super) struct TileJob<'a> {
    /// `rows` × 32 · `blocks` values.
    pub x: &'a [f32],
    pub rows: usize,
    pub blocks: usize,
    /// As in [`QuantRows`].
    pub quants: &'a mut [i8],
    pub scales: &'a mut [f32],
    pub sums: &'a mut [i32],
    pub index: &'a mut [u32],
    pub starts: &'a mut [u32],
}

/// # Safety
/// The processor has the instance's features.
pub(super) type QuantizeFunction = unsafe fn(TileJob<'_>);

/// Quantises a block of each of [`TILE_ROWS`] rows, which begin `columns` values apart, and writes their quants, scales and
/// negated sums as in [`QuantRows`]; a bit for each row that needs a second part.
///
/// # Safety
/// The processor has the features, and the addresses cover that much.
pub(super) type WholeTile = unsafe fn((*const f32, usize), *mut i8, *mut f32, *mut i32) -> u32;

/// The body of every instance of [`QuantizeFunction`]; `whole` does what this would do for all rows of a tile that has all.
#[inline(always)]
pub(super) unsafe fn quantize_tile<Q: Quads>(job: TileJob<'_>, whole: Option<WholeTile>) {
    let TileJob { x, rows, blocks, quants, scales, sums, index, starts } = job;
    let columns = blocks * BLOCK;
    let whole = whole.filter(|_| rows == TILE_ROWS);
    let mut entry = 0;
    for block in 0..blocks {
        starts[block] = entry as u32;
        index[entry] = block as u32;
        let mut split = 0_u32;
        let (of_quants, of_scales) = (&mut quants[entry * rows * BLOCK..], &mut scales[entry * rows..]);
        let of_sums = &mut sums[entry * 3 * rows..];
        if let Some(whole) = whole {
            assert!(of_quants.len() >= rows * BLOCK && of_scales.len() >= rows && of_sums.len() >= 3 * rows);
            let from = x[block * BLOCK..][..(rows - 1) * columns + BLOCK].as_ptr();
            let (to, scales, sums) = (of_quants.as_mut_ptr(), of_scales.as_mut_ptr(), of_sums.as_mut_ptr());
            // SAFETY: the caller has the features; the lengths are asserted.
            split = unsafe { whole((from, columns), to, scales, sums) };
        } else {
            for row in 0..rows {
                let values = &x[row * columns + block * BLOCK..][..BLOCK];
                // SAFETY: this is inlined into a function with the features.
                let quantized =
                    unsafe { quantize_block::<Q>(values, &mut of_quants[row * BLOCK..][..BLOCK]) };
                put_sums(&quantized, &mut of_sums[..3 * rows], rows, row);
                of_scales[row] = quantized.scale;
                split |= u32::from(quantized.needs_second_part()) << row;
            }
        }
        entry += 1;
        if split != 0 {
            index[entry] = block as u32;
            for row in 0..rows {
                let at = (entry * rows + row) * BLOCK;
                let (first, second) = quants.split_at_mut(at);
                let to = &mut second[..BLOCK];
                let mut quantized = Block { scale: 0.0, sums: [0; 2], squares: 0 };
                if split >> row & 1 != 0 {
                    let values = &x[row * columns + block * BLOCK..][..BLOCK];
                    let first = &first[at - rows * BLOCK..][..BLOCK];
                    let mut rest = [0.0_f32; BLOCK];
                    for ((rest, value), quant) in rest.iter_mut().zip(values).zip(first) {
                        *rest = f32::from(-*quant).mul_add(scales[(entry - 1) * rows + row], *value);
                    }
                    // SAFETY: as above.
                    quantized = unsafe { quantize_block::<Q>(&rest, to) };
                } else {
                    to.fill(0);
                }
                put_sums(&quantized, &mut sums[entry * 3 * rows..][..3 * rows], rows, row);
                scales[entry * rows + row] = quantized.scale;
            }
            entry += 1;
        }
    }
    starts[blocks] = entry as u32;
}

/// A quantised block: its scale (0 where all values are nearly 0, NaN where one is not finite), the sums of both
/// halves of its quants, and the sum of their squares.
struct Block {
    scale: f32,
    sums: [i32; 2],
    squares: i32,
}

impl Block {
    fn needs_second_part(&self) -> bool {
        self.squares > 0 && SQUARES_OF_LARGEST > CREST_SQUARED * self.squares
    }
}

/// Quantises 32 values by their largest.
#[inline(always)]
unsafe fn quantize_block<Q: Quads>(values: &[f32], to: &mut [i8]) -> Block {
    debug_assert!(values.len() == BLOCK && to.len() == BLOCK);
    // SAFETY: the caller has the features; both slices hold 32 elements.
    unsafe {
        let registers = 16 / Q::V::LANES;
        let (mut largest, mut not_finite) = (Virtual16::<Q::V>::splat(0.0), Virtual16::<Q::V>::splat(0.0));
        let mut i = 0;
        while i < 2 * registers {
            let (value, at) = (Q::V::load(values.as_ptr().add(i * Q::V::LANES)), i % registers);
            largest.set_register(at, value.abs().max(largest.register(at)));
            not_finite.set_register(at, value.fma(Q::V::zero(), not_finite.register(at)));
            i += 1;
        }
        let (largest, poison) = (largest.reduce_max(), not_finite.reduce_add());
        if poison.is_nan() || largest < LEAST {
            to.fill(0);
            return Block { scale: poison, sums: [0; 2], squares: 0 };
        }
        let inverse = Q::V::splat(QUANT_MAX / largest);
        // Integers below 2²⁴, so these sums are exact in any order.
        let mut sums = [Virtual16::<Q::V>::splat(0.0); 2];
        let mut squares = Virtual16::<Q::V>::splat(0.0);
        let mut i = 0;
        while i < 2 * registers {
            let (offset, at) = (i * Q::V::LANES, i % registers);
            let quant = Q::V::load(values.as_ptr().add(offset)).mul(inverse).round();
            Q::store_narrow(quant.to_integers(), to.as_mut_ptr().add(offset));
            sums[i / registers].set_register(at, quant);
            squares.set_register(at, quant.fma(quant, squares.register(at)));
            i += 1;
        }
        Block {
            scale: largest / QUANT_MAX,
            sums: [sums[0].reduce_add() as i32, sums[1].reduce_add() as i32],
            squares: squares.reduce_add() as i32,
        }
    }
}

/// Writes the three negated sums of a row's quants.
#[inline(always)]
fn put_sums(block: &Block, sums: &mut [i32], rows: usize, row: usize) {
    sums[row] = -(block.sums[0] + block.sums[1]);
    sums[rows + row] = -block.sums[0];
    sums[2 * rows + row] = -block.sums[1];
}
