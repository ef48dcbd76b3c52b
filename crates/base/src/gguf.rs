//! GGUF files (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): metadata and named arrays of bytes, read
//! over memory maps and written as a stream. It must not know what a tensor's bytes mean, nor any key but the
//! container's own.

mod cursor;
mod file;
mod part;
#[cfg(test)]
mod tests;
mod value;
mod write;

pub use file::{File, TensorInfo};
pub use value::{Array, FromValue, Kind, Scalar, Value};
pub use write::{TensorStream, Writer};

/// The first four bytes of each file.
const MAGIC: &[u8; 4] = b"GGUF";
/// The version that is written; 2 and 3 are read.
const VERSION: u32 = 3;
/// Where the metadata says nothing, tensors begin at multiples of this many bytes.
const DEFAULT_ALIGNMENT: usize = 32;
/// The key of the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
/// A tensor has at most so many dimensions.
const DIMENSIONS_MAX: usize = 4;
