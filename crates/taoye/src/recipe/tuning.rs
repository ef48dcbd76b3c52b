//! Training of a model that exists: what `taoye train` is told, by flags or as TOML with the same names. It must
//! not run anything.

use super::AnyRecipe;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use model::{AdapterOptions, Module};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use train::{Decay, MuonScale, OptimiserKind, OptimiserOptions, Schedule, ScheduleKind, TrainOptions};

/// Sequences of a step.
const BATCH: usize = 8;
/// Tokens of a sequence, where the model has as many positions.
const CONTEXT: usize = 512;
/// Times that conversations are read: as Alpaca was trained (Taori et al. 2023, "Stanford Alpaca").
const CHAT_EPOCHS: f64 = 3.0;
/// AdamW's learning rate for all weights, also Alpaca's.
const LEARNING_RATE: f64 = 2e-5;
/// AdamW's learning rate for adapters (Dettmers et al. 2023, "QLoRA", table 9).
const ADAPTER_LEARNING_RATE: f64 = 2e-4;
/// Share of the steps over which the learning rate rises, also Alpaca's.
const WARMUP_SHARE: f64 = 0.03;
/// Share of the steps over which it falls at the end, with `warmup-stable-decay`.
const DECAY_SHARE: f64 = 0.2;
/// Evaluations on the way.
const EVALUATIONS: usize = 10;
/// Most evaluation sequences each time.
const EVALUATION_SEQUENCES: usize = 64;

/// How a model is trained further. What is left out is decided from the data and the model.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// Name of the run's folder [default: the model's folder's, with -tuned]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The model to start from: a folder with config.json, model.safetensors and tokenizer.json
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// What to learn: documents (txt, md, source code, jsonl with `text`; also .gz and .zst), or
    /// conversations (jsonl with `messages`), of which the assistant's turns are learned
    #[arg(long, value_name = "PATH", num_args = 1..)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<PathBuf>,
    /// Evaluate on these files instead of on a held-out share of the data
    #[arg(long, value_name = "PATH", num_args = 1..)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub eval_data: Vec<PathBuf>,
    /// Share of the data that is held out for evaluation [default: 0.05]
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_share: Option<f64>,
    /// Most megabytes of documents to keep [default: all]
    #[arg(long, value_name = "MB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_megabytes: Option<u64>,
    /// Optimiser steps
    #[arg(long, value_name = "N", conflicts_with_all = ["epochs", "minutes"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Times that the data are read [default: 1 for documents, 3 for conversations]
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// As many steps as take about this long on this machine
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// Sequences in each step [default: 8]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Sequences that go through the model at once; changes memory, never the result [default: as many
    /// as fit]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Tokens in a sequence [default: 512, or the model's positions if fewer]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// Peak learning rate [default: 2e-5; with adapters 2e-4]
    #[arg(long, value_name = "RATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// The learning rate's course after the warm-up [default: cosine]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Course>,
    /// Share of the steps over which the learning rate rises [default: 0.03]
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_share: Option<f64>,
    /// AdamW, or Muon for the matrices inside layers [default: adamw]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimiser: Option<OptimiserName>,
    /// Decoupled weight decay of matrices [default: 0]
    #[arg(long, value_name = "RATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Largest gradient norm; 0: no limit [default: 1]
    #[arg(long, value_name = "NORM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Seed of the data's order [default: 1]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Steps between evaluations [default: a tenth of the steps]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<usize>,
    /// Steps between checkpoints, beside one a minute [default: none by steps]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<usize>,
    /// Keep only each layer's input and compute the rest again: less memory, more time
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub checkpointing: bool,
    /// Train low-rank adapters of this rank (LoRA) over the weights as they are, instead of the weights
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<usize>,
    /// Adapters are multiplied with alpha / rank [default: twice the rank]
    #[arg(long, value_name = "ALPHA", requires = "lora_rank")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Matrices of each layer that get adapters, such as q_proj,v_proj [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "lora_rank")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lora_targets: Vec<String>,
    /// Stop after so many evaluations without a better one [default: never]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// End with the weights of the best evaluation instead of the last ones
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_best: bool,
    /// Stop when the loss stays so many nats above its lowest running mean; 0: never [default: 2]
    #[arg(long, value_name = "NATS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explosion_nats: Option<f64>,
    /// Steps in a row that it must stay there [default: 10]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explosion_steps: Option<usize>,
    /// What left-out sizes were decided by; absent until they are decided.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sized: Option<TuningSized>,
}

/// Courses of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// Half a cosine down to a tenth.
    Cosine,
    /// Stays at the peak.
    Constant,
    /// Stays at the peak, then falls to zero over the last fifth.
    WarmupStableDecay,
}

/// The optimisers by the names that people type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserName {
    /// AdamW for everything.
    #[value(name = "adamw")]
    AdamW,
    /// Muon for the matrices inside layers, AdamW for the rest.
    Muon,
}

