//! A training stage from its first step to its last: resume, steps, evaluation, checkpoints, events, progress.
//!
//! The clock decides when a checkpoint is written and what is shown, never what is computed. It must not know
//! where shards come from, nor what is done with the weights.

use crate::checkpoint::{At, Identity, Store, hash_floats};
use crate::course::Course;
use crate::data::Samples;
use crate::event::{Event, Kind, StepMetrics, read_events};
use crate::report::StageSummary;
use crate::trainer::{StepOutcome, Trainer};
use crate::{Error, OptimiserKind, Result, TrainOptions};
use base::journal::{Journal, SyncPolicy};
use base::progress::{self, Progress, Unit};
use model::{AdapterOptions, Adapters, Config, Parameters};
use plan::memory::{Estimate, Optimiser, TrainingShape, size};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tensor::Device;

/// Share of a stage's time that checkpoints by the clock may take: where one takes long to write, the next one waits.
const CHECKPOINT_SHARE: f64 = 0.01;

/// A stage to be run.
pub struct Stage<'a> {
    /// Its name in events, such as "pretrain".
    pub name: &'a str,
    /// Where it is computed.
    pub device: &'a Device,
    /// What training starts from.
    pub init: Init,
    /// Training sequences, of `options.context` tokens at most.
    pub train: &'a dyn Samples,
    /// Evaluation sequences, if any.
    pub evaluation: Option<&'a dyn Samples>,
    /// Folder of this stage's checkpoints; no other stage may share it.
    pub checkpoints: &'a Path,
    /// The run's journal, which other stages may share in their turn.
    pub events: &'a Path,
    /// How to train.
    pub options: &'a TrainOptions,
    /// The machine's measured arithmetic peak in floating-point operations a second, if known.
    pub peak_flops: Option<f64>,
    /// Where the progress line goes.
    pub progress: progress::Output,
}

/// Initial weights.
pub enum Init {
    /// Random ones, from the options' seed.
    Random(Config),
    /// Given ones, such as those of an earlier stage.
    Weights(Parameters),
    /// Adapters, to be trained over weights that stay as they are.
    Adapters {
        /// The frozen weights.
        base: Parameters,
        /// The adapters to begin with, such as [`Adapters::init`]'s.
        adapters: Adapters,
    },
}

/// How a stage ended.
pub enum Outcome {
    /// All steps are done.
    Finished(Box<Finished>),
    /// It was asked to stop; the same call goes on from the checkpoint.
    Interrupted {
        /// Steps done.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// The checkpoint that was written.
        checkpoint: PathBuf,
    },
}

/// A stage with all its steps done.
pub struct Finished {
    /// The final weights; the frozen ones where adapters were trained.
    pub parameters: Parameters,
    /// The final adapters, where they were what was trained.
    pub adapters: Option<Adapters>,
    /// The step that this call went on from; `None` when it began at the start.
    pub resumed_from: Option<usize>,
    /// Figures of the whole stage, earlier calls included.
    pub summary: StageSummary,
}

/// Memory that a stage needs that trains all weights (see [`plan::memory::training`]).
pub fn memory_estimate(config: &Config, options: &TrainOptions, threads: usize) -> Estimate {
    plan::memory::training(config, &shape(options, threads))
}

/// Memory that a stage needs that trains adapters (see [`plan::memory::adapters`]).
pub fn adapter_memory_estimate(
    config: &Config,
    adapters: &AdapterOptions,
    options: &TrainOptions,
    threads: usize,
) -> Estimate {
    plan::memory::adapters(config, adapters, &shape(options, threads))
}

fn shape(options: &TrainOptions, threads: usize) -> TrainingShape {
    TrainingShape {
        micro_batch_sequences: options.micro_batch(),
        micro_batches: options.batch_sequences / options.micro_batch().max(1),
        context: options.context,
        optimiser: match options.optimiser.kind {
            OptimiserKind::AdamW => Optimiser::AdamW,
            OptimiserKind::Muon => Optimiser::Muon,
        },
        activation_checkpointing: options.activation_checkpointing,
        threads,
        data_bytes: 0,
    }
}

