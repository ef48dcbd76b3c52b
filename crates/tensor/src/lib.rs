//! Tensors, the tape, kernels and their references; the only home of intrinsics.

mod cache;
mod counting;
mod device;
mod error;
mod exec;
pub mod gemm;
mod isa;
pub mod kernels;
pub mod limits;
mod ops;
mod pool;
mod profile;
pub mod quant;
pub mod reference;
mod scratch;
pub mod simd;
mod tape;
mod tensor;

pub use counting::CountingAllocator;
pub use device::Device;
pub use error::Error;
pub use exec::Exec;
pub use isa::{ISA_VARIABLE, Isa};
pub use kernels::Activation;
pub use kernels::KEY_BLOCK;
pub use ops::{
    Attention, Body, Branch, ExpertWeighting, Experts, Heads, Mask, Norm, NormKind, Ops, QkNorm, Weight,
};
pub use pool::{Disjoint, Pool};
pub use profile::{Operation, Phase, Profile, Timed, Timer, Work};
pub use scratch::{Loan, Scratch};
pub use simd::AlignedBuffer;
pub use tape::{
    Batch, Checkpoints, Flat, Head, LogProbs, LowRank, LowRankFlat, LowRankPart, LowRanks, Mode, Tape,
    TapeMemory, Targets, Var,
};
pub use tensor::{Shape, Tensor};
