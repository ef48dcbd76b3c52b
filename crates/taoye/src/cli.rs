//! The command line: flags as data, one type a command. It must not do anything.

mod plan;
mod sampling;
mod serve;

pub use self::plan::{
    MethodFlag, Plan, PlanChips, PlanCommand, PlanForecast, PlanServe, PlanTrain, RecomputeFlag, StageFlag,
};
pub use self::sampling::{SamplingFlags, StructureFlags};
pub use self::serve::{BenchMasks, BenchServe, Lora, Serve, ServeCommand, ServeFlags, ServeKey, ServeKeyNew};

use crate::recipe::Tuning;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// From raw text to a trained, aligned and served language model, on your own machine.
#[derive(Parser)]
#[command(name = "taoye", version, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command understands.
#[derive(Args)]
pub struct Global {
    /// Compute threads [default: all processors]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Instruction set: avx512, avx2, neon, portable or emulated16 [default: the fastest here]
    #[arg(long, global = true, value_name = "NAME", env = "TAOYE_ISA")]
    pub isa: Option<String>,
    /// Print one JSON object on the last line of standard output, and no progress
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a model from raw text in minutes: documents, tokenizer, pretraining, fine-tuning, scores
    Speedrun(Speedrun),
    /// Run a recipe from its first unfinished stage on
    Run(RunRecipe),
    /// Train a model that exists further: on documents, or on conversations
    Train(Box<Train>),
    /// List runs, watch one, compare several
    Runs(Runs),
    /// Talk to a model in the terminal
    Chat(Box<Chat>),
    /// Serve models over HTTP as OpenAI's and Anthropic's clients expect them
    Serve(Box<Serve>),
    /// Turn texts into vectors with an encoder such as MiniLM or bge: one JSON line each
    Embed(Embed),
    /// Turn files and folders into clean, deduplicated documents
    Corpus(Corpus),
    /// Train a tokenizer, or see what one does to a text
    #[command(subcommand)]
    Tokenizer(Tokenizer),
    /// Fetch a model, see what it is, turn it into another format, make it smaller
    #[command(subcommand)]
    Model(Model),
    /// Score a model: bits per byte on text, accuracy on tasks
    #[command(subcommand)]
    Eval(Eval),
    /// Size training and serving before anything is bought: chips, days, memory, money
    Plan(Box<Plan>),
    /// Measure this program and this machine's own limits
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
pub enum Model {
    /// Fetch a model from a hub: ORGANISATION/NAME, or ORGANISATION/NAME:Q4_K_M for one GGUF file
    ///
    /// HF_ENDPOINT names a mirror, HF_TOKEN the token for models that are not public (for ModelScope:
    /// MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN). A pull that was cut off goes on where it stopped.
    Pull(ModelPull),
    /// Show a model's family, sizes, types, memory and tokenizer
    Inspect(ModelInspect),
    /// Turn a Hugging Face folder into a GGUF file, or a GGUF file into a folder
    Convert(ModelConvert),
    /// Write a GGUF file with fewer bits a weight
    Quantize(ModelQuantize),
}

#[derive(Args)]
pub struct ModelPull {
    /// ORGANISATION/NAME, and perhaps :FILE.gguf or :QUANTISATION [default: the safetensors model, or
    /// else Q4_K_M]
    pub name: String,
    /// Whose protocol the hub speaks
    #[arg(long, value_enum, default_value_t = HubKind::Huggingface)]
    pub hub: HubKind,
    /// Branch, tag or commit [default: the hub's]
    #[arg(long)]
    pub revision: Option<String>,
    /// Fetch the files whose paths fit, `*` and `?` standing for any characters; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Ask no hub: use what is here, or say what is missing (also HF_HUB_OFFLINE=1)
    #[arg(long)]
    pub offline: bool,
    /// Folder of all models [default: ~/.cache/taoye/models]
    #[arg(long, value_name = "DIR", env = "TAOYE_MODELS")]
    pub models: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HubKind {
    /// huggingface.co and its mirrors
    Huggingface,
    /// modelscope.cn
    Modelscope,
}

/// Where a run goes and how it is started again.
#[derive(Args)]
pub struct RunPlace {
    /// Name of the run's folder [default: the recipe's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
    /// Delete the run of that name first
    #[arg(long)]
    pub fresh: bool,
    /// Size the model and its training so that the whole run takes about this long
    #[arg(long, value_name = "N")]
    pub minutes: Option<f64>,
    /// Seed of the initial weights, the data's order and the tasks [default: the recipe's]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Tell sizes, memory and time, show the first batch as text, and leave nothing behind
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct Speedrun {
    /// Text to learn from: files and folders [default: sources and documentation of the crates in
    /// the local Cargo registry, or in vendor/]
    pub inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub place: RunPlace,
}

#[derive(Args)]
pub struct RunRecipe {
    /// The recipe, a TOML file such as recipes/speedrun.toml
    pub recipe: PathBuf,
    /// Use these files and folders instead of the recipe's input
    #[arg(long = "input", value_name = "PATH")]
    pub inputs: Vec<PathBuf>,
    #[command(flatten)]
    pub place: RunPlace,
}

#[derive(Args)]
pub struct Train {
    #[command(flatten)]
    pub tuning: Tuning,
    /// A TOML file with the same settings, `learning_rate` for --learning-rate; flags come before it
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
    /// Delete the run of that name first
    #[arg(long)]
    pub fresh: bool,
    /// Tell sizes, memory and time, show the first batch as text, and leave nothing behind
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Runs {
    #[command(subcommand)]
    pub command: Option<RunsCommand>,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
}

#[derive(Subcommand)]
pub enum RunsCommand {
    /// Show a run's curves as it goes on; q or Ctrl-C ends the showing, not the run
    Watch(Watch),
    /// Put several runs' curves and figures into one report
    Compare(Compare),
}

#[derive(Args)]
pub struct Watch {
    /// The run's name
    pub name: String,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
}

#[derive(Args)]
pub struct Compare {
    /// The runs' names
    #[arg(required = true, num_args = 2..)]
    pub names: Vec<String>,
    /// Folder that holds the runs
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub runs: PathBuf,
    /// The report
    #[arg(long, value_name = "FILE.html", default_value = "comparison.html")]
    pub out: PathBuf,
}

/// How a model that exists is read and how much memory it may take.
#[derive(Args, Clone)]
pub struct LoadFlags {
    /// Hold floating-point weights in blocks, by a mix of types such as q8_0 or q4_k_m; quantised ones stay as they are
    #[arg(long, value_name = "TYPE", conflicts_with = "dequantize")]
    pub quantize: Option<String>,
    /// Compute with all weights in f32, as a yardstick: slow, and up to eight times the memory
    #[arg(long)]
    pub dequantize: bool,
    /// Tokens that a conversation may hold [default: the model's own context]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Type of the keys and values that the context holds: f32, f16 or q8
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub kv_type: tensor::kernels::attention::KvType,
    /// Do not keep the weights, packed for this processor, in ~/.cache/taoye for the next start
    #[arg(long)]
    pub no_repack_cache: bool,
}

#[derive(Args)]
pub struct Chat {
    /// The model: a GGUF file, or a Hugging Face folder such as runs/speedrun/model
    pub model: PathBuf,
    #[command(flatten)]
    pub load: LoadFlags,
    /// A PEFT folder with adapters of the model, merged into its weights when they are loaded
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// A smaller model with the same tokenizer that guesses tokens ahead: faster where it is often right, and the
    /// same answers
    #[arg(long, value_name = "MODEL")]
    pub draft: Option<PathBuf>,
    /// Tokens guessed ahead and checked in one step at most, looked up in the text or made by --draft; 0: none. They change no
    /// answer
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub draft_max: usize,
    /// A system message before the conversation
    #[arg(long)]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: SamplingFlags,
    #[command(flatten)]
    pub structure: StructureFlags,
}

#[derive(Args)]
pub struct Corpus {
    /// Files and folders: txt, md, html, source code, jsonl, each also as .gz or .zst
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// Folder for documents-train.jsonl.zst, documents-heldout.jsonl.zst and dropped.jsonl.zst
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Stop after this many megabytes of kept text
    #[arg(long, value_name = "MB")]
    pub max_megabytes: Option<u64>,
    /// Share of the text that is held out for evaluation
    #[arg(long, default_value_t = 0.05)]
    pub held_out_share: f64,
}

#[derive(Subcommand)]
pub enum Tokenizer {
    /// Train a byte-level BPE tokenizer on files and write tokenizer.json
    Train(TokenizerTrain),
    /// Show how a tokenizer cuts a text into tokens
    Encode(TokenizerEncode),
}

#[derive(Args)]
pub struct TokenizerTrain {
    /// Text files, or documents as .jsonl(.zst)
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// Folder for tokenizer.json and tokenizer_config.json
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Entries of the vocabulary, special tokens included
    #[arg(long, default_value_t = 8192)]
    pub vocab_size: usize,
}

#[derive(Args)]
pub struct TokenizerEncode {
    /// Folder with tokenizer.json, or the file itself
    pub tokenizer: PathBuf,
    /// The text; read from standard input where it is left out
    pub text: Option<String>,
}

#[derive(Args)]
pub struct ModelInspect {
    /// A GGUF file, or a Hugging Face folder
    pub model: PathBuf,
    /// List every tensor with its type and shape
    #[arg(long)]
    pub tensors: bool,
}

#[derive(Args)]
pub struct ModelConvert {
    /// A GGUF file, or a Hugging Face folder
    pub input: PathBuf,
    /// A name that ends in .gguf for a GGUF file; any other is a folder
    pub output: PathBuf,
}

#[derive(Args)]
pub struct ModelQuantize {
    /// A GGUF file, or a Hugging Face folder
    pub input: PathBuf,
    /// The GGUF file to write
    pub output: PathBuf,
    /// f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m … as llama.cpp names them
    #[arg(long = "type", value_name = "NAME")]
    pub kind: String,
}

#[derive(Args)]
pub struct Embed {
    /// The encoder: a GGUF file or a Hugging Face folder
    pub model: PathBuf,
    /// The texts [default: each line of the standard input]
    pub texts: Vec<String>,
    #[command(flatten)]
    pub load: LoadFlags,
}

#[derive(Subcommand)]
pub enum Eval {
    /// Bits per byte on documents, beside zstd -19 on each of them
    Bits(EvalBits),
    /// Exact-match accuracy on programmatic tasks in Chinese and English
    Tasks(EvalTasks),
    /// Perplexity on a text by llama.cpp's definition, and the divergence from another model's distributions
    Perplexity(EvalPerplexity),
}

#[derive(Args)]
pub struct EvalPerplexity {
    /// The model: a GGUF file or a Hugging Face folder
    pub model: PathBuf,
    /// The text, a UTF-8 file
    pub text: PathBuf,
    /// Tokens of a window, of which the second half is scored
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub window: usize,
    /// Windows to score [default: all of the text]
    #[arg(long, value_name = "N")]
    pub windows: Option<usize>,
    /// Write this model's distributions down, as llama-perplexity does with --kl-divergence-base
    #[arg(long, value_name = "FILE", conflicts_with = "base")]
    pub save_base: Option<PathBuf>,
    /// Measure beside distributions that were written down by --save-base or by llama-perplexity
    #[arg(long, value_name = "FILE")]
    pub base: Option<PathBuf>,
    #[command(flatten)]
    pub load: LoadFlags,
}

#[derive(Args)]
pub struct EvalBits {
    /// The model's folder
    pub model: PathBuf,
    /// Text files, or documents as .jsonl(.zst); each document is scored on its own
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// Most text to score, in kilobytes
    #[arg(long, value_name = "KB", default_value_t = 1000)]
    pub kilobytes: u64,
}

#[derive(Args)]
pub struct EvalTasks {
    /// The model's folder
    pub model: PathBuf,
    /// Questions in each family
    #[arg(long, default_value_t = 100)]
    pub items: usize,
    /// Show wrong answers, this many in each family
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub show_wrong: usize,
    /// Seed of the questions
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Subcommand)]
pub enum Bench {
    /// Matrix products of the trainer's shapes against the fused-multiply-add peak
    Gemm,
    /// Attention over a cache of keys and values at a depth, against the peak or the memory's speed
    Attention(BenchAttention),
    /// Whole training steps: tokens/s, share of the peak, memory
    Train(BenchTrain),
    /// Training steps along width, context and batch: tokens/s and share of the peak
    Sweep(BenchSweep),
    /// Tokenizer training and encoding
    Tokenizer(BenchTokenizer),
    /// Products with block-quantised weights: shares of the int8 peak and of the read bandwidth
    Quant(BenchQuant),
    /// Computing a prompt: tokens/s, share of the arithmetic peak
    Prefill(BenchInference),
    /// Generating token by token: tokens/s, share of the memory's bandwidth
    Decode(BenchInference),
    /// Many streams at once against a server with OpenAI's interface: tokens/s, time to first token
    Serve(BenchServe),
    /// Finding the tokens that a JSON schema allows, for each token of an answer: microseconds
    Masks(BenchMasks),
}

#[derive(Args)]
pub struct BenchQuant {
    /// Types of the weights, by GGUF's names
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', default_value = "q8_0,q4_0,q4_k,q6_k")]
    pub types: Vec<String>,
    /// Rows of activations: 1 is decoding, some hundreds are prefill
    #[arg(long, value_name = "M", value_delimiter = ',', default_value = "1,512")]
    pub rows: Vec<usize>,
    /// Inputs
    #[arg(long, value_name = "K", default_value_t = 1024)]
    pub columns: usize,
    /// Outputs
    #[arg(long, value_name = "N", default_value_t = 3072)]
    pub outputs: usize,
}

#[derive(Args)]
pub struct BenchInference {
    /// The model: a GGUF file or a Hugging Face folder
    pub model: PathBuf,
    /// Tokens of the prompt, or tokens to generate [default: 512 and 128]
    #[arg(long, value_name = "N")]
    pub tokens: Option<usize>,
    /// Tokens that the context holds already
    #[arg(long, value_name = "D", default_value_t = 0)]
    pub depth: usize,
    /// Times that it is measured, after once that it is not
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub rounds: usize,
    #[command(flatten)]
    pub load: LoadFlags,
}

#[derive(Args)]
pub struct BenchAttention {
    /// Query heads
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub heads: usize,
    /// Key/value heads
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub kv_heads: usize,
    /// Width of a head
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub head_dim: usize,
    /// Tokens in the cache
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub depth: usize,
    /// New rows; 1 is a step of decoding
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub rows: usize,
    /// How keys and values are stored: f32, f16 or q8
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub kv: tensor::kernels::attention::KvType,
}

#[derive(Args)]
pub struct BenchTrain {
    /// S: 6 layers, width 256, vocabulary 8,192, 16 × 256 tokens. M: 12, 768, 32,000, 4 × 512
    #[arg(long, value_enum, default_value = "S")]
    pub shape: BenchShape,
    /// Width of the model, a multiple of 64 [default: the shape's]
    #[arg(long, value_name = "N")]
    pub width: Option<usize>,
    /// Layers [default: the shape's]
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Entries of the vocabulary [default: the shape's]
    #[arg(long, value_name = "N")]
    pub vocab: Option<usize>,
    /// Sequences in a step [default: the shape's]
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Tokens in a sequence [default: the shape's]
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Steps to time, after two that are not
    #[arg(long, default_value_t = 8)]
    pub steps: usize,
    /// Train the matrices inside layers with Muon instead of AdamW
    #[arg(long)]
    pub muon: bool,
    /// Compute a part of each layer again in the backward pass instead of keeping it
    #[arg(long)]
    pub checkpointing: bool,
    /// Show the mean step by operation: calls, milliseconds, speed, share of what limits it
    #[arg(long)]
    pub profile: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum BenchShape {
    S,
    M,
}

#[derive(Args)]
pub struct BenchSweep {
    /// One axis alone [default: all three, in about three minutes]
    #[arg(long, value_enum)]
    pub axis: Option<SweepAxis>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SweepAxis {
    Width,
    Context,
    Batch,
}

#[derive(Args)]
pub struct BenchTokenizer {
    /// Text files, or documents as .jsonl(.zst) [default: sources in the local Cargo registry]
    pub inputs: Vec<PathBuf>,
    /// Entries of the vocabulary
    #[arg(long, default_value_t = 8192)]
    pub vocab_size: usize,
    /// Most text to use, in megabytes
    #[arg(long, value_name = "MB", default_value_t = 50)]
    pub megabytes: u64,
}