/// Runs a stage, or what is left of it. `on_event` sees each event after it is in the journal, and may ask the
/// stage to stop, as Ctrl-C does.
///
/// Killed at any moment and called again with the same arguments, it ends in the same weights, bit for bit.
///
/// # Errors
/// [`Error::Memory`] before anything is allocated when the machine has too little; [`Error::OtherRun`] and
/// [`Error::AllDamaged`] for checkpoints that it cannot go on from; [`Error::NotFinite`], [`Error::Exploded`],
/// [`Error::Write`] and others while it runs, after which the last checkpoint is whole.
pub fn run(stage: Stage<'_>, on_event: &mut dyn FnMut(&Event) -> ControlFlow<()>) -> Result<Outcome> {
    let options = stage.options;
    options.check()?;
    check_data(&stage)?;
    let config = stage.init.config().clone();
    let threads = stage.device.pool().threads();
    let estimate = match &stage.init {
        Init::Adapters { adapters, .. } => {
            adapter_memory_estimate(&config, adapters.options(), options, threads)
        }
        Init::Random(_) | Init::Weights(_) => memory_estimate(&config, options, threads),
    };
    let available = base::machine::memory_available_bytes();
    if let Some(available) = available {
        estimate.check(available)?;
    }
    let identity = identity(&stage);
    let store = Store::open(stage.checkpoints, options.keep_checkpoints)?;
    let journal = Journal::open(stage.events, SyncPolicy::Never)?.journal;
    let Stage { name, device, init, train, evaluation, peak_flops, .. } = stage;
    let is_given = !matches!(init, Init::Random(_));
    let trainer = match init {
        Init::Random(config) => {
            Trainer::new(device, Parameters::init(device, config, options.seed), options)?
        }
        Init::Weights(parameters) => Trainer::new(device, parameters, options)?,
        Init::Adapters { base, adapters } => Trainer::over_frozen(device, base, adapters, options)?,
    };
    let mut progress =
        Progress::start(stage.progress, name, Unit::Count("steps"), Some(options.steps as u64));
    let free = available.map(|bytes| format!("; {} are free", size(bytes))).unwrap_or_default();
    progress.print_line(&format!("{name}: needs about {}{free}", estimate.summary()));
    let running = Running {
        name: name.to_owned(),
        options,
        trainer,
        train,
        evaluation,
        store,
        identity,
        journal,
        events: stage.events,
        is_given,
        peak_flops,
        progress,
        on_event,
        is_stopping: false,
        saved: Saved { step: None, at: Instant::now(), seconds: 0.0 },
        accounted: Instant::now(),
        course: Course::default(),
        tokens_per_s: None,
    };
    running.go(&estimate, device)
}

impl Init {
    fn config(&self) -> &Config {
        match self {
            Init::Random(config) => config,
            Init::Weights(parameters) | Init::Adapters { base: parameters, .. } => {
                parameters.decoder.config()
            }
        }
    }
}

/// A stage under way.
struct Running<'a> {
    name: String,
    options: &'a TrainOptions,
    trainer: Trainer,
    train: &'a dyn Samples,
    evaluation: Option<&'a dyn Samples>,
    store: Store,
    identity: Identity,
    journal: Journal,
    events: &'a Path,
    /// Whether training starts from weights that were given: these are evaluated first.
    is_given: bool,
    peak_flops: Option<f64>,
    progress: Progress,
    on_event: &'a mut dyn FnMut(&Event) -> ControlFlow<()>,
    /// Whether somebody asked for a stop.
    is_stopping: bool,
    saved: Saved,
    /// Until when every second is in some event.
    accounted: Instant,
    course: Course,
    /// A mean over the last steps, for the progress line.
    tokens_per_s: Option<f64>,
}

/// The newest checkpoint of this process.
struct Saved {
    step: Option<usize>,
    at: Instant,
    /// How long it took to write.
    seconds: f64,
}

