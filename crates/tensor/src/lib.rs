//! Tensors, the tape, kernels and their references; the only home of intrinsics.

mod device;
mod error;
mod exec;
mod isa;
mod ops;
pub mod kernels;
mod ops;
mod pool;
pub mod reference;
pub mod simd;
mod tensor;

pub use device::Device;
pub use error::Error;
pub use exec::Exec;
pub use isa::{ISA_VARIABLE, Isa};
pub use ops::{Heads, Ops, QkNorm, Weight};
pub use kernels::KEY_BLOCK;
pub use ops::{Heads, Ops, QkNorm, Weight};
pub use pool::{Disjoint, Pool};
pub use simd::AlignedBuffer;
pub use tensor::{Shape, Tensor};
