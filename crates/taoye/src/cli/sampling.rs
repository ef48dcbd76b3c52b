//! The flags that say how answers are chosen and what they must look like. They must not do anything.

use clap::Args;
use std::path::PathBuf;

/// How the next token is chosen.
#[derive(Args)]
#[command(next_help_heading = "How tokens are chosen")]
pub struct SamplingFlags {
    /// 0 always takes the most probable token
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Choose among this many most probable tokens; 0: all
    #[arg(long, default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the most probable tokens that hold this share of the probability
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Choose among the tokens at least this many times as probable as the most probable one; 0: all
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Choose among the tokens of typical surprise that hold this share of the probability; 1: all
    #[arg(long, default_value_t = 1.0)]
    pub typical_p: f32,
    /// Make tokens that the conversation has less probable; 1: no change
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// Taken off the logits of tokens that the answer has
    #[arg(long, value_name = "PENALTY", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Taken off the logits of tokens that the answer has, once for each time
    #[arg(long, value_name = "PENALTY", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Add to the logit of a token, such as 42=-5; may be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Penalise sequences of tokens that were there before (DRY); 0: do not
    #[arg(long, value_name = "M", default_value_t = 0.0)]
    pub dry_multiplier: f32,
    /// By how much DRY's penalty grows with each token of a repetition
    #[arg(long, value_name = "BASE", default_value_t = 1.75)]
    pub dry_base: f32,
    /// Tokens that may be repeated without DRY's penalty
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub dry_allowed_length: usize,
    /// Tokens that DRY looks back at; 0: all
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub dry_penalty_last_n: usize,
    /// Text that no repetition goes across; may be repeated [default: a line's end, a colon, a quotation mark, an asterisk]
    #[arg(long = "dry-sequence-breaker", value_name = "TEXT")]
    pub dry_sequence_breakers: Vec<String>,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// End the answer before this token; may be repeated
    #[arg(long = "stop-token-id", value_name = "ID")]
    pub stop_token_ids: Vec<u32>,
    /// Go on where the model would end the answer
    #[arg(long)]
    pub ignore_eos: bool,
    /// The same seed gives the same answers
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Longest answer in tokens [default: what the context leaves]
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
}

/// What answers must look like.
#[derive(Args)]
#[group(multiple = false)]
#[command(next_help_heading = "What answers must look like")]
pub struct StructureFlags {
    /// Hold answers to a JSON schema; {} is any JSON
    #[arg(long, value_name = "SCHEMA")]
    pub json_schema: Option<String>,
    /// Hold answers to the JSON schema in a file
    #[arg(long, value_name = "FILE")]
    pub json_schema_file: Option<PathBuf>,
    /// Hold answers to a grammar in Lark's syntax
    #[arg(long, value_name = "GRAMMAR")]
    pub grammar: Option<String>,
    /// Hold answers to the grammar in a file
    #[arg(long, value_name = "FILE")]
    pub grammar_file: Option<PathBuf>,
    /// Hold answers to a regular expression
    #[arg(long, value_name = "PATTERN")]
    pub regex: Option<String>,
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parts = text.split_once('=').and_then(|(id, bias)| id.parse().ok().zip(bias.parse().ok()));
    parts.ok_or_else(|| "a token id, `=` and a number are expected, such as 42=-5".to_owned())
}
