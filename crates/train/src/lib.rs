//! Training: the loop, optimisers, schedules, checkpoints and reports; pretraining and supervised
//! fine-tuning are the same loop over different shards.
//!
//! A run is a function of its options, its data and its initial weights: killed at any moment and started
//! again it ends in the same bytes, whatever the number of threads. It must not know how documents were
//! made or what a token means.

mod bench;
mod checkpoint;
mod course;
mod data;
mod error;
mod event;
mod muon;
mod optimiser;
mod options;
pub mod report;
mod run;
mod schedule;
mod trainer;

pub use bench::{BenchSettings, BenchShape, Limit, ProfileRow, StepBench, step_bench};
pub use data::{GrowingContext, MemorySamples, PackedShards, Samples, Sequence, sequence_index};
pub use error::{Error, Result};
pub use event::{Event, Kind, StepMetrics, read_events};
pub use options::{MuonScale, OptimiserKind, OptimiserOptions, TrainOptions};
pub use run::{Finished, Init, Outcome, Stage, adapter_memory_estimate, memory_estimate, run};
pub use schedule::{Decay, Schedule, ScheduleKind};
pub use trainer::{StepOutcome, Trainer};
