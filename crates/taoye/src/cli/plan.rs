//! The flags of `taoye plan`. It must not do anything.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Plan {
    #[command(subcommand)]
    pub command: Option<PlanCommand>,
    /// Measure this machine for a few seconds, and tell what it can train in the time of --hours
    #[arg(long)]
    pub here: bool,
    /// Hours that --here may train
    #[arg(long, value_name = "N", default_value_t = 8.0, requires = "here")]
    pub hours: f64,
}

#[derive(Subcommand)]
pub enum PlanCommand {
    /// Chips, days, memory, split, energy and money of a training run
    ///
    /// Of model, data, chips and days any three give the fourth. What is left out is found or assumed, and the
    /// assumption is shown. Numbers take units: 70B, 1.4T, 1PB, 10d, 6千亿.
    Train(Box<PlanTrain>),
    /// Memory, chips, tokens a second and money of serving a model
    Serve(Box<PlanServe>),
    /// The catalogue of chips, each figure with its source
    Chips(PlanChips),
    /// The growth of compute that a portfolio of organisations demands
    Forecast(PlanForecast),
    /// Published runs beside what this planner says of them
    Proof,
}

#[derive(Args)]
pub struct PlanTrain {
    /// A size such as 65B, a known model such as llama-3.1-8b, or a config.json or its folder
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Tokens to train on, such as 1.4T
    #[arg(long, value_name = "N", conflicts_with = "raw")]
    pub tokens: Option<String>,
    /// Raw data before curation, such as 1PB
    #[arg(long, value_name = "SIZE")]
    pub raw: Option<String>,
    /// Share of the raw bytes that curation keeps [default: 0.0127, GPT-3's of Common Crawl]
    #[arg(long, value_name = "SHARE", requires = "raw")]
    pub kept: Option<f64>,
    /// Bytes of text in a token [default: 4]
    #[arg(long, value_name = "N", requires = "raw")]
    pub bytes_per_token: Option<f64>,
    /// The chip, such as h100-sxm-80g; `taoye plan chips` lists them
    #[arg(long, value_name = "CHIP")]
    pub chip: String,
    /// How many chips
    #[arg(long, value_name = "N")]
    pub chips: Option<String>,
    /// The time there is, such as 34, 10d or 6 weeks
    #[arg(long, value_name = "TIME")]
    pub days: Option<String>,
    /// Operations a second and chip in 10¹², recomputed ones counted, instead of a predicted speed
    #[arg(long, value_name = "X", conflicts_with = "mfu")]
    pub tflops_per_chip: Option<f64>,
    /// Share of the peak by the model's operations, instead of a predicted speed
    #[arg(long, value_name = "SHARE")]
    pub mfu: Option<f64>,
    /// Tokens of a sequence [default: 4,096, or 2,048 for small and ungated models]
    #[arg(long, value_name = "N")]
    pub seq_len: Option<String>,
    /// Sequences of a step [default: near what models of this size were trained with]
    #[arg(long, value_name = "N")]
    pub global_batch: Option<String>,
    /// Replicas that see other data [default: found, as the others]
    #[arg(long, value_name = "N")]
    pub dp: Option<u32>,
    /// Chips that share each matrix
    #[arg(long, value_name = "N")]
    pub tp: Option<u32>,
    /// Stages of layers
    #[arg(long, value_name = "N")]
    pub pp: Option<u32>,
    /// Chips that share a layer's experts
    #[arg(long, value_name = "N")]
    pub ep: Option<u32>,
    /// Chips that share a sequence
    #[arg(long, value_name = "N")]
    pub cp: Option<u32>,
    /// Sequences that go through a stage at once
    #[arg(long, value_name = "N")]
    pub micro_batch: Option<u32>,
    /// What is computed again in the backward pass
    #[arg(long, value_enum)]
    pub recompute: Option<RecomputeFlag>,
    /// What replicas share: 1 optimiser state, 2 also gradients, 3 also weights; 0 nothing
    #[arg(long, value_name = "STAGE", value_parser = clap::value_parser!(u8).range(0..=3))]
    pub zero: Option<u8>,
    /// Type of the products: bf16, fp16, fp8, fp4, int8, tf32 or fp32
    #[arg(long, value_name = "TYPE")]
    pub precision: Option<String>,
    /// Which parameters are trained
    #[arg(long, value_enum, default_value = "full")]
    pub method: MethodFlag,
    /// Rank of adapters
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub rank: u32,
    /// Bits of a frozen weight, with --method qlora
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub bits: u32,
    /// What the training is for
    #[arg(long, value_enum, default_value = "pretrain")]
    pub stage: StageFlag,
    /// Share of the tokens that the model generates itself, with --stage reinforce
    #[arg(long, value_name = "SHARE", default_value_t = 0.8)]
    pub generated: f64,
    /// US dollars for a chip and hour
    #[arg(long, value_name = "X")]
    pub price: Option<f64>,
    /// Hours between failures of a chip [default: 50,675, Llama 3's]
    #[arg(long, value_name = "HOURS")]
    pub chip_mtbf: Option<f64>,
    /// From a failure until training goes on, such as 10min
    #[arg(long, value_name = "TIME")]
    pub restart: Option<String>,
    /// What storage takes in a second, such as 100GB
    #[arg(long, value_name = "SIZE")]
    pub storage: Option<String>,
    #[command(flatten)]
    pub show: PlanShow,
}

