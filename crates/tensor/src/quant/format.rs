//! How each type of block turns into unsigned bytes and f32 scales in registers. Knows the packed layout; must not know
//! the products' loops.
#![allow(unsafe_code)]
#![allow(non_camel_case_types)] // The formats have ggml's names.

use super::layout::PANEL;
use crate::simd::Vector;
use crate::simd::quads::{Quads, class};

/// Where one block of one panel lies, for the lanes from `part · LANES` on.
#[derive(Clone, Copy)]
pub(super) struct At {
    /// Low plane, at the lanes' bytes.
    pub low: *const u8,
    /// High plane, at the lanes' bytes.
    pub high: *const u8,
    /// The block's scale fields.
    pub scales: *const u8,
    /// The scale fields of the 256 columns around the block.
    pub supers: *const u8,
    /// Which part of the panel's rows.
    pub part: usize,
    /// Distances in bytes, in each section, to a block that comes soon.
    pub ahead: [usize; 4],
}

/// A type of blocks, as the products see it. In each group of 32 / `GROUPS` columns a weight is
/// `scale · (quant − 2^SHIFT)`, or `scale · quant − minimum` with `MINIMA`.
///
/// # Safety
/// As for [`Quads`]; `at` points into a panel of this type's layout.
pub(super) trait Format {
    /// Groups with a scale of their own in 32 columns: 1 or 2.
    const GROUPS: usize;
    /// How large the quants can be: a [`class`].
    const CLASS: usize;
    /// The quants' offset as a power of two; 0 where there is none, so with `MINIMA`.
    const SHIFT: u32;
    /// Whether there is a minimum instead of an offset.
    const MINIMA: bool;
    /// Bytes of a block in each section, and of 256 columns in the last.
    const BYTES: [usize; 4];
    /// Whether panels come from memory, so that what is next should be asked for.
    const IN_MEMORY: bool;
    /// Steps of a block: quants of 4 bytes for each lane, of four columns or, in 16 bits, of two.
    const STEPS: usize = 8;
    /// The same type with its panels unpacked.
    type Plain: Format;
    /// The same type with its panels unpacked and its quants, less their offset, in 16 bits.
    type Words: Format;

    /// The unsigned quants of columns `4 · step ..` of the block, four for each lane.
    unsafe fn quants<Q: Quads>(at: &At, step: usize) -> Q::Bytes;
    /// Each lane's scale.
    unsafe fn scale<Q: Quads>(at: &At, group: usize) -> Q::V;
    /// Each lane's minimum.
    unsafe fn minimum<Q: Quads>(_at: &At, _group: usize) -> Q::V {
        unreachable!("a format without minima has offsets")
    }
}

/// A panel unpacked into the caches: a byte for each quant, f32 scales and minima.
pub(super) struct Plain<const GROUPS: usize, const CLASS: usize, const SHIFT: u32, const MINIMA: bool>;

impl<const GROUPS: usize, const CLASS: usize, const SHIFT: u32, const MINIMA: bool> Format
    for Plain<GROUPS, CLASS, SHIFT, MINIMA>
{
    const GROUPS: usize = GROUPS;
    const CLASS: usize = CLASS;
    const SHIFT: u32 = SHIFT;
    const MINIMA: bool = MINIMA;
    const BYTES: [usize; 4] = [PANEL * 32, 0, GROUPS * PANEL * 4 * if MINIMA { 2 } else { 1 }, 0];
    const IN_MEMORY: bool = false;
    type Plain = Self;
    type Words = PlainWords<GROUPS>;

    #[inline(always)]
    unsafe fn quants<Q: Quads>(at: &At, step: usize) -> Q::Bytes {
        // SAFETY: the caller upholds the trait's contract, here and below.
        unsafe { Q::load(at.low.add(step * 64)) }
    }
    #[inline(always)]
    unsafe fn scale<Q: Quads>(at: &At, group: usize) -> Q::V {
        // SAFETY: as above.
        unsafe { Q::V::load(at.scales.cast::<f32>().add(group * PANEL + at.part * Q::V::LANES)) }
    }
    #[inline(always)]
    unsafe fn minimum<Q: Quads>(at: &At, group: usize) -> Q::V {
        // SAFETY: as above.
        unsafe { Self::scale::<Q>(at, GROUPS + group) }
    }
}

