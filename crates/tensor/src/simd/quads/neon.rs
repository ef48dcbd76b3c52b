//! Bytes in NEON registers (aarch64), without the dot-product extension.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all, stated at `Quads`: the caller has the features.

use super::{Quads, class};
use crate::quant::f16_to_f32;
use crate::simd::{Neon, Vector};
use std::arch::aarch64::*;

/// Sixteen bytes for four lanes.
#[derive(Clone, Copy)]
pub struct NeonQuads;

impl Quads for NeonQuads {
    type V = Neon;
    type Bytes = uint8x16_t;
    type Partial = int32x4_t;
    const RUN: [usize; 4] = [8; 4];

    #[inline(always)]
    unsafe fn load(from: *const u8) -> uint8x16_t {
        unsafe { vld1q_u8(from) }
    }
    #[inline(always)]
    unsafe fn store(bytes: uint8x16_t, to: *mut u8) {
        unsafe { vst1q_u8(to, bytes) }
    }
    #[inline(always)]
    unsafe fn splat(x: u8) -> uint8x16_t {
        unsafe { vdupq_n_u8(x) }
    }
    #[inline(always)]
    unsafe fn splat_quad(from: *const i8) -> uint8x16_t {
        unsafe { vreinterpretq_u8_s32(vdupq_n_s32(from.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn and(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        unsafe { vandq_u8(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        unsafe { vorrq_u8(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_left(a: uint8x16_t, count: u32) -> uint8x16_t {
        unsafe { vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a), vdupq_n_s16(count as i16))) }
    }
    #[inline(always)]
    unsafe fn shift_right(a: uint8x16_t, count: u32) -> uint8x16_t {
        unsafe { vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a), vdupq_n_s16(-(count as i16)))) }
    }
    #[inline(always)]
    unsafe fn lookup(table: *const u8, indices: uint8x16_t) -> uint8x16_t {
        unsafe { vqtbl1q_u8(vld1q_u8(table), indices) }
    }
    #[inline(always)]
    unsafe fn begin<const CLASS: usize>(sums: int32x4_t) -> int32x4_t {
        sums
    }
    #[inline(always)]
    unsafe fn dot<const CLASS: usize>(
        partial: int32x4_t,
        unsigned: uint8x16_t,
        signed: uint8x16_t,
    ) -> int32x4_t {
        unsafe {
            let signed = vreinterpretq_s8_u8(signed);
            // Products of 16 bits, then sums of neighbouring pairs, then of these.
            let (low, high) = if CLASS == class::EIGHT_BITS {
                let low = (vmovl_u8(vget_low_u8(unsigned)), vmovl_s8(vget_low_s8(signed)));
                let high = (vmovl_u8(vget_high_u8(unsigned)), vmovl_s8(vget_high_s8(signed)));
                (pairs_of_words(low), pairs_of_words(high))
            } else {
                let unsigned = vreinterpretq_s8_u8(unsigned);
                let low = vmull_s8(vget_low_s8(unsigned), vget_low_s8(signed));
                let high = vmull_s8(vget_high_s8(unsigned), vget_high_s8(signed));
                (vpaddlq_s16(low), vpaddlq_s16(high))
            };
            vaddq_s32(partial, vpaddq_s32(low, high))
        }
    }
    #[inline(always)]
    unsafe fn end<const CLASS: usize>(_sums: int32x4_t, partial: int32x4_t) -> int32x4_t {
        partial
    }
    #[inline(always)]
    unsafe fn load_halves(from: *const u16) -> Neon {
        let mut values = [0.0_f32; 4];
        for (lane, value) in values.iter_mut().enumerate() {
            *value = f16_to_f32(unsafe { from.add(lane).read_unaligned() });
        }
        unsafe { Neon::load(values.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_signed(from: *const i8) -> int32x4_t {
        let values = unsafe { from.cast::<[i8; 4]>().read() }.map(i32::from);
        unsafe { vld1q_s32(values.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_unsigned(from: *const u8) -> int32x4_t {
        let values = unsafe { from.cast::<[u8; 4]>().read() }.map(i32::from);
        unsafe { vld1q_s32(values.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn store_narrow(integers: int32x4_t, to: *mut i8) {
        unsafe {
            let words = vmovn_s32(integers);
            let bytes = vmovn_s16(vcombine_s16(words, words));
            to.cast::<i32>().write_unaligned(vget_lane_s32::<0>(vreinterpret_s32_s8(bytes)));
        }
    }
}

/// Four sums of two neighbouring products.
#[inline(always)]
unsafe fn pairs_of_words(factors: (uint16x8_t, int16x8_t)) -> int32x4_t {
    unsafe {
        let unsigned = vreinterpretq_s16_u16(factors.0);
        let low = vmull_s16(vget_low_s16(unsigned), vget_low_s16(factors.1));
        let high = vmull_s16(vget_high_s16(unsigned), vget_high_s16(factors.1));
        vpaddq_s32(low, high)
    }
}
