//! What a training stage is told: the `[train]` part of a recipe, with its checks.
//!
//! Everything that decides the final weights is here, in whole steps and sequences. It must not know
//! the clock, the number of threads, nor anything measured while a run is under way.

use crate::schedule::{Schedule, ScheduleKind};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainOptions {
    /// Optimiser steps in all.
    pub steps: usize,
    /// Packed sequences in each step.
    pub batch_sequences: usize,
    /// Packed sequences that go through the model at once; divides `batch_sequences`. The result does
    /// not depend on it, the memory does. 0 means the whole batch.
    #[serde(default)]
    pub micro_batch_sequences: usize,
    /// Tokens in a packed sequence.
    pub context: usize,
    /// Tokens that documents are cut to in the first steps; divides `context`. 0 means `context` from the start.
    #[serde(default)]
    pub short_context: usize,
    /// Steps with the short context; at most `steps`.
    #[serde(default)]
    pub short_steps: usize,
    /// The optimiser and its settings.
    #[serde(default)]
    pub optimiser: OptimiserOptions,
    /// The learning rate's course.
    #[serde(default)]
    pub schedule: Schedule,
    /// Largest global gradient norm; greater ones are scaled down to it. 0 turns clipping off.
    #[serde(default = "one")]
    pub clip: f32,
    /// Seed of the initial weights and of the data's order.
    #[serde(default)]
    pub seed: u64,
    /// Steps between evaluations; 0 means only after the last step.
    #[serde(default)]
    pub eval_every: usize,
    /// Evaluation sequences used each time, from the first on; 0 means all of them.
    #[serde(default)]
    pub eval_sequences: usize,
    /// Steps between checkpoints; 0 means none by steps.
    #[serde(default)]
    pub checkpoint_every: usize,
    /// Seconds between checkpoints, or more where writing one takes over a hundredth of that; 0 means none by time.
    #[serde(default = "sixty")]
    pub checkpoint_every_seconds: f64,
    /// Checkpoints kept, the newest ones; at least 1.
    #[serde(default = "two")]
    pub keep_checkpoints: usize,
    /// Whether a layer's activations are recomputed in the backward pass instead of being kept.
    #[serde(default)]
    pub activation_checkpointing: bool,
    /// Evaluations without a better one after which the stage ends early; 0 means never. Needs evaluations on the way
    /// (`eval_every`). The evaluation before the first step does not count.
    #[serde(default)]
    pub patience: usize,
    /// Whether the weights of the best evaluation are the result instead of the last ones.
    #[serde(default)]
    pub keep_best: bool,
    /// How far above its lowest running mean the loss must be to count as exploding, in nats; 0 means never. The
    /// default of 2 is more than seven times the perplexity (e²), which the noise of batches does not reach.
    #[serde(default = "two_nats")]
    pub explosion_nats: f64,
    /// Steps in a row that must explode before the stage stops: single spikes heal by themselves (Chowdhery et al.
    /// 2022, "PaLM", section 5.1, where only lasting ones were acted upon).
    #[serde(default = "ten")]
    pub explosion_steps: usize,
}

/// Which optimiser, and its settings. Learning rates are peaks, to be multiplied by the schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserOptions {
    /// AdamW for everything, or Muon for the matrices inside layers and AdamW for the rest.
    pub kind: OptimiserKind,
    /// AdamW's peak learning rate.
    pub learning_rate: f64,
    /// The embedding table's own learning rate.
    pub embedding_learning_rate: Option<f64>,
    /// The untied output projection's own learning rate.
    pub head_learning_rate: Option<f64>,
    /// The gains' and biases' own learning rate.
    pub scalar_learning_rate: Option<f64>,
    /// Decay of AdamW's mean of gradients.
    pub beta1: f64,
    /// Decay of AdamW's mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of AdamW's second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices under AdamW; gains and biases never decay.
    pub weight_decay: f64,
    /// Muon's peak learning rate.
    pub muon_learning_rate: f64,
    /// Muon's momentum, in Nesterov's form.
    pub muon_momentum: f64,
    /// Decoupled weight decay of matrices under Muon.
    pub muon_weight_decay: f64,
    /// How Muon's learning rate follows a matrix's shape.
    pub muon_scale: MuonScale,
    /// Newton–Schulz iterations of Muon.
    pub muon_iterations: usize,
}

/// The optimisers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimiserKind {
    /// Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
    #[serde(rename = "adamw")]
    AdamW,
    /// Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    Muon,
}

/// How Muon's learning rate follows the shape of a matrix, by the names of `torch.optim.Muon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MuonScale {
    /// √max(1, rows / columns), as Jordan et al. do.
    Original,
    /// 0.2 · √max(rows, columns), so that AdamW's learning rate and decay can be kept (Liu et al. 2025,
    /// "Muon is Scalable for LLM Training", equation 4).
    MatchRmsAdamw,
}

