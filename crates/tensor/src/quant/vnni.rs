//! The product of six rows with two unpacked panels on AVX-512 with VNNI, written down instruction by instruction: a compiler
//! moves all loads of a block to its beginning and then has no registers left for the sums. Computes what
//! [`super::tile::tile`] does, in the same bits. Must not know where the operands come from.
#![allow(unsafe_code)]

use super::format::Format;
use super::layout::PANEL;
use super::rows::TILE_ROWS;
use super::tile::Call;
use std::arch::asm;
use std::arch::x86_64::*;

/// Rows of activations; quants of a row's block lie 32 bytes apart, its scales 4.
const ROWS: usize = 6;
/// Panels, each of as many outputs as a register has lanes.
const PANELS: usize = 2;

/// The products of four columns with one row.
#[rustfmt::skip]
macro_rules! row_step {
    ($row:literal, $step:literal, $quad:literal) => {
        concat!(
            "vpbroadcastd {", $quad, "}, dword ptr [{quants} + 32*", $row, " + 4*", $step, "]\n",
            "vpdpbusd {x", $row, "0}, {w0}, {", $quad, "}\n",
            "vpdpbusd {x", $row, "1}, {w1}, {", $quad, "}\n",
        )
    };
}

/// The products of four columns with all rows.
#[rustfmt::skip]
macro_rules! step {
    ($step:literal) => {
        concat!(
            "vmovdqu64 {w0}, zmmword ptr [{low0} + 64*", $step, "]\n",
            "vmovdqu64 {w1}, zmmword ptr [{low1} + 64*", $step, "]\n",
            row_step!(0, $step, "q0"), row_step!(1, $step, "q1"), row_step!(2, $step, "q2"),
            row_step!(3, $step, "q3"), row_step!(4, $step, "q0"), row_step!(5, $step, "q1"),
        )
    };
}

/// Starts a row's integer sums from −offset · Σ quants.
#[rustfmt::skip]
macro_rules! begin_offset {
    ($row:literal, $slot:literal) => {
        concat!(
            "vpbroadcastd {x", $row, "0}, dword ptr [{sums} + 24*", $slot, " + 4*", $row, "]\n",
            "vpslld {x", $row, "0}, {x", $row, "0}, {shift}\n",
            "vmovdqa64 {x", $row, "1}, {x", $row, "0}\n",
        )
    };
}

/// Starts a row's integer sums from zero.
#[rustfmt::skip]
macro_rules! begin_minima {
    ($row:literal, $slot:literal) => {
        concat!(
            "vpxord {x", $row, "0}, {x", $row, "0}, {x", $row, "0}\n",
            "vpxord {x", $row, "1}, {x", $row, "1}, {x", $row, "1}\n",
        )
    };
}

/// Loads what the sums of a block are scaled with. From a register: twelve times from memory would keep the load units
/// busier than the multipliers.
macro_rules! scales_offset {
    ($scale:literal, $minimum:literal) => {
        concat!(
            "vmovups {w0}, zmmword ptr [{scales0} + 64*",
            $scale,
            "]\n",
            "vmovups {w1}, zmmword ptr [{scales1} + 64*",
            $scale,
            "]\n",
        )
    };
}

/// The same with the minima.
#[rustfmt::skip]
macro_rules! scales_minima {
    ($scale:literal, $minimum:literal) => {
        concat!(
            scales_offset!($scale, $minimum),
            "vmovups {q2}, zmmword ptr [{scales0} + 64*", $minimum, "]\n",
            "vmovups {q3}, zmmword ptr [{scales1} + 64*", $minimum, "]\n",
        )
    };
}

/// Scales a row's integer sums and adds them to its outputs.
macro_rules! end_offset {
    ($row:literal, $slot:literal) => {
        concat!(scaled!($row), added!($row))
    };
}

/// The same with the minima times −Σ quants.
#[rustfmt::skip]
macro_rules! end_minima {
    ($row:literal, $slot:literal) => {
        concat!(
            "vcvtdq2ps {q0}, dword ptr [{sums} + 24*", $slot, " + 4*", $row, "]{{1to16}}\n",
            scaled!($row),
            "vfmadd231ps {x", $row, "0}, {q0}, {q2}\n",
            "vfmadd231ps {x", $row, "1}, {q0}, {q3}\n",
            added!($row),
        )
    };
}

