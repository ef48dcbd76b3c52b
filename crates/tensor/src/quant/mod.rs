//! Block-quantised weights: the types of GGUF files, and products with them. Must not know files or models.

pub mod bench;
mod block_type;
mod codec;
mod float;
mod format;
mod instances;
mod layout;
mod matrix;
mod product;
pub mod reference;
mod rows;
#[cfg(target_arch = "x86_64")]
mod six_rows;
mod source;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub use block_type::BlockType;
pub use codec::{Rows, can_quantize, dequantize, quantize, quantize_on};
pub use float::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, widen_bf16, widen_f16};
pub(crate) use instances::{Instance, PEAK_CHAINS};
pub use matrix::{PACKED_ALIGNMENT_BYTES, PANEL_ROWS, QuantMatrix, is_supported};
pub use product::multiply;
pub use rows::QuantRows;
