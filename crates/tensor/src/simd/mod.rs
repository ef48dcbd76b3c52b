//! The vector type that every kernel is generic over, its instances, and the dispatch from an [`Isa`](crate::Isa)
//! at run time. Must not know any kernel.
//!
//! A kernel is an `#[inline(always)] unsafe fn name<V: Vector>(..)`; [`dispatch!`](crate::dispatch) compiles it once
//! for each instruction set behind a `#[target_feature]` wrapper. Closures do not inherit target features, so kernels
//! hold none. Every operation gives the same bits in every instance (NaN payloads excepted).
#![allow(unsafe_code)]

mod alloc;
mod array;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod half;
#[cfg(target_arch = "aarch64")]
mod neon;
mod prefetch;
pub mod quads;
mod sixteen;
#[cfg(test)]
mod tests;

pub use alloc::AlignedBuffer;
pub use array::Array;
#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use half::{F16_MAX, bf16_to_f32, f16_to_f32, f32_to_f16};
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub(crate) use prefetch::{prefetch, prefetch_second_level};
pub use sixteen::Virtual16;

/// A register of f32 lanes.
///
/// # Safety
/// Every method is unsafe for one common reason: it may be called only where the processor has the instance's
/// features, that is, from within a function that [`dispatch!`](crate::dispatch) made. Methods that take pointers
/// also need these to be valid for the lanes that they touch; no alignment is required.
#[allow(clippy::missing_safety_doc)]
pub trait Vector: Copy {
    /// Lanes of f32: 4, 8 or 16.
    const LANES: usize;
    /// Whether it is a plain array, for which many registers at once are only more code.
    const PLAIN: bool = false;
    /// One truth value a lane.
    type Mask: Copy;
    /// As many lanes of 32-bit integers.
    type Integers: Copy;

