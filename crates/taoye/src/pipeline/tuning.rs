//! Training of a model that exists, from its folder and files to a new folder: data, sizing, scores before, training,
//! scores after. It must not know the command line.

mod chat;
mod data;
mod scores;
mod summary;

use super::prepare::{Ends, HELD_OUT_SHARD, TRAIN_SHARD};
use super::rehearsal::{self, StagePlan};
use super::sizing::measure;
use super::training::{Training, some_samples};
use super::{Ended, Run};
use crate::recipe::{DataKind, Tuning, TuningSized};
use anyhow::{Context as _, Result, bail};
use data::Data;
use model::{Adapters, Config, Parameters};
use plan::memory::Estimate;
use serde_json::json;
use std::path::{Path, PathBuf};
use token::pack::Room;
use token::{END_OF_TEXT, Tokenizer};
use train::{Init, PackedShards, Samples, TrainOptions};

/// The stage's name in events and checkpoints.
const STAGE: &str = "train";
/// Share of the free memory that may be used when the micro-batch is chosen.
const MEMORY_SHARE: f64 = 0.8;
/// Share of the measured speed that is counted on: a shared machine is not always as quick as when it was measured.
const SPEED_COUNTED_ON: f64 = 0.85;
/// Files of a tokenizer, as Hugging Face folders hold them; those that are there are copied as they are.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
];

/// The model to start from.
struct Base {
    folder: PathBuf,
    config: Config,
    tokenizer: Tokenizer,
    /// What encloses a document.
    ends: Ends,
    /// Hash of its weights.
    hash: String,
}

/// Sequences to train and to evaluate on.
struct Sequences {
    train: PackedShards,
    evaluation: Option<PackedShards>,
}

impl Run<'_, Tuning> {
    pub(super) fn tune(mut self) -> Result<Ended> {
        let base = Base::open(self.recipe.init.as_deref().context("`init` is missing")?)?;
        self.folder.record_input(&base.folder.display().to_string(), &base.hash)?;
        let data = self.timed("data", |run| run.data(&base))?;
        let options = self.timed("sizing", |run| run.decide(&base, &data))?;
        let before = self.timed("scores before", |run| run.scores_before(&base, &data))?;
        let trained = self.timed(STAGE, |run| run.train_further(&base, &data, &options))?;
        if trained.is_none() {
            return Ok(Ended::Interrupted);
        }
        let after = self.timed("scores after", |run| run.scores_after(&base, &data))?;
        self.summarise(&base, &data, &before, &after)?;
        Ok(Ended::Done)
    }

    /// Goes as far as training and tells what that would take.
    pub(super) fn rehearse_tuning(mut self) -> Result<()> {
        let base = Base::open(self.recipe.init.as_deref().context("`init` is missing")?)?;
        let data = self.timed("data", |run| run.data(&base))?;
        let options = self.timed("sizing", |run| run.decide(&base, &data))?;
        let samples = self.sequences(&base, &data, options.context)?.train;
        let plan = StagePlan {
            name: STAGE,
            config: &base.config,
            estimate: self.memory(&base.config, &options)?,
            options: &options,
            samples: &samples,
            shards: &samples,
            tokenizer: &base.tokenizer,
            epochs: Some((options.steps * options.batch_sequences) as f64 / samples.len() as f64),
        };
        let (text, value) = rehearsal::describe(&self.device, self.start(&base, &options)?, &plan)?;
        self.context.print(&text, &json!({"stages": [value]}));
        Ok(())
    }

    /// Decides what is open, writes the run's recipe, and returns how to train.
    fn decide(&mut self, base: &Base, data: &Data) -> Result<TrainOptions> {
        let positions = base.config.max_positions;
        if self.recipe.sized.is_none() {
            let sequences = self.sequences(base, data, self.recipe.options(1, positions).context)?;
            let mut recipe = self.recipe.clone();
            let mut tokens_per_s = None;
            if recipe.steps.is_none() {
                let options = recipe.options(1, positions);
                recipe.steps = Some(match recipe.minutes {
                    Some(minutes) => {
                        let options = self.within_memory(&base.config, options)?;
                        let start = self.start(base, &options)?;
                        let speed = measure(&self.device, start, &options, &sequences.train)?;
                        tokens_per_s = Some(speed);
                        steps_in(60.0 * minutes - self.seconds_gone(), speed, &options)?
                    }
                    None => {
                        let epochs = recipe.epochs.unwrap_or(data.kind.epochs());
                        (epochs * sequences.train.len() as f64 / options.batch_sequences as f64).ceil()
                            as usize
                    }
                });
            }
            recipe.sized = Some(TuningSized {
                asked: self.asked.clone(),
                peak_gflops: tensor::limits::fma_peak(self.device.exec()),
                tokens_per_s,
            });
            let text =
                format!("# Written by taoye: the recipe as run, all sizes decided.\n{}", recipe.to_toml()?);
            base::fs::write_bytes(&self.folder.recipe(), text.as_bytes())?;
            self.recipe = recipe;
        }
        let steps = self.recipe.steps.context("the run's recipe has no steps; begin again with --fresh")?;
        let options = self.within_memory(&base.config, self.recipe.options(steps, positions))?;
        self.context.say(&format!(
            "sizes: {:.2} M parameters; {steps} steps of {} × {} tokens, {} sequences at once",
            base.config.parameter_count() as f64 / 1e6,
            options.batch_sequences,
            options.context,
            options.micro_batch(),
        ));
        Ok(options)
    }

    /// Memory that training needs.
    fn memory(&self, config: &Config, options: &TrainOptions) -> Result<Estimate> {
        let threads = self.context.threads;
        Ok(match self.recipe.adapters()? {
            Some(adapters) => train::adapter_memory_estimate(config, &adapters, options, threads),
            None => train::memory_estimate(config, options, threads),
        })
    }

    /// What training starts from: the weights, or new adapters over them.
    fn start(&self, base: &Base, options: &TrainOptions) -> Result<Init> {
        let parameters = Parameters::load(&self.device, &base.folder)?;
        Ok(match self.recipe.adapters()? {
            Some(adapters) => {
                let adapters = Adapters::init(&self.device, &parameters.decoder, &adapters, options.seed)?;
                Init::Adapters { base: parameters, adapters }
            }
            None => Init::Weights(parameters),
        })
    }

    /// The options with as many sequences at once as there is memory for, unless the recipe says how many. The result
    /// does not depend on it.
    fn within_memory(&self, config: &Config, mut options: TrainOptions) -> Result<TrainOptions> {
        let free = base::machine::memory_available_bytes();
        let Some(free) = free.filter(|_| self.recipe.micro_batch.is_none()) else { return Ok(options) };
        let batch = options.batch_sequences;
        for sequences in (1..=batch).rev().filter(|sequences| batch.is_multiple_of(*sequences)) {
            options.micro_batch_sequences = sequences;
            if self.memory(config, &options)?.total_bytes() as f64 <= MEMORY_SHARE * free as f64 {
                break;
            }
        }
        Ok(options)
    }

    fn sequences(&self, base: &Base, data: &Data, context: usize) -> Result<Sequences> {
        let room = match data.kind {
            DataKind::Documents => Room::Fill,
            DataKind::Chat => Room::Leave,
        };
        let open =
            |shard: &str| PackedShards::open(&[self.folder.join(shard)], &base.tokenizer, context, room);
        Ok(Sequences { train: open(TRAIN_SHARD)?, evaluation: some_samples(open(HELD_OUT_SHARD))? })
    }

    /// Trains, or finds it done; none when interrupted.
    fn train_further(&mut self, base: &Base, data: &Data, options: &TrainOptions) -> Result<Option<()>> {
        let stated = format!("{:?} {:?}", options.deciding(), self.recipe.adapters()?);
        let parts = [self.fingerprint_of("data"), base.hash.clone(), stated];
        let fingerprint = base::run::fingerprint(parts.iter().map(String::as_str));
        if self.is_done(STAGE, &fingerprint) {
            return Ok(Some(()));
        }
        let sequences = self.sequences(base, data, options.context)?;
        let training = Training {
            name: STAGE,
            options,
            train: &sequences.train,
            evaluation: sequences.evaluation.as_ref().map(|samples| samples as &dyn Samples),
            peak_gflops: self.recipe.sized.as_ref().map(|sized| sized.peak_gflops),
            output: "model",
            base_name: &base.folder.display().to_string(),
            save_tokenizer: &|folder| base.copy_tokenizer(folder),
        };
        let init = self.start(base, options)?;
        Ok(self.train(&training, init, &fingerprint)?.map(drop))
    }
}

