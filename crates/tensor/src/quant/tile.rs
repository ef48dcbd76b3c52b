//! The innermost kernels of quantised products: a tile of outputs kept in registers while the blocks of k run, the
//! unpacking of panels. Must not know where the operands come from.
#![allow(unsafe_code)]

use super::format::{At, Format};
use super::layout::PANEL;
use crate::simd::quads::Quads;
use crate::simd::{Vector, prefetch, prefetch_second_level};

/// The most rows of any kernel.
pub(super) const ROWS_MAX: usize = 6;
/// The most registers of outputs in a row of any kernel.
const UNITS_MAX: usize = 4;

/// Panels of one layout that lie one after the other.
#[derive(Clone, Copy)]
pub(super) struct Panels {
    /// The first panel.
    pub base: *const u8,
    /// Bytes from panel to panel.
    pub stride: usize,
    /// Offsets of the high plane, of the scales and of the super scales in a panel.
    pub sections: [usize; 3],
    /// Panels; further ones of a tile read the last.
    pub count: usize,
    /// Blocks of a panel.
    pub blocks: usize,
    /// Distance in bytes to the panels that come next.
    pub next: usize,
    /// The number of the block that comes first in the panel.
    pub first_block: usize,
}

/// One call: for rows of activations and neighbouring panels of weights, each output goes on from `from` with the blocks
/// of `index`, ascending; for each group of a block
/// `sum = fma(f32(Σ quants · activations − offset · Σ activations) · scale [+ minimum · −Σ activations], activation scale, sum)`.
#[derive(Clone, Copy)]
pub(super) struct Call {
    /// The weights.
    pub panels: Panels,
    /// Blocks of activations.
    pub entries: usize,
    /// For each of them the number of the block of weights that it meets.
    pub index: *const u32,
    /// Rows that the blocks of activations have: their stride.
    pub stride: usize,
    /// `[entry][row][32]`, from the first row of this call; numbers of 16 bits where the kernel takes such.
    pub quants: *const i8,
    /// `[entry][row]`.
    pub scales: *const f32,
    /// `[entry][3][row]`: −Σ quants of the whole, of the first half and of the second half.
    pub sums: *const i32,
    /// Slots (see `quants`, `scales` and `sums`: 32 bytes, one and three numbers) from here to the rows that come next.
    pub next_slots: usize,
    /// What the outputs start from; null for 0.
    pub from: *const f32,
    /// Distance between its rows.
    pub from_stride: usize,
    /// The outputs.
    pub to: *mut f32,
    /// Distance between their rows.
    pub to_stride: usize,
}

/// # Safety
/// The processor has the instance's features; every pointer covers what [`Call`] says.
pub(super) type TileFunction = unsafe fn(&Call);
/// Unpacks `blocks` blocks from number `first` of `panels` panels: (from, first, blocks, panels, to).
///
/// # Safety
/// As for [`TileFunction`]; `to` has room for the panels in the plain layout of that many blocks.
pub(super) type UnpackFunction = unsafe fn(&Panels, usize, usize, usize, *mut u8);

/// A kernel and the size of its tile.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Rows of activations.
    pub rows: usize,
    /// Panels of weights.
    pub panels: usize,
    /// The kernel.
    pub function: TileFunction,
}

