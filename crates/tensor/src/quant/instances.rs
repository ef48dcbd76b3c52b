//! The kernels of quantised products for each instruction set, and the one place that chooses among them.
#![allow(unsafe_code)]

use super::BlockType;
use super::format::{self, Format};
use super::layout::PANEL;
use super::rows::{self, QuantizeFunction};
use super::tile::{self, Call, Panels, Tile, TileFunction, UnpackFunction};
#[cfg(target_arch = "x86_64")]
use super::{six_rows, vnni::by_hand};
use crate::Isa;
use crate::simd::Vector;
use crate::simd::quads::{self, Quads, class};

/// An instance of the integer kernels. All of them give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instance {
    /// AVX-512 with its VNNI instructions.
    Avx512Vnni,
    /// AVX2 with the VNNI instructions of that width.
    Avx2Vnni,
    /// AVX2.
    Avx2,
    /// NEON.
    Neon,
    /// Arrays of four lanes.
    Portable,
    /// Arrays of sixteen lanes.
    Emulated16,
}

impl Instance {
    /// Every instance that this processor runs.
    #[cfg(test)]
    pub fn available() -> Vec<Instance> {
        let all = [
            Instance::Avx512Vnni,
            Instance::Avx2Vnni,
            Instance::Avx2,
            Instance::Neon,
            Instance::Portable,
            Instance::Emulated16,
        ];
        all.into_iter().filter(|instance| instance.is_available()).collect()
    }

    /// The fastest instance of an instruction set on this processor, which has `isa`. Where a processor with AVX-512 is
    /// asked for AVX2, it stands for one that has nothing more.
    pub fn of(isa: Isa) -> Instance {
        let wanted: &[Instance] = match isa {
            Isa::Avx512 => &[Instance::Avx512Vnni, Instance::Avx2Vnni, Instance::Avx2],
            Isa::Avx2 if Isa::Avx512.is_available() => &[Instance::Avx2],
            Isa::Avx2 => &[Instance::Avx2Vnni, Instance::Avx2],
            Isa::Neon => &[Instance::Neon],
            Isa::Portable => &[],
            Isa::Emulated16 => &[Instance::Emulated16],
        };
        wanted.iter().copied().find(|instance| instance.is_available()).unwrap_or(Instance::Portable)
    }

    /// Lanes of its vectors.
    pub fn lanes(self) -> usize {
        match self {
            Instance::Avx512Vnni | Instance::Emulated16 => 16,
            Instance::Avx2Vnni | Instance::Avx2 => 8,
            Instance::Neon | Instance::Portable => 4,
        }
    }

    /// Whether this processor runs it.
    pub fn is_available(self) -> bool {
        match self {
            Instance::Portable | Instance::Emulated16 => true,
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Instance::Avx2Vnni => Instance::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Instance::Avx2 => Isa::Avx2.is_available() && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "aarch64")]
            Instance::Neon => Isa::Neon.is_available(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Runs the instance's products of bytes for as many steps as `limits` measures; see [`peak`].
    pub fn peak(self) -> PeakFunction {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512Vnni => avx512_vnni::peak,
            #[cfg(target_arch = "x86_64")]
            Instance::Avx2Vnni => avx2_vnni::peak,
            #[cfg(target_arch = "x86_64")]
            Instance::Avx2 => avx2::peak,
            #[cfg(target_arch = "aarch64")]
            Instance::Neon => neon::peak,
            Instance::Emulated16 => emulated16::peak,
            _ => portable::peak,
        }
    }

    /// The kernels for a type of weights.
    pub(super) fn kernels(self, kind: BlockType) -> Kernels {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512Vnni => avx512_vnni::kernels_of(kind),
            #[cfg(target_arch = "x86_64")]
            Instance::Avx2Vnni => avx2_vnni::kernels_of(kind),
            #[cfg(target_arch = "x86_64")]
            Instance::Avx2 => avx2::kernels_of(kind),
            #[cfg(target_arch = "aarch64")]
            Instance::Neon => neon::kernels_of(kind),
            Instance::Emulated16 => emulated16::kernels_of(kind),
            _ => portable::kernels_of(kind),
        }
    }

    /// The function that quantises activations.
    pub(super) fn quantize(self) -> QuantizeFunction {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512Vnni => avx512_vnni::quantize,
            #[cfg(target_arch = "x86_64")]
            Instance::Avx2Vnni => avx2_vnni::quantize,
            #[cfg(target_arch = "x86_64")]
            Instance::Avx2 => avx2::quantize,
            #[cfg(target_arch = "aarch64")]
            Instance::Neon => neon::quantize,
            Instance::Emulated16 => emulated16::quantize,
            _ => portable::quantize,
        }
    }
}

