//! Reverse-mode differentiation: [`Tape`] runs a decoder's operations and records for each just what
//! its backward pass needs.
//!
//! What is cheap to compute again (norms, gated activations) is not kept: the product that reads it
//! asks its node for it in the backward pass. Gradients of weights go straight into the flat gradient
//! buffer, each as one chain of sums over ascending rows that the next micro-batch continues. The tape
//! must not know which model it runs.

mod backward;
mod checkpoint;
mod experts;
mod loss;
mod low_rank;
mod record;

pub use checkpoint::Checkpoints;
pub use loss::{Head, LogProbs, Targets};
pub use low_rank::{LowRank, LowRankFlat, LowRankPart, LowRanks};

use crate::kernels::RotaryTable;
use crate::{
    Activation, Attention, Device, Experts, Heads, Norm, Operation, Phase, QkNorm, Tensor, Timer, Weight,
    Work,
};
use checkpoint::{Forgotten, Lot, Parked, Way};
use std::ops::Range;

/// An activation on a tape: its value, and where its gradient will be.
pub struct Var {
    id: usize,
    value: Tensor,
    /// The node that can compute the value again, if that is cheap.
    source: Option<usize>,
}

impl Var {
    /// The value, (rows, width).
    pub fn value(&self) -> &Tensor {
        &self.value
    }
}

/// Which rows of a batch stand where.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The position of each row in its document, (rows).
    pub positions: &'a [u32],
    /// The rows of each document; together they cover all rows, in ascending order.
    pub documents: &'a [Range<usize>],
}

/// What a tape reuses from step to step, so that only the first one allocates.
#[derive(Default)]
pub struct TapeMemory {
    nodes: Vec<Node>,
    /// Gradients by variable.
    gradients: Vec<Option<Tensor>>,
    ids: Vec<u32>,
    losses: Vec<f32>,
    /// What was remembered of forgotten branches.
    remembered: Vec<Option<Parked>>,
}

/// The weights that a tape reads and where it adds their gradients.
pub struct Flat<'a> {
    /// All weights.
    pub weights: &'a [f32],
    /// Gradients of all weights; empty where no backward pass will be run, or where the weights are frozen and only
    /// `adapters` are trained.
    pub gradients: &'a mut [f32],
    /// Where the gradient of the embedding rows goes: the table's own place, or, when the output
    /// projection shares the table, a place apart, so that each of the two sums stays one chain.
    pub lookup: Option<Weight>,
    /// Low-rank additions to some of the matrices, if any.
    pub adapters: Option<LowRankFlat<'a>>,
}

impl<'a> Flat<'a> {
    /// Weights that are only read.
    pub fn frozen(weights: &'a [f32]) -> Flat<'a> {
        Flat { weights, gradients: &mut [], lookup: None, adapters: None }
    }

    /// Whether a backward pass adds no gradient of the weights themselves.
    fn is_frozen(&self) -> bool {
        self.gradients.is_empty()
    }

    /// Whether a backward pass will be run.
    fn is_trained(&self) -> bool {
        !self.is_frozen() || self.adapters.as_ref().is_some_and(|adapters| !adapters.gradients.is_empty())
    }
}

/// Runs operations forward and, if it records, can run them backward.
pub struct Tape<'a> {
    device: &'a Device,
    flat: Flat<'a>,
    batch: Batch<'a>,
    /// The tables that the decoder's rotary embeddings name.
    rotary: &'a [RotaryTable],
    memory: &'a mut TapeMemory,
    mode: Mode,
    recording: bool,
    /// How the branch that is running treats what it computes.
    way: Way,
    /// Gradients that hold nothing yet, if any.
    lot: Option<Lot>,
    /// What the operations that run now are counted as.
    phase: Phase,
}

/// What a tape keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: forward only.
    Evaluate,
    /// What each operation's backward pass needs.
    Record,
    /// Of the first branches their inputs and what there is room for; they are run again in the backward pass.
    Checkpoint {
        /// How many branches.
        branches: usize,
    },
}

impl<'a> Tape<'a> {
    /// A tape over one batch.
    pub fn new(
        device: &'a Device,
        flat: Flat<'a>,
        batch: Batch<'a>,
        rotary: &'a [RotaryTable],
        memory: &'a mut TapeMemory,
    ) -> Tape<'a> {
        memory.nodes.clear();
        memory.gradients.clear();
        memory.ids.clear();
        memory.remembered.clear();
        let mode = if flat.is_trained() { Mode::Record } else { Mode::Evaluate };
        let recording = mode != Mode::Evaluate;
        let (way, lot, phase) = (Way::Plain, None, Phase::Forward);
        Tape { device, flat, batch, rotary, memory, mode, recording, way, lot, phase }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        self.device
    }

    /// Times an operation of the current phase.
    fn time(&self, operation: Operation, work: impl FnOnce() -> Work) -> Timer<'a> {
        self.time_in(self.phase, operation, work)
    }

    /// Times an operation of a phase.
    fn time_in(&self, phase: Phase, operation: Operation, work: impl FnOnce() -> Work) -> Timer<'a> {
        self.device.profile().time(phase, operation, work)
    }

    fn weight(&self, weight: Weight) -> &'a [f32] {
        weight.of(self.flat.weights)
    }
}

/// A value that the backward pass needs: kept, or computed again by its node.
enum Saved {
    Kept(Tensor),
    Again(usize),
}

/// One recorded operation. `x` and `out` are variables.
enum Node {
    Embed {
        table: Weight,
        ids: Range<usize>,
        out: usize,
    },
    Positions {
        x: usize,
        out: usize,
        table: Weight,
    },
    AddBias {
        x: usize,
        out: usize,
        bias: Weight,
    },
    Scale {
        x: usize,
        out: usize,
        factor: f32,
    },
    Norm {
        x: usize,
        out: usize,
        value: Tensor,
        norm: Norm,
    },
    Linear {
        x: usize,
        out: usize,
        value: Saved,
        w: Weight,
        bias: Option<Weight>,
        /// What the matrix's low-rank addition keeps.
        inner: Option<Tensor>,
    },
    QkNorm {
        x: usize,
        out: usize,
        value: Tensor,
        norm: QkNorm,
        heads: Heads,
    },
    Rotary {
        x: usize,
        out: usize,
        heads: Heads,
        table: usize,
    },
    Attend {
        x: usize,
        out: usize,
        kept: Attended,
        heads: Heads,
        attention: Attention,
    },
    Gated {
        x: usize,
        out: usize,
        value: Tensor,
        activation: Activation,
    },
    Activate {
        x: usize,
        out: usize,
        value: Tensor,
        activation: Activation,
    },
    Experts {
        x: usize,
        out: usize,
        value: Saved,
        /// The router's products, (rows, experts).
        logits: Tensor,
        experts: Experts,
    },
    Add {
        x: usize,
        y: usize,
        out: usize,
    },
    Branch(Forgotten),
    /// The gradient of `from`, the input of a branch that was run again, is that of `to`, its first one.
    Link {
        from: usize,
        to: usize,
    },
}

/// What attention's backward pass needs.
struct Attended {
    qkv: Tensor,
    out: Tensor,
    /// Logarithm of each row's and head's sum of exponentials, (rows, heads).
    log_sums: Tensor,
}