/// Repeats a body for each step of a block, its number a constant.
macro_rules! each_step {
    ($steps:expr, $step:ident => $body:block) => {
        each_step!(@ $steps, $step, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $steps:expr, $step:ident, $body:block, $($number:literal)*) => {
        $(if $number < $steps { const $step: usize = $number; $body })*
    };
}

/// The body of every instance: `ROWS` rows, and `PASSES` times `UNITS` registers of outputs in each.
#[inline(always)]
pub(super) unsafe fn tile<Q: Quads, F: Format, const ROWS: usize, const UNITS: usize, const PASSES: usize>(
    call: &Call,
) {
    let mut pass = 0;
    while pass < PASSES {
        // SAFETY: the caller promises the features and what `Call` says.
        unsafe { tile_pass::<Q, F, ROWS, UNITS>(call, pass * UNITS) };
        pass += 1;
    }
}

/// A value for each row and register of a tile; those beyond its size are never touched.
type Grid<T> = [[T; UNITS_MAX]; ROWS_MAX];

/// Runs `$body` for each row and register of the tile.
macro_rules! each_output {
    ($row:ident, $unit:ident => $body:expr) => {
        let mut $row = 0;
        while $row < ROWS {
            let mut $unit = 0;
            while $unit < UNITS {
                $body;
                $unit += 1;
            }
            $row += 1;
        }
    };
}

#[inline(always)]
unsafe fn tile_pass<Q: Quads, F: Format, const ROWS: usize, const UNITS: usize>(
    call: &Call,
    first_unit: usize,
) {
    let per_group = F::STEPS / F::GROUPS;
    let run = if Q::RUN[F::CLASS] < per_group { Q::RUN[F::CLASS] } else { per_group };
    let column = first_unit * Q::V::LANES;
    // SAFETY: the caller promises the features, and that the pointers cover the operands.
    unsafe {
        let mut sums = [[Q::V::zero(); UNITS_MAX]; ROWS_MAX];
        if !call.from.is_null() {
            each_output!(row, unit => {
                let from = call.from.add(row * call.from_stride + column + unit * Q::V::LANES);
                sums[row][unit] = Q::V::load(from);
            });
        }
        let mut entry =
            Entry { stride: call.stride, quants: call.quants, scales: call.scales, sums: call.sums };
        for number in 0..call.entries {
            let block = *call.index.add(number) as usize - call.panels.first_block;
            let at = locate::<Q, F, UNITS>(&call.panels, block, first_unit);
            let mut integers = [[Q::V::integer_splat(0); UNITS_MAX]; ROWS_MAX];
            let mut partial = [[Q::begin::<0>(Q::V::integer_splat(0)); UNITS_MAX]; ROWS_MAX];
            each_step!(F::STEPS, STEP => {
                let within = STEP % per_group;
                if within == 0 {
                    begin_group::<Q, F, ROWS, UNITS>(&entry, STEP / per_group, &mut integers);
                }
                if within.is_multiple_of(run) {
                    each_output!(row, unit => partial[row][unit] = begin::<Q, F>(integers[row][unit]));
                }
                multiply_step::<Q, F, ROWS, UNITS>(&entry, &at, STEP, &mut partial);
                if within % run == run - 1 {
                    each_output!(row, unit => {
                        integers[row][unit] = end::<Q, F>(integers[row][unit], partial[row][unit]);
                    });
                }
                if within == per_group - 1 {
                    end_group::<Q, F, ROWS, UNITS>(&entry, &at, STEP / per_group, &integers, &mut sums);
                }
            });
            entry = entry.next(F::STEPS);
        }
        each_output!(row, unit => {
            let to = call.to.add(row * call.to_stride + column + unit * Q::V::LANES);
            sums[row][unit].store(to);
        });
    }
}

/// One block of all rows' activations.
#[derive(Clone, Copy)]
struct Entry {
    stride: usize,
    quants: *const i8,
    scales: *const f32,
    sums: *const i32,
}

impl Entry {
    #[inline(always)]
    fn next(self, steps: usize) -> Entry {
        Entry {
            stride: self.stride,
            quants: self.quants.wrapping_add(self.stride * steps * 4),
            scales: self.scales.wrapping_add(self.stride),
            sums: self.sums.wrapping_add(3 * self.stride),
        }
    }

    /// −Σ quants of a row's group in every lane.
    #[inline(always)]
    unsafe fn sum<Q: Quads, F: Format>(&self, group: usize, row: usize) -> <Q::V as Vector>::Integers {
        let slot = if F::GROUPS == 1 { 0 } else { 1 + group };
        // SAFETY: the caller's entry has that many rows.
        unsafe { Q::V::integer_splat(*self.sums.add(slot * self.stride + row)) }
    }
}

/// What each output's integer sum of a group starts from: −offset · Σ quants.
#[inline(always)]
unsafe fn begin_group<Q: Quads, F: Format, const ROWS: usize, const UNITS: usize>(
    entry: &Entry,
    group: usize,
    integers: &mut Grid<<Q::V as Vector>::Integers>,
) {
    // SAFETY: the caller upholds `Call`'s contract, here and in the functions below.
    unsafe {
        let mut row = 0;
        while row < ROWS {
            let start = if F::SHIFT == 0 {
                Q::V::integer_splat(0)
            } else {
                shifted::<Q>(entry.sum::<Q, F>(group, row), F::SHIFT)
            };
            let mut unit = 0;
            while unit < UNITS {
                integers[row][unit] = start;
                unit += 1;
            }
            row += 1;
        }
    }
}

/// The products of four columns.
#[inline(always)]
unsafe fn multiply_step<Q: Quads, F: Format, const ROWS: usize, const UNITS: usize>(
    entry: &Entry,
    at: &[At; UNITS_MAX],
    step: usize,
    partial: &mut Grid<Q::Partial>,
) {
    // SAFETY: as above.
    unsafe {
        let mut weights = [Q::splat(0); UNITS_MAX];
        let mut unit = 0;
        while unit < UNITS {
            ask_for::<Q, F, ROWS>(&at[unit], step);
            weights[unit] = F::quants::<Q>(&at[unit], step);
            unit += 1;
        }
        let mut row = 0;
        while row < ROWS {
            let activations = Q::splat_quad(entry.quants.add((row * F::STEPS + step) * 4));
            let mut unit = 0;
            while unit < UNITS {
                partial[row][unit] = pin::<Q, F>(dot::<Q, F>(partial[row][unit], weights[unit], activations));
                unit += 1;
            }
            row += 1;
        }
    }
}

/// Scales the integer sums of a group and adds them to the outputs.
#[inline(always)]
unsafe fn end_group<Q: Quads, F: Format, const ROWS: usize, const UNITS: usize>(
    entry: &Entry,
    at: &[At; UNITS_MAX],
    group: usize,
    integers: &Grid<<Q::V as Vector>::Integers>,
    sums: &mut Grid<Q::V>,
) {
    // SAFETY: as above.
    unsafe {
        let mut unit = 0;
        while unit < UNITS {
            let scale = F::scale::<Q>(&at[unit], group);
            let mut row = 0;
            while row < ROWS {
                let mut value = Q::V::from_integers(integers[row][unit]).mul(scale);
                if F::MINIMA {
                    let sum = Q::V::from_integers(entry.sum::<Q, F>(group, row));
                    value = F::minimum::<Q>(&at[unit], group).fma(sum, value);
                }
                sums[row][unit] = value.fma(Q::V::splat(*entry.scales.add(row)), sums[row][unit]);
                row += 1;
            }
            unit += 1;
        }
    }
}

/// Where block number `block` lies for each register of outputs. Registers beyond the last panel read that one.
#[inline(always)]
unsafe fn locate<Q: Quads, F: Format, const UNITS: usize>(
    panels: &Panels,
    block: usize,
    first_unit: usize,
) -> [At; UNITS_MAX] {
    let units_per_panel = PANEL / Q::V::LANES;
    let nowhere = std::ptr::null();
    let mut all =
        [At { low: nowhere, high: nowhere, scales: nowhere, supers: nowhere, part: 0, ahead: [0; 4] };
            UNITS_MAX];
    // The block that is wanted soon: some blocks on in the same panel, or at the beginning of the next panels.
    let soon = block + Q::AHEAD_BYTES / F::BYTES[0];
    let (jump, soon) = if soon < panels.blocks { (0, soon) } else { (panels.next, soon - panels.blocks) };
    let distance = |bytes: usize| jump.wrapping_add(soon.wrapping_sub(block).wrapping_mul(bytes));
    let supers = jump.wrapping_add((soon / 8).wrapping_sub(block / 8).wrapping_mul(F::BYTES[3]));
    let ahead = [distance(F::BYTES[0]), distance(F::BYTES[1]), distance(F::BYTES[2]), supers];
    let mut unit = 0;
    while unit < UNITS {
        let part = (first_unit + unit) % units_per_panel;
        let panel = (first_unit + unit) / units_per_panel;
        let panel = if panel < panels.count { panel } else { panels.count - 1 };
        // SAFETY: the caller's panels hold the block.
        unsafe {
            let panel = panels.base.add(panel * panels.stride);
            let bytes = part * Q::V::LANES * 4;
            all[unit] = At {
                low: panel.add(block * F::BYTES[0] + bytes),
                high: panel.add(panels.sections[0] + block * F::BYTES[1] + bytes),
                scales: panel.add(panels.sections[1] + block * F::BYTES[2]),
                supers: panel.add(panels.sections[2] + block / 8 * F::BYTES[3]),
                part,
                ahead,
            };
        }
        unit += 1;
    }
    all
}

/// Asks the caches for one line of each section of a block that comes soon, in as many steps as it has lines.
#[inline(always)]
unsafe fn ask_for<Q: Quads, F: Format, const ROWS: usize>(at: &At, step: usize) {
    if !F::IN_MEMORY || at.part > 0 {
        return;
    }
    // SAFETY: as above.
    unsafe {
        if step * 64 < F::BYTES[0] {
            ask::<Q, ROWS>(at.low.wrapping_add(at.ahead[0]).wrapping_add(step * 64));
        }
        if step * 64 < F::BYTES[1] {
            ask::<Q, ROWS>(at.high.wrapping_add(at.ahead[1]).wrapping_add(step * 64));
        }
        if step == 7 {
            ask::<Q, ROWS>(at.scales.wrapping_add(at.ahead[2]));
        }
        if step == 6 && F::BYTES[3] > 0 {
            ask::<Q, ROWS>(at.supers.wrapping_add(at.ahead[3]));
        }
    }
}

/// One row reads its weights once; what more rows read, another tile may read again.
#[inline(always)]
unsafe fn ask<Q: Quads, const ROWS: usize>(address: *const u8) {
    if ROWS > 1 {
        return prefetch(address.cast());
    }
    // SAFETY: as above.
    unsafe { Q::ask_once(address) }
}

/// Every lane shifted left; `count` is a constant where this is inlined.
#[inline(always)]
unsafe fn shifted<Q: Quads>(x: <Q::V as Vector>::Integers, count: u32) -> <Q::V as Vector>::Integers {
    // SAFETY: the caller has the features.
    unsafe {
        match count {
            2 => Q::V::integer_shift_left::<2>(x),
            3 => Q::V::integer_shift_left::<3>(x),
            4 => Q::V::integer_shift_left::<4>(x),
            5 => Q::V::integer_shift_left::<5>(x),
            7 => Q::V::integer_shift_left::<7>(x),
            _ => unreachable!("an offset is a power of two among these"),
        }
    }
}

/// Calls an operation of `Q` for the format's class.
macro_rules! by_class {
    ($name:ident($($argument:ident: $kind:ty),*) -> $result:ty) => {
        #[inline(always)]
        unsafe fn $name<Q: Quads, F: Format>($($argument: $kind),*) -> $result {
            // SAFETY: the caller has the features.
            unsafe {
                match F::CLASS {
                    0 => Q::$name::<0>($($argument),*),
                    1 => Q::$name::<1>($($argument),*),
                    2 => Q::$name::<2>($($argument),*),
                    _ => Q::$name::<3>($($argument),*),
                }
            }
        }
    };
}
by_class!(begin(sums: <Q::V as Vector>::Integers) -> Q::Partial);
by_class!(dot(partial: Q::Partial, unsigned: Q::Bytes, signed: Q::Bytes) -> Q::Partial);
by_class!(pin(partial: Q::Partial) -> Q::Partial);
by_class!(end(sums: <Q::V as Vector>::Integers, partial: Q::Partial) -> <Q::V as Vector>::Integers);

/// Asks the second-level cache for the block at the same place of the panels that come next.
#[inline(always)]
fn fetch_next<F: Format>(at: &At, distance: usize) {
    let fetch = |from: *const u8, bytes: usize| {
        for line in 0..bytes.div_ceil(64) {
            prefetch_second_level(from.wrapping_add(distance + 64 * line).cast());
        }
    };
    fetch(at.low, F::BYTES[0]);
    fetch(at.high, F::BYTES[1]);
    fetch(at.scales, F::BYTES[2]);
    fetch(at.supers, F::BYTES[3]);
}

#[inline(always)]
pub(super) unsafe fn unpack<Q: Quads, F: Format, P: Format>(
    from: &Panels,
    first: usize,
    blocks: usize,
    panels: usize,
    to: *mut u8,
) {
    let [quant_bytes, _, scale_bytes, _] = P::BYTES;
    let plain_stride = blocks * (quant_bytes + scale_bytes);
    let parts = PANEL / Q::V::LANES;
    // SAFETY: the caller promises that both sides cover the blocks.
    unsafe {
        for panel in 0..panels {
            for block in 0..blocks {
                let quants = to.add(panel * plain_stride + block * quant_bytes);
                let scales =
                    to.add(panel * plain_stride + blocks * quant_bytes + block * scale_bytes).cast::<f32>();
                let mut part = 0;
                while part < parts {
                    let at = locate::<Q, F, 1>(from, first + block, panel * parts + part)[0];
                    if Q::FETCHES_NEXT && part == 0 {
                        fetch_next::<F>(&at, from.next);
                    }
                    each_step!(8, STEP => {
                        let (bytes, to) = (F::quants::<Q>(&at, STEP), quants.add(part * Q::V::LANES * 4));
                        if P::STEPS == 8 {
                            Q::store(bytes, to.add(STEP * 64));
                        } else {
                            let [first, second] = Q::words(bytes);
                            Q::store(first, to.add(2 * STEP * 64));
                            Q::store(second, to.add((2 * STEP + 1) * 64));
                        }
                    });
                    let mut group = 0;
                    while group < F::GROUPS {
                        let lane = part * Q::V::LANES;
                        F::scale::<Q>(&at, group).store(scales.add(group * PANEL + lane));
                        if F::MINIMA {
                            F::minimum::<Q>(&at, group).store(scales.add((F::GROUPS + group) * PANEL + lane));
                        }
                        group += 1;
                    }
                    part += 1;
                }
            }
        }
    }
}
