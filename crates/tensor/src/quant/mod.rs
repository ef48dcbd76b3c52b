//! Block-quantised weights: the types of GGUF files, and products with them. Must not know files or models.

mod block_type;

pub use block_type::BlockType;