/// What left-out sizes were decided by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningSized {
    /// Hash of the recipe as asked for; a run continues only under the same one.
    pub asked: String,
    /// The arithmetic peak measured, in GFLOP/s.
    pub peak_gflops: f64,
    /// Tokens/s of measured steps, where the minutes decided their number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
}

/// What the data turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// Texts, learned whole.
    Documents,
    /// Conversations, of which the assistant's turns are learned.
    Chat,
}

impl DataKind {
    /// Times that such data are read unless told otherwise.
    pub fn epochs(self) -> f64 {
        match self {
            DataKind::Documents => 1.0,
            DataKind::Chat => CHAT_EPOCHS,
        }
    }
}

impl AnyRecipe for Tuning {
    fn run_name(&self) -> String {
        let folder = self.init.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
        self.name.clone().unwrap_or_else(|| format!("{}-tuned", folder.as_deref().unwrap_or("model")))
    }

    fn hash(&self) -> Result<String> {
        let asked = Tuning { sized: None, ..self.clone() };
        Ok(base::hash::hash_bytes(asked.to_toml()?.as_bytes()))
    }

    fn load(path: &Path) -> Result<Tuning> {
        Tuning::parse(&super::read(path)?, path)
    }

    fn decided_for(&self) -> Option<&str> {
        Some(self.sized.as_ref()?.asked.as_str())
    }
}

impl Tuning {
    /// Reads a recipe's text; `path` is for messages only.
    ///
    /// # Errors
    /// When a key is unknown or ill-typed, with line, column and the nearest key.
    pub fn parse(text: &str, path: &Path) -> Result<Tuning> {
        Ok(base::toml::parse(text, path)?)
    }

    /// These settings, and those of `recipe` where these say nothing.
    ///
    /// # Errors
    /// When the number of steps is told in two ways.
    pub fn over(self, recipe: Tuning) -> Result<Tuning> {
        let is_length = |key: &str| matches!(key, "steps" | "epochs" | "minutes");
        let flags = toml::Table::try_from(self)?;
        let mut table = toml::Table::try_from(recipe)?;
        if flags.keys().any(|key| is_length(key)) {
            table.retain(|key, _| !is_length(key));
        }
        table.extend(flags);
        Ok(table.try_into()?)
    }

    /// The recipe as TOML.
    ///
    /// # Errors
    /// When a value cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }

