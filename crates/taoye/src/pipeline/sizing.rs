//! Sizes that the recipe leaves open: decided once, from the minutes and from speeds measured on this
//! machine, and written into the run's recipe before the first step.

use super::Run;
use super::prepare::TRAIN_SHARD;
use crate::recipe::{ModelPart, Recipe, Sized};
use anyhow::{Result, bail};
use model::Parameters;
use std::time::Instant;
use tensor::Device;
use token::Tokenizer;
use token::pack::Room;
use train::{Init, PackedShards, Samples, ScheduleKind, TrainOptions, Trainer};

/// Models to choose from, smallest first: (layers, width). The feed-forward layer is 8/3 of the width.
const LADDER: [(usize, usize); 14] = [
    (2, 64),
    (2, 96),
    (3, 96),
    (3, 128),
    (4, 128),
    (4, 160),
    (4, 192),
    (4, 256),
    (6, 256),
    (6, 320),
    (6, 384),
    (8, 512),
    (12, 640),
    (12, 768),
];
/// Widths of a head, the wanted one first; the first that leaves at least two heads is taken.
const HEAD_WIDTHS: [usize; 3] = [64, 48, 32];
/// Training tokens for each parameter that a token is multiplied with: fewer and the model is too large
/// for its time, more and it is too small (docs/LOG.md holds the trials).
const TOKENS_PER_PARAMETER: f64 = 14.0;
/// Share of the time left that goes to pretraining; the rest is fine-tuning.
const PRETRAIN_SHARE: f64 = 0.65;
/// Share of the minutes that is kept for scoring, and the seconds that it takes at least.
const SCORING_SHARE: f64 = 0.04;
const SCORING_SECONDS_MIN: f64 = 8.0;
/// Share of the whole-step arithmetic peak that small models reach, for the first guess at a size.
const SHARE_OF_PEAK: f64 = 0.6;
/// Share of the measured speeds that is counted on: a shared machine is not always as quick as when it was measured.
const SPEED_COUNTED_ON: f64 = 0.85;
/// Evaluations on held-out text during pretraining, for the curve, unless they would take more than their share.
const EVALUATIONS: usize = 10;
/// Share of the time in steps that evaluations may take.
const EVALUATION_SHARE: f64 = 0.015;
/// A sequence's forward pass beside its whole step: a third of the arithmetic.
const FORWARD_SHARE: f64 = 1.0 / 3.0;
/// Share of the steps over which the learning rate falls.
const DECAY_SHARE: f64 = 0.6;
/// Share of the steps with the short context, where the recipe names one.
const SHORT_SHARE: f64 = 0.75;

impl Run<'_> {
    /// Decides what is open and writes the run's recipe.
    pub(super) fn size(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        if self.recipe.sized.is_some() {
            self.context.say("sizes: decided before, kept");
            return Ok(());
        }
        let peak_flops = tensor::limits::fma_peak(self.device.exec()) * 1e9;
        let mut recipe = self.recipe.clone();
        recipe.pretrain.seed = recipe.seed;
        recipe.finetune.train.seed = recipe.seed;
        let mut sized = Sized {
            asked: self.asked.clone(),
            peak_gflops: peak_flops / 1e9,
            pretrain_tokens_per_s: 0.0,
            finetune_tokens_per_s: 0.0,
            seconds_before: self.seconds_gone(),
        };
        if !recipe.is_complete() {
            self.decide(tokenizer, &mut recipe, &mut sized)?;
        }
        recipe.sized = Some(sized);
        let text =
            format!("# Written by taoye: the recipe as run, all sizes decided.\n{}", recipe.to_toml()?);
        base::fs::write_bytes(&self.folder.recipe(), text.as_bytes())?;
        self.recipe = recipe;
        Ok(())
    }

    fn decide(&self, tokenizer: &Tokenizer, recipe: &mut Recipe, sized: &mut Sized) -> Result<()> {
        let total = 60.0 * recipe.minutes.unwrap_or(5.0);
        let scoring = (SCORING_SHARE * total).max(SCORING_SECONDS_MIN.min(0.3 * total));
        let left = total - scoring - self.seconds_gone();
        if left < 0.05 * total {
            bail!(
                "{:.0} s have gone by before training, of {total:.0} s in all: give more --minutes, or less text \
                 (`corpus.max_megabytes`)",
                self.seconds_gone()
            );
        }
        let pretrain_seconds = PRETRAIN_SHARE * left;
        let vocab = tokenizer.vocab_size();
        choose_model(&mut recipe.model, vocab, pretrain_seconds * SHARE_OF_PEAK * sized.peak_gflops * 1e9);
        let config = recipe.model.config(vocab, vec![], None)?;
        let measuring = Instant::now();
        let speed = |options: &TrainOptions| {
            let shard = self.folder.join(TRAIN_SHARD);
            let samples = PackedShards::open(&[shard], tokenizer, options.context, Room::Fill)?;
            measure(&self.device, Init::Random(config.clone()), options, &samples)
        };
        sized.pretrain_tokens_per_s = speed(&recipe.pretrain)?;
        sized.finetune_tokens_per_s = speed(&recipe.finetune.train)?;
        let left = (left - measuring.elapsed().as_secs_f64()) * SPEED_COUNTED_ON;
        decide_steps(&mut recipe.pretrain, sized.pretrain_tokens_per_s * PRETRAIN_SHARE * left);
        if recipe.pretrain.eval_every == 0 {
            recipe.pretrain.eval_every = recipe.pretrain.steps.div_ceil(evaluations(&recipe.pretrain));
        }
        decide_steps(&mut recipe.finetune.train, sized.finetune_tokens_per_s * (1.0 - PRETRAIN_SHARE) * left);
        let model = &recipe.model;
        self.context.say(&format!(
            "sizes: {} layers, width {}, {:.2} M parameters; {} steps of {} tokens, then {} of {}",
            model.layers,
            model.hidden_size,
            config.parameter_count() as f64 / 1e6,
            recipe.pretrain.steps,
            recipe.pretrain.batch_tokens(),
            recipe.finetune.train.steps,
            recipe.finetune.train.batch_tokens(),
        ));
        Ok(())
    }
}