/// The kernels for one type of weights; those with most rows come first, and each list ends with one row.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// From packed weights, several panels side by side.
    pub direct: &'static [Tile],
    /// From unpacked panels.
    pub plain: &'static [Tile],
    /// Unpacks panels for `plain`.
    pub unpack: UnpackFunction,
    /// Whether `plain` takes activations in 16 bits.
    pub words: bool,
    /// Whether the largest kernel of `plain` asks the caches for the activations of the rows that come next.
    pub asks_ahead: bool,
    /// Bytes of a block of an unpacked panel: quants, scales.
    pub plain_bytes: [usize; 2],
}

/// # Safety
/// The processor has the instance's features.
pub(crate) type PeakFunction = unsafe fn(usize, &[u8; 512]) -> i32;

/// Sums of products under way in [`peak`].
pub(crate) const PEAK_CHAINS: usize = 12;

/// `steps` times a product of bytes for each of `PEAK_CHAINS` registers, summed exactly in 32 bits: what limits every
/// product of whole bytes.
#[inline(always)]
unsafe fn peak<Q: Quads>(steps: usize, bytes: &[u8; 512]) -> i32 {
    // SAFETY: the caller has the features; all loads lie within the bytes.
    unsafe {
        let zero = Q::V::integer_splat(0);
        let mut sums = [zero; PEAK_CHAINS];
        let signed = [Q::splat_quad(bytes.as_ptr().cast()), Q::splat_quad(bytes.as_ptr().add(4).cast())];
        for step in 0..steps {
            let mut chain = 0;
            while chain < PEAK_CHAINS {
                // Other addresses in each step, or the products would be computed once.
                let unsigned = Q::load(bytes.as_ptr().add(step % 2 * 64 + chain / 2 * 64));
                let partial = Q::dot::<1>(Q::begin::<1>(sums[chain]), unsigned, signed[chain % 2]);
                sums[chain] = Q::end::<1>(sums[chain], partial);
                chain += 1;
            }
        }
        let mut total = zero;
        for sum in sums {
            total = Q::V::integer_add(total, sum);
        }
        let mut lanes = [0.0_f32; 16];
        Q::V::from_integers(total).store(lanes.as_mut_ptr());
        lanes.iter().sum::<f32>() as i32
    }
}

