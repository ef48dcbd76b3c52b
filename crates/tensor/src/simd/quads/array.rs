//! Bytes in plain Rust arrays, beside [`Array`]: runs everywhere. The longer operations are calls: unrolled in every kernel they
//! would be most of the crate's code, for machines that are slow in any case.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all, stated at `Quads`: pointers are the caller's.

use super::Quads;
use crate::quant::f16_to_f32;
use crate::simd::{Array, Vector};

/// Four bytes for each of `N` lanes.
#[derive(Clone, Copy)]
pub struct ArrayQuads<const N: usize>;

/// `value` for each lane and each of its four bytes.
macro_rules! bytes {
    ($n:ident, $lane:ident, $i:ident => $value:expr) => {{
        let mut out = [[0_u8; 4]; $n];
        let mut $lane = 0;
        while $lane < $n {
            let mut $i = 0;
            while $i < 4 {
                out[$lane][$i] = $value;
                $i += 1;
            }
            $lane += 1;
        }
        out
    }};
}

impl<const N: usize> Quads for ArrayQuads<N> {
    type V = Array<N>;
    type Bytes = [[u8; 4]; N];
    type Partial = [i32; N];
    const RUN: [usize; 4] = [8; 4];

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self::Bytes {
        unsafe { from.cast::<Self::Bytes>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(bytes: Self::Bytes, to: *mut u8) {
        unsafe { to.cast::<Self::Bytes>().write_unaligned(bytes) }
    }
    #[inline(always)]
    unsafe fn splat(x: u8) -> Self::Bytes {
        [[x; 4]; N]
    }
    #[inline(always)]
    unsafe fn splat_quad(from: *const i8) -> Self::Bytes {
        [unsafe { from.cast::<[u8; 4]>().read_unaligned() }; N]
    }
    #[inline(never)]
    unsafe fn and(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        bytes!(N, lane, i => a[lane][i] & b[lane][i])
    }
    #[inline(never)]
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        bytes!(N, lane, i => a[lane][i] | b[lane][i])
    }
    #[inline(never)]
    unsafe fn shift_left(a: Self::Bytes, count: u32) -> Self::Bytes {
        bytes!(N, lane, i => {
            let pair = u16::from_le_bytes([a[lane][i & 2], a[lane][i | 1]]);
            (pair << count).to_le_bytes()[i & 1]
        })
    }
    #[inline(never)]
    unsafe fn shift_right(a: Self::Bytes, count: u32) -> Self::Bytes {
        bytes!(N, lane, i => {
            let pair = u16::from_le_bytes([a[lane][i & 2], a[lane][i | 1]]);
            (pair >> count).to_le_bytes()[i & 1]
        })
    }
    #[inline(never)]
    unsafe fn lookup(table: *const u8, indices: Self::Bytes) -> Self::Bytes {
        bytes!(N, lane, i => unsafe { table.add(usize::from(indices[lane][i])).read() })
    }
    #[inline(always)]
    unsafe fn begin<const CLASS: usize>(sums: [i32; N]) -> [i32; N] {
        sums
    }
    #[inline(never)]
    unsafe fn dot<const CLASS: usize>(
        partial: [i32; N],
        unsigned: Self::Bytes,
        signed: Self::Bytes,
    ) -> [i32; N] {
        let mut out = partial;
        let mut lane = 0;
        while lane < N {
            let mut i = 0;
            while i < 4 {
                out[lane] += i32::from(unsigned[lane][i]) * i32::from(signed[lane][i] as i8);
                i += 1;
            }
            lane += 1;
        }
        out
    }
    #[inline(always)]
    unsafe fn end<const CLASS: usize>(_sums: [i32; N], partial: [i32; N]) -> [i32; N] {
        partial
    }
    #[inline(never)]
    unsafe fn load_halves(from: *const u16) -> Array<N> {
        let mut out = [0.0_f32; N];
        for (lane, value) in out.iter_mut().enumerate() {
            *value = f16_to_f32(unsafe { from.add(lane).read_unaligned() });
        }
        unsafe { Array::load(out.as_ptr()) }
    }
    #[inline(never)]
    unsafe fn load_signed(from: *const i8) -> [i32; N] {
        unsafe { from.cast::<[i8; N]>().read() }.map(i32::from)
    }
    #[inline(never)]
    unsafe fn load_unsigned(from: *const u8) -> [i32; N] {
        unsafe { from.cast::<[u8; N]>().read() }.map(i32::from)
    }
    #[inline(never)]
    unsafe fn store_narrow(integers: [i32; N], to: *mut i8) {
        unsafe { to.cast::<[i8; N]>().write(integers.map(|integer| integer as i8)) }
    }
}