impl Running<'_> {
    fn go(mut self, estimate: &Estimate, device: &Device) -> Result<Outcome> {
        let resumed_from = self.resume()?;
        let first = resumed_from.unwrap_or(0);
        let started = Kind::Started {
            steps: self.options.steps,
            parameters: self.trainer.parameters().decoder.layout().len(),
            memory_bytes: estimate.total_bytes(),
            threads: device.pool().threads(),
            isa: device.isa().name().to_owned(),
        };
        self.record(first, started)?;
        self.accounted = Instant::now();
        if first == 0 && self.is_given {
            self.evaluate(0)?;
        }
        for step in first..self.options.steps {
            if self.course.is_exhausted(self.options) {
                break;
            }
            if self.should_stop() {
                return self.interrupt(step);
            }
            self.step(step)?;
        }
        if let Some((step, _)) = self.course.best().filter(|_| self.options.keep_best) {
            self.store.load_best(step, &self.identity, self.trainer.trained_elements_mut())?;
        }
        self.progress.finish();
        self.journal.sync()?;
        drop(self.journal);
        let summary = StageSummary::of(&self.name, &read_events(self.events)?).ok_or_else(|| Error::Data {
            message: format!(
                "{} holds no step of stage `{}`, though its checkpoints are complete; remove {} to train again",
                self.events.display(),
                self.name,
                self.store.path(self.options.steps).display()
            ),
        })?;
        let (parameters, adapters) = self.trainer.into_parts();
        Ok(Outcome::Finished(Box::new(Finished { parameters, adapters, resumed_from, summary })))
    }

    /// One step, and the evaluation and the checkpoint that are due after it.
    fn step(&mut self, step: usize) -> Result<()> {
        let done = step + 1;
        let started = Instant::now();
        let outcome = self.trainer.step(self.train, step).map_err(|error| self.with_checkpoint(error))?;
        self.report_step(step, &outcome, started)?;
        if self.course.after_step(outcome.loss, self.options) {
            return Err(self.exploded(done, &outcome));
        }
        let mut is_last = done == self.options.steps;
        if is_last || is_multiple(done, self.options.eval_every) {
            self.evaluate(done)?;
            is_last |= self.course.is_exhausted(self.options);
        }
        if is_last {
            self.notice_end(done)?;
        }
        // While the loss may be exploding the checkpoints from before are the good ones.
        if is_last || (self.course.steps_above == 0 && self.is_checkpoint_due(done)) {
            self.checkpoint(done)?;
        }
        Ok(())
    }

    /// Says why the stage ends early and whose weights it ends with, where that is not plain.
    fn notice_end(&mut self, step: usize) -> Result<()> {
        let Some((best, loss)) = self.course.best().filter(|_| self.options.heeds_evaluations()) else {
            return Ok(());
        };
        let mut messages = Vec::new();
        if self.course.is_exhausted(self.options) {
            let patience = self.options.patience;
            messages.push(format!(
                "stopped after step {step} of {}: {patience} evaluations brought nothing better than {loss:.4} at step {best}",
                self.options.steps
            ));
        }
        if self.options.keep_best {
            messages.push(format!(
                "the weights are those of step {best}, whose evaluation loss of {loss:.4} is the lowest"
            ));
        }
        for message in messages {
            self.progress.print_line(&format!("{}: {message}", self.name));
            self.record(step, Kind::Notice { message })?;
        }
        Ok(())
    }

    /// Goes back to the newest whole checkpoint, if there is one, and forgets what came after it.
    fn resume(&mut self) -> Result<Option<usize>> {
        let loaded = self.store.load(&self.identity, &mut self.trainer.buffers_mut())?;
        let step = loaded.as_ref().map(|loaded| loaded.at.step);
        let name = &self.name;
        self.journal.truncate_from(|record| {
            let event: Option<Event> = record.parse().ok();
            event.is_some_and(|event| event.stage == *name && step.is_none_or(|step| event.step > step))
        })?;
        let Some(loaded) = loaded else { return Ok(None) };
        let At { step, course, .. } = loaded.at;
        self.store.forget_after(step)?;
        self.saved.step = Some(step);
        self.course = course;
        self.progress.resume_at(step as u64);
        self.progress.print_line(&format!("{}: going on after step {step}", self.name));
        for damage in loaded.damaged {
            let message = format!("{damage}; went back to step {step}");
            self.progress.print_line(&format!("{}: {message}", self.name));
            self.record(step, Kind::Notice { message })?;
        }
        Ok(Some(step))
    }

    fn report_step(&mut self, step: usize, outcome: &StepOutcome, started: Instant) -> Result<()> {
        let other_seconds = (started - self.accounted).as_secs_f64();
        let seconds = self.account(started).max(1e-9);
        let tokens = self.options.batch_tokens() as u64;
        let factor = self.options.schedule.factor(step, self.options.steps);
        let optimiser = &self.options.optimiser;
        let peak = match optimiser.kind {
            OptimiserKind::AdamW => optimiser.learning_rate,
            OptimiserKind::Muon => optimiser.muon_learning_rate,
        };
        let metrics = StepMetrics {
            loss: outcome.loss,
            learning_rate: peak * factor,
            gradient_norm: outcome.gradient_norm,
            tokens,
            seconds,
            data_seconds: outcome.data.as_secs_f64(),
            other_seconds,
            tokens_per_s: tokens as f64 / seconds,
            share_of_peak: self.peak_flops.map(|peak| outcome.flops / seconds / peak),
        };
        let rate =
            self.tokens_per_s.map_or(metrics.tokens_per_s, |mean| mean + 0.1 * (metrics.tokens_per_s - mean));
        self.tokens_per_s = Some(rate);
        let share = metrics
            .share_of_peak
            .map(|share| format!(", {:.0} % of peak", 100.0 * share * rate / metrics.tokens_per_s));
        self.progress.message(&format!(
            "loss {:.3}, {rate:.0} tokens/s{}",
            metrics.loss,
            share.unwrap_or_default()
        ));
        self.progress.set(step as u64 + 1);
        self.record(step + 1, Kind::Step(metrics))
    }

    fn evaluate(&mut self, step: usize) -> Result<()> {
        let Some(samples) = self.evaluation else { return Ok(()) };
        let started = Instant::now();
        let count =
            if self.options.eval_sequences == 0 { samples.len() } else { self.options.eval_sequences };
        let (loss, targets) = self.trainer.evaluate(samples, count)?;
        let is_best = step > 0 && self.course.after_evaluation(step, loss);
        if is_best && self.options.keep_best {
            let trained = self.trainer.trained_elements();
            self.store.save_best(&self.at(step), &self.identity, trained)?;
        }
        let seconds = self.account(started);
        self.progress.print_line(&format!("{}: step {step}, evaluation loss {loss:.4}", self.name));
        self.record(step, Kind::Evaluation { loss, targets, is_best, seconds })
    }

    fn is_checkpoint_due(&self, step: usize) -> bool {
        let seconds = self.options.checkpoint_every_seconds;
        let rest = seconds.max(self.saved.seconds / CHECKPOINT_SHARE);
        let is_late = seconds > 0.0 && self.saved.at.elapsed().as_secs_f64() >= rest;
        is_late || is_multiple(step, self.options.checkpoint_every)
    }

    fn checkpoint(&mut self, step: usize) -> Result<PathBuf> {
        let path = self.store.path(step);
        if self.saved.step == Some(step) {
            return Ok(path);
        }
        let started = Instant::now();
        self.journal.sync()?;
        let bytes = self.store.save(&self.at(step), &self.identity, &self.trainer.buffers())?;
        let seconds = self.account(started);
        self.saved = Saved { step: Some(step), at: Instant::now(), seconds };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.record(step, Kind::Checkpoint { name, bytes, seconds })?;
        Ok(path)
    }

    /// The seconds since `started`, which are now accounted for.
    fn account(&mut self, started: Instant) -> f64 {
        self.accounted = Instant::now();
        (self.accounted - started).as_secs_f64()
    }

    /// How far the stage has come after `step`.
    fn at(&self, step: usize) -> At {
        At { step, samples: step as u64 * self.options.batch_sequences as u64, course: self.course.clone() }
    }

    fn should_stop(&self) -> bool {
        self.is_stopping || base::interrupt::requested()
    }

    fn interrupt(mut self, step: usize) -> Result<Outcome> {
        let checkpoint = self.checkpoint(step)?;
        self.journal.sync()?;
        let steps = self.options.steps;
        Ok(Outcome::Interrupted { step, steps, checkpoint })
    }

    fn record(&mut self, step: usize, kind: Kind) -> Result<()> {
        let event = Event { stage: self.name.clone(), step, kind };
        self.journal.append(&event)?;
        self.is_stopping |= (self.on_event)(&event).is_break();
        Ok(())
    }

    fn exploded(&self, step: usize, outcome: &StepOutcome) -> Error {
        let (name, norm) = self.trainer.largest_gradient();
        let steps = self.course.steps_above;
        Error::Exploded {
            step,
            loss: outcome.loss,
            lowest: self.course.lowest_mean().unwrap_or(f64::NAN),
            margin: self.options.explosion_nats,
            steps,
            tensor: format!("{name} ({norm:.3} of {:.3})", outcome.gradient_norm),
            kept: format!("; {}", self.store.newest_name(step - steps)),
        }
    }

    /// Adds to an error what training can go on from.
    fn with_checkpoint(&self, error: Error) -> Error {
        match error {
            Error::NotFinite { step, what, value, tensor, .. } => {
                let kept = format!("; {}", self.store.newest_name(usize::MAX));
                Error::NotFinite { step, what, value, tensor, kept }
            }
            error => error,
        }
    }
}

