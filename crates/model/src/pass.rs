//! One training or scoring pass of the decoder over packed documents: forward, loss and, where
//! gradients are wanted, backward. It must not know where the documents come from nor what is done
//! with the gradients.

use crate::{Decoder, Weights};
use std::time::{Duration, Instant};
use tensor::kernels::RotaryTable;
use tensor::{Batch, Device, Flat, LogProbs, LowRankFlat, Tape, TapeMemory, Targets};

/// What a pass reuses, so that only the first one of a size allocates.
pub struct Pass {
    device: Device,
    rotary: Vec<RotaryTable>,
    memory: TapeMemory,
    checkpoints: bool,
    /// Whether the gradients that come next are known to be zero.
    gradients_are_zero: bool,
    times: PassTimes,
}

/// Where the last [`Pass::train`] spent its time.
#[derive(Clone, Copy, Debug, Default)]
pub struct PassTimes {
    /// The layers, forward.
    pub forward: Duration,
    /// The output projection with the loss, forward and backward.
    pub head: Duration,
    /// The layers, backward.
    pub backward: Duration,
}

/// Rows of packed documents: what goes in and what should come out.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The token of each row, (rows).
    pub ids: &'a [u32],
    /// Where each row stands, (rows).
    pub batch: Batch<'a>,
    /// What each row should predict, (rows).
    pub targets: Targets<'a>,
}

impl Pass {
    /// Passes over documents of at most `positions` tokens.
    pub fn new(device: &Device, decoder: &Decoder, positions: usize) -> Pass {
        let rotary = decoder.rotary_tables(positions, positions);
        Pass {
            device: device.clone(),
            rotary,
            memory: TapeMemory::default(),
            checkpoints: false,
            gradients_are_zero: false,
            times: PassTimes::default(),
        }
    }

    /// Keeps of all layers but the last one only the inputs of their branches, and computes the rest again in the
    /// backward pass; see [`tensor::Checkpoints`].
    pub fn with_checkpoints(self) -> Pass {
        Pass { checkpoints: true, ..self }
    }

    /// Says that the gradients which the next [`Pass::train`] is given are all zero, so that it may use their memory
    /// until it writes them.
    pub fn gradients_are_zero(&mut self) {
        self.gradients_are_zero = true;
    }

    /// The sum of weighted losses of the rows, in nats, and their gradients (times the targets' scale)
    /// added to `gradients`; where wanted also the log-probability of each row's target.
    ///
    /// `gradients` are those of all weights, [`crate::Layout::gradient_len`] elements, or, where there are
    /// adapters, of those alone, in the order of [`crate::Adapters::entries`].
    pub fn train<'a>(
        &mut self,
        decoder: &Decoder,
        (weights, gradients): (impl Into<Weights<'a>>, &mut [f32]),
        rows: Rows<'_>,
        log_probs: LogProbs<'_>,
    ) -> f64 {
        let started = Instant::now();
        let flat = flat(decoder, weights.into(), gradients);
        let mut tape = Tape::new(&self.device, flat, rows.batch, &self.rotary, &mut self.memory);
        if self.checkpoints {
            let is_idle = std::mem::take(&mut self.gradients_are_zero);
            tape = tape.with_checkpoints(decoder.checkpoints(is_idle));
        }
        let hidden = decoder.forward(&mut tape, rows.ids);
        let forward_done = Instant::now();
        let loss = tape.cross_entropy(&hidden, decoder.output(), rows.targets, log_probs);
        drop(hidden);
        let head_done = Instant::now();
        tape.backward(&|tape, number, x| decoder.branch(tape, number, x));
        self.times = PassTimes {
            forward: forward_done - started,
            head: head_done - forward_done,
            backward: head_done.elapsed(),
        };
        loss
    }

    /// Where the last [`Pass::train`] spent its time.
    pub fn times(&self) -> PassTimes {
        self.times
    }

    /// The sum of weighted losses of the rows, in nats, and, where wanted, the log-probability of each
    /// row's target.
    pub fn score<'a>(
        &mut self,
        decoder: &Decoder,
        weights: impl Into<Weights<'a>>,
        rows: Rows<'_>,
        log_probs: LogProbs<'_>,
    ) -> f64 {
        let flat = flat(decoder, weights.into(), &mut []);
        let mut tape = Tape::new(&self.device, flat, rows.batch, &self.rotary, &mut self.memory);
        let hidden = decoder.forward(&mut tape, rows.ids);
        tape.cross_entropy(&hidden, decoder.output(), rows.targets, log_probs)
    }

    /// The logits of every row, (rows, vocab): for checks, since they are held whole.
    pub fn logits<'a>(
        &mut self,
        decoder: &Decoder,
        weights: impl Into<Weights<'a>>,
        ids: &[u32],
        batch: Batch<'_>,
    ) -> Vec<f32> {
        let flat = flat(decoder, weights.into(), &mut []);
        let mut tape = Tape::new(&self.device, flat, batch, &self.rotary, &mut self.memory);
        let hidden = decoder.forward(&mut tape, ids);
        let logits = tensor::Ops::linear(&mut tape, &hidden, decoder.head(), None);
        let mut logits = logits.value().data().to_vec();
        if let Some(cap) = decoder.output().soft_cap {
            tensor::kernels::soft_cap(self.device.exec(), cap, &mut logits);
        }
        logits
    }
}

/// What the tape reads and where it adds gradients; none where `gradients` is empty.
fn flat<'a>(decoder: &Decoder, weights: Weights<'a>, gradients: &'a mut [f32]) -> Flat<'a> {
    match weights.adapters {
        None => Flat { weights: weights.base, gradients, lookup: decoder.layout().lookup(), adapters: None },
        Some(adapters) => {
            let adapters = LowRankFlat { table: adapters.table(), weights: adapters.flat.data(), gradients };
            Flat { adapters: Some(adapters), ..Flat::frozen(weights.base) }
        }
    }
}
