//! Bytes in AVX2 and AVX-512 registers, with and without the VNNI instructions.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all, stated at `Quads`: the caller has the features.

use super::{Quads, class};
use crate::simd::{Avx2, Avx512};
use std::arch::asm;
use std::arch::x86_64::*;

/// AVX-512 with VNNI: four products and their sum in one instruction, in 32 bits.
#[derive(Clone, Copy)]
pub struct Avx512Vnni;
/// AVX2 with AVX-VNNI.
#[derive(Clone, Copy)]
pub struct Avx2Vnni;
/// AVX2: products of byte pairs are summed in 16 bits for as long as they fit. Whole bytes are multiplied as two
/// nibbles.
#[derive(Clone, Copy)]
pub struct Avx2Quads;
/// AVX2 with signed numbers of 16 bits instead of bytes, two for each lane at a time: whole bytes that were widened before.
#[derive(Clone, Copy)]
pub struct Avx2Words;

/// Eight products of 2 · 15 · 127, four of 2 · 31 · 127 and two of 2 · 63 · 127 are below 2¹⁵.
const RUN_IN_16_BITS: [usize; 4] = [8, 4, 2, 8];

/// What both widths have apart from sums.
macro_rules! bytes_512 {
    () => {
        type V = Avx512;
        type Bytes = __m512i;

        #[inline(always)]
        unsafe fn load(from: *const u8) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(bytes: __m512i, to: *mut u8) {
            unsafe { _mm512_storeu_si512(to.cast(), bytes) }
        }
        #[inline(always)]
        unsafe fn splat(x: u8) -> __m512i {
            unsafe { _mm512_set1_epi8(x as i8) }
        }
        #[inline(always)]
        unsafe fn splat_quad(from: *const i8) -> __m512i {
            unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_and_si512(a, b) }
        }
        #[inline(always)]
        unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
            unsafe { _mm512_or_si512(a, b) }
        }
        #[inline(always)]
        unsafe fn shift_left(a: __m512i, count: u32) -> __m512i {
            unsafe { _mm512_sll_epi16(a, _mm_cvtsi32_si128(count as i32)) }
        }
        #[inline(always)]
        unsafe fn shift_right(a: __m512i, count: u32) -> __m512i {
            unsafe { _mm512_srl_epi16(a, _mm_cvtsi32_si128(count as i32)) }
        }
        #[inline(always)]
        unsafe fn lookup(table: *const u8, indices: __m512i) -> __m512i {
            unsafe {
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.cast()));
                _mm512_shuffle_epi8(table, indices)
            }
        }
        #[inline(always)]
        unsafe fn load_halves(from: *const u16) -> Avx512 {
            unsafe { Avx512::from_register(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_signed(from: *const i8) -> __m512i {
            unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_unsigned(from: *const u8) -> __m512i {
            unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store_narrow(integers: __m512i, to: *mut i8) {
            unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(integers)) }
        }
    };
}

macro_rules! bytes_256 {
    () => {
        type V = Avx2;
        type Bytes = __m256i;

        #[inline(always)]
        unsafe fn load(from: *const u8) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(bytes: __m256i, to: *mut u8) {
            unsafe { _mm256_storeu_si256(to.cast(), bytes) }
        }
        #[inline(always)]
        unsafe fn splat(x: u8) -> __m256i {
            unsafe { _mm256_set1_epi8(x as i8) }
        }
        #[inline(always)]
        unsafe fn splat_quad(from: *const i8) -> __m256i {
            unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_and_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_or_si256(a, b) }
        }
        #[inline(always)]
        unsafe fn shift_left(a: __m256i, count: u32) -> __m256i {
            unsafe { _mm256_sll_epi16(a, _mm_cvtsi32_si128(count as i32)) }
        }
        #[inline(always)]
        unsafe fn shift_right(a: __m256i, count: u32) -> __m256i {
            unsafe { _mm256_srl_epi16(a, _mm_cvtsi32_si128(count as i32)) }
        }
        #[inline(always)]
        unsafe fn lookup(table: *const u8, indices: __m256i) -> __m256i {
            unsafe {
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast()));
                _mm256_shuffle_epi8(table, indices)
            }
        }
        #[inline(always)]
        unsafe fn load_halves(from: *const u16) -> Avx2 {
            unsafe { Avx2::from_register(_mm256_cvtph_ps(_mm_loadu_si128(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_signed(from: *const i8) -> __m256i {
            unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())) }
        }
        #[inline(always)]
        unsafe fn load_unsigned(from: *const u8) -> __m256i {
            unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store_narrow(integers: __m256i, to: *mut i8) {
            unsafe {
                let low = _mm256_castsi256_si128(integers);
                let high = _mm256_extracti128_si256::<1>(integers);
                let words = _mm_packs_epi32(low, high);
                _mm_storel_epi64(to.cast(), _mm_packs_epi16(words, words));
            }
        }
    };
}

impl Quads for Avx512Vnni {
    bytes_512!();
    type Partial = __m512i;
    const RUN: [usize; 4] = [8; 4];
    const AHEAD_BYTES: usize = 2048;
    const FETCHES_NEXT: bool = true;

    #[inline(always)]
    unsafe fn begin<const CLASS: usize>(sums: __m512i) -> __m512i {
        sums
    }
    #[inline(always)]
    unsafe fn dot<const CLASS: usize>(partial: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(partial, unsigned, signed) }
    }
    #[inline(always)]
    unsafe fn end<const CLASS: usize>(_sums: __m512i, partial: __m512i) -> __m512i {
        partial
    }
    #[inline(always)]
    unsafe fn pin<const CLASS: usize>(partial: __m512i) -> __m512i {
        unsafe { pinned(partial) }
    }
    #[inline(always)]
    unsafe fn ask_once(address: *const u8) {
        // Past the second-level cache: faster on Zen 5 than into all of them.
        unsafe { _mm_prefetch::<_MM_HINT_NTA>(address.cast()) }
    }
}