#[rustfmt::skip]
macro_rules! scaled {
    ($row:literal) => {
        concat!(
            "vcvtdq2ps {x", $row, "0}, {x", $row, "0}\n",
            "vcvtdq2ps {x", $row, "1}, {x", $row, "1}\n",
            "vmulps {x", $row, "0}, {x", $row, "0}, {w0}\n",
            "vmulps {x", $row, "1}, {x", $row, "1}, {w1}\n",
        )
    };
}

#[rustfmt::skip]
macro_rules! added {
    ($row:literal) => {
        concat!(
            "vbroadcastss {q1}, dword ptr [{activations} + 4*", $row, "]\n",
            "vfmadd231ps {y", $row, "0}, {x", $row, "0}, {q1}\n",
            "vfmadd231ps {y", $row, "1}, {x", $row, "1}, {q1}\n",
        )
    };
}

/// Asks for the same entry of the rows that come next, which lie apart: near enough where those have fewer second parts.
#[rustfmt::skip]
macro_rules! ask {
    () => {
        concat!(
            "prefetcht0 byte ptr [{next_quants}]\n",
            "prefetcht0 byte ptr [{next_quants} + 64]\n",
            "prefetcht0 byte ptr [{next_quants} + 128]\n",
            "prefetcht0 byte ptr [{next_scales}]\n",
            "prefetcht0 byte ptr [{next_sums}]\n",
            "prefetcht0 byte ptr [{next_sums} + 64]\n",
        )
    };
}

/// A macro's text for each row.
#[rustfmt::skip]
macro_rules! each_row {
    ($name:ident $(, $argument:literal)*) => {
        concat!(
            $name!(0 $(, $argument)*), $name!(1 $(, $argument)*), $name!(2 $(, $argument)*),
            $name!(3 $(, $argument)*), $name!(4 $(, $argument)*), $name!(5 $(, $argument)*),
        )
    };
}

/// A block with one scale.
#[rustfmt::skip]
macro_rules! whole {
    ($begin:ident, $scales:ident, $end:ident) => {
        concat!(
            each_row!($begin, 0),
            step!(0), step!(1), step!(2), step!(3), step!(4), step!(5), step!(6), step!(7),
            $scales!(0, 1), each_row!($end, 0),
        )
    };
}

/// A block with a scale for each half.
#[rustfmt::skip]
macro_rules! halves {
    ($begin:ident, $scales:ident, $end:ident) => {
        concat!(
            each_row!($begin, 1), step!(0), step!(1), step!(2), step!(3), $scales!(0, 2), each_row!($end, 1),
            each_row!($begin, 2), step!(4), step!(5), step!(6), step!(7), $scales!(1, 3), each_row!($end, 2),
        )
    };
}

