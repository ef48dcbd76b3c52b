//! One optimiser step: micro-batches forward and backward on the tape, clipping, the update.
//!
//! It holds the weights, the gradients and optimiser's state of what is trained (all weights, or adapters over frozen
//! ones), and must not know files, events or the clock.

use crate::data::{MicroBatch, Samples};
use crate::optimiser::{Optimiser, StepScale};
use crate::{Error, Result, TrainOptions};
use model::{Adapters, Entry, Parameters, Pass, Rows, Weights};
use std::time::{Duration, Instant};
use tensor::{Batch, Device, Operation, Phase, Targets, Tensor, Work, kernels};

/// A model in training.
pub struct Trainer {
    device: Device,
    parameters: Parameters,
    /// What is trained in place of the weights, if anything.
    adapters: Option<Adapters>,
    /// Of the weights, as [`model::Layout::gradient_len`] says, or of the adapters.
    gradients: Tensor,
    optimiser: Optimiser,
    options: TrainOptions,
    pass: Pass,
    micro_batches: Vec<MicroBatch>,
    /// Log-probability of each row's target, over the whole batch.
    log_probs: Vec<f32>,
}

/// Figures of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepOutcome {
    /// Mean loss over the targets before the update, in nats.
    pub loss: f64,
    /// Global norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens with a target whose loss counts.
    pub targets: u64,
    /// Floating-point operations, by [`plan::memory::training_flops`] or [`plan::memory::adapter_flops`].
    pub flops: f64,
    /// Time in which the sequences were read.
    pub data: Duration,
    /// Time in the forward pass of the layers.
    pub forward: Duration,
    /// Time in the output projection with the loss, forward and backward.
    pub head: Duration,
    /// Time in the backward pass of the layers.
    pub backward: Duration,
    /// Time in clipping and the update.
    pub optimiser: Duration,
}

impl Trainer {
    /// Training of all of `parameters` with `options`.
    ///
    /// # Errors
    /// [`Error::Options`] for unusable options, [`Error::Context`] when the context is longer than the model's.
    pub fn new(device: &Device, parameters: Parameters, options: &TrainOptions) -> Result<Trainer> {
        Trainer::of(device, (parameters, None), options)
    }

