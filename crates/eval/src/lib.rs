//! Measures models: bits per byte on held-out documents and exact match on verifiable bilingual tasks.
//!
//! It must not know how a model computes: it sees log-probabilities and replies through closures.

pub mod accuracy;
pub mod bits;
mod error;
pub mod perplexity;
pub mod samples;
pub mod tasks;

pub use error::{Error, Result};