impl MuonScale {
    /// The factor on the learning rate for a matrix (rows, cols).
    pub fn factor(self, rows: usize, cols: usize) -> f64 {
        match self {
            MuonScale::Original => (rows as f64 / cols as f64).max(1.0).sqrt(),
            MuonScale::MatchRmsAdamw => 0.2 * (rows.max(cols) as f64).sqrt(),
        }
    }
}

impl Default for OptimiserOptions {
    fn default() -> Self {
        OptimiserOptions {
            kind: OptimiserKind::AdamW,
            learning_rate: 1e-3,
            embedding_learning_rate: None,
            head_learning_rate: None,
            scalar_learning_rate: None,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            muon_learning_rate: 0.02,
            muon_momentum: 0.95,
            muon_weight_decay: 0.0,
            muon_scale: MuonScale::Original,
            muon_iterations: 5,
        }
    }
}

impl TrainOptions {
    /// Options with the given sizes and everything else at its default.
    pub fn new(steps: usize, batch_sequences: usize, context: usize) -> TrainOptions {
        TrainOptions {
            steps,
            batch_sequences,
            micro_batch_sequences: 0,
            context,
            short_context: 0,
            short_steps: 0,
            optimiser: OptimiserOptions::default(),
            schedule: Schedule::default(),
            clip: 1.0,
            seed: 0,
            eval_every: 0,
            eval_sequences: 0,
            checkpoint_every: 0,
            checkpoint_every_seconds: 60.0,
            keep_checkpoints: 2,
            activation_checkpointing: false,
            patience: 0,
            keep_best: false,
            explosion_nats: two_nats(),
            explosion_steps: ten(),
        }
    }

    /// Sequences that go through the model at once.
    pub fn micro_batch(&self) -> usize {
        match self.micro_batch_sequences {
            0 => self.batch_sequences,
            sequences => sequences,
        }
    }

    /// Tokens in one optimiser step.
    pub fn batch_tokens(&self) -> usize {
        self.batch_sequences * self.context
    }

    /// Whether evaluations decide what the stage ends with.
    pub fn heeds_evaluations(&self) -> bool {
        self.patience > 0 || self.keep_best
    }

    /// The options without what leaves the weights alone: two runs with equal ones end in the same bytes.
    pub fn deciding(&self) -> TrainOptions {
        let evaluations =
            if self.heeds_evaluations() { (self.eval_every, self.eval_sequences) } else { (0, 0) };
        TrainOptions {
            micro_batch_sequences: 0,
            eval_every: evaluations.0,
            eval_sequences: evaluations.1,
            explosion_nats: 0.0,
            explosion_steps: 0,
            checkpoint_every: 0,
            checkpoint_every_seconds: 0.0,
            keep_checkpoints: 1,
            activation_checkpointing: false,
            ..self.clone()
        }
    }

    /// Refuses sizes and rates that no run could use.
    ///
    /// # Errors
    /// [`Error::Options`] names the key, its value and what it may be.
    pub fn check(&self) -> Result<()> {
        let optimiser = &self.optimiser;
        let rates = [
            ("optimiser.learning_rate", Some(optimiser.learning_rate)),
            ("optimiser.embedding_learning_rate", optimiser.embedding_learning_rate),
            ("optimiser.head_learning_rate", optimiser.head_learning_rate),
            ("optimiser.scalar_learning_rate", optimiser.scalar_learning_rate),
            ("optimiser.weight_decay", Some(optimiser.weight_decay)),
            ("optimiser.eps", Some(optimiser.eps)),
            ("optimiser.muon_learning_rate", Some(optimiser.muon_learning_rate)),
            ("optimiser.muon_weight_decay", Some(optimiser.muon_weight_decay)),
            ("schedule.floor", Some(self.schedule.floor)),
            ("checkpoint_every_seconds", Some(self.checkpoint_every_seconds)),
            ("clip", Some(f64::from(self.clip))),
            ("explosion_nats", Some(self.explosion_nats)),
        ];
        let decays = [
            ("optimiser.beta1", optimiser.beta1),
            ("optimiser.beta2", optimiser.beta2),
            ("optimiser.muon_momentum", optimiser.muon_momentum),
        ];
        let sizes = [
            ("steps", self.steps),
            ("batch_sequences", self.batch_sequences),
            ("context", self.context),
            ("keep_checkpoints", self.keep_checkpoints),
            ("explosion_steps", self.explosion_steps),
            ("optimiser.muon_iterations", optimiser.muon_iterations),
        ];
        for (key, value) in sizes {
            ensure(value > 0, key, value, "a whole number of at least 1")?;
        }
        for (key, value) in rates.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            ensure(value.is_finite() && value >= 0.0, key, value, "a number of at least 0")?;
        }
        for (key, value) in decays {
            ensure((0.0..1.0).contains(&value), key, value, "a number from 0 up to, not including, 1")?;
        }
        let divides = self.batch_sequences.is_multiple_of(self.micro_batch());
        ensure(divides, "micro_batch_sequences", self.micro_batch(), "a divisor of batch_sequences")?;
        let has_evaluations = self.patience == 0 || self.eval_every > 0;
        ensure(
            has_evaluations,
            "eval_every",
            self.eval_every,
            "above 0, since `patience` counts evaluations",
        )?;
        let divides = self.short_context == 0 || self.context.is_multiple_of(self.short_context);
        ensure(divides, "short_context", self.short_context, "a divisor of context, or 0")?;
        ensure(self.short_steps <= self.steps, "short_steps", self.short_steps, "at most steps")?;
        let course = self.schedule.warmup_steps + self.schedule.decay_steps;
        let fits = self.schedule.kind != ScheduleKind::WarmupStableDecay || course <= self.steps;
        ensure(fits, "schedule.decay_steps", self.schedule.decay_steps, "with warmup_steps at most steps")
    }
}

