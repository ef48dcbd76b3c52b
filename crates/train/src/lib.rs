//! Training: the loop, optimisers, schedules, checkpoints and reports; pretraining and supervised
//! fine-tuning are the same loop over different shards.
//!
//! A run is a function of its options, its data and its initial weights: killed at any moment and started
//! again it ends in the same bytes, whatever the number of threads. It must not know how documents were
//! made or what a token means.

mod error;
mod event;
mod options;
pub mod report;
mod schedule;

pub use error::{Error, Result};
pub use event::{Event, Kind, StepMetrics};
pub use options::{MuonScale, OptimiserKind, OptimiserOptions, TrainOptions};
pub use schedule::{Decay, Schedule, ScheduleKind};