/// How a plan is shown, and what it knows of chips.
#[derive(Args)]
pub struct PlanShow {
    /// A catalogue of your own chips (TOML); those of the same name replace the shipped ones
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Formula and source of every number, or of one: --explain=mfu
    #[arg(long, value_name = "KEY", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    pub explain: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecomputeFlag {
    /// Nothing
    None,
    /// Attention's scores
    Selective,
    /// Every second layer
    Alternate,
    /// All layers
    Full,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodFlag {
    /// All, in mixed precision: 18 bytes a parameter
    Full,
    /// All, with everything in 16 bits: 8 bytes a parameter
    Pure16,
    /// Adapters beside 16-bit weights
    Lora,
    /// Adapters beside weights of --bits bits
    Qlora,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StageFlag {
    /// Next-token prediction on documents
    Pretrain,
    /// On conversations
    Finetune,
    /// Direct preference optimisation
    Preference,
    /// Reinforcement on answers that are generated and judged
    Reinforce,
}

#[derive(Args)]
pub struct PlanServe {
    /// A size such as 65B, a known model such as llama-3.1-8b, or a config.json or its folder
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// The chip, such as h100-sxm-80g; `taoye plan chips` lists them
    #[arg(long, value_name = "CHIP")]
    pub chip: String,
    /// Chips [default: as few as hold the model and meet --latency for --concurrency]
    #[arg(long, value_name = "N")]
    pub chips: Option<u32>,
    /// Tokens of a sequence at its end, prompt and answer
    #[arg(long, value_name = "N", default_value = "4096")]
    pub context: String,
    /// Of these, tokens of the prompt [default: half]
    #[arg(long, value_name = "N")]
    pub prompt: Option<String>,
    /// Sequences served at once [default: as many as fit]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<String>,
    /// The longest wait for each token, such as 30ms
    #[arg(long, value_name = "TIME")]
    pub latency: Option<String>,
    /// Bits of a weight
    #[arg(long, value_name = "N", default_value_t = 16.0)]
    pub weight_bits: f64,
    /// Type of keys and values: bf16, fp16, fp8, int8 or fp4
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    pub kv_type: String,
    /// US dollars for a chip and hour
    #[arg(long, value_name = "X")]
    pub price: Option<f64>,
    #[command(flatten)]
    pub show: PlanShow,
}

#[derive(Args)]
pub struct PlanChips {
    /// Only these chips, with every figure's source
    pub names: Vec<String>,
    /// A catalogue of your own chips (TOML); those of the same name replace the shipped ones
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
}

#[derive(Args)]
pub struct PlanForecast {
    /// The portfolio (TOML) [default: the report's forecast for the end of 2024, which ships]
    pub file: Option<PathBuf>,
}
