//! Recipes: a whole pipeline from raw text to a scored model, as TOML. What is left to be sized is
//! decided once (see [`crate::pipeline`]) and written into the run's own copy. It must not run anything.

mod tuning;

pub use tuning::{DataKind, Tuning, TuningSized};

use anyhow::{Context, Result, bail};
use model::{Config, Family, Rope};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use train::TrainOptions;

/// The recipe that `taoye speedrun` runs; also in `recipes/speedrun.toml`.
pub const SPEEDRUN: &str = include_str!("../../../recipes/speedrun.toml");

/// What both kinds of recipe have.
pub trait AnyRecipe: std::marker::Sized {
    /// Name of the run's folder.
    fn run_name(&self) -> String;

    /// Hash of everything that the recipe asks for.
    ///
    /// # Errors
    /// When a value cannot be written as TOML.
    fn hash(&self) -> Result<String>;

    /// Reads a recipe.
    ///
    /// # Errors
    /// When it is missing or unusable.
    fn load(path: &Path) -> Result<Self>;

    /// The hash of the recipe that this one's sizes were decided for; none while sizes are open.
    fn decided_for(&self) -> Option<&str>;
}

/// A pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run's folder.
    pub name: String,
    /// Seed of the initial weights, the data's order and the tasks.
    pub seed: u64,
    /// How long everything may take; needed where sizes are left open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// From files to documents.
    pub corpus: CorpusPart,
    /// From documents to a vocabulary.
    pub tokenizer: TokenizerPart,
    /// The model's shape.
    pub model: ModelPart,
    /// Pretraining; `steps = 0` is sized from `minutes`.
    pub pretrain: TrainOptions,
    /// Fine-tuning on tasks; `steps = 0` is sized from `minutes`.
    pub finetune: FinetunePart,
    /// Scoring.
    pub evaluate: EvaluatePart,
    /// What the sizes that were left open were decided by; absent until they are decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sized: Option<Sized>,
}

/// From files to documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusPart {
    /// Files and folders; none: the crates in the local Cargo registry or in `vendor/`.
    pub inputs: Vec<PathBuf>,
    /// Most megabytes of text to keep.
    pub max_megabytes: u64,
    /// Share that is held out for evaluation.
    pub held_out_share: f64,
    /// Most that one crate may be of the text; folders given by hand are taken as they are.
    pub max_group_share: f64,
}

/// From documents to a vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerPart {
    /// Entries, special tokens included.
    pub vocab_size: usize,
    /// Most megabytes of documents to learn merges from.
    pub sample_megabytes: u64,
}

/// The model's shape; a size of 0 is chosen from `minutes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPart {
    /// `llama` or `qwen3`.
    pub family: String,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Longest context, in tokens.
    pub max_positions: usize,
    /// Base of the rotary embedding's wave lengths.
    pub rope_theta: f64,
    /// Whether the output projection is the embedding table.
    pub tie_embeddings: bool,
}

/// Fine-tuning on programmatic tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetunePart {
    /// Task conversations to make; 0: as many as the steps read once.
    pub items: usize,
    /// How it is trained.
    pub train: TrainOptions,
}

/// Scoring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluatePart {
    /// Most kilobytes of held-out documents to score.
    pub held_out_kilobytes: u64,
    /// Test questions in each family of tasks.
    pub items_per_family: usize,
}

/// What open sizes were decided by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sized {
    /// Hash of the recipe as asked for; a run continues only under the same one.
    pub asked: String,
    /// The arithmetic peak measured, in GFLOP/s.
    pub peak_gflops: f64,
    /// Tokens/s of pretraining steps measured with the chosen model.
    pub pretrain_tokens_per_s: f64,
    /// Tokens/s of fine-tuning steps measured with the chosen model.
    pub finetune_tokens_per_s: f64,
    /// Seconds that had gone by when the sizes were decided.
    pub seconds_before: f64,
}

impl AnyRecipe for Recipe {
    fn run_name(&self) -> String {
        self.name.clone()
    }

    fn hash(&self) -> Result<String> {
        let asked = Recipe { sized: None, ..self.clone() };
        Ok(base::hash::hash_bytes(asked.to_toml()?.as_bytes()))
    }

