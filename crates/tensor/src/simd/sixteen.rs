//! Sixteen virtual lanes for row reductions, so that a sum has the same order on every instruction set.
#![allow(unsafe_code)]
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all, stated at `Vector`.

use super::Vector;

/// Sixteen accumulators in 16 / `V::LANES` registers: element `i` of a row goes to lane `i % 16`, ascending; at the
/// end the lanes merge in one fixed tree (lane i with lane i + 8, then + 4, + 2, + 1).
#[derive(Clone, Copy)]
pub struct Virtual16<V: Vector>([V; 4]);

/// Applies `$value` to each register in use; the bound is a constant, so the loop unrolls.
macro_rules! each_register {
    ($i:ident => $value:expr) => {{
        let mut out = [unsafe { V::zero() }; 4];
        let mut $i = 0;
        while $i < 16 / V::LANES {
            out[$i] = $value;
            $i += 1;
        }
        Self(out)
    }};
}

#[allow(clippy::missing_safety_doc)] // As for `Vector`: call only where the processor has the features.
impl<V: Vector> Virtual16<V> {
    /// Virtual lanes.
    pub const LANES: usize = 16;

    /// `x` in every lane.
    #[inline(always)]
    pub unsafe fn splat(x: f32) -> Self {
        each_register!(i => unsafe { V::splat(x) })
    }
    /// Reads sixteen values.
    #[inline(always)]
    pub unsafe fn load(from: *const f32) -> Self {
        each_register!(i => unsafe { V::load(from.add(i * V::LANES)) })
    }
    /// Writes sixteen values.
    #[inline(always)]
    pub unsafe fn store(self, to: *mut f32) {
        let mut i = 0;
        while i < 16 / V::LANES {
            unsafe { self.0[i].store(to.add(i * V::LANES)) };
            i += 1;
        }
    }
    /// Reads the first `count` ≤ 16 values; the other lanes are `fill`.
    #[inline(always)]
    pub unsafe fn load_partial(from: *const f32, count: usize, fill: f32) -> Self {
        let mut lanes = [fill; 16];
        let mut i = 0;
        while i < 16 / V::LANES {
            let left = count.saturating_sub(i * V::LANES);
            let some = if left < V::LANES { left } else { V::LANES };
            if some > 0 {
                unsafe {
                    let part = V::load_partial(from.add(i * V::LANES), some);
                    part.store_partial(lanes.as_mut_ptr().add(i * V::LANES), some);
                }
            }
            i += 1;
        }
        unsafe { Self::load(lanes.as_ptr()) }
    }
    /// Writes the first `count` ≤ 16 lanes and touches no other memory.
    #[inline(always)]
    pub unsafe fn store_partial(self, to: *mut f32, count: usize) {
        let mut i = 0;
        while i < 16 / V::LANES {
            let left = count.saturating_sub(i * V::LANES);
            let some = if left < V::LANES { left } else { V::LANES };
            if some > 0 {
                unsafe { self.0[i].store_partial(to.add(i * V::LANES), some) };
            }
            i += 1;
        }
    }
    /// Lane by lane `self + other`.
    #[inline(always)]
    pub unsafe fn add(self, other: Self) -> Self {
        each_register!(i => unsafe { self.0[i].add(other.0[i]) })
    }
    /// Lane by lane `self - other`.
    #[inline(always)]
    pub unsafe fn sub(self, other: Self) -> Self {
        each_register!(i => unsafe { self.0[i].sub(other.0[i]) })
    }
    /// Lane by lane `self * other`.
    #[inline(always)]
    pub unsafe fn mul(self, other: Self) -> Self {
        each_register!(i => unsafe { self.0[i].mul(other.0[i]) })
    }
    /// Lane by lane `self * factor + addend`, rounded once.
    #[inline(always)]
    pub unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        each_register!(i => unsafe { self.0[i].fma(factor.0[i], addend.0[i]) })
    }
    /// Lane by lane [`Vector::max`].
    #[inline(always)]
    pub unsafe fn max(self, other: Self) -> Self {
        each_register!(i => unsafe { self.0[i].max(other.0[i]) })
    }
    /// Register `index` of 16 / `V::LANES`: lanes `index · V::LANES` onwards.
    #[inline(always)]
    pub fn register(self, index: usize) -> V {
        self.0[index]
    }
    /// Replaces register `index`.
    #[inline(always)]
    pub fn set_register(&mut self, index: usize, value: V) {
        self.0[index] = value;
    }
    /// The sum of the lanes, in the fixed tree.
    #[inline(always)]
    pub unsafe fn reduce_add(self) -> f32 {
        let [a, b, c, d] = self.0;
        unsafe {
            match V::LANES {
                16 => a.tree_add(),
                8 => a.add(b).tree_add(),
                _ => a.add(c).add(b.add(d)).tree_add(),
            }
        }
    }
    /// The largest lane by [`Vector::max`], in the fixed tree.
    #[inline(always)]
    pub unsafe fn reduce_max(self) -> f32 {
        let [a, b, c, d] = self.0;
        unsafe {
            match V::LANES {
                16 => a.tree_max(),
                8 => a.max(b).tree_max(),
                _ => a.max(c).max(b.max(d)).tree_max(),
            }
        }
    }
}