impl Quads for Avx2Vnni {
    bytes_256!();
    type Partial = __m256i;
    const RUN: [usize; 4] = [8; 4];

    #[inline(always)]
    unsafe fn begin<const CLASS: usize>(sums: __m256i) -> __m256i {
        sums
    }
    #[inline(always)]
    unsafe fn dot<const CLASS: usize>(partial: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(partial, unsigned, signed) }
    }
    #[inline(always)]
    unsafe fn end<const CLASS: usize>(_sums: __m256i, partial: __m256i) -> __m256i {
        partial
    }
}

impl Quads for Avx2Quads {
    bytes_256!();
    /// Sums of 16 bits, of the low nibbles and of the high ones (eight bits only).
    type Partial = [__m256i; 2];
    const RUN: [usize; 4] = RUN_IN_16_BITS;

    #[inline(always)]
    unsafe fn begin<const CLASS: usize>(_sums: __m256i) -> [__m256i; 2] {
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn dot<const CLASS: usize>(
        partial: [__m256i; 2],
        unsigned: __m256i,
        signed: __m256i,
    ) -> [__m256i; 2] {
        unsafe {
            if CLASS != class::EIGHT_BITS {
                return [_mm256_add_epi16(partial[0], _mm256_maddubs_epi16(unsigned, signed)), partial[1]];
            }
            let mask = _mm256_set1_epi8(15);
            let low = _mm256_and_si256(unsigned, mask);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(unsigned), mask);
            [
                _mm256_add_epi16(partial[0], _mm256_maddubs_epi16(low, signed)),
                _mm256_add_epi16(partial[1], _mm256_maddubs_epi16(high, signed)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn end<const CLASS: usize>(sums: __m256i, partial: [__m256i; 2]) -> __m256i {
        unsafe {
            let sums = _mm256_add_epi32(sums, _mm256_madd_epi16(partial[0], _mm256_set1_epi16(1)));
            if CLASS != class::EIGHT_BITS {
                return sums;
            }
            _mm256_add_epi32(sums, _mm256_madd_epi16(partial[1], _mm256_set1_epi16(16)))
        }
    }
    #[inline(always)]
    unsafe fn words(bytes: __m256i) -> [__m256i; 2] {
        unsafe {
            let signed = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
            // Each byte into the upper half of a word, then shifted down with its sign.
            let first = _mm_set_epi64x(0x0d80_0c80_0980_0880, 0x0580_0480_0180_0080);
            let second = _mm_set_epi64x(0x0f80_0e80_0b80_0a80, 0x0780_0680_0380_0280);
            [first, second].map(|places| {
                _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(signed, _mm256_broadcastsi128_si256(places)))
            })
        }
    }
    #[inline(always)]
    unsafe fn pin<const CLASS: usize>(partial: [__m256i; 2]) -> [__m256i; 2] {
        unsafe {
            if CLASS == class::EIGHT_BITS {
                return [opaque(partial[0]), opaque(partial[1])];
            }
            [opaque(partial[0]), partial[1]]
        }
    }
}

impl Quads for Avx2Words {
    bytes_256!();
    type Partial = __m256i;
    const RUN: [usize; 4] = [16; 4];

    #[inline(always)]
    unsafe fn begin<const CLASS: usize>(sums: __m256i) -> __m256i {
        sums
    }
    #[inline(always)]
    unsafe fn dot<const CLASS: usize>(partial: __m256i, weights: __m256i, activations: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(partial, _mm256_madd_epi16(weights, activations)) }
    }
    #[inline(always)]
    unsafe fn end<const CLASS: usize>(_sums: __m256i, partial: __m256i) -> __m256i {
        partial
    }
    #[inline(always)]
    unsafe fn pin<const CLASS: usize>(partial: __m256i) -> __m256i {
        unsafe { opaque(partial) }
    }
}

/// The same bytes, but the compiler does not know that.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(mut bytes: __m256i) -> __m256i {
    // SAFETY: it is no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) bytes, options(nomem, nostack, preserves_flags)) };
    bytes
}

/// The same bytes, but no load may pass this place, lest the compiler move all loads of a block to its beginning and
/// run out of registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn pinned(mut bytes: __m512i) -> __m512i {
    // SAFETY: it is no instruction at all.
    unsafe { asm!("/* {0} */", inout(zmm_reg) bytes, options(nostack, preserves_flags)) };
    bytes
}
