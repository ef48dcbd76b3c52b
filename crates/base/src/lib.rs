//! The ground that every other crate stands on: files that are never half-written, the journal, seeds, run folders,
//! progress, recipes' errors, the machine. It must know nothing of text, tokens, tensors or models.

mod error;
pub mod fs;
pub mod gguf;
pub mod hash;
pub mod interrupt;
pub mod journal;
pub mod machine;
pub mod progress;
pub mod run;
pub mod seed;
pub mod toml;

pub use error::{Error, Result};