    /// Training of `adapters` over `parameters`, which stay as they are.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn over_frozen(
        device: &Device,
        parameters: Parameters,
        adapters: Adapters,
        options: &TrainOptions,
    ) -> Result<Trainer> {
        Trainer::of(device, (parameters, Some(adapters)), options)
    }

    fn of(
        device: &Device,
        (parameters, adapters): (Parameters, Option<Adapters>),
        options: &TrainOptions,
    ) -> Result<Trainer> {
        options.check()?;
        let (config, layout) = (parameters.decoder.config(), parameters.decoder.layout());
        if options.context > config.max_positions {
            return Err(Error::Context { context: options.context, limit: config.max_positions });
        }
        let (entries, gradient_len) = match &adapters {
            None => (layout.entries(), layout.gradient_len()),
            Some(adapters) => (adapters.entries(), adapters.flat.data().len()),
        };
        let gradients = device.zeros(gradient_len);
        let mut pass = Pass::new(device, &parameters.decoder, options.context);
        if options.activation_checkpointing {
            pass = pass.with_checkpoints();
        }
        Ok(Trainer {
            device: device.clone(),
            optimiser: Optimiser::new(device, entries, &options.optimiser),
            gradients,
            options: options.clone(),
            pass,
            micro_batches: Vec::new(),
            log_probs: Vec::new(),
            parameters,
            adapters,
        })
    }

    /// Runs step number `step` (0 is the first) on the sequences that the data's order gives it.
    ///
    /// # Errors
    /// [`Error::Data`] when the data do not fit the model; [`Error::NotFinite`] when the loss or the gradient is
    /// not a number, in which case the weights are as they were.
    pub fn step(&mut self, samples: &dyn Samples, step: usize) -> Result<StepOutcome> {
        let started = Instant::now();
        let targets = self.gather(samples, step)?;
        let data = started.elapsed();
        {
            let work = || Work::floats(self.gradients.shape().len());
            let _timer = self.device.profile().time(Phase::Forward, Operation::Gradients, work);
            kernels::clear(self.device.exec(), self.gradients.data_mut());
        }
        let mut outcome = StepOutcome {
            loss: 0.0,
            gradient_norm: 0.0,
            targets,
            flops: 0.0,
            data,
            forward: Duration::ZERO,
            head: Duration::ZERO,
            backward: Duration::ZERO,
            optimiser: Duration::ZERO,
        };
        self.log_probs.clear();
        self.pass.gradients_are_zero();
        for index in 0..self.micro_batches.len() {
            self.differentiate(index, 1.0 / targets as f32, &mut outcome);
        }
        let micro_batches = std::mem::take(&mut self.micro_batches);
        let weights = micro_batches.iter().flat_map(|batch| &batch.weights);
        outcome.loss = self.mean_loss(weights, targets);
        self.micro_batches = micro_batches;
        let started = Instant::now();
        self.check_finite(step, "the loss", outcome.loss)?;
        self.update(step, &mut outcome)?;
        outcome.optimiser = started.elapsed();
        Ok(outcome)
    }

    /// Mean loss over the targets of the first `count` sequences (all, when there are fewer), and how many
    /// targets there are. The mean does not depend on the size of the micro-batches.
    ///
    /// # Errors
    /// [`Error::Data`] when the data do not fit the model or hold no target.
    pub fn evaluate(&mut self, samples: &dyn Samples, count: usize) -> Result<(f64, u64)> {
        let count = count.min(samples.len());
        let mut batch = self.micro_batches.pop().unwrap_or_default();
        let (mut sum, mut targets) = (0.0, 0);
        for start in (0..count).step_by(self.options.micro_batch()) {
            let indices = start..count.min(start + self.options.micro_batch());
            batch.fill(samples, indices, self.parameters.decoder.config().vocab_size)?;
            self.log_probs.clear();
            self.forward(&batch);
            for (log_prob, weight) in self.log_probs.iter().zip(&batch.weights) {
                sum -= f64::from(*weight) * f64::from(*log_prob);
            }
            targets += batch.target_count();
        }
        self.micro_batches.push(batch);
        match targets {
            0 => Err(Error::Data { message: "the evaluation sequences hold no target to predict".into() }),
            _ => Ok((sum / targets as f64, targets)),
        }
    }

    /// The weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The adapters, where they are what is trained.
    pub fn adapters(&self) -> Option<&Adapters> {
        self.adapters.as_ref()
    }

    /// The weights, and the adapters if those were trained, training ended.
    pub fn into_parts(self) -> (Parameters, Option<Adapters>) {
        (self.parameters, self.adapters)
    }

    /// Gradients of the last step, before clipping, in the order of what is trained: the layout, or the adapters'
    /// entries.
    pub fn gradients(&self) -> &[f32] {
        &self.gradients.data()[..self.trained().1.len()]
    }

    /// Name of the parameter with the largest gradient, and its norm before clipping.
    pub(crate) fn largest_gradient(&self) -> (String, f64) {
        let norms = self.trained().0.iter().map(|entry| {
            let gradient = entry.weight.of(self.gradients.data());
            (entry.name.clone(), kernels::sum_squares(self.device.exec(), gradient).sqrt())
        });
        norms.max_by(|one, other| one.1.total_cmp(&other.1)).expect("something is trained")
    }

    /// What is trained: the weights, or the adapters.
    pub(crate) fn trained_elements(&self) -> &[f32] {
        self.trained().1
    }

    /// What is trained, to be put back.
    pub(crate) fn trained_elements_mut(&mut self) -> &mut [f32] {
        match &mut self.adapters {
            None => self.parameters.flat.data_mut(),
            Some(adapters) => adapters.flat.data_mut(),
        }
    }

    /// The buffers that a checkpoint holds.
    pub(crate) fn buffers(&self) -> Vec<(&'static str, &[f32])> {
        let trained = match &self.adapters {
            None => ("weights", self.parameters.flat.data()),
            Some(adapters) => ("adapters", adapters.flat.data()),
        };
        [trained].into_iter().chain(self.optimiser.state()).collect()
    }

    /// The buffers that a checkpoint restores.
    pub(crate) fn buffers_mut(&mut self) -> Vec<(&'static str, &mut [f32])> {
        let trained = match &mut self.adapters {
            None => ("weights", self.parameters.flat.data_mut()),
            Some(adapters) => ("adapters", adapters.flat.data_mut()),
        };
        [trained].into_iter().chain(self.optimiser.state_mut()).collect()
    }

    /// What is trained, by name, and its elements.
    fn trained(&self) -> (&[Entry], &[f32]) {
        match &self.adapters {
            None => (self.parameters.decoder.layout().entries(), self.parameters.flat.data()),
            Some(adapters) => (adapters.entries(), adapters.flat.data()),
        }
    }

    /// Reads the sequences of a step into micro-batches; returns the number of targets.
    fn gather(&mut self, samples: &dyn Samples, step: usize) -> Result<u64> {
        let (batch, micro) = (self.options.batch_sequences, self.options.micro_batch());
        let vocab_size = self.parameters.decoder.config().vocab_size;
        let seed = self.options.seed;
        self.micro_batches.resize_with(batch / micro, MicroBatch::default);
        for (index, micro_batch) in self.micro_batches.iter_mut().enumerate() {
            let first = (step * batch + index * micro) as u64;
            let numbers = first..first + micro as u64;
            let indices = numbers.map(|sample| samples.index(seed, sample));
            micro_batch.fill(samples, indices, vocab_size)?;
        }
        match self.micro_batches.iter().map(MicroBatch::target_count).sum() {
            0 => Err(Error::Data {
                message: format!(
                    "none of the {batch} sequences of step {} has a target to predict; take a larger batch or \
                     drop documents without an answer",
                    step + 1
                ),
            }),
            targets => Ok(targets),
        }
    }

    /// Forward and backward through one micro-batch; continues the chains of the gradients.
    fn differentiate(&mut self, index: usize, scale: f32, outcome: &mut StepOutcome) {
        let (decoder, batch) = (&self.parameters.decoder, &self.micro_batches[index]);
        let start = self.log_probs.len();
        self.log_probs.resize(start + batch.ids.len(), 0.0);
        let weights = Weights { base: self.parameters.flat.data(), adapters: self.adapters.as_ref() };
        let flat = (weights, self.gradients.data_mut());
        self.pass.train(decoder, flat, rows(batch, scale), Some(&mut self.log_probs[start..]));
        let times = self.pass.times();
        outcome.forward += times.forward;
        outcome.head += times.head;
        outcome.backward += times.backward;
        let lengths = batch.documents.iter().map(|rows| rows.len());
        outcome.flops += match &self.adapters {
            None => plan::memory::training_flops(decoder, lengths),
            Some(adapters) => plan::memory::adapter_flops(decoder, adapters.flat.data().len(), lengths),
        };
    }

    /// Log-probabilities of a batch's targets, added to `log_probs`.
    fn forward(&mut self, batch: &MicroBatch) {
        let start = self.log_probs.len();
        self.log_probs.resize(start + batch.ids.len(), 0.0);
        let weights = Weights { base: self.parameters.flat.data(), adapters: self.adapters.as_ref() };
        let log_probs = Some(&mut self.log_probs[start..]);
        self.pass.score(&self.parameters.decoder, weights, rows(batch, 0.0), log_probs);
    }

    /// One sum over ascending rows, whatever the micro-batches were.
    fn mean_loss<'a>(&self, weights: impl Iterator<Item = &'a f32>, targets: u64) -> f64 {
        let losses = self.log_probs.iter().zip(weights);
        let sum: f64 = losses.map(|(log_prob, weight)| -f64::from(*log_prob) * f64::from(*weight)).sum();
        sum / targets as f64
    }

    fn update(&mut self, step: usize, outcome: &mut StepOutcome) -> Result<()> {
        let exec = self.device.exec();
        if self.adapters.is_none() {
            self.parameters.decoder.layout().finish_gradients(&self.device, self.gradients.data_mut());
        }
        let norm = {
            let work = || Work::floats(self.gradients().len());
            let _timer = self.device.profile().time(Phase::Update, Operation::GradientNorm, work);
            kernels::sum_squares(exec, self.gradients()).sqrt()
        };
        self.check_finite(step, "the gradient norm", norm)?;
        outcome.gradient_norm = norm;
        let scale = StepScale {
            step,
            learning_rate_factor: self.options.schedule.factor(step, self.options.steps),
            gradient_scale: clip_scale(norm, self.options.clip),
        };
        let weights = match &mut self.adapters {
            None => self.parameters.flat.data_mut(),
            Some(adapters) => adapters.flat.data_mut(),
        };
        self.optimiser.step(&self.device, scale, weights, self.gradients.data());
        Ok(())
    }

    fn check_finite(&self, step: usize, what: &'static str, value: f64) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        let exec = self.device.exec();
        let first = |kind: &str, (entries, flat): (&[Entry], &[f32])| {
            let bad = entries.iter().find(|entry| !kernels::all_finite(exec, entry.weight.of(flat)));
            bad.map(|entry| format!("{kind} of {}", entry.name))
        };
        let base = (self.parameters.decoder.layout().entries(), self.parameters.flat.data());
        let (trained, elements) = self.trained();
        let tensor = first("the weights", base)
            .or_else(|| first("the weights", (trained, elements)))
            .or_else(|| first("the gradient", (trained, self.gradients())))
            .unwrap_or_else(|| "the activations; all weights and gradients are finite".to_owned());
        Err(Error::NotFinite { step: step + 1, what, value: value.to_string(), tensor, kept: String::new() })
    }
}

/// What the gradient is multiplied with so that its norm is at most `clip`, as `torch.nn.utils.clip_grad_norm_`
/// computes it; 1 when clipping is off.
fn clip_scale(norm: f64, clip: f32) -> f32 {
    match clip > 0.0 {
        true => (f64::from(clip) / (norm + 1e-6)).min(1.0) as f32,
        false => 1.0,
    }
}

/// What the decoder is given of a micro-batch.
fn rows(batch: &MicroBatch, scale: f32) -> Rows<'_> {
    Rows {
        ids: &batch.ids,
        batch: Batch { positions: &batch.positions, documents: &batch.documents },
        targets: Targets { ids: &batch.targets, weights: &batch.weights, scale },
    }
}

#[cfg(test)]
mod tests;
