//! Four lanes of NEON (aarch64).
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all, stated at `Vector`: the caller has the features.

use super::{Vector, f32_to_f16};
use std::arch::aarch64::*;

/// One 128-bit register.
#[derive(Clone, Copy)]
pub struct Neon(float32x4_t);

impl Vector for Neon {
    const LANES: usize = 4;
    type Mask = uint32x4_t;
    type Integers = int32x4_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(unsafe { vdupq_n_f32(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { vld1q_f32(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        debug_assert!(count <= 4);
        let mut lanes = [0.0_f32; 4];
        for (i, lane) in lanes.iter_mut().enumerate() {
            if i < count {
                *lane = unsafe { from.add(i).read() };
            }
        }
        unsafe { Self::load(lanes.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        debug_assert!(count <= 4);
        let mut lanes = [0.0_f32; 4];
        unsafe { self.store(lanes.as_mut_ptr()) };
        for (i, lane) in lanes.iter().enumerate() {
            if i < count {
                unsafe { to.add(i).write(*lane) };
            }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        Self(unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from))) })
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // By the bits, as `f16_to_f32`.
        unsafe {
            let bits = vmovl_u16(vld1_u16(from));
            let sign = vshlq_n_u32::<16>(vandq_u32(bits, vdupq_n_u32(0x8000)));
            let magnitude = vshlq_n_u32::<13>(vandq_u32(bits, vdupq_n_u32(0x7FFF)));
            let rebias = vdupq_n_f32(f32::from_bits((112 + 127) << 23));
            let finite = vreinterpretq_u32_f32(vmulq_f32(vreinterpretq_f32_u32(magnitude), rebias));
            let special = vorrq_u32(magnitude, vdupq_n_u32(0x7F80_0000));
            let is_special = vcgeq_u32(magnitude, vdupq_n_u32(0x7C00 << 13));
            Self(vreinterpretq_f32_u32(vorrq_u32(vbslq_u32(is_special, special, finite), sign)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let lanes = unsafe { from.cast::<[i8; 4]>().read() };
        unsafe { Self::load(lanes.map(f32::from).as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16) {
        let mut lanes = [0.0_f32; 4];
        unsafe {
            self.store(lanes.as_mut_ptr());
            to.cast::<[u16; 4]>().write_unaligned(lanes.map(f32_to_f16));
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        Self(unsafe { vmulq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        Self(unsafe { vdivq_f32(self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        Self(unsafe { vfmaq_f32(addend.0, self.0, factor.0) })
    }
    #[inline(always)]
    unsafe fn neg(self) -> Self {
        Self(unsafe { vnegq_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(unsafe { vabsq_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(unsafe { vbslq_f32(vcltq_f32(self.0, other.0), self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0) })
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(unsafe { vsqrtq_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn floor(self) -> Self {
        Self(unsafe { vrndmq_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(unsafe { vrndnq_f32(self.0) })
    }
    #[inline(always)]
    unsafe fn less(self, other: Self) -> uint32x4_t {
        unsafe { vcltq_f32(self.0, other.0) }
    }
    #[inline(always)]
    unsafe fn less_equal(self, other: Self) -> uint32x4_t {
        unsafe { vcleq_f32(self.0, other.0) }
    }
    #[inline(always)]
    unsafe fn equal(self, other: Self) -> uint32x4_t {
        unsafe { vceqq_f32(self.0, other.0) }
    }
    #[inline(always)]
    unsafe fn select(mask: uint32x4_t, yes: Self, no: Self) -> Self {
        Self(unsafe { vbslq_f32(mask, yes.0, no.0) })
    }
    #[inline(always)]
    unsafe fn to_integers(self) -> int32x4_t {
        unsafe { vcvtq_s32_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn from_integers(integers: int32x4_t) -> Self {
        Self(unsafe { vcvtq_f32_s32(integers) })
    }
    #[inline(always)]
    unsafe fn to_bits(self) -> int32x4_t {
        unsafe { vreinterpretq_s32_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn from_bits(bits: int32x4_t) -> Self {
        Self(unsafe { vreinterpretq_f32_s32(bits) })
    }
    #[inline(always)]
    unsafe fn integer_splat(x: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(x) }
    }
    #[inline(always)]
    unsafe fn integer_add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vaddq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn integer_sub(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vsubq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn integer_and(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vandq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn integer_or(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { vorrq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn integer_xor(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        unsafe { veorq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn integer_shift_left<const BITS: i32>(a: int32x4_t) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(BITS)) }
    }
    #[inline(always)]
    unsafe fn integer_shift_right<const BITS: i32>(a: int32x4_t) -> int32x4_t {
        unsafe { vshlq_s32(a, vdupq_n_s32(-BITS)) }
    }
    #[inline(always)]
    unsafe fn integer_equal(a: int32x4_t, b: int32x4_t) -> uint32x4_t {
        unsafe { vceqq_s32(a, b) }
    }
}
