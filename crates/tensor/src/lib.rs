//! Tensors, the tape, kernels and their references; the only home of intrinsics.

mod error;
mod exec;
mod isa;
mod pool;
pub mod simd;

pub use error::Error;
pub use exec::Exec;
pub use isa::{ISA_VARIABLE, Isa};
pub use pool::{Disjoint, Pool};
pub use simd::AlignedBuffer;
