//! What happens during a stage, as `events.jsonl` records it and callers see it.
//!
//! It must not know who listens.

use crate::Result;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A record of a stage. Steps are counted from 1; a record of step n was written after n optimiser steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The stage's name, such as "pretrain".
    pub stage: String,
    /// Optimiser steps done so far.
    pub step: usize,
    /// What happened.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Kind {
    /// The stage began, or went on from a checkpoint.
    Started {
        /// Steps in all.
        steps: usize,
        /// Parameters of the model.
        parameters: usize,
        /// Memory that the stage was estimated to need.
        memory_bytes: u64,
        /// Threads of the pool.
        threads: usize,
        /// The instruction set.
        isa: String,
    },
    /// Something that a person should know, such as a damaged checkpoint.
    Notice {
        /// What it is.
        message: String,
    },
    /// An error ended the run here; the same call may go on.
    Failed {
        /// The error.
        message: String,
    },
    /// An optimiser step.
    Step(StepMetrics),
    /// An evaluation.
    Evaluation {
        /// Mean loss over the evaluation targets, in nats.
        loss: f64,
        /// Targets that it is the mean of.
        targets: u64,
        /// Whether it is the best so far, the one before the first step aside.
        #[serde(default)]
        is_best: bool,
        /// Wall-clock time.
        seconds: f64,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Its folder's name.
        name: String,
        /// Its size.
        bytes: u64,
        /// Wall-clock time.
        seconds: f64,
    },
}

/// Figures of an optimiser step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Mean loss over the step's targets before the update, in nats.
    pub loss: f64,
    /// Peak learning rate times the schedule's factor, of the matrices inside layers.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens that went through the model, padding included.
    pub tokens: u64,
    /// Wall-clock time.
    pub seconds: f64,
    /// The part of `seconds` in which the step's sequences were read.
    #[serde(default)]
    pub data_seconds: f64,
    /// Wall-clock time before the step that belongs to no step, evaluation or checkpoint: events and progress.
    #[serde(default)]
    pub other_seconds: f64,
    /// Tokens of this step a second.
    pub tokens_per_s: f64,
    /// Share of the measured arithmetic peak, where that is known (see [`plan::memory::training_flops`]).
    pub share_of_peak: Option<f64>,
}

/// The events of all stages in a journal, in order; records of other kinds are passed over.
///
/// # Errors
/// [`crate::Error::Base`] when the journal cannot be read or is damaged before its end.
pub fn read_events(journal: &Path) -> Result<Vec<Event>> {
    let records = base::journal::read(journal)?.records;
    Ok(records.iter().filter_map(|record| record.parse().ok()).collect())
}
