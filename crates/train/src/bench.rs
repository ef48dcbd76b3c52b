//! The speed of a whole training step on random tokens, for comparison with other programs.
//!
//! It must not know how results are shown.

mod profile;

pub use profile::{Limit, ProfileRow};

use crate::data::{MemorySamples, Sequence};
use crate::report::median;
use crate::trainer::{StepOutcome, Trainer};
use crate::{Error, OptimiserKind, Result, Schedule, ScheduleKind, TrainOptions};
use base::machine::{PageFaults, page_faults};
use base::seed::Rng;
use model::{Config, Decoder, Parameters};
use serde::Serialize;
use std::time::{Duration, Instant};
use tensor::Device;

/// Width of an attention head in every measured shape.
const HEAD_DIM: usize = 64;

/// A shape to measure: a Llama-like decoder with multi-head attention in heads of 64, untied, its ffn 8/3 of the width
/// rounded up to a multiple of 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BenchShape {
    /// Width of the residual stream; a multiple of 64.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Sequences in a step.
    pub batch: usize,
    /// Tokens in a sequence.
    pub context: usize,
}

/// Figures of a measured training step.
#[derive(Clone, Debug, Serialize)]
pub struct StepBench {
    /// What was measured.
    pub shape: BenchShape,
    /// Parameters of the model.
    pub parameters: usize,
    /// Tokens in a step.
    pub tokens: usize,
    /// Steps measured, after those that warm up.
    pub steps: usize,
    /// Median tokens a second.
    pub tokens_per_s: f64,
    /// Tokens a second of the fastest step.
    pub tokens_per_s_best: f64,
    /// Mean milliseconds of a step.
    pub step_ms: f64,
    /// Arithmetic of the median step, by [`plan::memory::training_flops`], in 10⁹ operations a second.
    pub gflops: f64,
    /// The most memory that this process has held.
    pub peak_rss_bytes: Option<u64>,
    /// Median milliseconds in the forward pass of the layers.
    pub forward_ms: f64,
    /// Median milliseconds in the output projection and the loss, forward and backward.
    pub head_ms: f64,
    /// Median milliseconds in the backward pass of the layers.
    pub backward_ms: f64,
    /// Median milliseconds in clipping and the optimiser.
    pub optimiser_ms: f64,
    /// Heap allocations in the measured steps, where the program counts them.
    pub allocations: Option<u64>,
    /// Page faults in the measured steps, where the system counts them.
    pub page_faults: Option<PageFaults>,
    /// Loss of the last step, in nats.
    pub loss: f64,
    /// The mean step by operation, where that was asked for.
    pub profile: Option<Vec<ProfileRow>>,
}

/// How to measure.
#[derive(Clone, Copy)]
pub struct BenchSettings {
    /// The shape.
    pub shape: BenchShape,
    /// Steps before the measured ones: the first allocates, a second shows that nothing else does. At least 1.
    pub warm_up: usize,
    /// Steps to measure; at least 1.
    pub steps: usize,
    /// The optimiser.
    pub optimiser: OptimiserKind,
    /// Whether layers are computed again in the backward pass instead of being kept.
    pub activation_checkpointing: bool,
    /// Whether each operation is timed.
    pub profile: bool,
    /// The program's count of heap allocations so far, if it counts them.
    pub allocations: Option<fn() -> u64>,
}

impl BenchShape {
    /// 8.9 M parameters.
    pub const S: BenchShape = BenchShape { width: 256, layers: 6, vocab: 8_192, batch: 16, context: 256 };
    /// 134 M parameters.
    pub const M: BenchShape = BenchShape { width: 768, layers: 12, vocab: 32_000, batch: 4, context: 512 };

    /// The model's configuration.
    ///
    /// # Errors
    /// [`Error::Options`] for a width that no heads of 64 add up to, or a size of 0.
    pub fn config(self) -> Result<Config> {
        let needs = |holds: bool, key, value: usize, needed| match holds {
            true => Ok(()),
            false => Err(Error::Options { key, value: value.to_string(), needed }),
        };
        let is_whole = self.width > 0 && self.width.is_multiple_of(HEAD_DIM);
        needs(is_whole, "width", self.width, "a multiple of 64, at least 64")?;
        needs(self.layers > 0, "layers", self.layers, "at least 1")?;
        needs(self.vocab > 0, "vocab", self.vocab, "at least 1")?;
        let mut config = Config::llama(self.vocab, self.width, self.layers, self.width / HEAD_DIM);
        config.max_positions = config.max_positions.max(self.context);
        Ok(config)
    }
}

