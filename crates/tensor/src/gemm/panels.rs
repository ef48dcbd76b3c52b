//! Weights in panels and the element types that panels may have: read as they are by few rows, widened to f32 in the
//! cache for many. Must not know where they come from.
#![allow(unsafe_code)]

use crate::dispatch;
use crate::simd::Vector;

/// How the weights of a packed matrix are stored. Products with either half are those with the same weights in f32, bit
/// for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PanelType {
    /// Four bytes a weight.
    F32,
    /// IEEE half precision, two bytes.
    F16,
    /// The upper half of an f32, two bytes.
    Bf16,
}

impl PanelType {
    /// Bytes of a weight.
    pub fn bytes(self) -> usize {
        match self {
            PanelType::F32 => 4,
            PanelType::F16 | PanelType::Bf16 => 2,
        }
    }
}

/// All of K for each panel, panel after panel.
#[derive(Clone, Copy)]
pub(super) enum Panels<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Bf16(&'a [u16]),
}

impl Panels<'_> {
    pub fn panel_type(&self) -> PanelType {
        match self {
            Panels::F32(_) => PanelType::F32,
            Panels::F16(_) => PanelType::F16,
            Panels::Bf16(_) => PanelType::Bf16,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Panels::F32(panels) => panels.len(),
            Panels::F16(panels) | Panels::Bf16(panels) => panels.len(),
        }
    }
}

/// What a panel consists of.
pub(crate) trait Element: Copy + Sync {
    /// Reads a register of elements.
    ///
    /// # Safety
    /// As for [`Vector::load`].
    unsafe fn load<V: Vector>(from: *const Self) -> V;
}

/// The bits of an f16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct F16(#[allow(dead_code)] u16); // Read through pointers only.

/// The bits of a bf16.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bf16(#[allow(dead_code)] u16);

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
}

impl Element for F16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const F16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(from.cast()) }
    }
}

impl Element for Bf16 {
    #[inline(always)]
    unsafe fn load<V: Vector>(from: *const Bf16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16(from.cast()) }
    }
}

dispatch! {
    /// Widens a run of f16 whose length is a multiple of a panel's width.
    pub(super) fn widen_f16(from: &[u16], to: &mut [f32]) = widen_f16_generic;
}
dispatch! {
    /// Widens a run of bf16 whose length is a multiple of a panel's width.
    pub(super) fn widen_bf16(from: &[u16], to: &mut [f32]) = widen_bf16_generic;
}

#[inline(always)]
unsafe fn widen_f16_generic<V: Vector>(from: &[u16], to: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { widen::<V, F16>(from.as_ptr().cast(), from.len(), to) }
}

#[inline(always)]
unsafe fn widen_bf16_generic<V: Vector>(from: &[u16], to: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { widen::<V, Bf16>(from.as_ptr().cast(), from.len(), to) }
}

#[inline(always)]
unsafe fn widen<V: Vector, E: Element>(from: *const E, count: usize, to: &mut [f32]) {
    assert!(to.len() >= count && count.is_multiple_of(2 * V::LANES), "whole lines of panels");
    let mut i = 0;
    while i < count {
        // SAFETY: `count` elements are read and written; the lanes divide it.
        unsafe {
            E::load::<V>(from.add(i)).store(to.as_mut_ptr().add(i));
            E::load::<V>(from.add(i + V::LANES)).store(to.as_mut_ptr().add(i + V::LANES));
        }
        i += 2 * V::LANES;
    }
}