/// A panel unpacked into the caches with quants of 16 bits, signed: whole bytes without an offset.
pub(super) struct PlainWords<const GROUPS: usize>;

impl<const GROUPS: usize> Format for PlainWords<GROUPS> {
    const GROUPS: usize = GROUPS;
    const CLASS: usize = class::EIGHT_BITS;
    const SHIFT: u32 = 0;
    const MINIMA: bool = false;
    const BYTES: [usize; 4] = [PANEL * 64, 0, GROUPS * PANEL * 4, 0];
    const IN_MEMORY: bool = false;
    const STEPS: usize = 16;
    type Plain = Self;
    type Words = Self;

    #[inline(always)]
    unsafe fn quants<Q: Quads>(at: &At, step: usize) -> Q::Bytes {
        // SAFETY: the caller upholds the trait's contract, here and below.
        unsafe { Q::load(at.low.add(step * 64)) }
    }
    #[inline(always)]
    unsafe fn scale<Q: Quads>(at: &At, group: usize) -> Q::V {
        // SAFETY: as above.
        unsafe { Q::V::load(at.scales.cast::<f32>().add(group * PANEL + at.part * Q::V::LANES)) }
    }
}

/// Declares a format: groups, class, shift, minima, bytes of the sections, and how each part is read.
macro_rules! format {
    ($(#[$doc:meta])* $name:ident: $groups:literal, $class:ident, $shift:literal, $minima:literal, $bytes:expr,
        quants = |$at:ident, $step:ident| $quants:expr, scale = |$group:ident| $scale:expr $(, minimum = $minimum:expr)?) => {
        $(#[$doc])*
        pub(super) struct $name;
        impl Format for $name {
            const GROUPS: usize = $groups;
            const CLASS: usize = class::$class;
            const SHIFT: u32 = $shift;
            const MINIMA: bool = $minima;
            const BYTES: [usize; 4] = $bytes;
            const IN_MEMORY: bool = true;
            type Plain = Plain<$groups, { class::$class }, $shift, $minima>;
            type Words = PlainWords<$groups>;
            #[inline(always)]
            unsafe fn quants<Q: Quads>($at: &At, $step: usize) -> Q::Bytes {
                // SAFETY: the caller upholds the trait's contract.
                unsafe { $quants }
            }
            #[inline(always)]
            unsafe fn scale<Q: Quads>($at: &At, $group: usize) -> Q::V {
                let _ = $group;
                // SAFETY: as above.
                unsafe { $scale }
            }
            $(#[inline(always)]
            unsafe fn minimum<Q: Quads>($at: &At, $group: usize) -> Q::V {
                let _ = $group;
                // SAFETY: as above.
                unsafe { $minimum }
            })?
        }
    };
}

format!(
    /// d · (q − 8).
    Q4_0: 1, FOUR_BITS, 3, false, [256, 0, 32, 0],
    quants = |at, step| four_bits::<Q>(at, step), scale = |group| half::<Q>(at.scales, 0, at)
);
format!(
    /// d · q + m.
    Q4_1: 1, FOUR_BITS, 0, true, [256, 0, 64, 0],
    quants = |at, step| four_bits::<Q>(at, step), scale = |group| half::<Q>(at.scales, 0, at),
    minimum = half::<Q>(at.scales, 1, at)
);
format!(
    /// d · (q − 16).
    Q5_0: 1, FIVE_BITS, 4, false, [256, 64, 32, 0],
    quants = |at, step| five_bits::<Q>(at, step), scale = |group| half::<Q>(at.scales, 0, at)
);
format!(
    /// d · q + m.
    Q5_1: 1, FIVE_BITS, 0, true, [256, 64, 64, 0],
    quants = |at, step| five_bits::<Q>(at, step), scale = |group| half::<Q>(at.scales, 0, at),
    minimum = half::<Q>(at.scales, 1, at)
);
format!(
    /// d · q.
    Q8_0: 1, EIGHT_BITS, 7, false, [512, 0, 32, 0],
    quants = |at, step| Q::load(at.low.add(step * 64)), scale = |group| half::<Q>(at.scales, 0, at)
);
format!(
    /// d · (a value of the code book).
    IQ4_NL: 1, EIGHT_BITS, 7, false, [256, 0, 32, 0],
    quants = |at, step| Q::lookup(IQ4_VALUES.as_ptr(), four_bits::<Q>(at, step)),
    scale = |group| half::<Q>(at.scales, 0, at)
);
format!(
    /// d · scale · (a value of the code book).
    IQ4_XS: 1, EIGHT_BITS, 7, false, [256, 0, 16, 32],
    quants = |at, step| Q::lookup(IQ4_VALUES.as_ptr(), four_bits::<Q>(at, step)),
    scale = |group| half::<Q>(at.supers, 0, at).mul(signed::<Q>(at, 0))
);
format!(
    /// 2^(e − 128) · (twice a value of e2m1).
    MXFP4: 1, FIVE_BITS, 4, false, [256, 0, 16, 0],
    quants = |at, step| Q::lookup(FP4_VALUES.as_ptr(), four_bits::<Q>(at, step)),
    scale = |group| half_power_of_two::<Q>(at)
);
format!(
    /// d · scale · q − dmin · minimum, in groups of 16.
    Q2_K: 2, FOUR_BITS, 0, true, [128, 0, 32, 64],
    quants = |at, step| two_bits::<Q>(at, step),
    scale = |group| half::<Q>(at.supers, 0, at).mul(Q::V::from_integers(Q::V::integer_and(
        unsigned::<Q>(at, group), Q::V::integer_splat(15)
    ))),
    minimum = half::<Q>(at.supers, 1, at).mul(Q::V::from_integers(Q::V::integer_shift_right::<4>(
        unsigned::<Q>(at, group)
    )))
);
format!(
    /// d · scale · (q − 4), in groups of 16.
    Q3_K: 2, FOUR_BITS, 2, false, [128, 64, 32, 32],
    quants = |at, step| Q::or(two_bits::<Q>(at, step), high_bit::<Q>(at, step, 2)),
    scale = |group| half::<Q>(at.supers, 0, at).mul(signed::<Q>(at, group))
);
format!(
    /// d · scale · q − dmin · minimum.
    Q4_K: 1, FOUR_BITS, 0, true, [256, 0, 32, 64],
    quants = |at, step| four_bits::<Q>(at, step),
    scale = |group| half::<Q>(at.supers, 0, at).mul(Q::V::from_integers(unsigned::<Q>(at, 0))),
    minimum = half::<Q>(at.supers, 1, at).mul(Q::V::from_integers(unsigned::<Q>(at, 1)))
);
format!(
    /// d · scale · q − dmin · minimum.
    Q5_K: 1, FIVE_BITS, 0, true, [256, 64, 32, 64],
    quants = |at, step| five_bits::<Q>(at, step),
    scale = |group| half::<Q>(at.supers, 0, at).mul(Q::V::from_integers(unsigned::<Q>(at, 0))),
    minimum = half::<Q>(at.supers, 1, at).mul(Q::V::from_integers(unsigned::<Q>(at, 1)))
);
format!(
    /// d · scale · (q − 32), in groups of 16.
    Q6_K: 2, SIX_BITS, 5, false, [256, 128, 32, 32],
    quants = |at, step| Q::or(four_bits::<Q>(at, step), high_pair::<Q>(at, step)),
    scale = |group| half::<Q>(at.supers, 0, at).mul(signed::<Q>(at, group))
);

/// The code book of IQ4_NL and IQ4_XS (ggml's `kvalues_iq4nl`), each value 128 higher.
pub(super) static IQ4_VALUES: [u8; 16] =
    [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// Twice the values of e2m1 (OCP Microscaling Formats 1.0, table 5), each 16 higher.
pub(super) static FP4_VALUES: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];

#[inline(always)]
unsafe fn four_bits<Q: Quads>(at: &At, step: usize) -> Q::Bytes {
    // SAFETY: the caller upholds `Format`'s contract, here and in the functions below.
    unsafe {
        let both = Q::load(at.low.add(step / 2 * 64));
        Q::and(if step.is_multiple_of(2) { both } else { Q::shift_right(both, 4) }, Q::splat(15))
    }
}

#[inline(always)]
unsafe fn two_bits<Q: Quads>(at: &At, step: usize) -> Q::Bytes {
    // SAFETY: as above.
    unsafe {
        let four = Q::load(at.low.add(step / 4 * 64));
        let count = (2 * (step % 4)) as u32;
        Q::and(if count == 0 { four } else { Q::shift_right(four, count) }, Q::splat(3))
    }
}

#[inline(always)]
unsafe fn five_bits<Q: Quads>(at: &At, step: usize) -> Q::Bytes {
    // SAFETY: as above.
    unsafe { Q::or(four_bits::<Q>(at, step), high_bit::<Q>(at, step, 4)) }
}

/// The high plane's bit of a step, moved to bit `to`.
#[inline(always)]
unsafe fn high_bit<Q: Quads>(at: &At, step: usize, to: usize) -> Q::Bytes {
    // SAFETY: as above.
    unsafe { moved::<Q>(Q::load(at.high), step, to, 1 << to) }
}

/// The high plane's pair of bits of a step, moved to bits 4 and 5.
#[inline(always)]
unsafe fn high_pair<Q: Quads>(at: &At, step: usize) -> Q::Bytes {
    // SAFETY: as above.
    unsafe { moved::<Q>(Q::load(at.high.add(step / 4 * 64)), 2 * (step % 4), 4, 3 << 4) }
}

/// Bit `from` of each byte moved to bit `to`, and what the mask leaves.
#[inline(always)]
unsafe fn moved<Q: Quads>(bytes: Q::Bytes, from: usize, to: usize, mask: u8) -> Q::Bytes {
    // SAFETY: as above.
    unsafe {
        let shifted = if from == to {
            bytes
        } else if from < to {
            Q::shift_left(bytes, (to - from) as u32)
        } else {
            Q::shift_right(bytes, (from - to) as u32)
        };
        Q::and(shifted, Q::splat(mask))
    }
}

/// Half-precision field number `field` of each lane.
#[inline(always)]
unsafe fn half<Q: Quads>(fields: *const u8, field: usize, at: &At) -> Q::V {
    // SAFETY: as above.
    unsafe { Q::load_halves(fields.cast::<u16>().add(field * PANEL + at.part * Q::V::LANES)) }
}

/// Signed byte field number `field` of each lane.
#[inline(always)]
unsafe fn signed<Q: Quads>(at: &At, field: usize) -> Q::V {
    // SAFETY: as above.
    unsafe {
        let from = at.scales.cast::<i8>().add(field * PANEL + at.part * Q::V::LANES);
        Q::V::from_integers(Q::load_signed(from))
    }
}

/// Unsigned byte field number `field` of each lane.
#[inline(always)]
unsafe fn unsigned<Q: Quads>(at: &At, field: usize) -> <Q::V as Vector>::Integers {
    // SAFETY: as above.
    unsafe { Q::load_unsigned(at.scales.add(field * PANEL + at.part * Q::V::LANES)) }
}

/// 2^(e − 128) of each lane's exponent byte, subnormal for 0 and 1.
#[inline(always)]
unsafe fn half_power_of_two<Q: Quads>(at: &At) -> Q::V {
    // SAFETY: as above.
    unsafe {
        let exponent = unsigned::<Q>(at, 0);
        let one = Q::V::integer_splat(1);
        let normal = Q::V::from_bits(Q::V::integer_shift_left::<23>(Q::V::integer_sub(exponent, one)));
        let least = Q::V::splat(f32::from_bits(0x0020_0000));
        let second = Q::V::splat(f32::from_bits(0x0040_0000));
        let value = Q::V::select(Q::V::integer_equal(exponent, one), second, normal);
        Q::V::select(Q::V::integer_equal(exponent, Q::V::integer_splat(0)), least, value)
    }
}
