//! Lanes as a plain Rust array: the portable instance (four) and the emulated sixteen-lane one.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all, stated at `Vector`: pointers are the caller's.

use super::{Vector, bf16_to_f32, f16_to_f32, f32_to_f16};

/// `N` lanes without intrinsics. The fused multiply-add is `f32::mul_add`, which rounds once on every processor.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub struct Array<const N: usize>([f32; N]);

/// `[f(a[0], b[0]), f(a[1], b[1]), ..]`, without closures.
macro_rules! lanes {
    ($n:ident, $i:ident => $value:expr) => {{
        let mut out = [Default::default(); $n];
        let mut $i = 0;
        while $i < $n {
            out[$i] = $value;
            $i += 1;
        }
        out
    }};
}

impl<const N: usize> Vector for Array<N> {
    const LANES: usize = N;
    const PLAIN: bool = true;
    type Mask = [bool; N];
    type Integers = [i32; N];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; N])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[f32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; N]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        debug_assert!(count <= N);
        Self(lanes!(N, i => if i < count { unsafe { from.add(i).read() } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        debug_assert!(count <= N);
        let mut i = 0;
        while i < count {
            unsafe { to.add(i).write(self.0[i]) };
            i += 1;
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        Self(lanes!(N, i => bf16_to_f32(unsafe { from.add(i).read_unaligned() })))
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        Self(lanes!(N, i => f16_to_f32(unsafe { from.add(i).read_unaligned() })))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        Self(lanes!(N, i => f32::from(unsafe { from.add(i).read() })))
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16) {
        let halves: [u16; N] = lanes!(N, i => f32_to_f16(self.0[i]));
        unsafe { to.cast::<[u16; N]>().write_unaligned(halves) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(lanes!(N, i => self.0[i] + other.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(lanes!(N, i => self.0[i] - other.0[i]))
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(lanes!(N, i => self.0[i] * other.0[i]))
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(lanes!(N, i => self.0[i] / other.0[i]))
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(lanes!(N, i => self.0[i].mul_add(factor.0[i], addend.0[i])))
    }
    #[inline(always)]
    unsafe fn neg(self) -> Self {
        Self(lanes!(N, i => -self.0[i]))
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(lanes!(N, i => self.0[i].abs()))
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(lanes!(N, i => if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(lanes!(N, i => if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(lanes!(N, i => self.0[i].sqrt()))
    }
    #[inline(always)]
    unsafe fn floor(self) -> Self {
        Self(lanes!(N, i => self.0[i].floor()))
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(lanes!(N, i => self.0[i].round_ties_even()))
    }
    #[inline(always)]
    unsafe fn less(self, other: Self) -> [bool; N] {
        lanes!(N, i => self.0[i] < other.0[i])
    }
    #[inline(always)]
    unsafe fn less_equal(self, other: Self) -> [bool; N] {
        lanes!(N, i => self.0[i] <= other.0[i])
    }
    #[inline(always)]
    unsafe fn equal(self, other: Self) -> [bool; N] {
        lanes!(N, i => self.0[i] == other.0[i])
    }
    #[inline(always)]
    unsafe fn select(mask: [bool; N], yes: Self, no: Self) -> Self {
        Self(lanes!(N, i => if mask[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    unsafe fn to_integers(self) -> [i32; N] {
        lanes!(N, i => self.0[i] as i32)
    }
    #[inline(always)]
    unsafe fn from_integers(integers: [i32; N]) -> Self {
        Self(lanes!(N, i => integers[i] as f32))
    }
    #[inline(always)]
    unsafe fn to_bits(self) -> [i32; N] {
        lanes!(N, i => self.0[i].to_bits() as i32)
    }
    #[inline(always)]
    unsafe fn from_bits(bits: [i32; N]) -> Self {
        Self(lanes!(N, i => f32::from_bits(bits[i] as u32)))
    }
    #[inline(always)]
    unsafe fn integer_splat(x: i32) -> [i32; N] {
        [x; N]
    }
    #[inline(always)]
    unsafe fn integer_add(a: [i32; N], b: [i32; N]) -> [i32; N] {
        lanes!(N, i => a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn integer_sub(a: [i32; N], b: [i32; N]) -> [i32; N] {
        lanes!(N, i => a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn integer_and(a: [i32; N], b: [i32; N]) -> [i32; N] {
        lanes!(N, i => a[i] & b[i])
    }
    #[inline(always)]
    unsafe fn integer_or(a: [i32; N], b: [i32; N]) -> [i32; N] {
        lanes!(N, i => a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn integer_xor(a: [i32; N], b: [i32; N]) -> [i32; N] {
        lanes!(N, i => a[i] ^ b[i])
    }
    #[inline(always)]
    unsafe fn integer_shift_left<const BITS: i32>(a: [i32; N]) -> [i32; N] {
        lanes!(N, i => a[i] << BITS)
    }
    #[inline(always)]
    unsafe fn integer_shift_right<const BITS: i32>(a: [i32; N]) -> [i32; N] {
        lanes!(N, i => a[i] >> BITS)
    }
    #[inline(always)]
    unsafe fn integer_equal(a: [i32; N], b: [i32; N]) -> [bool; N] {
        lanes!(N, i => a[i] == b[i])
    }
}