/// Tokens a second of whole steps of a stage that starts from `start`.
///
/// # Errors
/// As [`Trainer::step`].
pub(super) fn measure(
    device: &Device,
    start: Init,
    options: &TrainOptions,
    samples: &dyn Samples,
) -> Result<f64> {
    let mut options = TrainOptions { steps: 8, short_steps: 0, ..options.clone() };
    options.schedule.decay_steps = 0;
    options.schedule.warmup_steps = 0;
    let mut trainer = match start {
        Init::Random(config) => Trainer::new(device, Parameters::init(device, config, 0), &options)?,
        Init::Weights(parameters) => Trainer::new(device, parameters, &options)?,
        Init::Adapters { base, adapters } => Trainer::over_frozen(device, base, adapters, &options)?,
    };
    trainer.step(samples, 0)?;
    let mut seconds: Vec<f64> = Vec::new();
    for step in 1..6 {
        let started = Instant::now();
        trainer.step(samples, step)?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok((options.batch_sequences * samples.context()) as f64 / seconds[seconds.len() / 2])
}

/// How many evaluations the steps can afford; with all held-out sequences, whose number is not known here, as many as
/// are wanted for the curve.
fn evaluations(options: &TrainOptions) -> usize {
    if options.eval_sequences == 0 {
        return EVALUATIONS;
    }
    let trained = (options.steps * options.batch_sequences) as f64;
    let affordable = EVALUATION_SHARE * trained / (FORWARD_SHARE * options.eval_sequences as f64);
    (affordable as usize).clamp(1, EVALUATIONS)
}

/// The largest model of the ladder that `flops` train for long enough.
fn choose_model(model: &mut ModelPart, vocab_size: usize, flops: f64) {
    if model.layers > 0 && model.hidden_size > 0 {
        return;
    }
    let shape = |&(layers, width): &(usize, usize)| {
        let ffn = (width * 8 / 3).next_multiple_of(32);
        let parameters = layers * (4 * width * width + 3 * width * ffn) + vocab_size * width;
        (layers, width, ffn, parameters as f64)
    };
    let fits = |parameters: f64| flops / (6.0 * parameters) >= TOKENS_PER_PARAMETER * parameters;
    let chosen = LADDER.iter().map(shape).rev().find(|shape| fits(shape.3)).unwrap_or(shape(&LADDER[0]));
    (model.layers, model.hidden_size, model.intermediate_size) = (chosen.0, chosen.1, chosen.2);
    let head = HEAD_WIDTHS.into_iter().find(|head| chosen.1.is_multiple_of(*head) && chosen.1 > *head);
    model.heads = chosen.1 / head.expect("every width of the ladder is a multiple of 32");
    model.kv_heads = model.heads;
}

fn decide_steps(options: &mut TrainOptions, tokens: f64) {
    if options.steps > 0 {
        return;
    }
    options.steps = ((tokens / options.batch_tokens() as f64) as usize).max(4);
    if options.short_context > 0 && options.short_steps == 0 {
        options.short_steps = (options.steps as f64 * SHORT_SHARE) as usize;
    }
    if options.schedule.kind == ScheduleKind::WarmupStableDecay && options.schedule.decay_steps == 0 {
        options.schedule.decay_steps = ((options.steps as f64 * DECAY_SHARE) as usize).max(1);
        options.schedule.warmup_steps =
            options.schedule.warmup_steps.min(options.steps - options.schedule.decay_steps);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::recipe::SPEEDRUN;
    use std::path::Path;

    #[test]
    fn evaluations_take_no_more_than_their_share() {
        let options = |steps, eval_sequences| {
            let mut options = TrainOptions::new(steps, 16, 512);
            options.eval_sequences = eval_sequences;
            options
        };
        for (steps, eval_sequences, expected) in
            [(10_000, 64, EVALUATIONS), (704, 64, 7), (140, 64, 1), (1, 64, 1), (140, 0, EVALUATIONS)]
        {
            assert_eq!(evaluations(&options(steps, eval_sequences)), expected, "{steps} steps");
        }
    }

    #[test]
    fn more_time_never_makes_a_smaller_model() {
        let recipe = Recipe::parse(SPEEDRUN, Path::new("speedrun.toml")).unwrap();
        let mut last = 0;
        for exponent in 10..19 {
            let mut model = recipe.model.clone();
            choose_model(&mut model, 4096, 10f64.powi(exponent));
            let config = model.config(4096, vec![], None).unwrap();
            assert!(config.parameter_count() >= last, "at 1e{exponent} operations");
            last = config.parameter_count();
        }
        assert!(last > 50_000_000, "the largest model is chosen when there is time enough");
    }
}
