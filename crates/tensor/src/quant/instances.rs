//! The kernels of quantised products for each instruction set, and the one place that chooses among them.
#![allow(unsafe_code)]

use super::BlockType;
use super::format::{self, Format};
use super::layout::PANEL;
use super::rows::{self, QuantizeFunction};
use super::tile::{self, Call, Panels, Tile, TileFunction, UnpackFunction};
use crate::Isa;
use crate::simd::Vector;
use crate::simd::quads::{self, Quads, class};

/// An instance of the integer kernels. All of them give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instance {
    /// AVX-512 with its VNNI instructions.
    Avx512Vnni,
    /// AVX-512 without them.
    Avx512,
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
    /// Every instance, the fastest first.
    const ALL: [(Instance, Isa); 7] = [
        (Instance::Avx512Vnni, Isa::Avx512),
        (Instance::Avx512, Isa::Avx512),
        (Instance::Avx2Vnni, Isa::Avx2),
        (Instance::Avx2, Isa::Avx2),
        (Instance::Neon, Isa::Neon),
        (Instance::Portable, Isa::Portable),
        (Instance::Emulated16, Isa::Emulated16),
    ];

    /// The fastest instance of an instruction set on this processor, which has `isa`.
    pub fn of(isa: Isa) -> Instance {
        let of_isa = Instance::ALL.into_iter().filter(|(_, its)| *its == isa).map(|(instance, _)| instance);
        of_isa.into_iter().find(|instance| instance.is_available()).unwrap_or(Instance::Portable)
    }

    /// Every instance that this processor runs.
    #[cfg(test)]
    pub fn available() -> Vec<Instance> {
        Instance::ALL
            .into_iter()
            .map(|(instance, _)| instance)
            .filter(|instance| instance.is_available())
            .collect()
    }

    /// Whether this processor runs it.
    pub fn is_available(self) -> bool {
        match self {
            Instance::Portable | Instance::Emulated16 => true,
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512Vnni => Instance::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512 => Isa::Avx512.is_available(),
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

    /// The kernels for a type of weights.
    pub fn kernels(self, kind: BlockType) -> Kernels {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512Vnni => avx512_vnni::kernels_of(kind),
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512 => avx512::kernels_of(kind),
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
    pub fn quantize(self) -> QuantizeFunction {
        match self {
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512Vnni => avx512_vnni::quantize,
            #[cfg(target_arch = "x86_64")]
            Instance::Avx512 => avx512::quantize,
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
    pub direct: [Tile; 3],
    /// From packed weights, one panel.
    pub single: [Tile; 3],
    /// From unpacked panels.
    pub plain: [Tile; 4],
    /// Unpacks panels for `plain`.
    pub unpack: UnpackFunction,
    /// Bytes of a block of an unpacked panel: quants, scales.
    pub plain_bytes: [usize; 2],
}

/// Declares the kernels of one instruction set. `direct` and `single` list rows and registers of a tile, `plain` and
/// `plain_eight` (quants of eight bits) also how often the registers are filled.
macro_rules! instance {
    ($module:ident, $quads:ty, [$($cfg:meta)?] [$($feature:meta)?],
        direct: $([$dr:literal, $du:literal])*, single: $([$sr:literal, $su:literal])*,
        plain: $([$pr:literal, $pu:literal, $pp:literal])*,
        plain_eight: $([$er:literal, $eu:literal, $ep:literal])*) => {
        $(#[$cfg])?
        mod $module {
            use super::*;

            $(#[$feature])?
            unsafe fn tile<F: Format, const ROWS: usize, const UNITS: usize, const PASSES: usize>(call: &Call) {
                // SAFETY: this function has the features, its caller upholds the rest.
                unsafe { super::tile::tile::<$quads, F, ROWS, UNITS, PASSES>(call) }
            }

            $(#[$feature])?
            unsafe fn unpack<F: Format>(from: &Panels, first: usize, blocks: usize, panels: usize, to: *mut u8) {
                // SAFETY: as above.
                unsafe { super::tile::unpack::<$quads, F>(from, first, blocks, panels, to) }
            }

            $(#[$feature])?
            pub unsafe fn quantize(job: rows::TileJob<'_>) {
                // SAFETY: as above.
                unsafe { rows::quantize_tile::<$quads>(job) }
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
                let plain = if F::CLASS == class::EIGHT_BITS {
                    [$(tile_of($er, $eu * $ep, tile::<F::Plain, $er, $eu, $ep>)),*]
                } else {
                    [$(tile_of($pr, $pu * $pp, tile::<F::Plain, $pr, $pu, $pp>)),*]
                };
                Kernels {
                    direct: [$(tile_of($dr, $du, tile::<F, $dr, $du, 1>)),*],
                    single: [$(tile_of($sr, $su, tile::<F, $sr, $su, 1>)),*],
                    plain,
                    unpack: unpack::<F>,
                    plain_bytes: [F::Plain::BYTES[0], F::Plain::BYTES[2]],
                }
            }
        }
    };
}

instance!(avx512_vnni, quads::Avx512Vnni, [cfg(target_arch = "x86_64")] [target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni,avx2,fma,f16c")],
    direct: [4, 2] [2, 4] [1, 4], single: [4, 1] [2, 1] [1, 1],
    plain: [6, 2, 1] [4, 2, 1] [2, 2, 1] [1, 2, 1], plain_eight: [6, 2, 1] [4, 2, 1] [2, 2, 1] [1, 2, 1]);
instance!(avx512, quads::Avx512Quads, [cfg(target_arch = "x86_64")] [target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")],
    direct: [4, 1] [2, 2] [1, 2], single: [4, 1] [2, 1] [1, 1],
    plain: [6, 2, 1] [4, 2, 1] [2, 2, 1] [1, 2, 1], plain_eight: [6, 1, 2] [4, 1, 2] [2, 1, 2] [1, 1, 2]);
instance!(avx2_vnni, quads::Avx2Vnni, [cfg(target_arch = "x86_64")] [target_feature(enable = "avx2,fma,f16c,avxvnni")],
    direct: [4, 2] [2, 2] [1, 4], single: [4, 2] [2, 2] [1, 2],
    plain: [4, 2, 1] [3, 2, 1] [2, 2, 1] [1, 2, 1], plain_eight: [4, 2, 1] [3, 2, 1] [2, 2, 1] [1, 2, 1]);
instance!(avx2, quads::Avx2Quads, [cfg(target_arch = "x86_64")] [target_feature(enable = "avx2,fma,f16c")],
    direct: [4, 2] [2, 2] [1, 4], single: [4, 2] [2, 2] [1, 2],
    plain: [4, 2, 1] [3, 2, 1] [2, 2, 1] [1, 2, 1], plain_eight: [4, 1, 2] [3, 1, 2] [2, 1, 2] [1, 1, 2]);
instance!(neon, quads::NeonQuads, [cfg(target_arch = "aarch64")] [target_feature(enable = "neon")],
    direct: [4, 4] [2, 4] [1, 4], single: [4, 4] [2, 4] [1, 4],
    plain: [4, 4, 1] [3, 4, 1] [2, 4, 1] [1, 4, 1], plain_eight: [4, 4, 1] [3, 4, 1] [2, 4, 1] [1, 4, 1]);
// The arrays are for machines that have nothing better and for tests: fewer kernels, compiled sooner.
instance!(portable, quads::ArrayQuads<4>, [] [],
    direct: [2, 4] [1, 4] [1, 4], single: [2, 4] [1, 4] [1, 4],
    plain: [2, 4, 1] [1, 4, 1] [1, 4, 1] [1, 4, 1], plain_eight: [2, 4, 1] [1, 4, 1] [1, 4, 1] [1, 4, 1]);
instance!(emulated16, quads::ArrayQuads<16>, [] [],
    direct: [2, 2] [1, 2] [1, 2], single: [2, 1] [1, 1] [1, 1],
    plain: [2, 2, 1] [1, 2, 1] [1, 2, 1] [1, 2, 1], plain_eight: [2, 2, 1] [1, 2, 1] [1, 2, 1] [1, 2, 1]);