    /// `x` in every lane.
    unsafe fn splat(x: f32) -> Self;
    /// 0 in every lane.
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller upholds the trait's contract.
        unsafe { Self::splat(0.0) }
    }
    /// Reads `LANES` values.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `LANES` values.
    unsafe fn store(self, to: *mut f32);
    /// Reads the first `count` ≤ `LANES` values and touches no other memory; the other lanes are 0.
    unsafe fn load_partial(from: *const f32, count: usize) -> Self;
    /// Writes the first `count` ≤ `LANES` lanes and touches no other memory.
    unsafe fn store_partial(self, to: *mut f32, count: usize);

    /// Reads `LANES` bf16 values by their bits; exact.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Reads `LANES` f16 values by their bits; exact.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Reads `LANES` signed bytes; exact.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// Writes the bits of the nearest f16 of each lane, ties to even.
    unsafe fn store_f16(self, to: *mut u16);

    /// `self + other`.
    unsafe fn add(self, other: Self) -> Self;
    /// `self - other`.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * other`.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self / other`, correctly rounded.
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    unsafe fn fma(self, factor: Self, addend: Self) -> Self;
    /// The sign bit flipped.
    unsafe fn neg(self) -> Self;
    /// The sign bit cleared.
    unsafe fn abs(self) -> Self;
    /// `if self < other { self } else { other }`: `other` where either is NaN or where they are equal.
    unsafe fn min(self, other: Self) -> Self;
    /// `if self > other { self } else { other }`: `other` where either is NaN or where they are equal.
    unsafe fn max(self, other: Self) -> Self;
    /// The square root, correctly rounded.
    unsafe fn sqrt(self) -> Self;
    /// The largest integer not above each lane.
    unsafe fn floor(self) -> Self;
    /// The nearest integer, ties to even.
    unsafe fn round(self) -> Self;

    /// The sum of the lanes in a tree: lane i and lane i + `LANES` / 2, and so on.
    #[inline(always)]
    unsafe fn tree_add(self) -> f32 {
        let mut lanes = [0.0_f32; 16];
        // SAFETY: the caller upholds the trait's contract; there is room for the widest instance.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut width = Self::LANES / 2;
        while width > 0 {
            let mut i = 0;
            while i < width {
                lanes[i] += lanes[i + width];
                i += 1;
            }
            width /= 2;
        }
        lanes[0]
    }
    /// The largest lane by [`Vector::max`], in the same tree.
    #[inline(always)]
    unsafe fn tree_max(self) -> f32 {
        let mut lanes = [0.0_f32; 16];
        // SAFETY: as above.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut width = Self::LANES / 2;
        while width > 0 {
            let mut i = 0;
            while i < width {
                lanes[i] = if lanes[i] > lanes[i + width] { lanes[i] } else { lanes[i + width] };
                i += 1;
            }
            width /= 2;
        }
        lanes[0]
    }

    /// `self < other`; false where either is NaN.
    unsafe fn less(self, other: Self) -> Self::Mask;
    /// `self <= other`; false where either is NaN.
    unsafe fn less_equal(self, other: Self) -> Self::Mask;
    /// `self == other`; false where either is NaN.
    unsafe fn equal(self, other: Self) -> Self::Mask;
    /// `mask ? yes : no` in each lane.
    unsafe fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// Truncates to integers. Each lane must be in (−2³¹, 2³¹); elsewhere the result differs between instances.
    unsafe fn to_integers(self) -> Self::Integers;
    /// The nearest f32 of each integer, ties to even.
    unsafe fn from_integers(integers: Self::Integers) -> Self;
    /// The lanes' bits as integers.
    unsafe fn to_bits(self) -> Self::Integers;
    /// Integers' bits as lanes.
    unsafe fn from_bits(bits: Self::Integers) -> Self;
    /// `x` in every integer lane.
    unsafe fn integer_splat(x: i32) -> Self::Integers;
    /// Wrapping sum.
    unsafe fn integer_add(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    /// Wrapping difference.
    unsafe fn integer_sub(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    /// Bitwise and.
    unsafe fn integer_and(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    /// Bitwise or.
    unsafe fn integer_or(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    /// Bitwise exclusive or.
    unsafe fn integer_xor(a: Self::Integers, b: Self::Integers) -> Self::Integers;
    /// `a << BITS`; 0 ≤ `BITS` < 32.
    unsafe fn integer_shift_left<const BITS: i32>(a: Self::Integers) -> Self::Integers;
    /// `a >> BITS` filling with the sign; 0 ≤ `BITS` < 32.
    unsafe fn integer_shift_right<const BITS: i32>(a: Self::Integers) -> Self::Integers;
    /// `a == b` in each lane.
    unsafe fn integer_equal(a: Self::Integers, b: Self::Integers) -> Self::Mask;
}

/// Compiles a generic kernel for every instruction set and chooses among the instances at run time.
///
/// ```text
/// #[inline(always)]
/// unsafe fn scale_generic<V: Vector>(data: &mut [f32], factor: f32) { .. }
/// dispatch! {
///     /// Multiplies in place.
///     pub(crate) fn scale(data: &mut [f32], factor: f32) = scale_generic;
/// }
/// // SAFETY: the device's Isa is available.
/// unsafe { scale(isa, data, factor) }
/// ```
/// The result is an `unsafe fn`: its caller promises that the processor has `isa` (every [`Exec`](crate::Exec) checks
/// that once, when it is made) and whatever else the kernel asks.
#[macro_export]
macro_rules! dispatch {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident(
        $($argument:ident : $kind:ty),* $(,)?) $(-> $result:ty)? = $kernel:ident;) => {
        $(#[$attribute])*
        ///
        /// # Safety
        /// The processor has `isa`, and the kernel's own conditions hold.
        #[allow(clippy::too_many_arguments, unsafe_code)]
        $visibility unsafe fn $name(isa: $crate::Isa, $($argument: $kind),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")]
            unsafe fn avx512($($argument: $kind),*) $(-> $result)? {
                // SAFETY: the enclosing function has the features, its caller upholds the rest.
                unsafe { $kernel::<$crate::simd::Avx512>($($argument),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn avx2($($argument: $kind),*) $(-> $result)? {
                // SAFETY: the enclosing function has the features, its caller upholds the rest.
                unsafe { $kernel::<$crate::simd::Avx2>($($argument),*) }
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            unsafe fn neon($($argument: $kind),*) $(-> $result)? {
                // SAFETY: the enclosing function has the features, its caller upholds the rest.
                unsafe { $kernel::<$crate::simd::Neon>($($argument),*) }
            }
            // The arrays are plain Rust; where there is a fused multiply-add instruction the compiler may use it.
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn emulated16_with_fma($($argument: $kind),*) $(-> $result)? {
                // SAFETY: arrays need no features, the caller upholds the rest.
                unsafe { $kernel::<$crate::simd::Array<16>>($($argument),*) }
            }
            unsafe fn emulated16($($argument: $kind),*) $(-> $result)? {
                // SAFETY: arrays need no features, the caller upholds the rest.
                unsafe { $kernel::<$crate::simd::Array<16>>($($argument),*) }
            }
            unsafe fn portable($($argument: $kind),*) $(-> $result)? {
                // SAFETY: arrays need no features, the caller upholds the rest.
                unsafe { $kernel::<$crate::simd::Array<4>>($($argument),*) }
            }
            // SAFETY: the caller promises that the processor has `isa`.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::Isa::Avx512 => avx512($($argument),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::Isa::Avx2 => avx2($($argument),*),
                    #[cfg(target_arch = "aarch64")]
                    $crate::Isa::Neon => neon($($argument),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::Isa::Emulated16 if $crate::Isa::Avx2.is_available() => {
                        emulated16_with_fma($($argument),*)
                    }
                    $crate::Isa::Emulated16 => emulated16($($argument),*),
                    _ => portable($($argument),*),
                }
            }
        }
    };
}
