//! The speed of a whole training step on random tokens, for comparison with other programs.
//!
//! It must not know how results are shown.

use crate::data::{MemorySamples, Sequence};
use crate::report::median;
use crate::trainer::{StepOutcome, Trainer};
use crate::{Result, Schedule, ScheduleKind, TrainOptions};
use base::seed::Rng;
use model::{Config, Parameters};
use serde::Serialize;
use std::time::{Duration, Instant};
use tensor::Device;

/// Shapes to measure: Llama-like decoders with multi-head attention, untied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum BenchShape {
    /// 6 layers, width 256, 4 heads, ffn 688, vocabulary 8,192, context 256, batch 16: 8.9 M parameters.
    S,
    /// 12 layers, width 768, 12 heads, ffn 2,048, vocabulary 32,000, context 512, batch 4: 134 M parameters.
    M,
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
    /// Steps measured, after the first one.
    pub steps: usize,
    /// Median tokens a second.
    pub tokens_per_s: f64,
    /// Tokens a second of the fastest step.
    pub tokens_per_s_best: f64,
    /// Arithmetic of the median step, by [`plan::memory::training_flops`], in 10⁹ operations a second.
    pub gflops: f64,
    /// Share of the machine's measured peak, where it was given.
    pub share_of_peak: Option<f64>,
    /// The most memory that this process has held.
    pub peak_rss_bytes: Option<u64>,
    /// Median milliseconds in the forward pass of the layers.
    pub forward_ms: f64,
    /// Median milliseconds in the output projection and the loss, forward and backward.
    pub head_ms: f64,
    /// Median milliseconds in the backward pass of the layers.
    pub backward_ms: f64,
    /// Median milliseconds in clipping and AdamW.
    pub optimiser_ms: f64,
    /// Heap allocations in the measured steps, where the program counts them.
    pub allocations: Option<u64>,
    /// Loss of the last step, in nats.
    pub loss: f64,
}

/// How to measure.
#[derive(Clone, Copy)]
pub struct BenchSettings {
    /// The shape.
    pub shape: BenchShape,
    /// Steps to measure, after a first one that warms up; at least 1.
    pub steps: usize,
    /// Whether layers are computed again in the backward pass instead of being kept.
    pub activation_checkpointing: bool,
    /// The machine's arithmetic peak in operations a second, if known.
    pub peak_flops: Option<f64>,
    /// The program's count of heap allocations so far, if it counts them.
    pub allocations: Option<fn() -> u64>,
}

impl BenchShape {
    /// The model's configuration and the batch: sequences and tokens in each.
    pub fn sizes(self) -> (Config, usize, usize) {
        let (mut config, ffn, batch, context) = match self {
            BenchShape::S => (Config::llama(8_192, 256, 6, 4), 688, 16, 256),
            BenchShape::M => (Config::llama(32_000, 768, 12, 12), 2_048, 4, 512),
        };
        config.intermediate_size = ffn;
        (config, batch, context)
    }
}

/// Measures training steps: AdamW, clipping, a new batch of random tokens each time.
///
/// # Errors
/// As [`Trainer::step`].
pub fn step_bench(device: &Device, settings: BenchSettings) -> Result<StepBench> {
    let (config, batch, context) = settings.shape.sizes();
    let steps = settings.steps.max(1);
    let mut options = TrainOptions::new(steps + 1, batch, context);
    options.activation_checkpointing = settings.activation_checkpointing;
    options.schedule = Schedule { kind: ScheduleKind::Constant, ..Schedule::default() };
    let samples = random_samples(config.vocab_size, batch * 4, context)?;
    let mut trainer = Trainer::new(device, Parameters::init(device, config, 0), &options)?;
    trainer.step(&samples, 0)?;
    let mut measured: Vec<(StepOutcome, Duration)> = Vec::with_capacity(steps);
    let counted = settings.allocations.map(|count| count());
    for step in 1..=steps {
        let started = Instant::now();
        let outcome = trainer.step(&samples, step)?;
        measured.push((outcome, started.elapsed()));
    }
    let allocations = settings.allocations.zip(counted).map(|(count, before)| count() - before);
    let middle = |value: &dyn Fn(&(StepOutcome, Duration)) -> f64| {
        median(measured.iter().map(value).collect()).expect("at least one step was measured")
    };
    let seconds = middle(&|step| step.1.as_secs_f64());
    let fastest = measured.iter().map(|step| step.1).min().expect("at least one step was measured");
    let (last, tokens) = (measured[measured.len() - 1].0, options.batch_tokens());
    let milliseconds = |duration: Duration| 1e3 * duration.as_secs_f64();
    Ok(StepBench {
        shape: settings.shape,
        parameters: trainer.parameters().decoder.layout().len(),
        tokens,
        steps,
        tokens_per_s: tokens as f64 / seconds,
        tokens_per_s_best: tokens as f64 / fastest.as_secs_f64(),
        gflops: last.flops / seconds / 1e9,
        share_of_peak: settings.peak_flops.map(|peak| last.flops / seconds / peak),
        peak_rss_bytes: base::machine::peak_rss_bytes(),
        forward_ms: middle(&|step| milliseconds(step.0.forward)),
        head_ms: middle(&|step| milliseconds(step.0.head)),
        backward_ms: middle(&|step| milliseconds(step.0.backward)),
        optimiser_ms: middle(&|step| milliseconds(step.0.optimiser)),
        allocations,
        loss: last.loss,
    })
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
