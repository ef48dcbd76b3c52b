//! Planning: how much memory, time, energy and money training and serving a model take, before anything is bought or
//! started.
//!
//! Pure functions over descriptions: a model's shape ([`architecture`]), a chip ([`catalog`]), a split of the work over
//! chips ([`step`]). Every formula names its source, every number knows its formula, and what is assumed is said.
//! [`published`] holds published runs and how far the formulas are from them. [`memory`] estimates this program's own
//! training and serving. This crate must not know how training or generation works beyond which buffers they keep.

pub mod advice;
pub mod architecture;
pub mod calibration;
pub mod catalog;
pub mod footprint;
pub mod forecast;
pub mod html;
pub mod memory;
pub mod overnight;
pub mod picture;
pub mod published;
pub mod reliability;
pub mod report;
pub mod serve;
pub mod split;
pub mod step;
pub mod train;
pub mod units;

pub use memory::{Estimate, Item, Optimiser, ServingShape, Shortage, TrainingShape};
