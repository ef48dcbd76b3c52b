//! Where everything lies in a packed matrix: panels of sixteen rows, in each the codes, the high bits and the scales of
//! all blocks. One layout serves every instruction set. Must not know how a product is computed.

use super::BlockType;
use super::source::{BLOCK, Parts};
use crate::Exec;

/// Rows of a panel.
pub(super) const PANEL: usize = 16;
/// Every section of a panel begins at a multiple of this, so that no vector crosses a cache line.
const ALIGNMENT_BYTES: usize = 64;

/// How a type's blocks are stored in a panel, in bytes for one block of 32 columns × sixteen rows unless said otherwise.
///
/// Codes lie in vectors of 64 bytes: byte `4 · row + i` belongs to row `row` and to column `4 · step + i` of the block.
/// A plane of b bits holds 8 / b successive steps in one vector, the first in the lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bits of a code in the low plane: 2, 4 or 8.
    pub low_bits: usize,
    /// Bits of a code in the high plane: 0, 1 or 2.
    pub high_bits: usize,
    /// Bytes of a row's scale fields for each block; each field of the sixteen rows lies together.
    pub scale_fields: &'static [usize],
    /// Bytes of a row's scale fields for each 256 columns.
    pub super_fields: &'static [usize],
}

impl Layout {
    /// The layout of a type; `None` where there is no integer product with it.
    pub fn of(kind: BlockType) -> Option<Layout> {
        let (low_bits, high_bits, scale_fields, super_fields): (_, _, &[usize], &[usize]) = match kind {
            BlockType::Q4_0 | BlockType::IQ4_NL => (4, 0, &[2], &[]),
            BlockType::Q4_1 => (4, 0, &[2, 2], &[]),
            BlockType::Q5_0 => (4, 1, &[2], &[]),
            BlockType::Q5_1 => (4, 1, &[2, 2], &[]),
            BlockType::Q8_0 => (8, 0, &[2], &[]),
            BlockType::MXFP4 => (4, 0, &[1], &[]),
            BlockType::Q2_K => (2, 0, &[1, 1], &[2, 2]),
            BlockType::Q3_K => (2, 1, &[1, 1], &[2]),
            BlockType::Q4_K => (4, 0, &[1, 1], &[2, 2]),
            BlockType::Q5_K => (4, 1, &[1, 1], &[2, 2]),
            BlockType::Q6_K => (4, 2, &[1, 1], &[2]),
            BlockType::IQ4_XS => (4, 0, &[1], &[2]),
            _ => return None,
        };
        Some(Layout { low_bits, high_bits, scale_fields, super_fields })
    }

    /// The sections of a panel with `blocks` blocks of 32 columns.
    pub fn sections(&self, blocks: usize) -> Sections {
        let section = |bytes: usize| bytes.next_multiple_of(ALIGNMENT_BYTES);
        let supers = blocks.div_ceil(8) * PANEL * self.super_fields.iter().sum::<usize>();
        let high = section(blocks * 64 * self.low_bits);
        let scales = high + section(blocks * 64 * self.high_bits);
        let scale_bytes = PANEL * self.scale_fields.iter().sum::<usize>();
        let super_start = scales + section(blocks * scale_bytes);
        Sections { high, scales, supers: super_start, bytes: super_start + section(supers) }
    }
}

/// Offsets of a panel's sections in bytes; the low plane is first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sections {
    /// The high plane.
    pub high: usize,
    /// The scale fields of each block.
    pub scales: usize,
    /// The scale fields of each 256 columns.
    pub supers: usize,
    /// The whole panel.
    pub bytes: usize,
}

/// Lays rows of blocks out as panels: `source` holds whole rows of `columns` elements of `kind`, as a GGUF file does, and
/// `packed` the panels of [`super::QuantMatrix::packed_bytes`] for that many rows; the last panel is filled up with zeros.
pub(super) fn pack(exec: Exec<'_>, kind: BlockType, columns: usize, source: &[u8], packed: &mut [u8]) {
    let layout = Layout::of(kind).expect("the caller asked whether the type is supported");
    let row_bytes = kind.row_bytes(columns).expect("the caller checked that rows are whole blocks");
    let sections = layout.sections(columns / BLOCK);
    let rows = source.len() / row_bytes;
    exec.pool.run_slices(packed, sections.bytes, &|first, bytes, _| {
        let panel = first / sections.bytes;
        if (panel + 1) * PANEL > rows {
            bytes.fill(0);
        }
        let mut parts = Parts::new();
        for (row, blocks) in source.chunks_exact(row_bytes).skip(panel * PANEL).take(PANEL).enumerate() {
            for (index, block) in blocks.chunks_exact(kind.block_bytes()).enumerate() {
                parts.read(kind, block);
                let first = index * kind.block_len() / BLOCK;
                for i in 0..kind.block_len() / BLOCK {
                    let codes = &parts.codes[i * BLOCK..][..BLOCK];
                    put_codes(&layout, &sections, bytes, (row, first + i), codes);
                    let at =
                        sections.scales + (first + i) * PANEL * layout.scale_fields.iter().sum::<usize>();
                    put_fields(&mut bytes[at..], layout.scale_fields, row, &parts.scales[i]);
                }
                let at = sections.supers + index * PANEL * layout.super_fields.iter().sum::<usize>();
                put_fields(&mut bytes[at..], layout.super_fields, row, &parts.supers);
            }
        }
    });
}

/// Writes the codes of one row's block (`at`: row of the panel, block) to both planes.
fn put_codes(layout: &Layout, sections: &Sections, panel: &mut [u8], at: (usize, usize), codes: &[u8]) {
    let (row, block) = at;
    // Four columns at a time, as they lie in a vector.
    let mut words = [0_u32; 8];
    for (word, bytes) in words.iter_mut().zip(codes.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let low_mask = 0x0101_0101 * ((1_u32 << layout.low_bits) - 1);
    put_plane(
        &mut panel[block * 64 * layout.low_bits..],
        layout.low_bits,
        row,
        &words.map(|word| word & low_mask),
    );
    if layout.high_bits > 0 {
        let high_mask = 0x0101_0101 * ((1_u32 << layout.high_bits) - 1);
        let high = words.map(|word| word >> layout.low_bits & high_mask);
        put_plane(&mut panel[sections.high + block * 64 * layout.high_bits..], layout.high_bits, row, &high);
    }
}

/// Writes one row's eight steps to a plane of `bits`.
fn put_plane(plane: &mut [u8], bits: usize, row: usize, words: &[u32; 8]) {
    for (vector, steps) in words.chunks_exact(8 / bits).enumerate() {
        let word = steps.iter().enumerate().fold(0, |all, (i, step)| all | step << (i * bits));
        plane[vector * 64 + row * 4..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

/// Writes one row's fields, each beside those of the other rows.
fn put_fields(to: &mut [u8], fields: &[usize], row: usize, values: &[u8; 4]) {
    let (mut from, mut at) = (0, 0);
    for &bytes in fields {
        to[at + row * bytes..][..bytes].copy_from_slice(&values[from..from + bytes]);
        from += bytes;
        at += PANEL * bytes;
    }
}