    /// Refuses values that no run could use.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<()> {
        if self.init.is_none() {
            bail!("`init` is missing: the folder of the model to start from (--init DIR)");
        }
        if self.data.is_empty() {
            bail!("`data` is missing: files or folders to learn from (--data PATH…)");
        }
        let lengths = [self.steps.is_some(), self.epochs.is_some(), self.minutes.is_some()];
        if lengths.iter().filter(|given| **given).count() > 1 {
            bail!("give one of `steps`, `epochs` and `minutes`, not several");
        }
        let above_zero = [("epochs", self.epochs), ("minutes", self.minutes)];
        for (key, value) in above_zero.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            if !(value.is_finite() && value > 0.0) {
                bail!("`{key}` is {value}; it must be above 0");
            }
        }
        let shares = [("held_out_share", self.held_out_share, 0.5), ("warmup_share", self.warmup_share, 1.0)];
        for (key, value, most) in shares {
            if value.is_some_and(|value| !(0.0..=most).contains(&value)) {
                bail!("`{key}` is {}; it must be from 0 to {most}", value.unwrap_or_default());
            }
        }
        self.options(self.steps.unwrap_or(1), CONTEXT).check()?;
        self.adapters()?;
        Ok(())
    }

    /// How the trainer is told to train, in `steps` steps of a model with so many `positions`.
    pub fn options(&self, steps: usize, positions: usize) -> TrainOptions {
        let context = self.context.unwrap_or(CONTEXT.min(positions));
        let mut options = TrainOptions::new(steps, self.batch.unwrap_or(BATCH), context);
        options.micro_batch_sequences = self.micro_batch.unwrap_or(0);
        options.optimiser = self.optimiser_options();
        options.schedule = self.schedule(steps);
        options.clip = self.clip.unwrap_or(1.0) as f32;
        options.seed = self.seed.unwrap_or(1);
        options.eval_every = self.eval_every.unwrap_or(steps.div_ceil(EVALUATIONS));
        options.eval_sequences = EVALUATION_SEQUENCES;
        options.checkpoint_every = self.checkpoint_every.unwrap_or(0);
        options.activation_checkpointing = self.checkpointing;
        options.patience = self.patience.unwrap_or(0);
        options.keep_best = self.keep_best;
        options.explosion_nats = self.explosion_nats.unwrap_or(options.explosion_nats);
        options.explosion_steps = self.explosion_steps.unwrap_or(options.explosion_steps);
        options
    }

    /// The adapters to train; none where all weights are trained.
    ///
    /// # Errors
    /// Names an unknown matrix, or an option that no adapter could have.
    pub fn adapters(&self) -> Result<Option<AdapterOptions>> {
        let Some(rank) = self.lora_rank else {
            if self.lora_alpha.is_some() || !self.lora_targets.is_empty() {
                bail!("`lora_alpha` and `lora_targets` say nothing without `lora_rank`");
            }
            return Ok(None);
        };
        let module = |name: &String| {
            Module::from_name(name)
                .with_context(|| format!("`lora_targets`: {name} is none of {}", Module::names()))
        };
        let named = self.lora_targets.iter().map(module).collect::<Result<Vec<_>>>()?;
        let target_modules = if named.is_empty() { Module::ALL.to_vec() } else { named };
        let alpha = self.lora_alpha.unwrap_or(2.0 * rank as f64);
        let options = AdapterOptions { rank, alpha, target_modules, rslora: false };
        options.check().map_err(|reason| anyhow::anyhow!("{reason}"))?;
        Ok(Some(options))
    }

    fn optimiser_options(&self) -> OptimiserOptions {
        let default = if self.lora_rank.is_some() { ADAPTER_LEARNING_RATE } else { LEARNING_RATE };
        let rate = self.learning_rate.unwrap_or(default);
        let weight_decay = self.weight_decay.unwrap_or(0.0);
        OptimiserOptions {
            kind: match self.optimiser {
                None | Some(OptimiserName::AdamW) => OptimiserKind::AdamW,
                Some(OptimiserName::Muon) => OptimiserKind::Muon,
            },
            learning_rate: rate,
            beta2: 0.999,
            weight_decay,
            // So that one learning rate and one decay serve both optimisers.
            muon_learning_rate: rate,
            muon_weight_decay: weight_decay,
            muon_scale: MuonScale::MatchRmsAdamw,
            ..OptimiserOptions::default()
        }
    }

    fn schedule(&self, steps: usize) -> Schedule {
        let share = |share: f64| (share * steps as f64).ceil() as usize;
        let course = self.schedule.unwrap_or(Course::Cosine);
        let warmup_steps = share(self.warmup_share.unwrap_or(WARMUP_SHARE)).min(steps);
        let (kind, floor, decay_steps) = match course {
            Course::Cosine => (ScheduleKind::Cosine, 0.1, 0),
            Course::Constant => (ScheduleKind::Constant, 1.0, 0),
            Course::WarmupStableDecay => {
                (ScheduleKind::WarmupStableDecay, 0.0, share(DECAY_SHARE).min(steps - warmup_steps))
            }
        };
        Schedule { kind, warmup_steps, decay_steps, decay: Decay::OneMinusSqrt, floor }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Tuning {
        Tuning::parse(text, Path::new("recipe.toml")).unwrap()
    }

    #[test]
    fn flags_come_before_the_recipe() {
        let recipe = read("init = 'a'\ndata = ['x', 'y']\nepochs = 2.0\nbatch = 4\ncheckpointing = true");
        let cases = [
            ("", "init = 'a'\ndata = ['x', 'y']\nepochs = 2.0\nbatch = 4\ncheckpointing = true"),
            ("steps = 5", "init = 'a'\ndata = ['x', 'y']\nsteps = 5\nbatch = 4\ncheckpointing = true"),
            (
                "data = ['z']\nbatch = 2",
                "init = 'a'\ndata = ['z']\nepochs = 2.0\nbatch = 2\ncheckpointing = true",
            ),
        ];
        for (flags, expected) in cases {
            assert_eq!(read(flags).over(recipe.clone()).unwrap(), read(expected), "{flags}");
        }
        assert_eq!(read(&recipe.to_toml().unwrap()), recipe);
    }

    #[test]
    fn unusable_values_name_their_key() {
        let good = "init = 'a'\ndata = ['x']\n";
        read(good).check().unwrap();
        let cases = [
            ("data = ['x']", "`init`"),
            ("init = 'a'", "`data`"),
            ("init = 'a'\ndata = ['x']\nsteps = 3\nepochs = 1.0", "`epochs`"),
            ("init = 'a'\ndata = ['x']\nminutes = 0.0", "`minutes`"),
            ("init = 'a'\ndata = ['x']\nheld_out_share = 0.9", "`held_out_share`"),
            ("init = 'a'\ndata = ['x']\nsteps = 0", "`steps`"),
            ("init = 'a'\ndata = ['x']\nbatch = 4\nmicro_batch = 3", "`micro_batch_sequences`"),
            ("init = 'a'\ndata = ['x']\nlora_alpha = 3.0", "`lora_rank`"),
            ("init = 'a'\ndata = ['x']\nlora_rank = 2\nlora_targets = ['lm_head']", "lm_head"),
            ("init = 'a'\ndata = ['x']\nlearning_rate = -1.0", "`optimiser.learning_rate`"),
        ];
        for (text, key) in cases {
            let message = read(text).check().unwrap_err().to_string();
            assert!(message.contains(key), "{text}: {message}");
        }
    }
}
