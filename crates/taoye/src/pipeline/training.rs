//! The stages that train: pretraining on documents, fine-tuning on tasks.

use super::Run;
use super::prepare::{HELD_OUT_SHARD, TASKS_SHARD, TRAIN_SHARD};
use super::rehearsal::{self, StagePlan};
use super::save_tokenizer;
use anyhow::{Context as _, Result};
use model::Parameters;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use token::pack::Room;
use token::{MESSAGE_END, Tokenizer};
use train::{Finished, GrowingContext, Init, Outcome, PackedShards, Samples, Stage, TrainOptions};

/// Folder of the pretrained model.
pub const BASE_MODEL: &str = "base-model";

/// Folder of trained adapters, as PEFT reads it; `model` holds them merged.
const ADAPTER: &str = "adapter";

/// What a training stage is made of.
pub(super) struct Training<'a> {
    pub name: &'static str,
    pub options: &'a TrainOptions,
    pub train: &'a dyn Samples,
    pub evaluation: Option<&'a dyn Samples>,
    /// The machine's arithmetic peak in GFLOP/s, if it was measured.
    pub peak_gflops: Option<f64>,
    /// Where the model goes, inside the run.
    pub output: &'static str,
    /// Where the weights that adapters belong to come from, for the adapters' own files.
    pub base_name: &'a str,
    /// Puts the tokenizer's files beside the model's.
    pub save_tokenizer: &'a dyn Fn(&Path) -> Result<()>,
}

impl Run<'_> {
    /// Pretrains, or reads what was pretrained; none when interrupted.
    pub(super) fn pretrain(&mut self, tokenizer: &Tokenizer) -> Result<Option<Parameters>> {
        let options = self.recipe.pretrain.clone();
        let stated = format!("{:?} {:?}", self.recipe.model, options.deciding());
        let fingerprint = base::run::fingerprint([self.fingerprint_of("shards").as_str(), &stated]);
        if self.is_done("pretrain", &fingerprint) {
            return Ok(Some(Parameters::load(&self.device, &self.folder.join(BASE_MODEL))?));
        }
        let open = |shard: &str| {
            PackedShards::open(&[self.folder.join(shard)], tokenizer, options.context, Room::Fill)
        };
        let train = [self.folder.join(TRAIN_SHARD)];
        let train = GrowingContext::open(&train, tokenizer, &options, Room::Fill)?;
        let held_out = some_samples(open(HELD_OUT_SHARD))?;
        let evaluation = held_out.as_ref().map(|samples| samples as &dyn Samples);
        let training = Training {
            name: "pretrain",
            options: &options,
            train: &train,
            evaluation,
            peak_gflops: self.peak_gflops(),
            output: BASE_MODEL,
            base_name: "",
            save_tokenizer: &|folder| save_tokenizer(tokenizer, folder),
        };
        let init = Init::Random(self.config(tokenizer)?);
        Ok(self.train(&training, init, &fingerprint)?.map(|finished| finished.parameters))
    }

    /// Fine-tunes on tasks, or finds it done; none when interrupted.
    pub(super) fn finetune(&mut self, tokenizer: &Tokenizer) -> Result<Option<()>> {
        let options = self.recipe.finetune.train.clone();
        let stated = format!("{} {} {:?}", self.recipe.seed, self.recipe.finetune.items, options.deciding());
        let fingerprint = base::run::fingerprint([self.fingerprint_of("pretrain").as_str(), &stated]);
        if self.is_done("finetune", &fingerprint) {
            return Ok(Some(()));
        }
        let shard = self.folder.join(TASKS_SHARD);
        let tasks_fingerprint = base::run::fingerprint([tokenizer.fingerprint().as_str(), &stated]);
        if !self.folder.stage_done("tasks", &tasks_fingerprint) {
            let tokens = (options.steps * options.batch_tokens()) as u64;
            self.task_shard(tokenizer, tokens)?;
            self.folder.mark_stage("tasks", &tasks_fingerprint, &[PathBuf::from(TASKS_SHARD)])?;
        }
        let train = PackedShards::open(&[shard], tokenizer, options.context, Room::Leave)?;
        let training = Training {
            name: "finetune",
            options: &options,
            train: &train,
            evaluation: None,
            peak_gflops: self.peak_gflops(),
            output: "model",
            base_name: BASE_MODEL,
            save_tokenizer: &|folder| save_tokenizer(tokenizer, folder),
        };
        let base = Parameters::load(&self.device, &self.folder.join(BASE_MODEL))?;
        Ok(self.train(&training, Init::Weights(base), &fingerprint)?.map(drop))
    }

    /// What pretraining would take.
    pub(super) fn plan_pretraining(&self, tokenizer: &Tokenizer) -> Result<(String, Value)> {
        let options = &self.recipe.pretrain;
        let shard = self.folder.join(TRAIN_SHARD);
        let samples = GrowingContext::open(&[shard], tokenizer, options, Room::Fill)?;
        let epochs = (options.steps * options.batch_tokens()) as f64 / samples.whole().tokens() as f64;
        self.plan(tokenizer, ("pretrain", options), (&samples, samples.whole()), Some(epochs))
    }

    /// What fine-tuning would take; its data are made for it, so that only the first batch is made here.
    pub(super) fn plan_finetuning(&self, tokenizer: &Tokenizer) -> Result<(String, Value)> {
        let options = &self.recipe.finetune.train;
        let shard = self.task_shard(tokenizer, options.batch_tokens() as u64)?;
        let samples = PackedShards::open(&[shard], tokenizer, options.context, Room::Leave)?;
        self.plan(tokenizer, ("finetune", options), (&samples, &samples), None)
    }

    fn plan(
        &self,
        tokenizer: &Tokenizer,
        (name, options): (&str, &TrainOptions),
        (samples, shards): (&dyn Samples, &PackedShards),
        epochs: Option<f64>,
    ) -> Result<(String, Value)> {
        let config = self.config(tokenizer)?;
        let estimate = train::memory_estimate(&config, options, self.context.threads);
        let start = Init::Random(config.clone());
        let plan = StagePlan { name, config: &config, estimate, options, samples, shards, tokenizer, epochs };
        rehearsal::describe(&self.device, start, &plan)
    }

    fn peak_gflops(&self) -> Option<f64> {
        self.recipe.sized.as_ref().map(|sized| sized.peak_gflops)
    }

    fn config(&self, tokenizer: &Tokenizer) -> Result<model::Config> {
        let end_of_text = tokenizer.eos_id().context("the tokenizer has no end-of-text token")?;
        let ends = tokenizer.special(MESSAGE_END).into_iter().chain([end_of_text]).collect();
        self.recipe.model.config(tokenizer.vocab_size(), ends, Some(end_of_text))
    }
}

