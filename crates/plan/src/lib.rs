//! How much memory a stage needs, before it starts: sums of named parts, each with its formula.
//!
//! The estimates follow from a model's configuration alone; nothing is measured here. This crate must not
//! know how training or generation works beyond which buffers they keep.

pub mod memory;

pub use memory::{Estimate, Item, Optimiser, ServingShape, Shortage, TrainingShape};