    fn load(path: &Path) -> Result<Recipe> {
        Recipe::parse(&read(path)?, path)
    }

    fn decided_for(&self) -> Option<&str> {
        Some(self.sized.as_ref()?.asked.as_str())
    }
}

impl Recipe {
    /// Reads a recipe's text; `path` is for messages only.
    ///
    /// # Errors
    /// When a key is unknown or ill-typed (with line, column and the nearest key), or a value unusable.
    pub fn parse(text: &str, path: &Path) -> Result<Recipe> {
        let recipe: Recipe = base::toml::parse(text, path)?;
        recipe.check().with_context(|| format!("in the recipe {}", path.display()))?;
        Ok(recipe)
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
        if !self.is_complete() && self.minutes.is_none() {
            bail!("sizes are left open (0), so `minutes` must say how long the run may take");
        }
        if self.minutes.is_some_and(|minutes| !(0.05..=100_000.0).contains(&minutes)) {
            bail!("`minutes` must be between 0.05 and 100000");
        }
        if !(0.0..=0.5).contains(&self.corpus.held_out_share) {
            bail!("`corpus.held_out_share` is {}; it must be from 0 to 0.5", self.corpus.held_out_share);
        }
        let sizes = self.model.sizes();
        if sizes.contains(&0) && sizes.iter().any(|size| *size > 0) {
            bail!(
                "[model]: give all of layers, hidden_size, heads, kv_heads and intermediate_size, or 0 for all"
            );
        }
        // Here rather than when the stage begins: before fine-tuning lie the hours of pretraining.
        if self.finetune.train.short_context > 0 {
            bail!("`finetune.train.short_context`: only pretraining can begin with a short context");
        }
        for (part, options) in [("pretrain", &self.pretrain), ("finetune.train", &self.finetune.train)] {
            if options.context > self.model.max_positions {
                bail!(
                    "`{part}.context` is {}, but `model.max_positions` is {}; make one shorter or the other longer",
                    options.context,
                    self.model.max_positions
                );
            }
            if options.steps > 0 {
                options.check().with_context(|| format!("[{part}]"))?;
            }
        }
        if self.tokenizer.vocab_size < 300 {
            bail!("`tokenizer.vocab_size` is {}; at least 300 are needed", self.tokenizer.vocab_size);
        }
        Ok(())
    }

    /// Whether no size is left open.
    pub fn is_complete(&self) -> bool {
        self.model.sizes().iter().all(|size| *size > 0)
            && self.pretrain.steps > 0
            && self.finetune.train.steps > 0
    }
}

impl ModelPart {
    /// The sizes that are decided together.
    fn sizes(&self) -> [usize; 5] {
        [self.layers, self.hidden_size, self.heads, self.kv_heads, self.intermediate_size]
    }

    /// The decoder's configuration; every size must be decided.
    ///
    /// # Errors
    /// When the family is unknown or the sizes do not fit each other.
    pub fn config(&self, vocab_size: usize, end_ids: Vec<u32>, bos: Option<u32>) -> Result<Config> {
        let family = match self.family.as_str() {
            "llama" => Family::Llama,
            "qwen3" => Family::Qwen3,
            other => bail!("`model.family` is `{other}`; recipes can make `llama` and `qwen3`"),
        };
        if self.heads == 0 || !self.hidden_size.is_multiple_of(self.heads) {
            bail!(
                "`model.hidden_size` ({}) is not a multiple of `model.heads` ({})",
                self.hidden_size,
                self.heads
            );
        }
        let config = Config {
            family,
            kv_heads: self.kv_heads,
            intermediate_size: self.intermediate_size,
            max_positions: self.max_positions,
            rope: Rope::plain(self.rope_theta),
            tie_embeddings: self.tie_embeddings,
            qk_norm: family == Family::Qwen3,
            bos_token_id: bos,
            eos_token_ids: end_ids,
            ..Config::llama(vocab_size, self.hidden_size, self.layers, self.heads)
        };
        config.validate().map_err(|reason| anyhow::anyhow!("[model]: {reason}"))?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read the recipe {}", path.display()))
}