fn check_data(stage: &Stage<'_>) -> Result<()> {
    let refuse = |message: String| Err(Error::Data { message });
    for (kind, samples) in [("training", Some(stage.train)), ("evaluation", stage.evaluation)] {
        let Some(samples) = samples else { continue };
        if samples.is_empty() {
            return refuse(format!("stage `{}` has no {kind} sequences", stage.name));
        }
        if samples.context() != stage.options.context {
            return refuse(format!(
                "the {kind} sequences are packed for {} tokens, but `context` is {}; pack them anew",
                samples.context(),
                stage.options.context
            ));
        }
    }
    if stage.options.heeds_evaluations() && stage.evaluation.is_none() {
        return refuse(format!(
            "stage `{}` has nothing to evaluate on, so `patience` and `keep_best` have no meaning; hold data out",
            stage.name
        ));
    }
    Ok(())
}

fn identity(stage: &Stage<'_>) -> Identity {
    let hash = |text: String| base::hash::hash_bytes(text.as_bytes());
    let options = serde_json::to_string(&stage.options.deciding()).expect("options are plain data");
    Identity {
        config: hash(stage.init.config().to_json().to_string()),
        options: hash(options),
        data: match stage.evaluation.filter(|_| stage.options.heeds_evaluations()) {
            Some(evaluation) => format!("{} {}", stage.train.fingerprint(), evaluation.fingerprint()),
            None => stage.train.fingerprint().to_owned(),
        },
        initial: match &stage.init {
            Init::Random(_) => "random".to_owned(),
            Init::Weights(parameters) => hash_floats(parameters.flat.data()),
            Init::Adapters { base, adapters } => {
                let options = serde_json::to_string(adapters.options()).expect("options are plain data");
                let (base, adapters) = (hash_floats(base.flat.data()), hash_floats(adapters.flat.data()));
                hash(format!("{base} {options} {adapters}"))
            }
        },
    }
}

fn is_multiple(step: usize, every: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

#[cfg(test)]
mod tests;