impl Base {
    fn open(folder: &Path) -> Result<Base> {
        let config = Config::load(folder)?;
        config.check_trainable().map_err(|reason| anyhow::anyhow!("{}: {reason}", folder.display()))?;
        let tokenizer = Tokenizer::load(folder)?;
        if tokenizer.vocab_size() > config.vocab_size {
            bail!(
                "{}: the tokenizer has {} ids, but the model's vocabulary only {}; they do not belong together",
                folder.display(),
                tokenizer.vocab_size(),
                config.vocab_size
            );
        }
        let of_tokenizer = tokenizer.special(END_OF_TEXT).or(tokenizer.eos_id());
        let end = of_tokenizer.or(config.eos_token_ids.first().copied());
        let end = end.with_context(|| {
            format!("{}: neither tokenizer nor model names an end of text", folder.display())
        })?;
        let start = tokenizer.special(END_OF_TEXT).or(config.bos_token_id).unwrap_or(end);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                names.push(path);
            }
        }
        if names.is_empty() {
            bail!("{} holds no weights: model.safetensors is missing", folder.display());
        }
        names.sort();
        let hashes = names.iter().map(|path| base::hash::hash_file(path)).collect::<Result<Vec<_>, _>>()?;
        let config_text = config.to_json().to_string();
        let parts = hashes.iter().map(String::as_str).chain([config_text.as_str()]);
        let hash = base::hash::hash_parts(parts);
        Ok(Base { folder: folder.to_owned(), config, tokenizer, ends: Ends { start, end }, hash })
    }

    fn copy_tokenizer(&self, to: &Path) -> Result<()> {
        for name in TOKENIZER_FILES {
            let from = self.folder.join(name);
            if from.exists() {
                let bytes =
                    std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
                base::fs::write_bytes(&to.join(name), &bytes)?;
            }
        }
        Ok(())
    }
}

/// Steps for the seconds that are left.
fn steps_in(seconds: f64, tokens_per_s: f64, options: &TrainOptions) -> Result<usize> {
    let steps = (SPEED_COUNTED_ON * seconds * tokens_per_s / options.batch_tokens() as f64).floor();
    if steps < 1.0 {
        bail!(
            "the minutes do not suffice for one step: {:.0} s are left, and a step of {} tokens takes {:.0} s",
            seconds.max(0.0),
            options.batch_tokens(),
            options.batch_tokens() as f64 / tokens_per_s
        );
    }
    Ok(steps as usize)
}