impl<R> Run<'_, R> {
    /// Runs a stage and keeps its model; none when interrupted.
    pub(super) fn train(
        &mut self,
        training: &Training<'_>,
        init: Init,
        fingerprint: &str,
    ) -> Result<Option<Finished>> {
        let checkpoints = self.folder.checkpoints().join(training.name);
        base::fs::create_folder(&checkpoints)?;
        let stage = Stage {
            name: training.name,
            device: &self.device,
            init,
            train: training.train,
            evaluation: training.evaluation,
            checkpoints: &checkpoints,
            events: &self.folder.events(),
            options: training.options,
            peak_flops: training.peak_gflops.map(|peak| peak * 1e9),
            progress: self.context.progress,
        };
        let outcome = train::run(stage, &mut |_| match base::interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        let finished = match outcome {
            Outcome::Finished(finished) => *finished,
            Outcome::Interrupted { step, steps, checkpoint } => {
                self.context.say(&format!(
                    "{}: interrupted after step {step} of {steps}; saved {}. The same command goes on from there.",
                    training.name,
                    checkpoint.display()
                ));
                return Ok(None);
            }
        };
        let folder = self.folder.join(training.output);
        base::fs::create_folder(&folder)?;
        let mut outputs = vec![PathBuf::from(training.output)];
        let mut finished = finished;
        if let Some(adapters) = &finished.adapters {
            let folder = self.folder.join(ADAPTER);
            base::fs::create_folder(&folder)?;
            adapters.save(&folder, training.base_name)?;
            adapters.merge(&self.device, &mut finished.parameters);
            outputs.push(PathBuf::from(ADAPTER));
        }
        finished.parameters.save(&folder)?;
        (training.save_tokenizer)(&folder)?;
        self.folder.mark_stage(training.name, fingerprint, &outputs)?;
        Ok(Some(finished))
    }
}

/// The samples, or none where the shard is empty, as when nothing was held out.
pub(super) fn some_samples(opened: train::Result<PackedShards>) -> Result<Option<PackedShards>> {
    match opened {
        Ok(samples) => Ok(Some(samples)),
        Err(train::Error::Data { .. }) => Ok(None),
        Err(damage) => Err(damage.into()),
    }
}
