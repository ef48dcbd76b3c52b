//! Quantising activations on AVX-512 with VNNI, the six rows of a tile side by side: their largest values and their sums are
//! reduced together, a row a lane. Computes what [`super::rows::quantize_tile`] does for one row after the other, in the same
//! bits. Must not know weights.
#![allow(unsafe_code)]

use super::rows::{CREST_SQUARED, LEAST, QUANT_MAX, SQUARES_OF_LARGEST, TILE_ROWS};
use super::source::BLOCK;
use crate::simd::prefetch;
use std::arch::x86_64::*;

/// The lanes that stand for a row.
const ROWS: __mmask8 = (1 << TILE_ROWS) - 1;
/// Bytes ahead of what is read that the caches are asked for: the rows lie pages apart, so the processor does not foresee them.
const AHEAD: usize = 512;

/// The lower and the upper four lanes of each row's register, combined: lane r of both results is row r's. A macro, since a
/// closure would not be compiled with the instructions.
macro_rules! transposed {
    ($rows:expr, $combine:ident) => {{
        let rows = $rows;
        let pair = [
            $combine(_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[0], rows[1])),
            $combine(_mm256_unpacklo_epi32(rows[2], rows[3]), _mm256_unpackhi_epi32(rows[2], rows[3])),
            $combine(_mm256_unpacklo_epi32(rows[4], rows[5]), _mm256_unpackhi_epi32(rows[4], rows[5])),
        ];
        let first =
            $combine(_mm256_unpacklo_epi64(pair[0], pair[1]), _mm256_unpackhi_epi64(pair[0], pair[1]));
        let last = $combine(_mm256_unpacklo_epi64(pair[2], pair[2]), _mm256_unpackhi_epi64(pair[2], pair[2]));
        (_mm256_permute2x128_si256::<0x20>(first, last), _mm256_permute2x128_si256::<0x31>(first, last))
    }};
}

/// A [`super::rows::WholeTile`].
///
/// # Safety
/// As for [`super::rows::WholeTile`].
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn whole_tile(
    (from, columns): (*const f32, usize),
    to: *mut i8,
    scales: *mut f32,
    sums: *mut i32,
) -> u32 {
    // SAFETY: the caller promises that the addresses cover a block of every row.
    unsafe {
        let mut values = [[_mm512_setzero_ps(); 2]; TILE_ROWS];
        let mut largest = [_mm256_setzero_si256(); TILE_ROWS];
        for row in 0..TILE_ROWS {
            let from = from.add(row * columns);
            prefetch(from.wrapping_byte_add(AHEAD));
            prefetch(from.wrapping_byte_add(AHEAD + 64));
            values[row] = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))];
            // Without their signs, numbers compare as integers do, and what is not finite is above all of them.
            let [low, high] = values[row];
            let both = _mm512_max_epu32(
                _mm512_castps_si512(_mm512_abs_ps(low)),
                _mm512_castps_si512(_mm512_abs_ps(high)),
            );
            largest[row] =
                _mm256_max_epu32(_mm512_castsi512_si256(both), _mm512_extracti32x8_epi32::<1>(both));
        }
        let (low, high) = transposed!(largest, _mm256_max_epu32);
        let largest = _mm256_max_epu32(low, high);
        let infinite = _mm256_cmpge_epu32_mask(largest, _mm256_set1_epi32(f32::INFINITY.to_bits() as i32));
        let largest = _mm256_castsi256_ps(largest);
        let normal = _mm256_cmp_ps_mask::<_CMP_GE_OQ>(largest, _mm256_set1_ps(LEAST)) & !infinite;
        let scale = _mm256_maskz_div_ps(normal, largest, _mm256_set1_ps(QUANT_MAX));
        let scale = _mm256_mask_blend_ps(infinite, scale, _mm256_set1_ps(f32::NAN));
        _mm256_mask_storeu_ps(scales, ROWS, scale);
        // Zero makes quants of 0: NaN and what is too large for an integer become 0x8000_0000, of which the low byte stays.
        let inverse = _mm256_maskz_div_ps(normal, _mm256_set1_ps(QUANT_MAX), largest);
        let mut row_sums = [_mm256_setzero_si256(); TILE_ROWS];
        let mut squares = row_sums;
        for row in 0..TILE_ROWS {
            let inverse =
                _mm512_permutexvar_ps(_mm512_set1_epi32(row as i32), _mm512_castps256_ps512(inverse));
            let [low, high] = values[row];
            let low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse)));
            let high = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse)));
            let quants = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high);
            _mm256_storeu_si256(to.add(row * BLOCK).cast(), quants);
            let magnitude = _mm256_abs_epi8(quants);
            row_sums[row] = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), quants);
            squares[row] = _mm256_dpbusd_epi32(_mm256_setzero_si256(), magnitude, magnitude);
        }
        let (first_half, second_half) = transposed!(row_sums, _mm256_add_epi32);
        let mut place = sums;
        for sum in [_mm256_add_epi32(first_half, second_half), first_half, second_half] {
            _mm256_mask_storeu_epi32(place, ROWS, _mm256_sub_epi32(_mm256_setzero_si256(), sum));
            place = place.add(TILE_ROWS);
        }
        let (low, high) = transposed!(squares, _mm256_add_epi32);
        let squares = _mm256_add_epi32(low, high);
        let most = _mm256_mullo_epi32(squares, _mm256_set1_epi32(CREST_SQUARED));
        let some = _mm256_cmpgt_epi32_mask(squares, _mm256_setzero_si256());
        let split = _mm256_cmplt_epi32_mask(most, _mm256_set1_epi32(SQUARES_OF_LARGEST));
        u32::from(some & split & ROWS)
    }
}
