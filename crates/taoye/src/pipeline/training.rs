//! The stages that train: pretraining on documents, fine-tuning on tasks.

use super::Run;
use super::prepare::{HELD_OUT_SHARD, TASKS_SHARD, TRAIN_SHARD};
use super::save_tokenizer;
use anyhow::{Context as _, Result};
use model::Parameters;
use std::ops::ControlFlow;
use std::path::PathBuf;
use token::pack::Room;
use token::{MESSAGE_END, Tokenizer};
use train::{Init, Outcome, PackedShards, Samples, Stage, TrainOptions};

/// Folder of the pretrained model.
pub const BASE_MODEL: &str = "base-model";

/// What a training stage is made of.
struct Training<'a> {
    name: &'static str,
    options: &'a TrainOptions,
    train: &'a dyn Samples,
    evaluation: Option<&'a dyn Samples>,
    /// Where the model goes, inside the run.
    output: &'static str,
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
        let open = |shard: &str| PackedShards::open(&[self.folder.join(shard)], options.context, Room::Fill);
        let train = open(TRAIN_SHARD)?;
        let held_out = match open(HELD_OUT_SHARD) {
            Ok(samples) => Some(samples),
            // Nothing was held out.
            Err(train::Error::Data { .. }) => None,
            Err(damage) => return Err(damage.into()),
        };
        let evaluation = held_out.as_ref().map(|samples| samples as &dyn Samples);
        let training =
            Training { name: "pretrain", options: &options, train: &train, evaluation, output: BASE_MODEL };
        let init = Init::Random(self.config(tokenizer)?);
        self.train(&training, init, tokenizer, &fingerprint)
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
        let train = PackedShards::open(&[shard], options.context, Room::Leave)?;
        let training = Training {
            name: "finetune",
            options: &options,
            train: &train,
            evaluation: None,
            output: "model",
        };
        let base = Parameters::load(&self.device, &self.folder.join(BASE_MODEL))?;
        Ok(self.train(&training, Init::Weights(base), tokenizer, &fingerprint)?.map(drop))
    }

    fn config(&self, tokenizer: &Tokenizer) -> Result<model::Config> {
        let end_of_text = tokenizer.eos_id().context("the tokenizer has no end-of-text token")?;
        let ends = tokenizer.special(MESSAGE_END).into_iter().chain([end_of_text]).collect();
        self.recipe.model.config(tokenizer.vocab_size(), ends, Some(end_of_text))
    }

    fn train(
        &mut self,
        training: &Training<'_>,
        init: Init,
        tokenizer: &Tokenizer,
        fingerprint: &str,
    ) -> Result<Option<Parameters>> {
        let checkpoints = self.folder.checkpoints().join(training.name);
        base::fs::create_folder(&checkpoints)?;
        let peak = self.recipe.sized.as_ref().map(|sized| sized.peak_gflops * 1e9);
        let stage = Stage {
            name: training.name,
            device: &self.device,
            init,
            train: training.train,
            evaluation: training.evaluation,
            checkpoints: &checkpoints,
            events: &self.folder.events(),
            options: training.options,
            peak_flops: peak,
            progress: self.context.progress,
        };
        let outcome = train::run(stage, &mut |_| match base::interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })?;
        let finished = match outcome {
            Outcome::Finished(finished) => finished,
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
        finished.parameters.save(&folder)?;
        save_tokenizer(tokenizer, &folder)?;
        self.folder.mark_stage(training.name, fingerprint, &[PathBuf::from(training.output)])?;
        Ok(Some(finished.parameters))
    }
}