/// Declares the kernels of one instruction set. `direct` lists rows and registers of a tile, `plain` and `eight` (quants of
/// eight bits, with the layout and the registers that these are unpacked into) also the function and how often the registers
/// are filled; `whole` is what quantises a whole tile of rows at once, and
/// `asks_ahead` as in [`Kernels`].
macro_rules! instance {
    ($module:ident, $quads:ty, [$($cfg:meta)?] [$($feature:meta)?], whole: $whole:expr, asks_ahead: $asks_ahead:expr,
        direct: $([$dr:literal, $du:literal])*,
        plain: $([$pf:ident $pr:literal, $pu:literal, $pp:literal])*,
        eight: $layout:ident, $eight:ty, $([$ef:ident $er:literal, $eu:literal, $ep:literal])*) => {
        $(#[$cfg])?
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn tile<F: Format, const ROWS: usize, const UNITS: usize, const PASSES: usize>(call: &Call) {
                // SAFETY: this function has the features, its caller upholds the rest.
                unsafe { super::tile::tile::<$quads, F, ROWS, UNITS, PASSES>(call) }
            }

            $(#[$feature])?
            unsafe fn eight_tile<F: Format, const ROWS: usize, const UNITS: usize, const PASSES: usize>(call: &Call) {
                // SAFETY: as above.
                unsafe { super::tile::tile::<$eight, F, ROWS, UNITS, PASSES>(call) }
            }

            $(#[$feature])?
            unsafe fn unpack<F: Format, P: Format>(from: &Panels, first: usize, blocks: usize, panels: usize, to: *mut u8) {
                // SAFETY: as above.
                unsafe { super::tile::unpack::<$quads, F, P>(from, first, blocks, panels, to) }
            }

            $(#[$feature])?
            pub unsafe fn quantize(job: rows::TileJob<'_>) {
                // SAFETY: as above.
                unsafe { rows::quantize_tile::<$quads>(job, $whole) }
            }

            $(#[$feature])?
            pub unsafe fn peak(steps: usize, bytes: &[u8; 512]) -> i32 {
                // SAFETY: as above.
                unsafe { super::peak::<$quads>(steps, bytes) }
            }

            pub fn kernels_of(kind: BlockType) -> Kernels {
                match kind {
                    BlockType::Q4_0 => kernels::<format::Q4_0>(),
                    BlockType::Q4_1 => kernels::<format::Q4_1>(),
                    BlockType::Q5_0 => kernels::<format::Q5_0>(),
                    BlockType::Q5_1 => kernels::<format::Q5_1>(),
                    BlockType::Q8_0 => kernels::<format::Q8_0>(),
                    BlockType::Q2_K => kernels::<format::Q2_K>(),
                    BlockType::Q3_K => kernels::<format::Q3_K>(),
                    BlockType::Q4_K => kernels::<format::Q4_K>(),
                    BlockType::Q5_K => kernels::<format::Q5_K>(),
                    BlockType::Q6_K => kernels::<format::Q6_K>(),
                    BlockType::IQ4_NL => kernels::<format::IQ4_NL>(),
                    BlockType::IQ4_XS => kernels::<format::IQ4_XS>(),
                    BlockType::MXFP4 => kernels::<format::MXFP4>(),
                    _ => unreachable!("a packed matrix has a supported type"),
                }
            }

            fn kernels<F: Format>() -> Kernels {
                const PARTS: usize = PANEL / <<$quads as Quads>::V as Vector>::LANES;
                const fn tile_of(rows: usize, registers: usize, function: TileFunction) -> Tile {
                    Tile { rows, panels: registers / PARTS, function }
                }
                let direct = const { &[$(tile_of($dr, $du, tile::<F, $dr, $du, 1>)),*] };
                if F::CLASS == class::EIGHT_BITS {
                    return Kernels {
                        direct,
                        plain: const { &[$(tile_of($er, $eu * $ep, $ef::<F::$layout, $er, $eu, $ep>)),*] },
                        unpack: unpack::<F, F::$layout>,
                        words: <F::$layout as Format>::STEPS == 16,
                        asks_ahead: $asks_ahead,
                        plain_bytes: [<F::$layout as Format>::BYTES[0], <F::$layout as Format>::BYTES[2]],
                    };
                }
                Kernels {
                    direct,
                    plain: const { &[$(tile_of($pr, $pu * $pp, $pf::<F::Plain, $pr, $pu, $pp>)),*] },
                    unpack: unpack::<F, F::Plain>,
                    words: false,
                    asks_ahead: $asks_ahead,
                    plain_bytes: [F::Plain::BYTES[0], F::Plain::BYTES[2]],
                }
            }
        }
    };
}

instance!(avx512_vnni, quads::Avx512Vnni, [cfg(target_arch = "x86_64")]
    [target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")], whole: Some(six_rows::whole_tile), asks_ahead: true,
    direct: [4, 2] [2, 4] [1, 4],
    plain: [by_hand 6, 2, 1] [tile 4, 2, 1] [tile 2, 2, 1] [tile 1, 2, 1],
    eight: Plain, quads::Avx512Vnni, [by_hand 6, 2, 1] [eight_tile 4, 2, 1] [eight_tile 2, 2, 1] [eight_tile 1, 2, 1]);
instance!(avx2_vnni, quads::Avx2Vnni, [cfg(target_arch = "x86_64")]
    [target_feature(enable = "avx2,fma,f16c,avxvnni")], whole: None, asks_ahead: false,
    direct: [4, 2] [2, 2] [1, 4],
    plain: [tile 4, 2, 1] [tile 2, 2, 1] [tile 1, 2, 1], eight: Plain, quads::Avx2Vnni, [eight_tile 4, 2, 1] [eight_tile 2, 2, 1] [eight_tile 1, 2, 1]);
instance!(avx2, quads::Avx2Quads, [cfg(target_arch = "x86_64")]
    [target_feature(enable = "avx2,fma,f16c")], whole: None, asks_ahead: false,
    direct: [4, 2] [2, 2] [1, 4],
    plain: [tile 6, 2, 1] [tile 2, 2, 1] [tile 1, 2, 1], eight: Words, quads::Avx2Words, [eight_tile 6, 2, 1] [eight_tile 2, 2, 1] [eight_tile 1, 2, 1]);
instance!(neon, quads::NeonQuads, [cfg(target_arch = "aarch64")] [target_feature(enable = "neon")], whole: None, asks_ahead: false,
    direct: [4, 4] [2, 4] [1, 4],
    plain: [tile 4, 4, 1] [tile 2, 4, 1] [tile 1, 4, 1], eight: Plain, quads::NeonQuads, [eight_tile 4, 4, 1] [eight_tile 2, 4, 1] [eight_tile 1, 4, 1]);
// The arrays are for machines that have nothing better and for tests: fewer kernels, compiled sooner.
instance!(portable, quads::ArrayQuads<4>, [] [], whole: None, asks_ahead: false,
    direct: [1, 4] [1, 4] [1, 4],
    plain: [tile 1, 4, 1] [tile 1, 4, 1] [tile 1, 4, 1], eight: Plain, quads::ArrayQuads<4>, [eight_tile 1, 4, 1] [eight_tile 1, 4, 1] [eight_tile 1, 4, 1]);
instance!(emulated16, quads::ArrayQuads<16>, [] [], whole: None, asks_ahead: false,
    direct: [1, 1] [1, 1] [1, 1],
    plain: [tile 2, 1, 2] [tile 1, 1, 2] [tile 1, 1, 2], eight: Plain, quads::ArrayQuads<16>, [eight_tile 2, 1, 2] [eight_tile 1, 1, 2] [eight_tile 1, 1, 2]);