impl BenchShape {
    /// Floating-point operations of a step, by [`plan::memory::training_flops`].
    ///
    /// # Errors
    /// As [`BenchShape::config`].
    pub fn flops(self) -> Result<f64> {
        let lengths = std::iter::repeat_n(self.context, self.batch);
        Ok(plan::memory::training_flops(&Decoder::new(self.config()?), lengths))
    }
}

impl BenchSettings {
    /// The training options that the measured steps follow.
    pub fn options(&self) -> TrainOptions {
        let mut options =
            TrainOptions::new(self.steps.max(1) + self.warm_up.max(1), self.shape.batch, self.shape.context);
        options.activation_checkpointing = self.activation_checkpointing;
        options.optimiser.kind = self.optimiser;
        options.schedule = Schedule { kind: ScheduleKind::Constant, ..Schedule::default() };
        options
    }
}

/// Measures training steps: clipping, the optimiser, a new batch of random tokens each time.
///
/// # Errors
/// [`Error::Options`] for an unusable shape; [`Error::Memory`] for one that does not fit; otherwise as [`Trainer::step`].
pub fn step_bench(device: &Device, settings: BenchSettings) -> Result<StepBench> {
    let BenchShape { batch, context, .. } = settings.shape;
    let (config, options) = (settings.shape.config()?, settings.options());
    options.check()?;
    if let Some(available) = base::machine::memory_available_bytes() {
        crate::memory_estimate(&config, &options, device.pool().threads()).check(available)?;
    }
    let samples = random_samples(config.vocab_size, batch * 4, context)?;
    let mut trainer = Trainer::new(device, Parameters::init(device, config, 0), &options)?;
    let warm_up = settings.warm_up.max(1);
    for step in 0..warm_up {
        // Every timer finds its place, too.
        device.profile().start();
        trainer.step(&samples, step)?;
        device.profile().stop();
    }
    let steps = options.steps - warm_up;
    let mut measured: Vec<(StepOutcome, Duration)> = Vec::with_capacity(steps);
    if settings.profile {
        device.profile().start();
    }
    let faults = page_faults().and_then(|_| page_faults());
    let counted = settings.allocations.map(|count| count());
    for step in warm_up..options.steps {
        let started = Instant::now();
        let outcome = trainer.step(&samples, step)?;
        measured.push((outcome, started.elapsed()));
    }
    let allocations = settings.allocations.zip(counted).map(|(count, before)| count() - before);
    let page_faults = page_faults().zip(faults).map(|(after, before)| after.since(before));
    let timed = device.profile().stop();
    let layout = trainer.parameters().decoder.layout();
    let found = StepBench {
        parameters: layout.len(),
        allocations,
        page_faults,
        profile: settings.profile.then(|| profile::rows(layout, &timed, steps)),
        ..figures(settings.shape, &measured)
    };
    Ok(found)
}

/// Medians over the measured steps.
fn figures(shape: BenchShape, measured: &[(StepOutcome, Duration)]) -> StepBench {
    let middle = |value: &dyn Fn(&(StepOutcome, Duration)) -> f64| {
        median(measured.iter().map(value).collect()).expect("at least one step was measured")
    };
    let seconds = middle(&|step| step.1.as_secs_f64());
    let fastest = measured.iter().map(|step| step.1).min().expect("at least one step was measured");
    let (last, tokens) = (measured[measured.len() - 1].0, shape.batch * shape.context);
    let milliseconds = |duration: Duration| 1e3 * duration.as_secs_f64();
    StepBench {
        shape,
        parameters: 0,
        tokens,
        steps: measured.len(),
        tokens_per_s: tokens as f64 / seconds,
        tokens_per_s_best: tokens as f64 / fastest.as_secs_f64(),
        step_ms: measured.iter().map(|step| milliseconds(step.1)).sum::<f64>() / measured.len() as f64,
        gflops: last.flops / seconds / 1e9,
        peak_rss_bytes: base::machine::peak_rss_bytes(),
        forward_ms: middle(&|step| milliseconds(step.0.forward)),
        head_ms: middle(&|step| milliseconds(step.0.head)),
        backward_ms: middle(&|step| milliseconds(step.0.backward)),
        optimiser_ms: middle(&|step| milliseconds(step.0.optimiser)),
        allocations: None,
        page_faults: None,
        loss: last.loss,
        profile: None,
    }
}

fn random_samples(vocab_size: usize, sequences: usize, context: usize) -> Result<MemorySamples> {
    let mut rng = Rng::new(0, 0);
    let sequence = |_| Sequence {
        ids: (0..context).map(|_| rng.below(vocab_size as u64) as u32).collect(),
        mask: vec![1; context],
        lengths: vec![context],
    };
    MemorySamples::new((0..sequences).map(sequence).collect(), context)
}

#[cfg(test)]
mod tests;