fn ensure(holds: bool, key: &'static str, value: impl std::fmt::Display, needed: &'static str) -> Result<()> {
    match holds {
        true => Ok(()),
        false => Err(Error::Options { key, value: value.to_string(), needed }),
    }
}

fn one() -> f32 {
    1.0
}

fn two() -> usize {
    2
}

fn two_nats() -> f64 {
    2.0
}

fn ten() -> usize {
    10
}

fn sixty() -> f64 {
    60.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn unusable_options_name_their_key() {
        type Change = fn(&mut TrainOptions);
        let cases: [(&str, Change); 14] = [
            ("short_context", |o| o.short_context = 48),
            ("short_steps", |o| o.short_steps = 101),
            ("steps", |o| o.steps = 0),
            ("context", |o| o.context = 0),
            ("micro_batch_sequences", |o| o.micro_batch_sequences = 3),
            ("micro_batch_sequences", |o| o.micro_batch_sequences = 16),
            ("optimiser.learning_rate", |o| o.optimiser.learning_rate = f64::NAN),
            ("optimiser.beta2", |o| o.optimiser.beta2 = 1.0),
            ("clip", |o| o.clip = -1.0),
            ("explosion_nats", |o| o.explosion_nats = -1.0),
            ("explosion_steps", |o| o.explosion_steps = 0),
            ("eval_every", |o| o.patience = 1),
            ("keep_checkpoints", |o| o.keep_checkpoints = 0),
            ("schedule.decay_steps", |o| {
                o.schedule.kind = ScheduleKind::WarmupStableDecay;
                o.schedule.decay_steps = 101;
            }),
        ];
        let good = TrainOptions::new(100, 8, 64);
        good.check().unwrap();
        for (key, change) in cases {
            let mut bad = good.clone();
            change(&mut bad);
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains(&format!("`{key}`")), "{key}: {message}");
        }
    }

    #[test]
    fn missing_keys_take_defaults_and_unknown_ones_are_refused() {
        let read = |json: &str| serde_json::from_str::<TrainOptions>(json);
        let short = r#"{"steps": 10, "batch_sequences": 4, "context": 32}"#;
        assert_eq!(read(short).unwrap(), TrainOptions::new(10, 4, 32));
        let unknown = r#"{"steps": 10, "batch_sequences": 4, "context": 32, "lr": 1}"#;
        assert!(read(unknown).unwrap_err().to_string().contains("`lr`"));
        let nested =
            r#"{"steps": 1, "batch_sequences": 1, "context": 1, "optimiser": {"kind": "muon", "mu": 1}}"#;
        assert!(read(nested).unwrap_err().to_string().contains("`mu`"));
        let round = serde_json::to_string(&TrainOptions::new(10, 4, 32)).unwrap();
        assert_eq!(read(&round).unwrap(), TrainOptions::new(10, 4, 32));
    }

    #[test]
    fn muon_scales_are_those_of_their_papers() {
        let cases = [
            (MuonScale::Original, 64, 256, 1.0),
            (MuonScale::Original, 256, 64, 2.0),
            (MuonScale::MatchRmsAdamw, 64, 256, 3.2),
            (MuonScale::MatchRmsAdamw, 256, 64, 3.2),
        ];
        for (scale, rows, cols, expected) in cases {
            assert!((scale.factor(rows, cols) - expected).abs() < 1e-12, "{scale:?} {rows}×{cols}");
        }
    }
}