/// The instructions of one block of 32 columns, with their registers.
macro_rules! block {
    ($block:ident, $y:ident, $spare:ident, $text:expr $(, $shift:expr)?) => {
        asm!(
            ask!(),
            $text,
            next_quants = in(reg) $block.quants.wrapping_add(32 * $block.next_slots),
            next_scales = in(reg) $block.activations.wrapping_add($block.next_slots),
            next_sums = in(reg) $block.sums.wrapping_add(3 * $block.next_slots),
            quants = in(reg) $block.quants, low0 = in(reg) $block.low[0], low1 = in(reg) $block.low[1],
            scales0 = in(reg) $block.scales[0], scales1 = in(reg) $block.scales[1],
            activations = in(reg) $block.activations, sums = in(reg) $block.sums,
            y00 = inout(zmm_reg) $y[0][0], y01 = inout(zmm_reg) $y[0][1], y10 = inout(zmm_reg) $y[1][0],
            y11 = inout(zmm_reg) $y[1][1], y20 = inout(zmm_reg) $y[2][0], y21 = inout(zmm_reg) $y[2][1],
            y30 = inout(zmm_reg) $y[3][0], y31 = inout(zmm_reg) $y[3][1], y40 = inout(zmm_reg) $y[4][0],
            y41 = inout(zmm_reg) $y[4][1], y50 = inout(zmm_reg) $y[5][0], y51 = inout(zmm_reg) $y[5][1],
            x00 = out(zmm_reg) $spare[0], x01 = out(zmm_reg) $spare[1], x10 = out(zmm_reg) $spare[2],
            x11 = out(zmm_reg) $spare[3], x20 = out(zmm_reg) $spare[4], x21 = out(zmm_reg) $spare[5],
            x30 = out(zmm_reg) $spare[6], x31 = out(zmm_reg) $spare[7], x40 = out(zmm_reg) $spare[8],
            x41 = out(zmm_reg) $spare[9], x50 = out(zmm_reg) $spare[10], x51 = out(zmm_reg) $spare[11],
            w0 = out(zmm_reg) $spare[12], w1 = out(zmm_reg) $spare[13], q0 = out(zmm_reg) $spare[14],
            q1 = out(zmm_reg) $spare[15], q2 = out(zmm_reg) $spare[16], q3 = out(zmm_reg) $spare[17],
            $(shift = const $shift,)?
            options(nostack, readonly)
        )
    };
}

/// Where the operands of one block lie.
struct Block {
    quants: *const i8,
    low: [*const u8; PANELS],
    scales: [*const u8; PANELS],
    activations: *const f32,
    sums: *const i32,
    next_slots: usize,
}

/// The kernel for the unpacked layout `F`, with the parameters of [`super::tile::tile`], each of which can have one value.
///
/// # Safety
/// As for [`super::tile::TileFunction`].
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn by_hand<F: Format, const R: usize, const UNITS: usize, const PASSES: usize>(
    call: &Call,
) {
    const {
        assert!(
            R == ROWS
                && ROWS == TILE_ROWS
                && UNITS == PANELS
                && PASSES == 1
                && F::STEPS == 8
                && !F::IN_MEMORY
        )
    };
    debug_assert_eq!(call.stride, ROWS, "a tile with fewer rows has another kernel");
    // SAFETY: the caller promises the features and what `Call` says.
    unsafe {
        let mut y = [[_mm512_setzero_ps(); PANELS]; ROWS];
        if !call.from.is_null() {
            for (row, outputs) in y.iter_mut().enumerate() {
                for (panel, lanes) in outputs.iter_mut().enumerate() {
                    *lanes = _mm512_loadu_ps(call.from.add(row * call.from_stride + panel * PANEL));
                }
            }
        }
        // What a block leaves in its other registers. A discarded output would have no type, and so no register of this width.
        let mut spare = [_mm512_setzero_si512(); 18];
        let panels =
            [0, 1.min(call.panels.count - 1)].map(|panel| call.panels.base.add(panel * call.panels.stride));
        for entry in 0..call.entries {
            let number = *call.index.add(entry) as usize - call.panels.first_block;
            let block = Block {
                quants: call.quants.add(entry * ROWS * 32),
                low: panels.map(|panel| panel.add(number * F::BYTES[0])),
                scales: panels.map(|panel| panel.add(call.panels.sections[1] + number * F::BYTES[2])),
                activations: call.scales.add(entry * ROWS),
                sums: call.sums.add(3 * entry * ROWS),
                next_slots: call.next_slots,
            };
            match (F::GROUPS, F::MINIMA) {
                (1, false) => {
                    block!(block, y, spare, whole!(begin_offset, scales_offset, end_offset), F::SHIFT)
                }
                (1, true) => block!(block, y, spare, whole!(begin_minima, scales_minima, end_minima)),
                (_, false) => {
                    block!(block, y, spare, halves!(begin_offset, scales_offset, end_offset), F::SHIFT)
                }
                (_, true) => block!(block, y, spare, halves!(begin_minima, scales_minima, end_minima)),
            }
        }
        for (row, outputs) in y.iter().enumerate() {
            for (panel, lanes) in outputs.iter().enumerate() {
                _mm512_storeu_ps(call.to.add(row * call.to_stride + panel * PANEL), *lanes);
            }
        }
    }
}
