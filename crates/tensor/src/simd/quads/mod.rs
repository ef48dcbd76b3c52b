//! The integer side of a vector: for each of its lanes four bytes at a time, multiplied and summed exactly. Products with
//! block-quantised weights are generic over it. Must not know any format of weights.
#![allow(unsafe_code)]

mod array;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use array::ArrayQuads;
#[cfg(target_arch = "aarch64")]
pub use neon::NeonQuads;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2Quads, Avx2Vnni, Avx2Words, Avx512Vnni};

use super::{Vector, prefetch};

/// How large the unsigned bytes of a sum of products can be, which decides how many products fit into 16 bits.
pub mod class {
    /// At most 15.
    pub const FOUR_BITS: usize = 0;
    /// At most 31.
    pub const FIVE_BITS: usize = 1;
    /// At most 63.
    pub const SIX_BITS: usize = 2;
    /// Any byte.
    pub const EIGHT_BITS: usize = 3;
}

/// Registers of `4 · V::LANES` bytes, four for each lane of `V`.
///
/// [`begin`](Quads::begin), up to [`RUN`](Quads::RUN) times [`dot`](Quads::dot) and [`end`](Quads::end) add to each
/// integer lane the sum of the products of its bytes, exactly: with unsigned bytes of the given [`class`] and signed
/// ones in ±127 nothing overflows or saturates.
///
/// # Safety
/// As for [`Vector`]: the processor has the instance's features, and pointers are valid for what is touched.
#[allow(clippy::missing_safety_doc)]
pub trait Quads: Copy {
    /// The lanes.
    type V: Vector;
    /// A register of bytes.
    type Bytes: Copy;
    /// Sums under way, perhaps in fewer bits than the final ones.
    type Partial: Copy;
    /// The most products between `begin` and `end`, for each [`class`].
    const RUN: [usize; 4];
    /// How far ahead of their use packed weights are asked for: measured.
    const AHEAD_BYTES: usize = 1536;
    /// Whether it pays to ask for the next panels while these are unpacked.
    const FETCHES_NEXT: bool = false;

    /// Reads `4 · LANES` bytes.
    unsafe fn load(from: *const u8) -> Self::Bytes;
    /// Writes `4 · LANES` bytes.
    unsafe fn store(bytes: Self::Bytes, to: *mut u8);
    /// `x` in every byte.
    unsafe fn splat(x: u8) -> Self::Bytes;
    /// Four bytes, repeated for every lane.
    unsafe fn splat_quad(from: *const i8) -> Self::Bytes;
    /// Bitwise and.
    unsafe fn and(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Bitwise or.
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Each pair of bytes shifted left as one 16-bit number; `count` < 8 is a constant where it is used.
    unsafe fn shift_left(a: Self::Bytes, count: u32) -> Self::Bytes;
    /// Each pair of bytes shifted right as one 16-bit number.
    unsafe fn shift_right(a: Self::Bytes, count: u32) -> Self::Bytes;
    /// `table[index]` for each byte, which is below 16; the table has sixteen entries.
    unsafe fn lookup(table: *const u8, indices: Self::Bytes) -> Self::Bytes;

    /// Starts a run of products that adds to `sums`.
    unsafe fn begin<const CLASS: usize>(sums: <Self::V as Vector>::Integers) -> Self::Partial;
    /// Adds the products of unsigned and signed bytes.
    unsafe fn dot<const CLASS: usize>(
        partial: Self::Partial,
        unsigned: Self::Bytes,
        signed: Self::Bytes,
    ) -> Self::Partial;
    /// The sums that `begin` had, with the run's products added.
    unsafe fn end<const CLASS: usize>(
        sums: <Self::V as Vector>::Integers,
        partial: Self::Partial,
    ) -> <Self::V as Vector>::Integers;

    /// `partial`, in registers at this point of the program. Sums of 16 bits are associative, and a compiler that regroups them
    /// needs more registers than there are. Where it is also a barrier for loads, a compiler would have moved them all to the front.
    #[inline(always)]
    unsafe fn pin<const CLASS: usize>(partial: Self::Partial) -> Self::Partial {
        partial
    }

    /// Asks the caches for packed weights that are read once; any address will do.
    #[inline(always)]
    unsafe fn ask_once(address: *const u8) {
        prefetch(address.cast());
    }

    /// Unsigned bytes less 128 as numbers of 16 bits: for each lane those of its first two bytes and those of its last
    /// two. Only instances whose products of whole bytes are computed in 16 bits have it.
    unsafe fn words(_bytes: Self::Bytes) -> [Self::Bytes; 2] {
        unreachable!("this instance multiplies bytes as they are")
    }

    /// `LANES` half-precision numbers as f32.
    unsafe fn load_halves(from: *const u16) -> Self::V;
    /// `LANES` signed bytes as integers.
    unsafe fn load_signed(from: *const i8) -> <Self::V as Vector>::Integers;
    /// `LANES` unsigned bytes as integers.
    unsafe fn load_unsigned(from: *const u8) -> <Self::V as Vector>::Integers;
    /// Writes `LANES` integers in ±127 as signed bytes.
    unsafe fn store_narrow(integers: <Self::V as Vector>::Integers, to: *mut i8);
}
